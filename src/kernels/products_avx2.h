// Products of unsigned and signed bytes with AVX2. The product of this instruction set has 16 bits and saturates. It is used where the signed
// bytes are so small that it cannot, and its results are added in 16 bits as long as the bytes' size allows. Otherwise a 32-bit lane with 4
// bytes is taken apart into the 16-bit pairs (byte 0, byte 2) and (byte 1, byte 3), which takes shifts but no shuffles.
#ifndef KERNELS_PRODUCTS_AVX2_H
#define KERNELS_PRODUCTS_AVX2_H

#include "kernels/vectors_avx2.h"

// How many sums of 2 products of the largest bytes fit 16 bits.
static inline int depth_of(int largest_unsigned, int largest_signed)
{
    int pair = 2 * largest_unsigned * largest_signed;
    return pair > 0 ? INT16_MAX / pair : INT16_MAX;
}

// Bytes 0 and 2 of each 32-bit lane as 16 bits; bytes 1 and 3.
INLINE __m256i even_signed(__m256i bytes)
{
    return _mm256_srai_epi16(_mm256_slli_epi16(bytes, 8), 8);
}

INLINE __m256i odd_signed(__m256i bytes)
{
    return _mm256_srai_epi16(bytes, 8);
}

INLINE __m256i even_unsigned(__m256i bytes)
{
    return _mm256_and_si256(bytes, _mm256_set1_epi16(0xff));
}

INLINE __m256i odd_unsigned(__m256i bytes)
{
    return _mm256_srli_epi16(bytes, 8);
}

INLINE void add_products(__m256i *sum, __m256i a, __m256i b)
{
    *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(a, b));
}

// What was loaded before it is loaded again after it: else gcc keeps in registers what an instruction can take from memory,
// and the sums are not in registers.
#define FORGET_LOADS __asm__ volatile("" : : : "memory")

#endif
