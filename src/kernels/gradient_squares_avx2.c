// The weight gradient in squares by Winograd's F(3x3, 4x4) for AVX2 (struct squares_gradient_job): a lane of 32 bits is a channel, with one
// number of each square of a pair; 8 input channels are summed at a time.
#include "kernels/fetch.h"
#include "kernels/functions_avx2.h"
#include "kernels/squares.h"

#if defined(__GNUC__) && !defined(__clang__)
// These passes make gcc 12 move accumulators from and to memory at each turn of the inner loops.
#pragma GCC optimize("no-tree-pre", "no-tree-reassoc")
#endif

#include "kernels/squares_avx2.h"

#define HALF (BLOCK_CHANNELS / 2)
#define ROW (2 * BLOCK_CHANNELS) // numbers of a row of a transformed pair

// ---------------------------------------------------------------------------------------------
// Operands

// One pixel of two squares, 8 channels: [8][2].
INLINE __m256i pair_of_pixels(const uint8_t *first, const uint8_t *second)
{
    const __m256i a = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)first)), b = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)second));
    return _mm256_or_si256(a, _mm256_slli_epi32(b, 16));
}

// Column COLUMN of [8][4 columns] of two squares: [8][2].
INLINE __m256i pair_of_errors(__m256i first, __m256i second, const int COLUMN)
{
    const __m256i a = _mm256_srai_epi32(_mm256_slli_epi32(first, 24 - 8 * COLUMN), 24);
    return _mm256_blend_epi16(a, _mm256_srai_epi32(_mm256_slli_epi32(second, 24 - 8 * COLUMN), 8), 0xaa);
}

typedef int16_t transformed_row[SQUARE_INPUTS][16]; // [column][8][2]

// Two squares, 8 channels. The zero point cancels but in column 1, where the factors of B add up to -6.
static void transform_pixels(const struct squares_pixels_job *job, const uint8_t *first, const uint8_t *second, int16_t *to, size_t column_step)
{
    transformed_row rows[SQUARE_INPUTS] __attribute__((aligned(32)));
    const __m256i correction = _mm256_set1_epi16((int16_t)(6 * job->zero_point));
    __m256i d[SQUARE_INPUTS], sums[SQUARE_INPUTS];
    for (int r = 0; r < SQUARE_INPUTS; r++, first += job->row_bytes, second += job->row_bytes) {
#pragma GCC unroll 6
        for (int c = 0; c < SQUARE_INPUTS; c++) d[c] = pair_of_pixels(first + c * BLOCK_CHANNELS, second + c * BLOCK_CHANNELS);
        transform_input(d, sums);
        sums[1] = _mm256_add_epi16(sums[1], correction);
#pragma GCC unroll 6
        for (int c = 0; c < SQUARE_INPUTS; c++) store_256(rows[r][c], sums[c]);
    }
    for (int c = 0; c < SQUARE_INPUTS; c++, to += column_step) {
#pragma GCC unroll 6
        for (int r = 0; r < SQUARE_INPUTS; r++) d[r] = load_256(rows[r][c]);
        transform_input(d, sums);
#pragma GCC unroll 6
        for (int r = 0; r < SQUARE_INPUTS; r++) store_256(to + r * ROW, sums[r]);
    }
}

void squares_pixels_avx2(const struct squares_pixels_job *job)
{
    const int squares = job->rows * job->columns, pairs = (squares + 1) / 2;
    for (int pair = 0; pair < pairs; pair++) {
        const uint8_t *first = square_of_pixels(job, 2 * pair);
        const uint8_t *second = 2 * pair + 1 < squares ? square_of_pixels(job, 2 * pair + 1) : first; // its errors are 0
        for (int half = 0; half < 2; half++)
            transform_pixels(job, first + HALF * half, second + HALF * half, job->transformed + pair * SQUARE_INPUTS * ROW + 16 * half,
                             (size_t)pairs * SQUARE_INPUTS * ROW);
    }
}

// Row `row` of the errors of half of the channels of a square, 0 where there is none, as in all of the one behind the last.
INLINE __m256i row_of_errors(const struct squares_errors_job *job, int square, int row, int half)
{
    const int y = square / job->columns * SQUARE + row;
    if (y >= job->height) return _mm256_setzero_si256();
    return load_256(job->quads + (y * job->columns + square % job->columns) * 64 + 32 * half);
}

static void transform_pair_of_errors(const struct squares_errors_job *job, int square, int half, int16_t *to, size_t column_step)
{
    transformed_row rows[SQUARE] __attribute__((aligned(32)));
    __m256i e[SQUARE], sums[SQUARE_INPUTS];
    for (int r = 0; r < SQUARE; r++) {
        const __m256i a = row_of_errors(job, square, r, half), b = row_of_errors(job, square + 1, r, half);
#pragma GCC unroll 4
        for (int c = 0; c < SQUARE; c++) e[c] = pair_of_errors(a, b, c);
        transform_errors(e, sums);
#pragma GCC unroll 6
        for (int c = 0; c < SQUARE_INPUTS; c++) store_256(rows[r][c], sums[c]);
    }
    for (int c = 0; c < SQUARE_INPUTS; c++, to += column_step) {
#pragma GCC unroll 4
        for (int r = 0; r < SQUARE; r++) e[r] = load_256(rows[r][c]);
        transform_errors(e, sums);
#pragma GCC unroll 6
        for (int r = 0; r < SQUARE_INPUTS; r++) store_256(to + r * ROW, sums[r]);
    }
}

void squares_errors_avx2(const struct squares_errors_job *job)
{
    const int pairs = (job->rows * job->columns + 1) / 2;
    for (int pair = 0; pair < pairs; pair++)
        for (int half = 0; half < 2; half++)
            transform_pair_of_errors(job, 2 * pair, half, job->transformed + pair * SQUARE_INPUTS * ROW + 16 * half,
                                     (size_t)pairs * SQUARE_INPUTS * ROW);
}

// ---------------------------------------------------------------------------------------------
// Products

#define ROWS 3     // of products at a time,
#define CHANNELS 4 // and output channels

typedef int32_t tile_products[GRADIENT_CHANNELS][SQUARE_INPUTS][SQUARE_INPUTS][BLOCK_CHANNELS] __attribute__((aligned(32))); // [channel][column][row]

// ROWS rows of a column, CHANNELS output channels, half of the input channels. pixels, errors: of the first of these.
static void __attribute__((noinline)) gradient_rows_avx2(int pairs, const int16_t *pixels, const int16_t *errors, int32_t *to)
{
    __m256i sums[ROWS][CHANNELS];
#pragma GCC unroll 3
    for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 4
        for (int c = 0; c < CHANNELS; c++) sums[r][c] = _mm256_setzero_si256();
    for (int pair = 0; pair < pairs; pair++, pixels += SQUARE_INPUTS * ROW, errors += SQUARE_INPUTS * ROW)
#pragma GCC unroll 3
        for (int r = 0; r < ROWS; r++) {
            const __m256i d = load_256(pixels + r * ROW);
#pragma GCC unroll 4
            for (int c = 0; c < CHANNELS; c++) {
                sums[r][c] = _mm256_add_epi32(sums[r][c], _mm256_madd_epi16(broadcast_4(errors + r * ROW + 2 * c), d));
                __asm__("" : "+x"(sums[r][c])); // now: else the products need more registers than there are
            }
        }
#pragma GCC unroll 3
    for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 4
        for (int c = 0; c < CHANNELS; c++) store_256(to + (c * SQUARE_INPUTS * SQUARE_INPUTS + r) * BLOCK_CHANNELS, sums[r][c]);
}

static void sum_products(const struct squares_gradient_job *job, tile_products products)
{
    for (int column = 0; column < SQUARE_INPUTS; column++) {
        const int at = column * job->pairs * SQUARE_INPUTS * ROW;
        fetch_some(job->fetch, job->pairs);
        for (int row = 0; row < SQUARE_INPUTS; row += ROWS)
            for (int channel = 0; channel < GRADIENT_CHANNELS; channel += CHANNELS)
                for (int half = 0; half < 2; half++)
                    gradient_rows_avx2(job->pairs, job->pixels + at + row * ROW + 16 * half, job->errors + at + row * ROW + 2 * channel,
                                       products[channel][column][row] + HALF * half);
    }
}

// totals += P * scale of one output channel and half of the input channels.
static void __attribute__((noinline)) finish_half_avx2(const int32_t *products, const float *in_scales, float out_scale, float *totals)
{
    int32_t rows[3][SQUARE_INPUTS][HALF] __attribute__((aligned(32)));
    const __m256i inverse_of_9 = _mm256_set1_epi32(INVERSE_OF_9);
    const __m256 scale = _mm256_mul_ps(_mm256_loadu_ps(in_scales), _mm256_set1_ps(out_scale));
    __m256i m[SQUARE_INPUTS], sums[3];
    for (int column = 0; column < SQUARE_INPUTS; column++, products += SQUARE_INPUTS * BLOCK_CHANNELS) {
#pragma GCC unroll 6
        for (int r = 0; r < SQUARE_INPUTS; r++) m[r] = load_256(products + r * BLOCK_CHANNELS);
        transform_sums(m, sums);
#pragma GCC unroll 3
        for (int r = 0; r < 3; r++) store_256(rows[r][column], sums[r]);
    }
    for (int r = 0; r < 3; r++) {
#pragma GCC unroll 6
        for (int c = 0; c < SQUARE_INPUTS; c++) m[c] = load_256(rows[r][c]);
        transform_sums(m, sums);
#pragma GCC unroll 3
        for (int c = 0; c < 3; c++, totals += GRADIENT_CHANNELS * BLOCK_CHANNELS) {
            const __m256i p = _mm256_srai_epi32(_mm256_mullo_epi32(sums[c], inverse_of_9), 6);
            _mm256_storeu_ps(totals, _mm256_fmadd_ps(_mm256_cvtepi32_ps(p), scale, _mm256_loadu_ps(totals)));
        }
    }
}

void gradient_squares_avx2(const struct squares_gradient_job *job, float *totals)
{
    tile_products products;
    struct squares_gradient_job one = *job;
    for (int n = 0; n < job->images; n++, squares_next_image(&one)) {
        sum_products(&one, products);
        for (int channel = 0; channel < GRADIENT_CHANNELS; channel++)
            for (int half = 0; half < 2; half++)
                finish_half_avx2(products[channel][0][0] + HALF * half, one.in_scales + HALF * half, one.out_scales[channel],
                                 totals + channel * BLOCK_CHANNELS + HALF * half);
    }
}
