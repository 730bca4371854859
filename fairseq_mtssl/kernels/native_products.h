// Products of small matrices, in tiles that fit the processor's registers.
//
// Matrices are cut into units of 32 bits along the dimension that a product sums over: a float, or two numbers of
// 16 bits where the processor multiplies those in pairs. Sums are kept in 32 bits.

#pragma once

#include "native_vectors.h"

namespace {

typedef uint32_t Unit;

constexpr int VECTORS = LANES == 16 ? 4 : 2;  // of a row of a tile
constexpr int TILE = 6;                       // rows
constexpr long WIDE = VECTORS * LANES;

constexpr long padded(long count, long to) { return (count + to - 1) / to * to; }

// How numbers of a type are multiplied: in 32 bits, or in pairs.
template <class T> struct Math {
    static constexpr int PER_UNIT = 1;
    typedef float Element;
    static INLINE Floats add(Floats total, Words a, Words b) { return total + (Floats)a * (Floats)b; }
    static INLINE Words join(Floats even, Floats) { return (Words)even; }
};
#ifdef __AVX512BF16__
template <> struct Math<BFloat16> {
    static constexpr int PER_UNIT = 2;
    typedef BFloat16 Element;
    static INLINE Floats add(Floats total, Words a, Words b) {
        return (Floats)_mm512_dpbf16_ps((__m512)total, (__m512bh)a, (__m512bh)b);
    }
    static INLINE Words join(Floats even, Floats odd) {
        Words low = __builtin_convertvector(round(even), Words), high = __builtin_convertvector(round(odd), Words);
        return low | high << 16;
    }
};
#endif

template <class T> constexpr long units(long count) { return padded(count, Math<T>::PER_UNIT) / Math<T>::PER_UNIT; }

// Rows of a matrix, `step` elements apart.
template <class T> struct Rows {
    T *at;
    long step;
    Rows from(long first) const { return {at + first * step, step}; }
    T *operator[](long row) const { return at + row * step; }
};

// The left side of a product: unit p of row i lies at i · row + p · step.
struct Left {
    const Unit *at;
    long row, step;
    Left from(long first) const { return {at + first * row, row, step}; }
};

// out (ROWS, WIDE) = left · right, (steps, WIDE); onto: added to what is there.
template <class T, int ROWS> INLINE void tile(Left left, const Unit *right, long steps, Rows<float> out, bool onto) {
    Floats sums[ROWS][VECTORS];
#pragma GCC unroll 8
    for (int i = 0; i < ROWS; i++)
#pragma GCC unroll 8
        for (int n = 0; n < VECTORS; n++) sums[i][n] = onto ? read<Floats>(out[i] + n * LANES) : Floats{};
    for (long p = 0; p < steps; p++, right += WIDE) {
        Words b[VECTORS];
#pragma GCC unroll 8
        for (int n = 0; n < VECTORS; n++) b[n] = read<Words>(right + n * LANES);
#pragma GCC unroll 8
        for (int i = 0; i < ROWS; i++) {
            Words a = Words{} + left.at[i * left.row + p * left.step];
#pragma GCC unroll 8
            for (int n = 0; n < VECTORS; n++) sums[i][n] = Math<T>::add(sums[i][n], a, b[n]);
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < ROWS; i++)
#pragma GCC unroll 8
        for (int n = 0; n < VECTORS; n++) memcpy(out[i] + n * LANES, &sums[i][n], sizeof(Floats));
}

// `tile` of fewer rows
template <class T, int ROWS>
void low_tile(Left left, const Unit *right, long rows, long steps, Rows<float> out, bool onto) {
    if constexpr (ROWS > 0) {
        if (rows == ROWS) return tile<T, ROWS>(left, right, steps, out, onto);
        low_tile<T, ROWS - 1>(left, right, rows, steps, out, onto);
    }
}

// out (rows, columns, padded to WIDE) = left (rows, steps) · right (steps, columns), as `as_right` leaves it. onto:
// added to what is there.
template <class T>
void product(Left left, const Unit *right, long rows, long steps, long columns, Rows<float> out, bool onto = false) {
    for (long c = 0; c < columns; c += WIDE, right += steps * WIDE, out.at += WIDE) {
        long i = 0;
        for (; i + TILE <= rows; i += TILE) tile<T, TILE>(left.from(i), right, steps, out.from(i), onto);
        low_tile<T, TILE - 1>(left.from(i), right, rows - i, steps, out.from(i), onto);
    }
}

// x (rows, columns) as a left side, units along columns, rows `step` units apart.
template <class T> void as_left(Rows<const T> x, long rows, long columns, Unit *out, long step) {
    using Element = typename Math<T>::Element;
    for (long i = 0; i < rows; i++, out += step) {
        out[units<T>(columns) - 1] = 0;
        sweep(columns, [&](long j, auto count) __attribute__((always_inline)) {
            store((Element *)out + j, load(x[i] + j, count), count);
        });
    }
}

// The left side xᵀ (columns, rows) of x (rows, columns), units along rows. x: as `as_left` leaves it, rows `step` units
// apart, a row of zeros behind an odd last one. room: units(rows) lines of all columns.
template <class T> Left across(const Unit *x, long rows, long columns, long step, Unit *room) {
    if (Math<T>::PER_UNIT == 1) return {x, 1, step};
    long step_out = padded(columns, LANES);
    for (long p = 0; p < units<T>(rows); p++) {
        const BFloat16 *even = (const BFloat16 *)(x + 2 * p * step), *odd = even + 2 * step;
        sweep(columns, [&](long j, auto count) __attribute__((always_inline)) {
            Words both = (Words)load(even + j, count) >> 16 | (Words)load(odd + j, count);
            memcpy(room + p * step_out + j, &both, sizeof both);
        });
    }
    return {room, 1, step_out};
}

// The right side x (rows, columns), units along rows: WIDE columns after WIDE columns, of each all steps.
template <class T> void as_right(Rows<const T> x, long rows, long columns, Unit *out) {
    constexpr int PER = Math<T>::PER_UNIT;
    for (long c = 0; c < columns; c += WIDE)
        for (long p = 0; p < units<T>(rows); p++, out += WIDE) {
            if (columns - c < WIDE) memset(out, 0, WIDE * sizeof(Unit));
            const T *even = x[p * PER] + c, *odd = PER * (p + 1) <= rows ? x[p * PER + PER - 1] + c : nullptr;
            sweep(columns - c < WIDE ? columns - c : WIDE, [&](long j, auto count) __attribute__((always_inline)) {
                Words both = Math<T>::join(load(even + j, count), odd ? load(odd + j, count) : Floats{});
                memcpy(out + j, &both, sizeof both);
            });
        }
}

// The right side xᵀ (columns, rows) of x (rows, columns), units along columns. line: room for one of x's rows.
template <class T> void as_right_across(Rows<const T> x, long rows, long columns, Unit *out, Unit *line) {
    long steps = units<T>(columns);
    if (rows % WIDE) memset(out + rows / WIDE * WIDE * steps, 0, WIDE * steps * sizeof(Unit));
    for (long i = 0; i < rows; i++) {
        as_left(x.from(i), 1, columns, line, steps);
        Unit *to = out + i / WIDE * WIDE * steps + i % WIDE;
        for (long p = 0; p < steps; p++) to[p * WIDE] = line[p];
    }
}

}  // namespace
