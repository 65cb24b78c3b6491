// What the instruction sets share of winograd_input (struct winograd_input_job).
#ifndef KERNELS_WINOGRAD_INPUT_H
#define KERNELS_WINOGRAD_INPUT_H

#include "kernels/kernels.h"

// BYTES of each row of one line and pair.
#define TRANSFORM(BYTES, vector, load, store, add, subtract, xor, set)                                              \
    INLINE void transform_##BYTES(const uint8_t *from, size_t row_bytes, size_t pitch, uint8_t *to)                  \
    {                                                                                                              \
        const vector offset = set((char)WINOGRAD_OFFSET);                                                          \
        const vector d0 = xor(load((const void *)from), offset);                                                    \
        const vector d1 = xor(load((const void *)(from + row_bytes)), offset); /* + or - 128, which is the same */    \
        const vector d2 = load((const void *)(from + 2 * row_bytes)), d3 = load((const void *)(from + 3 * row_bytes)); \
        store((void *)to, subtract(d0, d2));                                                                       \
        store((void *)(to + pitch), add(d1, d2));                                                                  \
        store((void *)(to + 2 * pitch), subtract(d2, d1));                                                          \
        store((void *)(to + 3 * pitch), subtract(d3, d1));                                                          \
    }
TRANSFORM(16, __m128i, _mm_loadu_si128, _mm_storeu_si128, _mm_add_epi8, _mm_sub_epi8, _mm_xor_si128, _mm_set1_epi8)
TRANSFORM(32, __m256i, _mm256_loadu_si256, _mm256_storeu_si256, _mm256_add_epi8, _mm256_sub_epi8, _mm256_xor_si256, _mm256_set1_epi8)

// line: all bytes of one line and pair.
INLINE void transform_lines(const struct winograd_input_job *job,
                            void (*line)(const uint8_t *from, size_t row_bytes, size_t pitch, uint8_t *to))
{
    uint8_t *rows = job->rows;
    for (int pair = 0; pair < job->pairs; pair++)
        for (int i = 0; i < job->lines; i++, rows += 4 * job->pitch)
            line(job->input + (size_t)i * job->line_bytes + 2 * (size_t)pair * job->row_bytes, job->row_bytes, job->pitch, rows);
}

#endif
