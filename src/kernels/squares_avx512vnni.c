// Squares of outputs by Winograd's F(4x4, 3x3) for AVX-512 with VNNI (struct squares_job): a lane is an output channel, a dot product takes
// two input channels of 16 bits.
#include "kernels/fetch.h"
#include "kernels/functions_avx512.h"
#include "kernels/squares.h"
#include "kernels/squares_avx512.h"

// ---------------------------------------------------------------------------------------------
// Input

INLINE __m512i load_two(const uint8_t *first, const uint8_t *second)
{
    const __m512i low = _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)first));
    return _mm512_inserti64x4(low, _mm256_loadu_si256((const __m256i *)second), 1);
}

// A row of the inputs of four squares: for each of its six columns, [square][16].
INLINE void load_row(const uint8_t *const from[SQUARES_OF_SET], size_t at, __m512i columns[SQUARE_INPUTS])
{
    __m512i x[SQUARES_OF_SET], pairs[4];
#pragma GCC unroll 4
    for (int s = 0; s < SQUARES_OF_SET; s++) x[s] = _mm512_loadu_si512(from[s] + at);
#pragma GCC unroll 2
    for (int k = 0; k < 2; k++) {
        pairs[2 * k] = _mm512_shuffle_i32x4(x[2 * k], x[2 * k + 1], 0x44);     // columns 0 and 1 of two squares
        pairs[2 * k + 1] = _mm512_shuffle_i32x4(x[2 * k], x[2 * k + 1], 0xee); // 2 and 3
        x[k] = load_two(from[2 * k] + at + 64, from[2 * k + 1] + at + 64);     // 4 and 5
    }
    columns[0] = _mm512_shuffle_i32x4(pairs[0], pairs[2], 0x88);
    columns[1] = _mm512_shuffle_i32x4(pairs[0], pairs[2], 0xdd);
    columns[2] = _mm512_shuffle_i32x4(pairs[1], pairs[3], 0x88);
    columns[3] = _mm512_shuffle_i32x4(pairs[1], pairs[3], 0xdd);
    columns[4] = _mm512_shuffle_i32x4(x[0], x[1], 0x88);
    columns[5] = _mm512_shuffle_i32x4(x[0], x[1], 0xdd);
}

typedef int16_t transformed_row[SQUARE_INPUTS][2][32]; // [column][parity][square][8]

// The rows of the inputs of a set, each by itself. The zero point cancels wherever the factors of B add up to 0; in column 1 they are -6.
INLINE void transform_rows(const uint8_t *const from[SQUARES_OF_SET], size_t row_bytes, int zero_point, transformed_row rows[SQUARE_INPUTS])
{
    const __m512i low_bytes = _mm512_set1_epi16(0xff), correction = _mm512_set1_epi16((int16_t)(6 * zero_point));
    for (int r = 0; r < SQUARE_INPUTS; r++) {
        __m512i bytes[SQUARE_INPUTS], d[SQUARE_INPUTS], sums[SQUARE_INPUTS];
        load_row(from, (size_t)r * row_bytes, bytes);
#pragma GCC unroll 2
        for (int parity = 0; parity < 2; parity++) {
#pragma GCC unroll 6
            for (int c = 0; c < SQUARE_INPUTS; c++) d[c] = parity ? _mm512_srli_epi16(bytes[c], 8) : _mm512_and_si512(bytes[c], low_bytes);
            transform_input(d, sums);
            sums[1] = _mm512_add_epi16(sums[1], correction);
#pragma GCC unroll 6
            for (int c = 0; c < SQUARE_INPUTS; c++) _mm512_store_si512(rows[r][c][parity], sums[c]);
        }
    }
}

// A set and block.
static void transform_set(const struct squares_input_job *job, const struct square *squares, int block, int16_t *to)
{
    transformed_row rows[SQUARE_INPUTS] __attribute__((aligned(64)));
    const uint8_t *from[SQUARES_OF_SET];
    for (int s = 0; s < SQUARES_OF_SET; s++) from[s] = job->input + squares[s].input + (size_t)block * job->block_bytes;
    transform_rows(from, job->row_bytes, job->zero_point, rows);
    for (int c = 0; c < SQUARE_INPUTS; c++, to += SQUARE_INPUTS * 64)
#pragma GCC unroll 2
        for (int parity = 0; parity < 2; parity++) {
            __m512i d[SQUARE_INPUTS], sums[SQUARE_INPUTS];
#pragma GCC unroll 6
            for (int r = 0; r < SQUARE_INPUTS; r++) d[r] = _mm512_load_si512(rows[r][c][parity]);
            transform_input(d, sums);
#pragma GCC unroll 6
            for (int r = 0; r < SQUARE_INPUTS; r++) _mm512_storeu_si512(to + r * 64 + parity * 32, sums[r]);
        }
}

void squares_input_avx512vnni(const struct squares_input_job *job)
{
    int16_t *to = job->transformed;
    for (int set = 0; set < job->sets; set++)
        for (int block = 0; block < job->blocks; block++, to += SET_NUMBERS) transform_set(job, job->squares + set * SQUARES_OF_SET, block, to);
}

// ---------------------------------------------------------------------------------------------
// Weights


void squares_weights_avx512vnni(const int8_t *taps, int quads, bool from_the_bottom, int16_t *transformed)
{
    const size_t step = (size_t)quads * COLUMN_WEIGHTS;
    for (int quad = 0; quad < quads; quad++, taps += 9 * 64, transformed += COLUMN_WEIGHTS) {
        transform_taps(taps, from_the_bottom, transformed, step, 0);
        transform_taps(taps, from_the_bottom, transformed, step, 1);
    }
}

// ---------------------------------------------------------------------------------------------
// Products

typedef int32_t half_done[SQUARES_OF_SET][SQUARE][SQUARE_INPUTS][BLOCK_CHANNELS] __attribute__((aligned(64))); // squares whose columns are transformed

// Column `column` of a set, for one group.
static void __attribute__((noinline)) squares_column_avx512vnni(const struct squares_job *job, int group, const int16_t *input,
                                                                 const int16_t *weights, int column, half_done to)
{
    __m512i sums[SQUARES_OF_SET][SQUARE_INPUTS];
#pragma GCC unroll 4
    for (int s = 0; s < SQUARES_OF_SET; s++)
#pragma GCC unroll 6
        for (int r = 0; r < SQUARE_INPUTS; r++) sums[s][r] = _mm512_setzero_si512();
    for (int quad = job->quad_first[group]; quad <= job->quad_last[group]; quad++) {
        const int16_t *from = input + job->quad_offsets[quad];
        for (int parity = 0; parity < 2; parity++, from += 32, weights += SQUARE_INPUTS * 32)
#pragma GCC unroll 6
            for (int r = 0; r < SQUARE_INPUTS; r++) {
                const __m512i w = _mm512_loadu_si512(weights + r * 32);
#pragma GCC unroll 4
                for (int s = 0; s < SQUARES_OF_SET; s++) sums[s][r] = add_products_of_pair(sums[s][r], w, from + r * 64 + s * 8);
            }
    }
#pragma GCC unroll 4
    for (int s = 0; s < SQUARES_OF_SET; s++) {
        __m512i rows[SQUARE];
        transform_products(sums[s], rows);
#pragma GCC unroll 4
        for (int r = 0; r < SQUARE; r++) _mm512_store_si512(to[s][r][column], rows[r]);
    }
}

// Stores a row of a square, as far as there are outputs.
INLINE void store_row(const struct squares_job *job, const struct square *square, int row, const __m512 totals[SQUARE], float *outputs)
{
    float *to = outputs + square->output + (size_t)row * job->output_row;
    const __m512 factor = _mm512_set1_ps(job->factor);
    __m512 values[SQUARE];
#pragma GCC unroll 4
    for (int c = 0; c < SQUARE; c++) values[c] = _mm512_mul_ps(totals[c], factor);
    if (job->accumulate)
#pragma GCC unroll 4
        for (int c = 0; c < SQUARE; c++)
            if (c < square->columns) values[c] = _mm512_add_ps(_mm512_loadu_ps(to + c * BLOCK_CHANNELS), values[c]);
    if (square->columns == SQUARE)
#pragma GCC unroll 4
        for (int c = 0; c < SQUARE; c++) _mm512_storeu_ps(to + c * BLOCK_CHANNELS, values[c]);
    else
        for (int c = 0; c < square->columns; c++) _mm512_storeu_ps(to + c * BLOCK_CHANNELS, values[c]);
}

// totals = or += 64 P * scale of a square of a set; with the last group, the outputs.
INLINE void finish_square(const struct squares_job *job, const struct square *square, int32_t rows[SQUARE][SQUARE_INPUTS][BLOCK_CHANNELS],
                          __m512 scale, float *totals, float *outputs, const bool FIRST, const bool LAST)
{
    const __m512i inverse_of_9 = _mm512_set1_epi32(INVERSE_OF_9);
#pragma GCC unroll 4
    for (int r = 0; r < SQUARE; r++, totals += SQUARE * BLOCK_CHANNELS) {
        __m512i products[SQUARE_INPUTS], sums[SQUARE];
        __m512 row[SQUARE];
#pragma GCC unroll 6
        for (int c = 0; c < SQUARE_INPUTS; c++) products[c] = _mm512_load_si512(rows[r][c]);
        transform_products(products, sums);
#pragma GCC unroll 4
        for (int c = 0; c < SQUARE; c++) {
            const __m512 before = FIRST ? _mm512_setzero_ps() : _mm512_loadu_ps(totals + c * BLOCK_CHANNELS);
            row[c] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_mullo_epi32(sums[c], inverse_of_9)), scale, before);
            if (!LAST) _mm512_storeu_ps(totals + c * BLOCK_CHANNELS, row[c]);
        }
        if (LAST && r < square->rows) store_row(job, square, r, row, outputs);
    }
}

typedef void (*finish_function)(const struct squares_job *job, int group, int set, half_done done, float *outputs);

// finish_set_WHICH: of the groups.
#define FINISH_SET(which, FIRST, LAST)                                                                             \
    static void __attribute__((noinline)) finish_set_##which##_avx512vnni(const struct squares_job *job, int group, \
                                                                          int set, half_done done, float *outputs)  \
    {                                                                                                              \
        float *totals = job->totals + (size_t)set * SQUARES_OF_SET * SQUARE * SQUARE * BLOCK_CHANNELS;              \
        for (int s = 0; s < SQUARES_OF_SET; s++, totals += SQUARE * SQUARE * BLOCK_CHANNELS) {                      \
            const struct square *square = job->squares + set * SQUARES_OF_SET + s;                                  \
            const __m512 scale = _mm512_loadu_ps(job->scales + square->scales + (size_t)group * BLOCK_CHANNELS);    \
            finish_square(job, square, done[s], scale, totals, outputs, FIRST, LAST);                               \
        }                                                                                                          \
    }
FINISH_SET(only, true, true) FINISH_SET(first, true, false) FINISH_SET(middle, false, false) FINISH_SET(last, false, true)

// A row of outputs of each square of a set, soon to be written.
INLINE void fetch_outputs(const struct squares_job *job, const struct square *squares, int row, float *outputs)
{
    for (int s = 0; s < SQUARES_OF_SET; s++) {
        const float *to = outputs + squares[s].output + (size_t)row * job->output_row;
#pragma GCC unroll 4
        for (int c = 0; c < SQUARE; c++) __builtin_prefetch(to + c * BLOCK_CHANNELS, 1);
    }
}

void convolve_squares_avx512vnni(const struct squares_job *job, float *outputs)
{
    static const finish_function finish_set[2][2] = {{finish_set_middle_avx512vnni, finish_set_last_avx512vnni},
                                                     {finish_set_first_avx512vnni, finish_set_only_avx512vnni}}; // [first][last]
    half_done done;
    const int8_t *taps = job->weights;
    const int16_t *weights = job->transformed;
    for (int group = 0; group < job->groups; group++) {
        const int quads = job->quad_last[group] - job->quad_first[group] + 1;
        const bool last = group + 1 == job->groups;
        if (!job->transformed) {
            squares_weights_avx512vnni(taps, quads, job->from_the_bottom, job->group_weights);
            weights = job->group_weights;
        }
        for (int set = 0; set < job->sets; set++) {
            for (int column = 0; column < SQUARE_INPUTS; column++) {
                fetch_some(job->fetch, 1);
                if (last && column < SQUARE) fetch_outputs(job, job->squares + set * SQUARES_OF_SET, column, outputs);
                squares_column_avx512vnni(job, group, job->input + (size_t)set * job->set_step + column * SQUARE_INPUTS * 64,
                                          weights + column * quads * COLUMN_WEIGHTS, column, done);
            }
            finish_set[group == 0][last](job, group, set, done, outputs);
        }
        taps += quads * 9 * 64;
        weights += quads * SQUARE_WEIGHTS;
    }
}
