// Self-attention of one head, and back: a block of queries at a time, whose scores stay in the cache.

#pragma once

#include <vector>

#include "native_products.h"

namespace {

constexpr long BLOCK = 48;  // queries

// Which elements to drop: those whose random number lies in low … high.
struct Dropout {
    uint64_t seed;
    int16_t low, high;
    float kept;  // what the others are multiplied with; 0: none are dropped

    bool on() const { return kept != 0; }
    // The numbers of a row of so many, which are a multiple of 2 · LANES.
    void draw(long row, long count, int16_t *out) const {
        random_words(seed, row * (count / 2), count / 2, [&](long at, Words x) __attribute__((always_inline)) {
            memcpy(out + 2 * at, &x, sizeof x);
        });
    }
    template <class Count> INLINE Floats apply(Floats x, const int16_t *numbers, Count count) const {
        Shorts drawn = load(numbers, count);
        return __builtin_convertvector((drawn >= low) & (drawn <= high), Ints) ? Floats{} : x * kept;
    }
};

// Memory that a thread keeps for its next head.
struct Room {
    template <class X> X *take(long count) {
        std::vector<Line> &found = kept()[used++];
        size_t lines = count * sizeof(X) / sizeof(Line) + 2;
        if (found.size() < lines) found.resize(lines);
        return (X *)found.data();
    }
    struct alignas(64) Line {
        Unit units[16];
    };
    static std::vector<Line> *kept() {
        thread_local std::vector<Line> all[16];
        return all;
    }
    int used = 0;
};

// The greatest of a row.
INLINE float peak(const float *row, long columns) {
    Floats most = all(-__builtin_inff());
    sweep(columns, [&](long j, auto count) __attribute__((always_inline)) {
        Floats x = within(load(row + j, count), -__builtin_inff(), count);
        most = x > most ? x : most;
    });
    return greatest(most);
}

// The result of a product, each row times a number of its own, in the type of a tensor.
template <class T> void give(Rows<const float> from, long rows, long columns, const float *times, Rows<T> to) {
    for (long i = 0; i < rows; i++)
        sweep(columns, [&](long j, auto count) __attribute__((always_inline)) {
            store(to[i] + j, load(from[i] + j, count) * (times ? times[i] : 1.0f), count);
        });
}

// One head: queries (queries, dim), keys and values (keys, dim).
template <class T> struct Head {
    Head(long queries, long keys, long dim, float scale, Dropout dropout)
        : queries(queries), keys(keys), dim(dim), scale(scale), dropout(dropout), step(padded(dim, WIDE)),
          score_step(padded(keys, WIDE) + LANES), weight_step(units<T>(keys) + 2 * LANES),
          drawn(padded(keys, 2 * LANES)), line(room.take<Unit>(units<T>(dim))),
          numbers(room.take<int16_t>(drawn)), left(room.take<Unit>(BLOCK * units<T>(dim))),
          weights(room.take<Unit>(BLOCK * weight_step)), scores(room.take<float>(BLOCK * score_step)),
          sums(room.take<float>(BLOCK * step)) {}

    // out: dropout of softmax(scale · query · keyᵀ), times value. Weights are divided by their sum at the end.
    void attend(Rows<const T> query, Rows<const T> key, Rows<const T> value, Rows<T> out) {
        Unit *keys_across = right_across(key), *values = right(value);
        for (long first = 0; first < queries; first += BLOCK) {
            long rows = queries - first < BLOCK ? queries - first : BLOCK;
            multiply(query.from(first), keys_across, rows, scores);
            for (long i = 0; i < rows; i++) {
                float *row = scores + i * score_step, top = peak(row, keys);
                Floats total{};
                draw(first + i);
                keep(weights, i, [&](long j, auto count) __attribute__((always_inline)) {
                    Floats x = two_to((load(row + j, count) - top) * (scale * LOG2_E));
                    total += within(x, 0.0f, count);
                    return drop(x, j, count);
                });
                shares[i] = 1.0f / sum(total);
            }
            product<T>({weights, weight_step, 1}, values, rows, units<T>(keys), dim, {sums, step});
            give({sums, step}, rows, dim, shares, out.from(first));
        }
    }

    // The gradients of the three, from `grad`, that of `out`.
    void back(Rows<const T> query, Rows<const T> key, Rows<const T> value, Rows<const T> grad, Rows<T> query_grad,
              Rows<T> key_grad, Rows<T> value_grad) {
        Unit *keys_across = right_across(key), *values_across = right_across(value), *keys_along = right(key);
        Unit *dropped = room.take<Unit>(BLOCK * weight_step), *turned = room.take<Unit>(BLOCK * (keys + LANES));
        Unit *block = room.take<Unit>(BLOCK * step);
        float *slopes = room.take<float>(BLOCK * score_step);
        Rows<float> key_sums{room.take<float>(keys * step), step}, value_sums{room.take<float>(keys * step), step};
        for (long first = 0; first < queries; first += BLOCK) {
            long rows = queries - first < BLOCK ? queries - first : BLOCK;
            multiply(query.from(first), keys_across, rows, scores);
            multiply(grad.from(first), values_across, rows, slopes);
            for (long i = 0; i < rows; i++) turn_row(first + i, i, dropped, slopes + i * score_step);
            // zeros behind an odd last row
            memset(dropped + rows * weight_step, 0, rows % Math<T>::PER_UNIT * weight_step * sizeof(Unit));
            memset(weights + rows * weight_step, 0, rows % Math<T>::PER_UNIT * weight_step * sizeof(Unit));
            product<T>({weights, weight_step, 1}, keys_along, rows, units<T>(keys), dim, {sums, step});
            give({sums, step}, rows, dim, nullptr, query_grad.from(first));
            as_right(grad.from(first), rows, dim, block);
            product<T>(across<T>(dropped, rows, keys, weight_step, turned), block, keys, units<T>(rows), dim,
                       value_sums, first > 0);
            as_right(query.from(first), rows, dim, block);
            product<T>(across<T>(weights, rows, keys, weight_step, turned), block, keys, units<T>(rows), dim, key_sums,
                       first > 0);
        }
        give({key_sums.at, step}, keys, dim, nullptr, key_grad);
        give({value_sums.at, step}, keys, dim, nullptr, value_grad);
    }

  private:
    // Of a row of scores and the slopes of what was dropped out of it: that, and the slopes of the scores as weights.
    void turn_row(long number, long i, Unit *dropped, float *slopes) {
        float *row = scores + i * score_step, top = peak(row, keys);
        Floats total{}, product{};
        sweep(keys, [&](long j, auto count) __attribute__((always_inline)) {
            Floats x = two_to((load(row + j, count) - top) * (scale * LOG2_E));
            store(row + j, x, count);
            total += within(x, 0.0f, count);
        });
        float share = 1.0f / sum(total);
        draw(number);
        keep(dropped, i, [&](long j, auto count) __attribute__((always_inline)) {
            Floats weight = load(row + j, count) * share, slope = drop(load(slopes + j, count), j, count);
            store(row + j, weight, count);
            store(slopes + j, slope, count);
            product += within(weight * slope, 0.0f, count);
            return drop(weight, j, count);
        });
        float mean = sum(product);
        keep(weights, i, [&](long j, auto count) __attribute__((always_inline)) {
            return load(row + j, count) * (load(slopes + j, count) - mean) * scale;
        });
    }

    // Row i of a left side, from value(j, how many); zeros to the end of its units.
    template <class Value> INLINE void keep(Unit *to, long i, Value value) {
        auto *row = (typename Math<T>::Element *)(to + i * weight_step);
        to[i * weight_step + units<T>(keys) - 1] = 0;
        sweep(keys, [&](long j, auto count) __attribute__((always_inline)) { store(row + j, value(j, count), count); });
    }

    void draw(long row) {
        if (dropout.on()) dropout.draw(row, drawn, numbers);
    }
    template <class Count> INLINE Floats drop(Floats x, long j, Count count) const {
        return dropout.on() ? dropout.apply(x, numbers + j, count) : x;
    }

    // rows of x (rows, dim) times what `right_across` made of y: x · yᵀ
    void multiply(Rows<const T> x, const Unit *y, long rows, float *out) {
        as_left(x, rows, dim, left, units<T>(dim));
        product<T>({left, units<T>(dim), 1}, y, rows, units<T>(dim), keys, {out, score_step});
    }
    Unit *right(Rows<const T> x) {
        Unit *out = room.take<Unit>(units<T>(keys) * step);
        as_right(x, keys, dim, out);
        return out;
    }
    Unit *right_across(Rows<const T> x) {
        Unit *out = room.take<Unit>(units<T>(dim) * padded(keys, WIDE));
        as_right_across(x, keys, dim, out, line);
        return out;
    }

    long queries, keys, dim;
    float scale;
    Dropout dropout;
    long step, score_step, weight_step, drawn;
    Room room;
    Unit *line;
    int16_t *numbers;
    Unit *left, *weights;
    float *scores, *sums;
    float shares[BLOCK];
};

}  // namespace
