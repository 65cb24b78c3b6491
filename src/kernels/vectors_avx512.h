// What the convolutions for AVX-512 share. Include it before <immintrin.h>.
#ifndef KERNELS_VECTORS_AVX512_H
#define KERNELS_VECTORS_AVX512_H

#if defined(__GNUC__) && !defined(__clang__)
// This pass makes gcc 12 copy every accumulator at each turn of the inner loops.
#pragma GCC optimize("no-tree-pre")
#endif

#include <immintrin.h>
#include <stdbool.h>
#include <stdint.h>

#define INLINE static inline __attribute__((always_inline))

INLINE __m512i broadcast_4(const uint8_t *from)
{
    int32_t four;
    __builtin_memcpy(&four, from, 4);
    return _mm512_set1_epi32(four);
}

// For _mm512_permutexvar_epi8: 4 pixels x 16 channels -> 16 channels x 4 pixels.
INLINE __m512i order_of_pixels(void)
{
    uint8_t bytes[64];
    for (int i = 0; i < 64; i++) bytes[i] = (uint8_t)(i % 4 * 16 + i / 4);
    return _mm512_loadu_si512(bytes);
}

// 16 outputs: = or += factor * total. ahead: struct convolve_job.
INLINE void store_outputs(float *to, __m512 total, float factor, bool accumulate, size_t ahead)
{
    __builtin_prefetch(to + ahead, 1);
    __m512 value = _mm512_mul_ps(total, _mm512_set1_ps(factor));
    if (accumulate) value = _mm512_add_ps(_mm512_loadu_ps(to), value);
    _mm512_storeu_ps(to, value);
}

#endif
