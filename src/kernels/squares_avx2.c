// Squares of outputs by Winograd's F(4x4, 3x3) for AVX2 (struct squares_job): a lane of 32 bits is an output channel, of which 8 are summed at
// a time, in three rows of products of four squares: with the weights, a pair of inputs and their product, all registers are in use.
#include "kernels/fetch.h"
#include "kernels/functions_avx2.h"
#include "kernels/squares.h"

#if defined(__GNUC__) && !defined(__clang__)
// These passes make gcc 12 move accumulators from and to memory at each turn of the inner loops.
#pragma GCC optimize("no-tree-pre", "no-tree-reassoc")
#endif

#include "kernels/squares_avx2.h"

#define HALF (BLOCK_CHANNELS / 2)

// ---------------------------------------------------------------------------------------------
// Input

// Two squares of a set and block, into those of [column][row][parity][square][8] that are theirs. The zero point cancels but in column 1,
// where the factors of B add up to -6.
static void transform_two(const struct squares_input_job *job, const uint8_t *first, const uint8_t *second, int16_t *to)
{
    int16_t rows[SQUARE_INPUTS][SQUARE_INPUTS][16] __attribute__((aligned(32))); // [column][row][square][8]
    const __m256i low_bytes = _mm256_set1_epi16(0xff), correction = _mm256_set1_epi16((int16_t)(6 * job->zero_point));
    for (int parity = 0; parity < 2; parity++) {
        __m256i d[SQUARE_INPUTS], sums[SQUARE_INPUTS];
        for (int r = 0; r < SQUARE_INPUTS; r++) {
            const size_t at = (size_t)r * job->row_bytes;
#pragma GCC unroll 6
            for (int c = 0; c < SQUARE_INPUTS; c++) {
                const __m128i *low = (const __m128i *)(first + at) + c, *high = (const __m128i *)(second + at) + c;
                const __m256i bytes = _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128(low)), _mm_loadu_si128(high), 1);
                d[c] = parity ? _mm256_srli_epi16(bytes, 8) : _mm256_and_si256(bytes, low_bytes);
            }
            transform_input(d, sums);
            sums[1] = _mm256_add_epi16(sums[1], correction);
#pragma GCC unroll 6
            for (int c = 0; c < SQUARE_INPUTS; c++) store_256(rows[c][r], sums[c]);
        }
        for (int c = 0; c < SQUARE_INPUTS; c++) {
#pragma GCC unroll 6
            for (int r = 0; r < SQUARE_INPUTS; r++) d[r] = load_256(rows[c][r]);
            transform_input(d, sums);
#pragma GCC unroll 6
            for (int r = 0; r < SQUARE_INPUTS; r++) store_256(to + (c * SQUARE_INPUTS + r) * 64 + parity * 32, sums[r]);
        }
    }
}

void squares_input_avx2(const struct squares_input_job *job)
{
    int16_t *to = job->transformed;
    for (int set = 0; set < job->sets; set++)
        for (int block = 0; block < job->blocks; block++, to += SET_NUMBERS)
            for (int s = 0; s < SQUARES_OF_SET; s += 2) {
                const struct square *squares = job->squares + set * SQUARES_OF_SET + s;
                const uint8_t *input = job->input + (size_t)block * job->block_bytes;
                transform_two(job, input + squares[0].input, input + squares[1].input, to + s * 8);
            }
}

// ---------------------------------------------------------------------------------------------
// Weights

void squares_weights_avx2(const int8_t *taps, int quads, bool from_the_bottom, int16_t *transformed)
{
    const size_t step = (size_t)quads * COLUMN_WEIGHTS;
    for (int quad = 0; quad < quads; quad++, taps += 9 * 64, transformed += COLUMN_WEIGHTS)
        for (int half = 0; half < 2; half++) {
            transform_taps(taps + 32 * half, from_the_bottom, transformed + 16 * half, step, 0);
            transform_taps(taps + 32 * half, from_the_bottom, transformed + 16 * half, step, 1);
        }
}

// ---------------------------------------------------------------------------------------------
// Products

typedef int32_t set_products[SQUARES_OF_SET][SQUARE_INPUTS][SQUARE_INPUTS][BLOCK_CHANNELS] __attribute__((aligned(32))); // [square][column][row]

#define ROWS 3 // of products at a time

// ROWS rows of a column of a set, half of the outputs, for one group. input, weights: of the first of these rows.
static void __attribute__((noinline)) squares_rows_avx2(const struct squares_job *job, int group, const int16_t *input, const int16_t *weights,
                                                         int32_t *to)
{
    __m256i sums[ROWS][SQUARES_OF_SET];
#pragma GCC unroll 3
    for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 4
        for (int s = 0; s < SQUARES_OF_SET; s++) sums[r][s] = _mm256_setzero_si256();
    for (int quad = job->quad_first[group]; quad <= job->quad_last[group]; quad++) {
        const int16_t *from = input + job->quad_offsets[quad];
        for (int parity = 0; parity < 2; parity++, from += 32, weights += SQUARE_INPUTS * 32)
#pragma GCC unroll 3
            for (int r = 0; r < ROWS; r++) {
                const __m256i w = load_256(weights + r * 32);
#pragma GCC unroll 4
                for (int s = 0; s < SQUARES_OF_SET; s++) {
                    sums[r][s] = _mm256_add_epi32(sums[r][s], _mm256_madd_epi16(broadcast_4(from + r * 64 + s * 8), w));
                    __asm__("" : "+x"(sums[r][s])); // now: else the products need more registers than there are
                }
            }
    }
#pragma GCC unroll 3
    for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 4
        for (int s = 0; s < SQUARES_OF_SET; s++)
            store_256(to + (s * SQUARE_INPUTS * SQUARE_INPUTS + r) * BLOCK_CHANNELS, sums[r][s]);
}

// All products of a set, for one group.
static void sum_products(const struct squares_job *job, int group, const int16_t *input, const int16_t *weights, set_products products)
{
    const int quads = job->quad_last[group] - job->quad_first[group] + 1;
    for (int column = 0; column < SQUARE_INPUTS; column++, input += SQUARE_INPUTS * 64, weights += quads * COLUMN_WEIGHTS) {
        fetch_some(job->fetch, 1);
        for (int row = 0; row < SQUARE_INPUTS; row += ROWS)
            for (int half = 0; half < 2; half++)
                squares_rows_avx2(job, group, input + row * 64, weights + row * 32 + 16 * half, products[0][column][row] + HALF * half);
    }
}

// ---------------------------------------------------------------------------------------------
// Outputs

// Stores a row of a square, as far as there are outputs.
INLINE void store_row(const struct squares_job *job, const struct square *square, const __m256 totals[SQUARE], float *to)
{
#pragma GCC unroll 4
    for (int c = 0; c < SQUARE; c++, to += BLOCK_CHANNELS) {
        if (c >= square->columns) break;
        __m256 value = _mm256_mul_ps(totals[c], _mm256_set1_ps(job->factor));
        if (job->accumulate) value = _mm256_add_ps(_mm256_loadu_ps(to), value);
        _mm256_storeu_ps(to, value);
    }
}

// totals = or += 64 P * scale of half of the outputs of a square; with the last group the outputs.
static void __attribute__((noinline)) finish_half_avx2(const struct squares_job *job, int group, const struct square *square, const int32_t *products,
                                                        const float *scales, float *totals, float *outputs)
{
    int32_t rows[SQUARE][SQUARE_INPUTS][HALF] __attribute__((aligned(32)));
    const __m256i inverse_of_9 = _mm256_set1_epi32(INVERSE_OF_9);
    const __m256 scale = _mm256_loadu_ps(scales);
    __m256i m[SQUARE_INPUTS], sums[SQUARE];
    for (int column = 0; column < SQUARE_INPUTS; column++, products += SQUARE_INPUTS * BLOCK_CHANNELS) {
#pragma GCC unroll 6
        for (int r = 0; r < SQUARE_INPUTS; r++) m[r] = load_256(products + r * BLOCK_CHANNELS);
        transform_products(m, sums);
#pragma GCC unroll 4
        for (int r = 0; r < SQUARE; r++) store_256(rows[r][column], sums[r]);
    }
    for (int r = 0; r < SQUARE; r++, totals += SQUARE * BLOCK_CHANNELS) {
        __m256 row[SQUARE];
#pragma GCC unroll 6
        for (int c = 0; c < SQUARE_INPUTS; c++) m[c] = load_256(rows[r][c]);
        transform_products(m, sums);
#pragma GCC unroll 4
        for (int c = 0; c < SQUARE; c++) {
            const __m256 before = group ? _mm256_loadu_ps(totals + c * BLOCK_CHANNELS) : _mm256_setzero_ps();
            row[c] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(_mm256_mullo_epi32(sums[c], inverse_of_9)), scale, before);
            _mm256_storeu_ps(totals + c * BLOCK_CHANNELS, row[c]);
        }
        if (group + 1 == job->groups && r < square->rows)
            store_row(job, square, row, outputs + square->output + (size_t)r * job->output_row);
    }
}

void convolve_squares_avx2(const struct squares_job *job, float *outputs)
{
    set_products products;
    const int8_t *taps = job->weights;
    const int16_t *weights = job->transformed;
    for (int group = 0; group < job->groups; group++) {
        const int quads = job->quad_last[group] - job->quad_first[group] + 1;
        if (!job->transformed) {
            squares_weights_avx2(taps, quads, job->from_the_bottom, job->group_weights);
            weights = job->group_weights;
        }
        for (int set = 0; set < job->sets; set++) {
            const struct square *squares = job->squares + set * SQUARES_OF_SET;
            float *totals = job->totals + set * SQUARES_OF_SET * SQUARE * SQUARE * BLOCK_CHANNELS;
            sum_products(job, group, job->input + (size_t)set * job->set_step, weights, products);
            for (int s = 0; s < SQUARES_OF_SET; s++, totals += SQUARE * SQUARE * BLOCK_CHANNELS)
                for (int half = 0; half < 2; half++)
                    finish_half_avx2(job, group, &squares[s], products[s][0][0] + HALF * half,
                                     job->scales + squares[s].scales + group * BLOCK_CHANNELS + HALF * half, totals + HALF * half,
                                     outputs + HALF * half);
        }
        taps += quads * 9 * 64;
        weights += quads * SQUARE_WEIGHTS;
    }
}
