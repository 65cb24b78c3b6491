// Two rows of outputs at once (struct winograd_job) for AVX2, in packed blocks. A lane of 32 bits is an output channel, of which 8 are
// summed at a time: the sums of 16 bits of 8 pixels, the weights of three columns, one broadcast and the products fill the 16 registers.
#include "kernels/fetch.h"
#include "kernels/functions_avx2.h"

#if defined(__GNUC__) && !defined(__clang__)
// These passes make gcc 12 move accumulators from and to memory at each turn of the inner loops.
#pragma GCC optimize("no-tree-pre", "no-tree-reassoc")
#endif

#include "kernels/vectors_avx2.h"
#include "kernels/winograd_input.h"

#define HALF (BLOCK_CHANNELS / 2)
#define ROW_WEIGHTS (WINOGRAD_COLUMNS * 64) // bytes, of a transformed row of a quad

INLINE void transform_line(const uint8_t *from, size_t row_bytes, size_t pitch, uint8_t *to)
{
    size_t x = 0;
    for (; x + 32 <= pitch; x += 32) transform_32(from + x, row_bytes, pitch, to + x);
    if (x < pitch) transform_16(from + x, row_bytes, pitch, to + x);
}

void winograd_input_avx2(const struct winograd_input_job *job)
{
    transform_lines(job, transform_line);
}

// Some quads of a group, and half of the outputs.
struct chunk {
    const size_t *offsets;
    int quads;
    const uint8_t *rows;   // of quad offset 0 and the first pixel
    size_t pitch;
    const int8_t *weights; // of the half
    const int32_t *starts;
};

// sums[p] += the products of transformed row K: each broadcast serves the outputs of three columns.
INLINE void add_row(const struct chunk *chunk, __m256i sums[8], const int PIXELS, const int K)
{
    const int8_t *weights = chunk->weights + K * ROW_WEIGHTS;
    const uint8_t *rows = chunk->rows + K * chunk->pitch;
    for (int quad = 0; quad < chunk->quads; quad++, weights += 4 * ROW_WEIGHTS) {
        const uint8_t *row = rows + chunk->offsets[quad];
        __m256i w[WINOGRAD_COLUMNS];
#pragma GCC unroll 3
        for (int k = 0; k < WINOGRAD_COLUMNS; k++) w[k] = load_256(weights + 64 * k);
#pragma GCC unroll 10
        for (int i = 0; i < PIXELS + WINOGRAD_COLUMNS - 1; i++) {
            const __m256i a = broadcast_4(row + i * BLOCK_CHANNELS);
#pragma GCC unroll 3
            for (int k = 0; k < WINOGRAD_COLUMNS; k++)
                if (i - k >= 0 && i - k < PIXELS) sums[i - k] = _mm256_add_epi16(sums[i - k], _mm256_maddubs_epi16(a, w[k]));
            if (i >= 2) __asm__("" : "+x"(sums[i - 2])); // now: else the products need one register too many
        }
    }
}

// The sums of two of 16 bits each, as 32 bits.
INLINE __m256i widen(__m256i sums)
{
    return _mm256_madd_epi16(sums, _mm256_set1_epi16(1));
}

// sums[2][8]: m1 + m2 and m1 - m2, to which the other two rows add.
INLINE void sum_middle(const struct chunk *chunk, __m256i sums[2][8], const int PIXELS)
{
    __m256i m1[8], m2[8];
#pragma GCC unroll 8
    for (int p = 0; p < PIXELS; p++) m1[p] = load_256(chunk->starts);
    add_row(chunk, m1, PIXELS, 1);
#pragma GCC unroll 8
    for (int p = 0; p < PIXELS; p++) m2[p] = load_256(chunk->starts + BLOCK_CHANNELS);
    add_row(chunk, m2, PIXELS, 2);
#pragma GCC unroll 8
    for (int p = 0; p < PIXELS; p++) {
        sums[0][p] = _mm256_add_epi16(m1[p], m2[p]);
        sums[1][p] = _mm256_sub_epi16(m1[p], m2[p]);
    }
}

// 2 x PIXELS outputs, half of the channels, of which `stored` has the fp32 totals: twice what they should be.
struct tile {
    float *outputs[2];     // of the first pixel and channel
    float (*stored)[8][HALF];
};

// Adds a group to the totals of a row, or after the last one to the outputs.
INLINE void add_group(const struct winograd_job *job, const struct tile *tile, int group, int row, __m256 scale, const __m256i sums[8],
                      const int PIXELS)
{
    const __m256 half = _mm256_set1_ps(0.5f), factor = _mm256_set1_ps(job->factor);
#pragma GCC unroll 8
    for (int p = 0; p < PIXELS; p++) {
        float *to = tile->outputs[row] + p * BLOCK_CHANNELS;
        __m256 total = group ? _mm256_load_ps(tile->stored[row][p]) : _mm256_setzero_ps();
        total = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums[p]), scale, total);
        if (group + 1 < job->groups) {
            _mm256_store_ps(tile->stored[row][p], total);
            continue;
        }
        __builtin_prefetch(to + job->ahead, 1);
        total = _mm256_mul_ps(_mm256_mul_ps(total, half), factor);
        if (job->accumulate) total = _mm256_add_ps(_mm256_loadu_ps(to), total);
        _mm256_storeu_ps(to, total);
    }
}

INLINE void chunk_next(struct chunk *chunk)
{
    chunk->offsets += chunk->quads;
    chunk->weights += (size_t)chunk->quads * 4 * ROW_WEIGHTS;
    chunk->starts += 2 * BLOCK_CHANNELS;
}

// The group is one chunk.
INLINE void group_at_once(const struct winograd_job *job, const struct tile *tile, int group, __m256 scale, struct chunk *chunk, const int PIXELS)
{
    __m256i sums[2][8];
    chunk->quads = job->quad_last[group] + 1 - job->quad_first[group];
    sum_middle(chunk, sums, PIXELS);
#pragma GCC unroll 2
    for (int row = 0; row < 2; row++) {
        add_row(chunk, sums[row], PIXELS, 3 * row);
#pragma GCC unroll 8
        for (int p = 0; p < PIXELS; p++) sums[row][p] = widen(sums[row][p]);
        add_group(job, tile, group, row, scale, sums[row], PIXELS);
    }
    chunk_next(chunk);
}

// Or several.
INLINE void group_by_chunks(const struct winograd_job *job, const struct tile *tile, int group, __m256 scale, struct chunk *chunk, const int PIXELS)
{
    __m256i sums[2][8], wide[2][8];
    for (int p = 0; p < PIXELS; p++) wide[0][p] = wide[1][p] = _mm256_setzero_si256();
    for (int left = job->quad_last[group] + 1 - job->quad_first[group]; left > 0; left -= chunk->quads, chunk_next(chunk)) {
        chunk->quads = left < job->chunk ? left : job->chunk;
        sum_middle(chunk, sums, PIXELS);
#pragma GCC unroll 2
        for (int row = 0; row < 2; row++) {
            add_row(chunk, sums[row], PIXELS, 3 * row);
#pragma GCC unroll 8
            for (int p = 0; p < PIXELS; p++) wide[row][p] = _mm256_add_epi32(wide[row][p], widen(sums[row][p]));
        }
    }
#pragma GCC unroll 2
    for (int row = 0; row < 2; row++) add_group(job, tile, group, row, scale, wide[row], PIXELS);
}

INLINE void winograd_tile(const struct winograd_job *job, const struct tile *tile, int first, int half, const int PIXELS, const bool CHUNKS)
{
    struct chunk chunk = {.rows = job->rows + (size_t)first * BLOCK_CHANNELS, .pitch = job->pitch, .weights = job->weights + 32 * half,
                          .starts = job->starts + HALF * half};
    for (int group = 0; group < job->groups; group++) {
        const __m256 scale = _mm256_loadu_ps(job->scales + group * BLOCK_CHANNELS + HALF * half);
        chunk.offsets = job->quad_offsets + job->quad_first[group];
        if (CHUNKS)
            group_by_chunks(job, tile, group, scale, &chunk, PIXELS);
        else
            group_at_once(job, tile, group, scale, &chunk, PIXELS);
    }
}

typedef void (*tile_function)(const struct winograd_job *job, const struct tile *tile, int first, int half);

// winograd_2xPIXELS_few: all groups are one chunk; _many: or several
#define TILE(pixels, name, chunks)                                                                                                \
    static void __attribute__((noinline)) winograd_2x##pixels##_##name##_avx2(const struct winograd_job *job, const struct tile *tile, \
                                                                             int first, int half)                                 \
    {                                                                                                                             \
        winograd_tile(job, tile, first, half, pixels, chunks);                                                                    \
    }
TILE(7, few, false) TILE(8, few, false) TILE(7, many, true) TILE(8, many, true)

void winograd_rows_avx2(const struct winograd_job *job, float *const outputs[2])
{
    static const tile_function tiles[2][2] = {{winograd_2x7_few_avx2, winograd_2x8_few_avx2}, {winograd_2x7_many_avx2, winograd_2x8_many_avx2}};
    float stored[2][8][HALF] __attribute__((aligned(32)));
    const bool eights = job->pixels % 8 == 0;
    bool chunks = false;
    for (int group = 0; group < job->groups; group++) chunks |= job->quad_last[group] - job->quad_first[group] >= job->chunk;
    for (int x = 0, width = eights ? 8 : 7; x < job->pixels; x += width)
        for (int half = 0; half < 2; half++) {
            fetch_some(job->fetch, width);
            const size_t at = (size_t)x * BLOCK_CHANNELS + (size_t)(HALF * half);
            const struct tile tile = {{outputs[0] + at, outputs[1] + at}, stored};
            tiles[chunks][eights](job, &tile, x, half);
        }
}
