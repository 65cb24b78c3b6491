// Vectors of 16 lanes in the compiler's portable notation, and functions compiled once for each
// instruction set. Lane arithmetic is plain IEEE (no contraction, no reassociation), so every
// instruction set gives the same bits; sums have 16 partial sums, added in the order of vector_sum.
#ifndef BASE_VECTOR_H
#define BASE_VECTOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define VECTOR_LANES 16

typedef float vector_float __attribute__((vector_size(64)));
typedef int32_t vector_int __attribute__((vector_size(64)));
typedef uint32_t vector_bits __attribute__((vector_size(64)));

// Put before a function whose loops are hot: gcc then compiles it for AVX-512, AVX2 and the base line, and
// the loader picks one. Left out under the sanitizers, which cannot start with such functions.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__) && \
    !defined(__SANITIZE_THREAD__)
#define VECTORIZED __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define VECTORIZED
#endif
#define VECTOR_INLINE static inline __attribute__((always_inline))

// For functions that compare: defines name(parameters) from name_body(arguments, native), an inline function.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__) && \
    !defined(__SANITIZE_THREAD__)
#define VECTORIZED_VERSIONS(linkage, name, parameters, ...)                                                        \
    __attribute__((target("avx512f"))) static void name##_avx512 parameters { name##_body(__VA_ARGS__, true); }     \
    __attribute__((target_clones("avx2", "default"))) static void name##_other parameters                           \
    {                                                                                                              \
        name##_body(__VA_ARGS__, false);                                                                           \
    }                                                                                                              \
    linkage void name parameters                                                                                   \
    {                                                                                                              \
        if (__builtin_cpu_supports("avx512f"))                                                                     \
            name##_avx512(__VA_ARGS__);                                                                            \
        else                                                                                                       \
            name##_other(__VA_ARGS__);                                                                             \
    }
#else
#define VECTORIZED_VERSIONS(linkage, name, parameters, ...) \
    linkage void name parameters { name##_body(__VA_ARGS__, false); }
#endif

VECTOR_INLINE vector_float vector_load(const float *from)
{
    vector_float v;
    memcpy(&v, from, sizeof v);
    return v;
}

VECTOR_INLINE void vector_store(float *to, vector_float v)
{
    memcpy(to, &v, sizeof v);
}

// Half a block: AVX2 has vectors of that length, too, so it compares and converts them whole and keeps them in registers.
#define HALF_LANES (VECTOR_LANES / 2)
typedef float half_float __attribute__((vector_size(4 * HALF_LANES)));
typedef int32_t half_int __attribute__((vector_size(4 * HALF_LANES)));
typedef int16_t half_short __attribute__((vector_size(2 * HALF_LANES)));

VECTOR_INLINE half_float half_load(const float *from)
{
    half_float v;
    memcpy(&v, from, sizeof v);
    return v;
}

VECTOR_INLINE void half_store(float *to, half_float v)
{
    memcpy(to, &v, sizeof v);
}

// The first `count` < 16 lanes from memory, the others 0.
VECTOR_INLINE vector_float vector_load_part(const float *from, size_t count)
{
    vector_float v = {0};
    memcpy(&v, from, count * sizeof(float));
    return v;
}

VECTOR_INLINE void vector_store_part(float *to, vector_float v, size_t count)
{
    memcpy(to, &v, count * sizeof(float));
}

VECTOR_INLINE vector_float vector_set(float x)
{
    return (vector_float){0} + x;
}

// Lanes of v where mask is all ones, else 0.
VECTOR_INLINE vector_float vector_where(vector_int mask, vector_float v)
{
    return (vector_float)(mask & (vector_int)v);
}

// Comparisons. gcc takes those of vectors longer than the instruction set's own apart into single numbers, which is slow.
// `native`, a constant: there are vectors of this length. Otherwise they are made of arithmetic on the bits, which gcc only
// cuts into shorter vectors.

// z > 0; whether a NaN is, is left open.
VECTOR_INLINE vector_int vector_positive(vector_float z, const bool native)
{
    vector_bits bits = (vector_bits)z;
    return native ? z > 0 : (vector_int)(~bits & -bits) >> 31;
}

// z where it is above 0 or a NaN, else 0.
VECTOR_INLINE vector_float vector_rectify(vector_float z, const bool native)
{
    if (native) return vector_where(~(z <= 0), z);
    vector_int bits = (vector_int)z, is_nan = (0x7f800000 - (bits & 0x7fffffff)) >> 31;
    return vector_where(~(bits >> 31) | is_nan, z);
}

// Running maximum of |v| as bit patterns, which order like the numbers and put NaN above infinity.
VECTOR_INLINE vector_int vector_maximum(vector_int maximum, vector_float v, const bool native)
{
    vector_int bits = (vector_int)v & 0x7fffffff;
    if (native) {
        vector_int larger = bits > maximum;
        return (bits & larger) | (maximum & ~larger);
    }
    vector_int difference = maximum - bits;
    return maximum - (difference & (difference >> 31));
}

VECTOR_INLINE float vector_maximum_of_lanes(vector_int maximum)
{
    int32_t largest = 0;
    for (int i = 0; i < VECTOR_LANES; i++) largest = maximum[i] > largest ? maximum[i] : largest;
    float value;
    memcpy(&value, &largest, sizeof value);
    return value;
}

VECTOR_INLINE float vector_sum(vector_float v)
{
    float sums[VECTOR_LANES];
    memcpy(sums, &v, sizeof sums);
    for (int half = VECTOR_LANES / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++) sums[i] += sums[i + half];
    return sums[0];
}

#endif
