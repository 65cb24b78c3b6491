// fp32 convolutions for AVX-512. A lane is an output channel; one number of the input is multiplied with 16 weights or,
// in the weight gradient, with 16 errors.
#include "kernels/fetch.h"
#include "kernels/functions_avx512.h"
#include "kernels/vectors_avx512.h"

// PIXELS x BLOCKS x 16 outputs.
INLINE void row_tile(const struct direct_job *job, const float *input, int first, float *const outputs[2], const int PIXELS,
                     const int BLOCKS, const size_t step)
{
    __m512 total[16][2];
    input += (size_t)first * step;
#pragma GCC unroll 16
    for (int p = 0; p < PIXELS; p++) total[p][0] = total[p][1] = _mm512_setzero_ps();
    for (int t = 0; t < job->terms; t++) {
        const float *from = input + job->offsets[t];
        __m512 w0 = _mm512_loadu_ps(job->weights[0] + t * BLOCK_CHANNELS);
        __m512 w1 = BLOCKS > 1 ? _mm512_loadu_ps(job->weights[1] + t * BLOCK_CHANNELS) : w0;
#pragma GCC unroll 16
        for (int p = 0; p < PIXELS; p++) {
            __m512 a = _mm512_set1_ps(from[(size_t)p * step]);
            total[p][0] = _mm512_fmadd_ps(a, w0, total[p][0]);
            if (BLOCKS > 1) total[p][1] = _mm512_fmadd_ps(a, w1, total[p][1]);
        }
    }
#pragma GCC unroll 2
    for (int b = 0; b < BLOCKS; b++)
#pragma GCC unroll 16
        for (int p = 0; p < PIXELS; p++) {
            float *to = outputs[b] + (size_t)(first + p) * job->output_step;
            __builtin_prefetch(to + job->ahead, 1);
            _mm512_storeu_ps(to, job->accumulate ? _mm512_add_ps(_mm512_loadu_ps(to), total[p][b]) : total[p][b]);
        }
}

// The steps that are common are constants: neighbouring pixels of a blocked and of a planar map, and every other one.
#define TILE(pixels, blocks)                                                                                       \
    static void __attribute__((noinline)) direct_##pixels##x##blocks##_avx512(const struct direct_job *job, const float *input, \
                                                                              int first, float *const outputs[2])   \
    {                                                                                                              \
        if (job->pixel_step == BLOCK_CHANNELS)                                                                     \
            row_tile(job, input, first, outputs, pixels, blocks, BLOCK_CHANNELS);                                  \
        else if (job->pixel_step == 1)                                                                             \
            row_tile(job, input, first, outputs, pixels, blocks, 1);                                               \
        else if (job->pixel_step == 2)                                                                             \
            row_tile(job, input, first, outputs, pixels, blocks, 2);                                               \
        else                                                                                                       \
            row_tile(job, input, first, outputs, pixels, blocks, job->pixel_step);                                 \
    }
TILE(14, 2) TILE(12, 2) TILE(8, 2) TILE(7, 2) TILE(4, 2) TILE(1, 2)
TILE(16, 1) TILE(14, 1) TILE(12, 1) TILE(8, 1) TILE(7, 1) TILE(4, 1) TILE(1, 1)

typedef void (*tile_function)(const struct direct_job *job, const float *input, int first, float *const outputs[2]);
static const struct tile_choice {
    int pixels;
    tile_function functions[2]; // [blocks - 1]; NULL: there is none
} tiles[] = {
    {16, {direct_16x1_avx512, NULL}},
    {14, {direct_14x1_avx512, direct_14x2_avx512}}, {12, {direct_12x1_avx512, direct_12x2_avx512}},
    {8, {direct_8x1_avx512, direct_8x2_avx512}},    {7, {direct_7x1_avx512, direct_7x2_avx512}},
    {4, {direct_4x1_avx512, direct_4x2_avx512}},    {1, {direct_1x1_avx512, direct_1x2_avx512}},
};

// The largest tile that leaves nothing over or at least 7 pixels, else the largest that fits.
static const struct tile_choice *choose_tile(int pixels, int blocks)
{
    const struct tile_choice *fits = NULL;
    for (size_t i = 0; i < sizeof tiles / sizeof tiles[0]; i++) {
        if (tiles[i].pixels > pixels || !tiles[i].functions[blocks - 1]) continue;
        if (!fits) fits = &tiles[i];
        int left = pixels - tiles[i].pixels;
        if (left == 0 || left >= 12 || left == 8 || left == 7) return &tiles[i];
    }
    return fits;
}

void direct_row_avx512(const struct direct_job *job, const float *input, int pixels, float *const outputs[2])
{
    for (int x = 0; x < pixels;) {
        const struct tile_choice *tile = choose_tile(pixels - x, job->blocks);
        fetch_some(job->fetch, tile->pixels * job->blocks);
        tile->functions[job->blocks - 1](job, input, x, outputs);
        x += tile->pixels;
    }
}

// ---------------------------------------------------------------------------------------------
// Weight gradient

INLINE void gradient_tile(const struct direct_gradient_job *job, int first, float *totals, const int TERMS)
{
    __m512 total[28];
    const float *from[28];
#pragma GCC unroll 28
    for (int t = 0; t < TERMS; t++) {
        total[t] = _mm512_loadu_ps(totals + t * BLOCK_CHANNELS);
        from[t] = job->input + job->offsets[first + t];
    }
    for (int n = 0; n < job->images; n++)
        for (int y = 0; y < job->height; y++) {
            const float *errors = job->errors + n * BLOCK_CHANNELS + (size_t)y * job->error_row_step;
            size_t at = (size_t)(n * BLOCK_CHANNELS) + (size_t)y * job->row_step;
            for (int x = 0; x < job->width; x++, at += job->pixel_step, errors += job->error_pixel_step) {
                __m512 e = _mm512_loadu_ps(errors);
#pragma GCC unroll 28
                for (int t = 0; t < TERMS; t++) total[t] = _mm512_fmadd_ps(_mm512_set1_ps(from[t][at]), e, total[t]);
            }
        }
#pragma GCC unroll 28
    for (int t = 0; t < TERMS; t++) _mm512_storeu_ps(totals + t * BLOCK_CHANNELS, total[t]);
}

// Terms whose inputs lie side by side, as 16 channels of a pixel do: one address for all of them.
INLINE void gradient_neighbours(const struct direct_gradient_job *job, int first, float *totals)
{
    __m512 total[16];
#pragma GCC unroll 16
    for (int t = 0; t < 16; t++) total[t] = _mm512_loadu_ps(totals + t * BLOCK_CHANNELS);
    for (int n = 0; n < job->images; n++)
        for (int y = 0; y < job->height; y++) {
            const float *errors = job->errors + n * BLOCK_CHANNELS + (size_t)y * job->error_row_step;
            const float *from = job->input + job->offsets[first] + n * BLOCK_CHANNELS + (size_t)y * job->row_step;
            for (int x = 0; x < job->width; x++, from += job->pixel_step, errors += job->error_pixel_step) {
                __m512 e = _mm512_loadu_ps(errors);
#pragma GCC unroll 16
                for (int t = 0; t < 16; t++) total[t] = _mm512_fmadd_ps(_mm512_set1_ps(from[t]), e, total[t]);
            }
        }
#pragma GCC unroll 16
    for (int t = 0; t < 16; t++) _mm512_storeu_ps(totals + t * BLOCK_CHANNELS, total[t]);
}

void direct_gradient_avx512(const struct direct_gradient_job *job, float *totals)
{
    for (int first = 0, left = job->terms; left > 0; left = job->terms - first) {
        float *to = totals + (size_t)first * BLOCK_CHANNELS;
        bool neighbours = left >= 16;
        for (int t = 1; neighbours && t < 16; t++) neighbours = job->offsets[first + t] == job->offsets[first] + (size_t)t;
        fetch_some(job->fetch, neighbours ? 16 : left >= 9 ? 9 : left >= 4 ? 4 : 1);
        if (neighbours)
            gradient_neighbours(job, first, to), first += 16;
        else if (left >= 9)
            gradient_tile(job, first, to, 9), first += 9;
        else if (left >= 4)
            gradient_tile(job, first, to, 4), first += 4;
        else
            gradient_tile(job, first, to, 1), first += 1;
    }
}
