// Forward and input error in groups of one channel, two rows of outputs at once (struct winograd_job), for AVX-512 with VNNI. A lane is
// an output channel.
#include "kernels/functions_avx512.h"
#include "kernels/vectors_avx512.h"

// One channel and pair of rows: BYTES of each from column x on.
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

void winograd_input_avx512vnni(const struct winograd_input_job *job)
{
    const size_t row_bytes = job->row_bytes, pitch = job->pitch;
    const uint8_t *planes = job->planes;
    uint8_t *rows = job->rows;
    for (int pair = 0; pair < job->pairs; pair++, planes += 2 * row_bytes)
        for (int group = 0; group < job->groups; group++, rows += 4 * pitch) {
            const uint8_t *from = planes + job->offsets[group];
            size_t x = 0;
            for (; x + 32 <= pitch; x += 32) transform_32(from + x, row_bytes, pitch, rows + x);
            if (x < pitch) transform_16(from + x, row_bytes, pitch, rows + x);
        }
}

// 2 x PIXELS outputs from pixel `first` on. Of the four dot products, the last two add to what the others leave.
INLINE void winograd_tile(const struct winograd_job *job, int first, float *const outputs[2], const int PIXELS)
{
    const uint8_t *rows = job->rows + first;
    const int8_t *weights = job->weights;
    const int32_t *starts = job->starts;
    const float *scales = job->scales;
    const size_t pitch = job->pitch;
    __m512 total[8][2];
#pragma GCC unroll 8
    for (int p = 0; p < PIXELS; p++) total[p][0] = total[p][1] = _mm512_setzero_ps();
    for (int group = 0; group < job->groups; group++) {
        __m512i w[4], middle[2];
#pragma GCC unroll 4
        for (int k = 0; k < 4; k++) w[k] = _mm512_loadu_si512(weights + 64 * k);
#pragma GCC unroll 2
        for (int m = 0; m < 2; m++) middle[m] = _mm512_loadu_si512(starts + m * BLOCK_CHANNELS);
        const __m512 scale = _mm512_loadu_ps(scales);
#pragma GCC unroll 8
        for (int p = 0; p < PIXELS; p++) {
            __m512i m1 = _mm512_dpbusd_epi32(middle[0], broadcast_4(rows + pitch + p), w[1]);
            __m512i m2 = _mm512_dpbusd_epi32(middle[1], broadcast_4(rows + 2 * pitch + p), w[2]);
            __m512i upper = _mm512_dpbusd_epi32(_mm512_add_epi32(m1, m2), broadcast_4(rows + p), w[0]);
            __m512i lower = _mm512_dpbusd_epi32(_mm512_sub_epi32(m1, m2), broadcast_4(rows + 3 * pitch + p), w[3]);
            total[p][0] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(upper), scale, total[p][0]);
            total[p][1] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(lower), scale, total[p][1]);
        }
        rows += 4 * pitch;
        weights += 4 * 64;
        starts += 2 * BLOCK_CHANNELS;
        scales += BLOCK_CHANNELS;
    }
#pragma GCC unroll 2
    for (int row = 0; row < 2; row++)
#pragma GCC unroll 8
        for (int p = 0; p < PIXELS; p++)
            store_outputs(outputs[row] + (size_t)(first + p) * BLOCK_CHANNELS, _mm512_mul_ps(total[p][row], _mm512_set1_ps(0.5f)), job->factor,
                          job->accumulate);
}

static void __attribute__((noinline)) winograd_2x8_avx512vnni(const struct winograd_job *job, int first, float *const outputs[2])
{
    winograd_tile(job, first, outputs, 8);
}

static void __attribute__((noinline)) winograd_2x7_avx512vnni(const struct winograd_job *job, int first, float *const outputs[2])
{
    winograd_tile(job, first, outputs, 7);
}

void winograd_rows_avx512vnni(const struct winograd_job *job, float *const outputs[2])
{
    int width = job->pixels % 8 == 0 ? 8 : 7;
    for (int x = 0; x < job->pixels; x += width) (width == 8 ? winograd_2x8_avx512vnni : winograd_2x7_avx512vnni)(job, x, outputs);
}
