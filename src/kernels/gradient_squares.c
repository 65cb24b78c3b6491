// The weight gradient in squares by Winograd's F(3x3, 4x4) in plain C: the reference of the other sets (struct squares_gradient_job).
#include <math.h>

#include "kernels/squares.h"

// G for a column of errors.
static void transform_errors(const int e[SQUARE], int to[SQUARE_INPUTS])
{
    to[0] = 6 * e[0];
    to[1] = -4 * (e[0] + e[1] + e[2] + e[3]);
    to[2] = -4 * (e[0] - e[1] + e[2] - e[3]);
    to[3] = e[0] + 2 * e[1] + 4 * e[2] + 8 * e[3];
    to[4] = e[0] - 2 * e[1] + 4 * e[2] - 8 * e[3];
    to[5] = 6 * e[3];
}

// A for a column of sums, modulo 2^32.
static void transform_sums(const uint32_t m[SQUARE_INPUTS], uint32_t to[3])
{
    to[0] = m[0] + m[1] + m[2] + m[3] + m[4];
    to[1] = m[1] - m[2] + 2 * (m[3] - m[4]);
    to[2] = m[1] + m[2] + 4 * (m[3] + m[4] + m[5]);
}

// Where number (column, row) of a square and channel lies.
static int place_of(int pairs, int square, int channel, int column, int row)
{
    return ((column * pairs + square / 2) * SQUARE_INPUTS + row) * 2 * BLOCK_CHANNELS + 2 * channel + square % 2;
}

static void transform_square_of_pixels(const struct squares_pixels_job *job, int square, int channel)
{
    const int pairs = (job->rows * job->columns + 1) / 2;
    int d[SQUARE_INPUTS], rows[SQUARE_INPUTS][SQUARE_INPUTS], all[SQUARE_INPUTS];
    for (int r = 0; r < SQUARE_INPUTS; r++) {
        const uint8_t *from = square_of_pixels(job, square) + (size_t)r * job->row_bytes + channel;
        for (int c = 0; c < SQUARE_INPUTS; c++) d[c] = from[c * BLOCK_CHANNELS] - job->zero_point;
        squares_transform_input(d, rows[r]);
    }
    for (int c = 0; c < SQUARE_INPUTS; c++) {
        for (int r = 0; r < SQUARE_INPUTS; r++) d[r] = rows[r][c];
        squares_transform_input(d, all);
        for (int r = 0; r < SQUARE_INPUTS; r++) job->transformed[place_of(pairs, square, channel, c, r)] = (int16_t)all[r];
    }
}

void squares_pixels_plain(const struct squares_pixels_job *job)
{
    for (int square = 0; square < job->rows * job->columns; square++)
        for (int channel = 0; channel < BLOCK_CHANNELS; channel++) transform_square_of_pixels(job, square, channel);
}

static void transform_square_of_errors(const struct squares_errors_job *job, int square, int channel)
{
    const int pairs = (job->rows * job->columns + 1) / 2, y = square / job->columns * SQUARE;
    int e[SQUARE], rows[SQUARE][SQUARE_INPUTS], all[SQUARE_INPUTS];
    for (int r = 0; r < SQUARE; r++) {
        const int8_t *from = job->quads + ((y + r) * job->columns + square % job->columns) * 64 + 4 * channel;
        for (int c = 0; c < SQUARE; c++) e[c] = y + r < job->height ? from[c] : 0; // 0 in all of the square behind the last
        transform_errors(e, rows[r]);
    }
    for (int c = 0; c < SQUARE_INPUTS; c++) {
        for (int r = 0; r < SQUARE; r++) e[r] = rows[r][c];
        transform_errors(e, all);
        for (int r = 0; r < SQUARE_INPUTS; r++) job->transformed[place_of(pairs, square, channel, c, r)] = (int16_t)all[r];
    }
}

void squares_errors_plain(const struct squares_errors_job *job)
{
    const int pairs = (job->rows * job->columns + 1) / 2;
    for (int square = 0; square < 2 * pairs; square++)
        for (int channel = 0; channel < BLOCK_CHANNELS; channel++) transform_square_of_errors(job, square, channel);
}

// P of an input and an output channel for all taps.
static void sum_window(const struct squares_gradient_job *job, int in, int out, int32_t sums[3][3])
{
    uint32_t columns[SQUARE_INPUTS][3], all[3];
    for (int c = 0; c < SQUARE_INPUTS; c++) {
        uint32_t products[SQUARE_INPUTS] = {0};
        for (int square = 0; square < 2 * job->pairs; square++)
            for (int r = 0; r < SQUARE_INPUTS; r++)
                products[r] += (uint32_t)(job->pixels[place_of(job->pairs, square, in, c, r)] * job->errors[place_of(job->pairs, square, out, c, r)]);
        transform_sums(products, columns[c]);
    }
    for (int r = 0; r < 3; r++) {
        const uint32_t row[SQUARE_INPUTS] = {columns[0][r], columns[1][r], columns[2][r], columns[3][r], columns[4][r], columns[5][r]};
        transform_sums(row, all);
        for (int c = 0; c < 3; c++) sums[r][c] = (int32_t)(all[c] * INVERSE_OF_9) / 64;
    }
}

void gradient_squares_plain(const struct squares_gradient_job *job, float *totals)
{
    struct squares_gradient_job one = *job;
    for (int n = 0; n < job->images; n++, squares_next_image(&one))
        for (int out = 0; out < GRADIENT_CHANNELS; out++)
            for (int in = 0; in < BLOCK_CHANNELS; in++) {
                int32_t sums[3][3];
                sum_window(&one, in, out, sums);
                for (int tap = 0; tap < 9; tap++) {
                    float *total = &totals[(tap * GRADIENT_CHANNELS + out) * BLOCK_CHANNELS + in];
                    *total = fmaf((float)sums[tap / 3][tap % 3], one.in_scales[in] * one.out_scales[out], *total);
                }
            }
}
