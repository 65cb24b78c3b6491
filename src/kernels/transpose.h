// Bytes of 16 channels, from four rows to fours: what a dot product takes at once.
#ifndef KERNELS_TRANSPOSE_H
#define KERNELS_TRANSPOSE_H

#include <stdint.h>
#include <string.h>

#include "base/vector.h"

typedef int8_t bytes_16 __attribute__((vector_size(16)));
typedef int16_t pairs_8 __attribute__((vector_size(16)));

// to[16][4] = the columns of 4 rows of 16 bytes.
VECTOR_INLINE void transpose_4(const void *const rows[4], void *to)
{
    bytes_16 r[4];
    for (int i = 0; i < 4; i++) memcpy(&r[i], rows[i], sizeof r[i]);
    const pairs_8 low[2] = {(pairs_8)__builtin_shufflevector(r[0], r[1], 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23),
                            (pairs_8)__builtin_shufflevector(r[2], r[3], 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23)};
    const pairs_8 high[2] = {(pairs_8)__builtin_shufflevector(r[0], r[1], 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31),
                             (pairs_8)__builtin_shufflevector(r[2], r[3], 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31)};
    const pairs_8 out[4] = {__builtin_shufflevector(low[0], low[1], 0, 8, 1, 9, 2, 10, 3, 11),
                            __builtin_shufflevector(low[0], low[1], 4, 12, 5, 13, 6, 14, 7, 15),
                            __builtin_shufflevector(high[0], high[1], 0, 8, 1, 9, 2, 10, 3, 11),
                            __builtin_shufflevector(high[0], high[1], 4, 12, 5, 13, 6, 14, 7, 15)};
    memcpy(to, out, sizeof out);
}

#endif
