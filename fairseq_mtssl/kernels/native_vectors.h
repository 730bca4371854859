// Vectors of numbers as wide as the processor's that this is compiled for, and what native.cpp does with them.
//
// Rows are kept in 32 bits or in 16 (BFloat16) and computed with in 32.

#pragma once

#include <cstdint>
#include <cstring>
#include <memory>
#include <type_traits>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

#define INLINE inline __attribute__((always_inline))

namespace {

#ifdef __AVX512F__
constexpr int LANES = 16;
#else
constexpr int LANES = 8;
#endif

typedef float Floats __attribute__((vector_size(4 * LANES)));
typedef int32_t Ints __attribute__((vector_size(4 * LANES)));
typedef uint32_t Words __attribute__((vector_size(4 * LANES)));
typedef uint16_t Halves __attribute__((vector_size(2 * LANES)));
typedef int16_t Shorts __attribute__((vector_size(2 * LANES)));

// The upper 16 bits of a float.
struct BFloat16 {
    uint16_t bits;
};

// How many elements of a vector are meant: all, or the first few, at the end of a row.
using Whole = std::integral_constant<int, LANES>;

INLINE Floats all(float x) { return Floats{} + x; }

template <class Vector> INLINE Vector read(const void *at, int bytes = sizeof(Vector)) {
    Vector found{};
    memcpy(&found, at, bytes);
    return found;
}

INLINE Floats load(const float *at, Whole) { return read<Floats>(at); }
INLINE Floats load(const float *at, int count) { return read<Floats>(at, 4 * count); }
INLINE Floats widen(Halves x) { return (Floats)(__builtin_convertvector(x, Words) << 16); }
INLINE Floats load(const BFloat16 *at, Whole) { return widen(read<Halves>(at)); }
INLINE Floats load(const BFloat16 *at, int count) { return widen(read<Halves>(at, 2 * count)); }
INLINE Shorts load(const int16_t *at, Whole) { return read<Shorts>(at); }
INLINE Shorts load(const int16_t *at, int count) { return read<Shorts>(at, 2 * count); }

// To the nearest, halfway to even; NaN stays NaN.
#ifdef __AVX512BF16__
INLINE Halves round(Floats x) { return (Halves)_mm512_cvtneps_pbh((__m512)x); }
#else
INLINE Halves round(Floats x) {
    Words bits = (Words)x;
    bits = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    return __builtin_convertvector(x != x ? Words{} + 0x7fc0 : bits, Halves);
}
#endif

INLINE void store(float *at, Floats x, Whole) { memcpy(at, &x, sizeof x); }
INLINE void store(float *at, Floats x, int count) { memcpy(at, &x, 4 * count); }
INLINE void store(BFloat16 *at, Floats x, Whole) {
    Halves rounded = round(x);
    memcpy(at, &rounded, sizeof rounded);
}
INLINE void store(BFloat16 *at, Floats x, int count) {
    Halves rounded = round(x);
    memcpy(at, &rounded, 2 * count);
}

// x where a vector has a row's elements, `other` beyond its end.
INLINE Floats within(Floats x, float, Whole) { return x; }
INLINE Floats within(Floats x, float other, int count) {
    Floats filled = all(other);
    memcpy(&filled, &x, 4 * count);
    return filled;
}

// body(j, how many) for each vector of a row
template <class Body> INLINE void sweep(long columns, Body body) {
    long j = 0;
    for (; j + LANES <= columns; j += LANES) body(j, Whole{});
    if (j < columns) body(j, int(columns - j));
}

INLINE float sum(Floats x) {
    float parts[LANES];
    memcpy(parts, &x, sizeof x);
    for (int half = LANES / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++) parts[i] += parts[i + half];
    return parts[0];
}

INLINE float greatest(Floats x) {
    float parts[LANES];
    memcpy(parts, &x, sizeof x);
    for (int half = LANES / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++) parts[i] = parts[i + half] > parts[i] ? parts[i + half] : parts[i];
    return parts[0];
}

// 2ˣ for x ≤ 127, to 1e-7 of it and of x; what is below 2⁻¹²⁶ comes out as that. x = n + r, a polynomial of r.
INLINE Floats two_to(Floats x) {
#ifdef __AVX512F__
    x = (Floats)_mm512_max_ps((__m512)all(-126.0f), (__m512)x);  // NaN stays
    Floats n = (Floats)_mm512_roundscale_ps((__m512)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#else
    x = x < -126.0f ? all(-126.0f) : x;
    Floats shifted = x + 12582912.0f;  // n in the last bits
    Floats n = shifted - 12582912.0f;
#endif
    Floats r = x - n;
    Floats p = r * 1.32764444e-3f + 9.67553769e-3f;
    p = p * r + 5.55071332e-2f;
    p = p * r + 2.40221198e-1f;
    p = p * r + 6.93146967e-1f;
    p = p * r + 1.0f;
#ifdef __AVX512F__
    return (Floats)_mm512_scalef_ps((__m512)p, (__m512)n);
#else
    return p * (Floats)(((Ints)shifted + 127) << 23);
#endif
}

constexpr float LOG2_E = 1.44269504f;

// What of the normal distribution lies below x, to 2e-7: a rational function fitted to it between −5.5 and 5.5, beyond
// which lies 2e-8.
INLINE Floats below(Floats x) {
    x = x < -5.5f ? all(-5.5f) : x;
    x = x > 5.5f ? all(5.5f) : x;
    Floats t = x * x;
    Floats p = t * 2.274934197e-8f + 6.352074251e-6f;
    p = p * t + 1.688237244e-4f;
    p = p * t + 4.677248653e-3f;
    p = p * t + 3.385249153e-2f;
    p = p * t + 3.989422321e-1f;
    Floats q = t * 1.197499955e-6f + 7.364671910e-5f;
    q = q * t + 1.884433907e-3f;
    q = q * t + 2.864577621e-2f;
    q = q * t + 2.515215278e-1f;
    q = q * t + 1.0f;
    return x * p / q + 0.5f;
}

INLINE Floats gelu(Floats x) { return x * below(x); }
INLINE Floats gelu_slope(Floats x) { return below(x) + x * two_to(x * x * (-0.5f * LOG2_E)) * 0.39894228f; }

uint64_t scrambled(uint64_t x) {  // SplitMix64's output function
    x += 0x9e3779b97f4a7c15;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
    x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
    return x ^ (x >> 31);
}

// body(at, random words) for each vector of `count` of them: hashes of the numbers from `first` on.
template <class Body> INLINE void random_words(uint64_t seed, uint32_t first, long count, Body body) {
    uint64_t key = scrambled(seed);
    Words low = Words{} + uint32_t(key), high = Words{} + uint32_t(key >> 32), number;
    for (int i = 0; i < LANES; i++) number[i] = first + i;
    for (long at = 0; at < count; at += LANES, number += LANES) {
        Words x = number * 0x9e3779b9u + low;
        x = (x ^ (x >> 16)) * 0x7feb352du ^ high;
        x = (x ^ (x >> 15)) * 0x846ca68bu;
        body(at, x ^ (x >> 16));
    }
}

// Room for a row, with a vector to spare.
struct Row {
    explicit Row(long columns) : values(new float[columns + LANES]) {}
    INLINE Floats get(long j) const { return read<Floats>(values.get() + j); }
    INLINE void set(long j, Floats x) { memcpy(values.get() + j, &x, sizeof x); }
    std::unique_ptr<float[]> values;
};

}  // namespace
