// What forward, input error and weight gradient in squares share for AVX2 (struct squares_job).
#ifndef KERNELS_SQUARES_AVX2_H
#define KERNELS_SQUARES_AVX2_H

#include "kernels/kernels.h"
#include "kernels/vectors_avx2.h"

INLINE void store_256(void *to, __m256i numbers)
{
    _mm256_storeu_si256(to, numbers);
}

// B of struct squares_job, for 16 columns of six numbers of 16 bits.
INLINE void transform_input(const __m256i d[SQUARE_INPUTS], __m256i to[SQUARE_INPUTS])
{
    const __m256i a = _mm256_sub_epi16(d[4], d[2]), b = _mm256_sub_epi16(d[3], d[1]), twice = _mm256_add_epi16(b, b);
    const __m256i even = _mm256_sub_epi16(d[4], _mm256_slli_epi16(d[2], 2)), odd = _mm256_sub_epi16(d[3], _mm256_slli_epi16(d[1], 2));
    to[0] = _mm256_add_epi16(_mm256_slli_epi16(_mm256_sub_epi16(d[0], d[2]), 2), a);
    to[1] = _mm256_add_epi16(even, odd);
    to[2] = _mm256_sub_epi16(even, odd);
    to[3] = _mm256_add_epi16(a, twice);
    to[4] = _mm256_sub_epi16(a, twice);
    to[5] = _mm256_sub_epi16(_mm256_sub_epi16(d[5], d[3]), _mm256_add_epi16(twice, twice));
}

INLINE __m256i times_4(__m256i x)
{
    return _mm256_slli_epi16(x, 2);
}

INLINE __m256i times_6(__m256i x)
{
    return _mm256_add_epi16(_mm256_add_epi16(x, x), times_4(x));
}

#endif
