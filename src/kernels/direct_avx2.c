// fp32 convolutions for AVX2 with FMA. A lane is an output channel; one number of the input is multiplied with 16 weights
// or, in the weight gradient, with 16 errors.
#include "kernels/fetch.h"
#include "kernels/functions_avx2.h"

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("no-tree-pre") // see convolve_avx512vnni.c
#endif

#include "kernels/vectors_avx2.h"

#define MOST 6 // pixels or terms of a tile: 12 sums, 2 vectors and a broadcast fill the 16 registers

// PIXELS x 16 outputs of a block.
INLINE void row_tile(const struct direct_job *job, int block, const float *input, float *output, const int PIXELS)
{
    __m256 total[MOST][2];
    const size_t step = job->pixel_step;
#pragma GCC unroll 6
    for (int p = 0; p < PIXELS; p++) total[p][0] = total[p][1] = _mm256_setzero_ps();
    for (int t = 0; t < job->terms; t++) {
        const float *from = input + job->offsets[t], *weights = job->weights[block] + t * BLOCK_CHANNELS;
        __m256 low = _mm256_loadu_ps(weights), high = _mm256_loadu_ps(weights + 8);
#pragma GCC unroll 6
        for (int p = 0; p < PIXELS; p++) {
            __m256 a = _mm256_broadcast_ss(from + (size_t)p * step);
            total[p][0] = _mm256_fmadd_ps(a, low, total[p][0]);
            total[p][1] = _mm256_fmadd_ps(a, high, total[p][1]);
        }
    }
#pragma GCC unroll 6
    for (int p = 0; p < PIXELS; p++)
#pragma GCC unroll 2
        for (int h = 0; h < 2; h++) {
            float *to = output + (size_t)p * job->output_step + 8 * h;
            if (h == 0) __builtin_prefetch(to + job->ahead, 1);
            _mm256_storeu_ps(to, job->accumulate ? _mm256_add_ps(_mm256_loadu_ps(to), total[p][h]) : total[p][h]);
        }
}

typedef void (*tile_function)(const struct direct_job *job, int block, const float *input, float *output);

#define TILE(pixels)                                                                                               \
    static void __attribute__((noinline)) direct_##pixels##x1_avx2(const struct direct_job *job, int block,         \
                                                                   const float *input, float *output)              \
    {                                                                                                              \
        row_tile(job, block, input, output, pixels);                                                               \
    }
TILE(1) TILE(2) TILE(3) TILE(4) TILE(5) TILE(6)
static const tile_function tiles[MOST] = {direct_1x1_avx2, direct_2x1_avx2, direct_3x1_avx2,
                                          direct_4x1_avx2, direct_5x1_avx2, direct_6x1_avx2};

void direct_row_avx2(const struct direct_job *job, const float *input, int pixels, float *const outputs[2])
{
    for (int block = 0; block < job->blocks; block++)
        for (int x = 0; x < pixels;) {
            int left = pixels - x, count = left < MOST ? left : left == MOST + 2 ? 4 : MOST;
            fetch_some(job->fetch, count);
            tiles[count - 1](job, block, input + (size_t)x * job->pixel_step, outputs[block] + (size_t)x * job->output_step);
            x += count;
        }
}

// ---------------------------------------------------------------------------------------------
// Weight gradient

INLINE void gradient_tile(const struct direct_gradient_job *job, int first, float *totals, const int TERMS)
{
    __m256 total[MOST][2];
    size_t offset[MOST];
    fetch_some(job->fetch, TERMS);
#pragma GCC unroll 6
    for (int t = 0; t < TERMS; t++) {
        total[t][0] = _mm256_loadu_ps(totals + t * BLOCK_CHANNELS);
        total[t][1] = _mm256_loadu_ps(totals + t * BLOCK_CHANNELS + 8);
        offset[t] = job->offsets[first + t];
    }
    for (int n = 0; n < job->images; n++)
        for (int y = 0; y < job->height; y++) {
            const float *errors = job->errors + n * BLOCK_CHANNELS + (size_t)y * job->error_row_step;
            const float *input = job->input + n * BLOCK_CHANNELS + (size_t)y * job->row_step;
            for (int x = 0; x < job->width; x++, input += job->pixel_step, errors += job->error_pixel_step) {
                __m256 low = _mm256_loadu_ps(errors), high = _mm256_loadu_ps(errors + 8);
#pragma GCC unroll 6
                for (int t = 0; t < TERMS; t++) {
                    __m256 a = _mm256_broadcast_ss(input + offset[t]);
                    total[t][0] = _mm256_fmadd_ps(a, low, total[t][0]);
                    total[t][1] = _mm256_fmadd_ps(a, high, total[t][1]);
                }
            }
        }
#pragma GCC unroll 6
    for (int t = 0; t < TERMS; t++)
        for (int h = 0; h < 2; h++) _mm256_storeu_ps(totals + t * BLOCK_CHANNELS + 8 * h, total[t][h]);
}

void direct_gradient_avx2(const struct direct_gradient_job *job, float *totals)
{
    int first = 0;
    for (; first + MOST <= job->terms; first += MOST) gradient_tile(job, first, totals + first * BLOCK_CHANNELS, MOST);
    for (; first + 3 <= job->terms; first += 3) gradient_tile(job, first, totals + first * BLOCK_CHANNELS, 3);
    for (; first < job->terms; first++) gradient_tile(job, first, totals + first * BLOCK_CHANNELS, 1);
}
