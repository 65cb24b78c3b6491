// What forward, input error and weight gradient in squares share for AVX-512 (struct squares_job).
#ifndef KERNELS_SQUARES_AVX512_H
#define KERNELS_SQUARES_AVX512_H

#include "kernels/kernels.h"
#include "kernels/vectors_avx512.h"

#define VECTOR __m512i
#define ZERO _mm512_setzero_si512()
#define LOAD(from) _mm512_loadu_si512(from)
#define STORE(to, numbers) _mm512_storeu_si512(to, numbers)
#define ADD_16 _mm512_add_epi16
#define SUBTRACT_16 _mm512_sub_epi16
#define SHIFT_16 _mm512_slli_epi16
#define SHIFT_RIGHT_16 _mm512_srai_epi16
#define ADD_32 _mm512_add_epi32
#define SUBTRACT_32 _mm512_sub_epi32
#define SHIFT_32 _mm512_slli_epi32
#include "kernels/squares_transforms.h"

// sum + weights . the pair at `pair`, in every lane. Left to itself, gcc 12 loads the pair into a register and runs out of them.
INLINE __m512i add_products_of_pair(__m512i sum, __m512i weights, const int16_t *pair)
{
    __asm__("vpdpwssd %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(weights), "m"(*(const int16_t(*)[2])pair));
    return sum;
}

#endif
