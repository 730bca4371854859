// Work on rows of numbers in one pass through the cache where torch makes several; `native.py` calls it.
//
// Compiled once for each kind of processor that is named in setup.py, with vectors as wide as its own. All sums
// and functions are computed in 32 bits, whatever the rows are kept in.

#include "native_vectors.h"

namespace {

// Which elements to drop: those whose random number lies in low … high.
struct Dropout {
    const int16_t *numbers;
    int16_t low, high;
    float scale;  // of the others

    template <class Count> INLINE Floats apply(Floats x, long at, Count count) const {
        Shorts drawn = load(numbers + at, count);
        Ints gone = __builtin_convertvector((drawn >= low) & (drawn <= high), Ints);
        return gone ? Floats{} : x * scale;
    }
};

template <class T>
void softmax(T *scores, T *dropped, Dropout dropout, long rows, long columns, float scale) {
    Row row(columns);
    for (long at = 0; at < rows * columns; at += columns) {
        Floats most = all(-__builtin_inff());
        sweep(columns, [&](long j, auto count) __attribute__((always_inline)) {
            Floats x = within(load(scores + at + j, count) * scale, -__builtin_inff(), count);
            row.set(j, x);
            most = x > most ? x : most;
        });
        float top = greatest(most);
        Floats total{};
        for (long j = 0; j < columns; j += LANES) {
            Floats x = exponential(row.get(j) - top);
            row.set(j, x);
            total += x;
        }
        float share = 1.0f / sum(total);
        sweep(columns, [&](long j, auto count) __attribute__((always_inline)) {
            Floats x = row.get(j) * share;
            if (dropped != scores) store(scores + at + j, x, count);
            if (dropout.numbers) x = dropout.apply(x, at + j, count);
            store(dropped + at + j, x, count);
        });
    }
}

template <class T>
void softmax_backward(const T *weights, const T *dropped, T *grad, float kept, long rows, long columns, float scale) {
    Row row(columns);
    for (long at = 0; at < rows * columns; at += columns) {
        Floats total{};
        sweep(columns, [&](long j, auto count) __attribute__((always_inline)) {
            Floats g = load(grad + at + j, count) * kept;
            if (dropped != weights) g = load(dropped + at + j, count) == 0.0f ? Floats{} : g;
            row.set(j, g);
            total += g * load(weights + at + j, count);
        });
        float mean = sum(total);
        sweep(columns, [&](long j, auto count) __attribute__((always_inline)) {
            store(grad + at + j, load(weights + at + j, count) * scale * (row.get(j) - mean), count);
        });
    }
}

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

uint64_t scrambled(uint64_t x) {  // SplitMix64's output function
    x += 0x9e3779b97f4a7c15;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
    x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
    return x ^ (x >> 31);
}

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
    uint64_t key = scrambled(seed);
    Words low = Words{} + uint32_t(key), high = Words{} + uint32_t(key >> 32), number;
    for (int i = 0; i < LANES; i++) number[i] = i;
    for (long at = 0; at < count; at += 2 * LANES, number += LANES) {
        Words x = number * 0x9e3779b9u + low;
        x = (x ^ (x >> 16)) * 0x7feb352du ^ high;
        x = (x ^ (x >> 15)) * 0x846ca68bu;
        x ^= x >> 16;
        memcpy(out + at, &x, count - at >= 2 * LANES ? sizeof x : 2 * (count - at));
    }
}

// scores: softmax of scale · scores, in place, and `dropped`: the same after dropout; or, where both are the same
// tensor, only the latter. numbers: (rows, columns), or null: none are dropped.
void softmax_dropout(void *scores, void *dropped, int half, long rows, long columns, float scale,
                     const int16_t *numbers, int low, int high, float kept) {
    Dropout dropout{numbers, int16_t(low), int16_t(high), kept};
    typed(scores, half, [&](auto *x) { softmax(x, (decltype(x))dropped, dropout, rows, columns, scale); });
}

// The gradient of scores, in place of that of what `softmax_dropout` left in `dropped`; weights: what it left in
// scores, the same tensor as `dropped` if nothing was dropped.
void softmax_dropout_backward(const void *weights, const void *dropped, void *grad, int half, long rows,
                              long columns, float scale, float kept) {
    typed(grad, half, [&](auto *g) {
        using T = const std::remove_pointer_t<decltype(g)>;
        softmax_backward((T *)weights, (T *)dropped, g, kept, rows, columns, scale);
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
