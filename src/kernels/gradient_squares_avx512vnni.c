// The weight gradient in squares by Winograd's F(3x3, 4x4) for AVX-512 with VNNI and VBMI (struct squares_gradient_job): a lane of 32 bits
// is a channel, with one number of each square of a pair.
#include "kernels/fetch.h"
#include "kernels/functions_avx512.h"
#include "kernels/squares.h"
#include "kernels/squares_avx512.h"

// ---------------------------------------------------------------------------------------------
// Operands

// Column COLUMN of [4 columns][16] of two squares: [16][2], as 16 bits without sign.
INLINE __m512i pair_of_pixels(__m512i first, __m512i second, const int COLUMN)
{
    uint8_t order[64] = {0};
    for (int i = 0; i < 16; i++) {
        order[4 * i] = (uint8_t)(16 * COLUMN + i);
        order[4 * i + 2] = (uint8_t)(64 + 16 * COLUMN + i);
    }
    return _mm512_maskz_permutex2var_epi8(0x5555555555555555, first, _mm512_loadu_si512(order), second);
}

// Column COLUMN of [16][4 columns] of two squares: [16][2], as 16 bits with a sign.
INLINE __m512i pair_of_errors(__m512i first, __m512i second, const int COLUMN)
{
    uint8_t order[64] = {0};
    for (int i = 0; i < 16; i++) {
        order[4 * i + 1] = (uint8_t)(4 * i + COLUMN);
        order[4 * i + 3] = (uint8_t)(64 + 4 * i + COLUMN);
    }
    return _mm512_srai_epi16(_mm512_maskz_permutex2var_epi8(0xaaaaaaaaaaaaaaaa, first, _mm512_loadu_si512(order), second), 8);
}

typedef int16_t transformed_row[SQUARE_INPUTS][32]; // [column][16][2]

// Two squares. The zero point cancels but in column 1, where the factors of B add up to -6.
static void transform_pixels(const struct squares_pixels_job *job, const uint8_t *first, const uint8_t *second, int16_t *to, size_t column_step)
{
    transformed_row rows[SQUARE_INPUTS] __attribute__((aligned(64)));
    const __m512i correction = _mm512_set1_epi16((int16_t)(6 * job->zero_point));
    __m512i d[SQUARE_INPUTS], sums[SQUARE_INPUTS];
    for (int r = 0; r < SQUARE_INPUTS; r++, first += job->row_bytes, second += job->row_bytes) {
        const __m512i a = _mm512_loadu_si512(first), b = _mm512_loadu_si512(second);
#pragma GCC unroll 4
        for (int c = 0; c < SQUARE; c++) d[c] = pair_of_pixels(a, b, c);
        const __m512i behind_a = _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)(first + 64)));
        const __m512i behind_b = _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)(second + 64)));
        d[4] = pair_of_pixels(behind_a, behind_b, 0);
        d[5] = pair_of_pixels(behind_a, behind_b, 1);
        transform_input(d, sums);
        sums[1] = _mm512_add_epi16(sums[1], correction);
#pragma GCC unroll 6
        for (int c = 0; c < SQUARE_INPUTS; c++) _mm512_store_si512(rows[r][c], sums[c]);
    }
    for (int c = 0; c < SQUARE_INPUTS; c++, to += column_step) {
#pragma GCC unroll 6
        for (int r = 0; r < SQUARE_INPUTS; r++) d[r] = _mm512_load_si512(rows[r][c]);
        transform_input(d, sums);
#pragma GCC unroll 6
        for (int r = 0; r < SQUARE_INPUTS; r++) _mm512_storeu_si512(to + r * 32, sums[r]);
    }
}

void squares_pixels_avx512vnni(const struct squares_pixels_job *job)
{
    const int squares = job->rows * job->columns, pairs = (squares + 1) / 2;
    for (int pair = 0; pair < pairs; pair++) {
        const int other = 2 * pair + 1 < squares ? 2 * pair + 1 : 2 * pair; // its errors are 0
        transform_pixels(job, square_of_pixels(job, 2 * pair), square_of_pixels(job, other), job->transformed + pair * SQUARE_INPUTS * 32,
                         (size_t)pairs * SQUARE_INPUTS * 32);
    }
}

// Row `row` of the errors of a square, 0 where there is none, as in all of the one behind the last.
INLINE __m512i row_of_errors(const struct squares_errors_job *job, int square, int row)
{
    const int y = square / job->columns * SQUARE + row;
    return y < job->height ? _mm512_loadu_si512(job->quads + (y * job->columns + square % job->columns) * 64) : _mm512_setzero_si512();
}

static void transform_pair_of_errors(const struct squares_errors_job *job, int square, int16_t *to, size_t column_step)
{
    transformed_row rows[SQUARE] __attribute__((aligned(64)));
    __m512i e[SQUARE], sums[SQUARE_INPUTS];
    for (int r = 0; r < SQUARE; r++) {
        const __m512i a = row_of_errors(job, square, r), b = row_of_errors(job, square + 1, r);
#pragma GCC unroll 4
        for (int c = 0; c < SQUARE; c++) e[c] = pair_of_errors(a, b, c);
        transform_errors(e, sums);
#pragma GCC unroll 6
        for (int c = 0; c < SQUARE_INPUTS; c++) _mm512_store_si512(rows[r][c], sums[c]);
    }
    for (int c = 0; c < SQUARE_INPUTS; c++, to += column_step) {
#pragma GCC unroll 4
        for (int r = 0; r < SQUARE; r++) e[r] = _mm512_load_si512(rows[r][c]);
        transform_errors(e, sums);
#pragma GCC unroll 6
        for (int r = 0; r < SQUARE_INPUTS; r++) _mm512_storeu_si512(to + r * 32, sums[r]);
    }
}

void squares_errors_avx512vnni(const struct squares_errors_job *job)
{
    const int pairs = (job->rows * job->columns + 1) / 2;
    for (int pair = 0; pair < pairs; pair++)
        transform_pair_of_errors(job, 2 * pair, job->transformed + pair * SQUARE_INPUTS * 32, (size_t)pairs * SQUARE_INPUTS * 32);
}

// ---------------------------------------------------------------------------------------------
// Products

#define CHANNELS 4 // output channels at a time

typedef int32_t half_done[GRADIENT_CHANNELS][3][SQUARE_INPUTS][BLOCK_CHANNELS] __attribute__((aligned(64))); // columns are transformed

// Column `column` of some output channels, from `channel` on.
static void __attribute__((noinline)) gradient_column_avx512vnni(const struct squares_gradient_job *job, int column, int channel, half_done to)
{
    const int16_t *pixels = job->pixels + column * job->pairs * SQUARE_INPUTS * 32;
    const int16_t *errors = job->errors + column * job->pairs * SQUARE_INPUTS * 32 + 2 * channel;
    __m512i sums[CHANNELS][SQUARE_INPUTS];
#pragma GCC unroll 4
    for (int c = 0; c < CHANNELS; c++)
#pragma GCC unroll 6
        for (int r = 0; r < SQUARE_INPUTS; r++) sums[c][r] = _mm512_setzero_si512();
    for (int pair = 0; pair < job->pairs; pair++, pixels += SQUARE_INPUTS * 32, errors += SQUARE_INPUTS * 32)
#pragma GCC unroll 6
        for (int r = 0; r < SQUARE_INPUTS; r++) {
            const __m512i d = _mm512_loadu_si512(pixels + r * 32);
#pragma GCC unroll 4
            for (int c = 0; c < CHANNELS; c++) sums[c][r] = add_products_of_pair(sums[c][r], d, errors + r * 32 + 2 * c);
        }
#pragma GCC unroll 4
    for (int c = 0; c < CHANNELS; c++) {
        __m512i rows[3];
        transform_sums(sums[c], rows);
#pragma GCC unroll 3
        for (int r = 0; r < 3; r++) _mm512_store_si512(to[channel + c][r][column], rows[r]);
    }
}

// totals += P * scale of one output channel.
INLINE void finish_channel(int32_t rows[3][SQUARE_INPUTS][BLOCK_CHANNELS], __m512 scale, float *totals)
{
    const __m512i inverse_of_9 = _mm512_set1_epi32(INVERSE_OF_9);
#pragma GCC unroll 3
    for (int r = 0; r < 3; r++) {
        __m512i m[SQUARE_INPUTS], sums[3];
#pragma GCC unroll 6
        for (int c = 0; c < SQUARE_INPUTS; c++) m[c] = _mm512_load_si512(rows[r][c]);
        transform_sums(m, sums);
#pragma GCC unroll 3
        for (int c = 0; c < 3; c++) {
            float *to = totals + (3 * r + c) * GRADIENT_CHANNELS * BLOCK_CHANNELS;
            const __m512i p = _mm512_srai_epi32(_mm512_mullo_epi32(sums[c], inverse_of_9), 6);
            _mm512_storeu_ps(to, _mm512_fmadd_ps(_mm512_cvtepi32_ps(p), scale, _mm512_loadu_ps(to)));
        }
    }
}

static void __attribute__((noinline)) finish_gradient_avx512vnni(const struct squares_gradient_job *job, half_done done, float *totals)
{
    const __m512 in_scales = _mm512_loadu_ps(job->in_scales);
    for (int c = 0; c < GRADIENT_CHANNELS; c++)
        finish_channel(done[c], _mm512_mul_ps(in_scales, _mm512_set1_ps(job->out_scales[c])), totals + c * BLOCK_CHANNELS);
}

void gradient_squares_avx512vnni(const struct squares_gradient_job *job, float *totals)
{
    half_done done;
    struct squares_gradient_job one = *job;
    for (int n = 0; n < job->images; n++, squares_next_image(&one)) {
        for (int column = 0; column < SQUARE_INPUTS; column++)
            for (int channel = 0; channel < GRADIENT_CHANNELS; channel += CHANNELS) {
                if (channel == 0) fetch_some(job->fetch, job->pairs);
                gradient_column_avx512vnni(&one, column, channel, done);
            }
        finish_gradient_avx512vnni(&one, done, totals);
    }
}
