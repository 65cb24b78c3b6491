// What forward, input error and weight gradient in squares share for AVX-512 (struct squares_job).
#ifndef KERNELS_SQUARES_AVX512_H
#define KERNELS_SQUARES_AVX512_H

#include "kernels/kernels.h"
#include "kernels/vectors_avx512.h"

// B of struct squares_job, for 32 columns of six numbers of 16 bits.
INLINE void transform_input(const __m512i d[SQUARE_INPUTS], __m512i to[SQUARE_INPUTS])
{
    const __m512i a = _mm512_sub_epi16(d[4], d[2]), b = _mm512_sub_epi16(d[3], d[1]), twice = _mm512_add_epi16(b, b);
    const __m512i even = _mm512_sub_epi16(d[4], _mm512_slli_epi16(d[2], 2)), odd = _mm512_sub_epi16(d[3], _mm512_slli_epi16(d[1], 2));
    to[0] = _mm512_add_epi16(_mm512_slli_epi16(_mm512_sub_epi16(d[0], d[2]), 2), a);
    to[1] = _mm512_add_epi16(even, odd);
    to[2] = _mm512_sub_epi16(even, odd);
    to[3] = _mm512_add_epi16(a, twice);
    to[4] = _mm512_sub_epi16(a, twice);
    to[5] = _mm512_sub_epi16(_mm512_sub_epi16(d[5], d[3]), _mm512_add_epi16(twice, twice));
}

INLINE __m512i times_4(__m512i x)
{
    return _mm512_slli_epi16(x, 2);
}

INLINE __m512i times_6(__m512i x)
{
    return _mm512_add_epi16(_mm512_add_epi16(x, x), times_4(x));
}

// sum + weights . the pair at `pair`, in every lane. Left to itself, gcc 12 loads the pair into a register and runs out of them.
INLINE __m512i add_products_of_pair(__m512i sum, __m512i weights, const int16_t *pair)
{
    __asm__("vpdpwssd %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(weights), "m"(*(const int16_t(*)[2])pair));
    return sum;
}

#endif
