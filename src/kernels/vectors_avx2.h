// What the files for AVX2 share.
#ifndef KERNELS_VECTORS_AVX2_H
#define KERNELS_VECTORS_AVX2_H

#include <immintrin.h>

#define INLINE static inline __attribute__((always_inline))

INLINE __m256i load_256(const void *from)
{
    return _mm256_loadu_si256(from);
}

INLINE __m256i broadcast_4(const void *from)
{
    int32_t four;
    __builtin_memcpy(&four, from, 4);
    return _mm256_set1_epi32(four);
}

// 16 lanes, the channels of a block.
struct lanes {
    __m256i half[2];
};

INLINE struct lanes lanes_load(const void *from)
{
    return (struct lanes){{load_256(from), load_256((const __m256i *)from + 1)}};
}

struct cursor {
    int y, x;
};

INLINE void cursor_advance(struct cursor *c, int columns, int width)
{
    for (c->x += columns; c->x >= width; c->x -= width) c->y++;
}

#endif
