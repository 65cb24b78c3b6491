// What forward, input error and weight gradient in squares share for AVX2 (struct squares_job).
#ifndef KERNELS_SQUARES_AVX2_H
#define KERNELS_SQUARES_AVX2_H

#include "kernels/kernels.h"
#include "kernels/vectors_avx2.h"

INLINE void store_256(void *to, __m256i numbers)
{
    _mm256_storeu_si256(to, numbers);
}

#define VECTOR __m256i
#define ZERO _mm256_setzero_si256()
#define LOAD(from) load_256(from)
#define STORE(to, numbers) store_256(to, numbers)
#define ADD_16 _mm256_add_epi16
#define SUBTRACT_16 _mm256_sub_epi16
#define SHIFT_16 _mm256_slli_epi16
#define SHIFT_RIGHT_16 _mm256_srai_epi16
#define ADD_32 _mm256_add_epi32
#define SUBTRACT_32 _mm256_sub_epi32
#define SHIFT_32 _mm256_slli_epi32
#include "kernels/squares_transforms.h"

#endif
