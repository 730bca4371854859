// Work on rows of numbers in one pass through the cache where torch makes several; `native.py` calls it.
//
// Compiled once for each kind of processor that is named in setup.py, with vectors as wide as its own. All sums
// and functions are computed in 32 bits, whatever the rows are kept in.

#include "native_attention.h"

namespace {

// A layer norm's parameters; without weight there is no norm.
struct Norm {
    const float *weight, *bias;
    float eps;
};

struct Moments {
    float mean, rstd;
};

// Of a row, which is left in `row`.
template <class T> INLINE Moments moments(const T *x, long columns, float eps, Row &row) {
    Floats total{}, squares{};
    sweep(columns, [&](long j, auto count) __attribute__((always_inline)) {
        Floats values = load(x + j, count);
        row.set(j, values);
        total += values;
    });
    float mean = sum(total) / columns;
    sweep(columns, [&](long j, auto count) __attribute__((always_inline)) {
        Floats off = within(row.get(j) - mean, 0.0f, count);
        squares += off * off;
    });
    return {mean, 1.0f / __builtin_sqrtf(sum(squares) / columns + eps)};
}

template <class T, class Out>
void norm_gelu(const T *x, Norm norm, Out *out, long rows, long columns) {
    Row row(columns);
    for (long at = 0; at < rows * columns; at += columns) {
        Moments of = norm.weight ? moments(x + at, columns, norm.eps, row) : Moments{0, 1};
        sweep(columns, [&](long j, auto count) __attribute__((always_inline)) {
            Floats y;
            if (norm.weight)
                y = (row.get(j) - of.mean) * of.rstd * load(norm.weight + j, count) + load(norm.bias + j, count);
            else
                y = load(x + at + j, count);
            store(out + at + j, gelu(y), count);
        });
    }
}

template <class T, class Grad>
void norm_gelu_backward(const T *x, Norm norm, const Grad *grad, T *out, float *weight_grad, float *bias_grad,
                        long rows, long columns) {
    Row normed(columns), inner(columns);
    for (long at = 0; at < rows * columns; at += columns) {
        if (!norm.weight) {
            sweep(columns, [&](long j, auto count) __attribute__((always_inline)) {
                store(out + at + j, load(grad + at + j, count) * gelu_slope(load(x + at + j, count)), count);
            });
            continue;
        }
        Moments of = moments(x + at, columns, norm.eps, normed);
        Floats total{}, product{};
        sweep(columns, [&](long j, auto count) __attribute__((always_inline)) {
            Floats weight = load(norm.weight + j, count), z = (normed.get(j) - of.mean) * of.rstd;
            Floats g = load(grad + at + j, count) * gelu_slope(z * weight + load(norm.bias + j, count));
            store(weight_grad + j, load(weight_grad + j, count) + g * z, count);
            store(bias_grad + j, load(bias_grad + j, count) + g, count);
            g *= weight;
            normed.set(j, z);
            inner.set(j, g);
            total += g;
            product += within(g * z, 0.0f, count);
        });
        float shift = sum(total) / columns, slope = sum(product) / columns;
        sweep(columns, [&](long j, auto count) __attribute__((always_inline)) {
            store(out + at + j, of.rstd * (inner.get(j) - shift - normed.get(j) * slope), count);
        });
    }
}

// (heads, rows, columns), elements of a row behind one another; head, row: elements from one to the next.
struct Tensor {
    void *at;
    long head, row;
    template <class T> Rows<T> rows(long which) const { return {(T *)at + which * head, row}; }
};

// f of a pointer as what it points at
template <class F> void typed(void *x, int half, F f) { half ? f((BFloat16 *)x) : f((float *)x); }
template <class F> void typed(const void *x, int half, F f) {
    half ? f((const BFloat16 *)x) : f((const float *)x);
}

}  // namespace

// Tensors are contiguous, (rows, columns) unless said; `half` and `…_half`: kept in 16 bits, else in 32.
extern "C" {

// Of what text this was compiled; see setup.py.
uint32_t source() { return SOURCE; }

// Random 16-bit integers, `count` of them, the same ones from the same seed: two from the hash of each number counted
// from 0.
void random_numbers(int16_t *out, long count, uint64_t seed) {
    random_words(seed, 0, (count + 1) / 2, [&](long at, Words x) __attribute__((always_inline)) {
        memcpy(out + 2 * at, &x, count - 2 * at >= 2 * LANES ? sizeof x : 2 * (count - 2 * at));
    });
}

// Attention with dropout; each tensor (heads, rows, dim). A seed is of the first head, the next has the next. kept: what
// is multiplied with what was not dropped, 0: nothing is dropped.
void attention(Tensor query, Tensor key, Tensor value, Tensor out, int half, long heads, long queries, long keys,
               long dim, float scale, uint64_t seed, int low, int high, float kept) {
    typed(query.at, half, [&](auto *as) {
        typedef std::remove_pointer_t<decltype(as)> T;
        for (long head = 0; head < heads; head++) {
            Head<T> one(queries, keys, dim, scale, {seed + head, int16_t(low), int16_t(high), kept});
            one.attend(query.rows<const T>(head), key.rows<const T>(head), value.rows<const T>(head), out.rows<T>(head));
        }
    });
}

// Its gradients, in query_grad, key_grad and value_grad, from that of `out`.
void attention_backward(Tensor query, Tensor key, Tensor value, Tensor grad, Tensor query_grad, Tensor key_grad,
                        Tensor value_grad, int half, long heads, long queries, long keys, long dim, float scale,
                        uint64_t seed, int low, int high, float kept) {
    typed(query.at, half, [&](auto *as) {
        typedef std::remove_pointer_t<decltype(as)> T;
        for (long head = 0; head < heads; head++) {
            Head<T> one(queries, keys, dim, scale, {seed + head, int16_t(low), int16_t(high), kept});
            one.back(query.rows<const T>(head), key.rows<const T>(head), value.rows<const T>(head),
                     grad.rows<const T>(head), query_grad.rows<T>(head), key_grad.rows<T>(head),
                     value_grad.rows<T>(head));
        }
    });
}

// GELU of a layer norm over columns; of x itself if weight is null. weight, bias: (columns,) in 32 bits.
void norm_gelu(const void *x, int half, const float *weight, const float *bias, float eps, void *out, int out_half,
               long rows, long columns) {
    typed(x, half, [&](auto *from) {
        typed(out, out_half, [&](auto *to) { norm_gelu(from, Norm{weight, bias, eps}, to, rows, columns); });
    });
}

// The gradient of x from that of what `norm_gelu` made of it; out: like x. Those of weight and bias are added to
// weight_grad and bias_grad.
void norm_gelu_backward(const void *x, int half, const float *weight, const float *bias, float eps,
                        const void *grad, int grad_half, void *out, float *weight_grad, float *bias_grad, long rows,
                        long columns) {
    typed(x, half, [&](auto *from) {
        using T = std::remove_const_t<std::remove_pointer_t<decltype(from)>>;
        typed(grad, grad_half, [&](auto *g) {
            norm_gelu_backward(from, Norm{weight, bias, eps}, g, (T *)out, weight_grad, bias_grad, rows, columns);
        });
    });
}
}
