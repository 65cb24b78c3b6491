// Squares of outputs by Winograd's F(4x4, 3x3) in plain C: the reference of the other sets (struct squares_job).
#include <math.h>

#include "kernels/squares.h"

// G for a column of the window.
static void transform_weights(const int g[3], int to[SQUARE_INPUTS])
{
    to[0] = 6 * g[0];
    to[1] = -4 * (g[0] + g[1] + g[2]);
    to[2] = -4 * (g[0] - g[1] + g[2]);
    to[3] = g[0] + 2 * g[1] + 4 * g[2];
    to[4] = g[0] - 2 * g[1] + 4 * g[2];
    to[5] = 6 * g[2];
}

void squares_transform_input(const int d[SQUARE_INPUTS], int to[SQUARE_INPUTS])
{
    to[0] = 4 * d[0] - 5 * d[2] + d[4];
    to[1] = d[3] + d[4] - 4 * (d[1] + d[2]);
    to[2] = d[4] - d[3] + 4 * (d[1] - d[2]);
    to[3] = d[4] - d[2] + 2 * (d[3] - d[1]);
    to[4] = d[4] - d[2] - 2 * (d[3] - d[1]);
    to[5] = 4 * d[1] - 5 * d[3] + d[5];
}

// A for a column of products, modulo 2^32.
static void transform_products(const uint32_t m[SQUARE_INPUTS], uint32_t to[SQUARE])
{
    to[0] = m[0] + m[1] + m[2] + m[3] + m[4];
    to[1] = m[1] - m[2] + 2 * (m[3] - m[4]);
    to[2] = m[1] + m[2] + 4 * (m[3] + m[4]);
    to[3] = m[1] - m[2] + 8 * (m[3] - m[4]) + 4 * m[5];
}

// The window of one output and channel of a quad, [9 taps][16 outputs][4], from its top down; transformed, [column][row].
static void transform_window(const int8_t *taps, bool from_the_bottom, int output, int channel, int to[SQUARE_INPUTS][SQUARE_INPUTS])
{
    int columns[3][SQUARE_INPUTS];
    for (int c = 0; c < 3; c++) {
        int g[3];
        for (int r = 0; r < 3; r++) g[r] = taps[((from_the_bottom ? 2 - r : r) * 3 + c) * 64 + 4 * output + channel];
        transform_weights(g, columns[c]);
    }
    for (int r = 0; r < SQUARE_INPUTS; r++) {
        const int row[3] = {columns[0][r], columns[1][r], columns[2][r]};
        int all[SQUARE_INPUTS];
        transform_weights(row, all);
        for (int c = 0; c < SQUARE_INPUTS; c++) to[c][r] = all[c];
    }
}

void squares_weights_plain(const int8_t *taps, int quads, bool from_the_bottom, int16_t *transformed)
{
    for (int quad = 0; quad < quads; quad++)
        for (int i = 0; i < 4 * BLOCK_CHANNELS; i++) {
            const int output = i / 4, channel = i % 4, parity = channel % 2;
            int window[SQUARE_INPUTS][SQUARE_INPUTS];
            transform_window(taps + quad * 9 * 64, from_the_bottom, output, channel, window);
            for (int c = 0; c < SQUARE_INPUTS; c++)
                for (int r = 0; r < SQUARE_INPUTS; r++)
                    transformed[(((c * quads + quad) * 2 + parity) * SQUARE_INPUTS + r) * 32 + 2 * output + channel / 2] = (int16_t)window[c][r];
        }
}

// One channel of a square; number (column, row) goes to to[(column * 6 + row) * 64].
static void transform_channel(const struct squares_input_job *job, const uint8_t *from, int16_t *to)
{
    int rows[SQUARE_INPUTS][SQUARE_INPUTS], all[SQUARE_INPUTS];
    for (int r = 0; r < SQUARE_INPUTS; r++) {
        int d[SQUARE_INPUTS];
        for (int c = 0; c < SQUARE_INPUTS; c++) d[c] = from[(size_t)r * job->row_bytes + (size_t)c * BLOCK_CHANNELS] - job->zero_point;
        squares_transform_input(d, rows[r]);
    }
    for (int c = 0; c < SQUARE_INPUTS; c++) {
        const int column[SQUARE_INPUTS] = {rows[0][c], rows[1][c], rows[2][c], rows[3][c], rows[4][c], rows[5][c]};
        squares_transform_input(column, all);
        for (int r = 0; r < SQUARE_INPUTS; r++) to[(c * SQUARE_INPUTS + r) * 64] = (int16_t)all[r];
    }
}

void squares_input_plain(const struct squares_input_job *job)
{
    int16_t *to = job->transformed;
    for (int set = 0; set < job->sets; set++)
        for (int block = 0; block < job->blocks; block++, to += SET_NUMBERS)
            for (int i = 0; i < SQUARES_OF_SET * BLOCK_CHANNELS; i++) {
                const int s = i / BLOCK_CHANNELS, channel = i % BLOCK_CHANNELS;
                const uint8_t *from = job->input + job->squares[set * SQUARES_OF_SET + s].input + (size_t)block * job->block_bytes;
                transform_channel(job, from + channel, to + channel % 2 * 32 + s * 8 + channel / 2);
            }
}

// The product of transformed inputs and weights at (column, row) of one output, summed over a group.
static uint32_t product_sum(const struct squares_job *job, int group, const int16_t *input, const int16_t *weights, int column, int row, int output)
{
    const int quads = job->quad_last[group] - job->quad_first[group] + 1, at = (column * SQUARE_INPUTS + row) * 64;
    uint32_t sum = 0;
    for (int quad = 0; quad < quads; quad++) {
        const int16_t *d = input + job->quad_offsets[job->quad_first[group] + quad] + at;
        for (int channel = 0; channel < 4; channel++) {
            const int g = weights[(((column * quads + quad) * 2 + channel % 2) * SQUARE_INPUTS + row) * 32 + 2 * output + channel / 2];
            sum += (uint32_t)(d[channel % 2 * 32 + channel / 2] * g);
        }
    }
    return sum;
}

// 64 P of the 16 outputs of a square.
static void sum_square(const struct squares_job *job, int group, const int16_t *input, const int16_t *weights, int output, int32_t sums[SQUARE][SQUARE])
{
    uint32_t rows[SQUARE_INPUTS][SQUARE], all[SQUARE];
    for (int c = 0; c < SQUARE_INPUTS; c++) {
        uint32_t column[SQUARE_INPUTS];
        for (int r = 0; r < SQUARE_INPUTS; r++) column[r] = product_sum(job, group, input, weights, c, r, output);
        transform_products(column, rows[c]);
    }
    for (int r = 0; r < SQUARE; r++) {
        const uint32_t row[SQUARE_INPUTS] = {rows[0][r], rows[1][r], rows[2][r], rows[3][r], rows[4][r], rows[5][r]};
        transform_products(row, all);
        for (int c = 0; c < SQUARE; c++) sums[r][c] = (int32_t)(all[c] * INVERSE_OF_9);
    }
}

// A square, one group after the other.
static void convolve_square(const struct squares_job *job, const struct square *square, const int16_t *input, float *outputs)
{
    float totals[SQUARE][SQUARE][BLOCK_CHANNELS] = {{{0}}};
    const int8_t *taps = job->weights;
    const int16_t *weights = job->transformed;
    for (int group = 0; group < job->groups; group++) {
        const int quads = job->quad_last[group] - job->quad_first[group] + 1;
        if (!job->transformed) {
            squares_weights_plain(taps, quads, job->from_the_bottom, job->group_weights);
            weights = job->group_weights;
        }
        for (int i = 0; i < BLOCK_CHANNELS; i++) {
            int32_t sums[SQUARE][SQUARE];
            sum_square(job, group, input, weights, i, sums);
            for (int at = 0; at < SQUARE * SQUARE; at++) {
                float *total = &totals[at / SQUARE][at % SQUARE][i];
                *total = fmaf((float)sums[at / SQUARE][at % SQUARE], job->scales[square->scales + (size_t)(group * BLOCK_CHANNELS + i)], *total);
            }
        }
        taps += quads * 9 * 64;
        weights += quads * SQUARE_WEIGHTS;
    }
    for (int r = 0; r < square->rows; r++)
        for (int i = 0; i < square->columns * BLOCK_CHANNELS; i++) {
            float *to = outputs + square->output + (size_t)r * job->output_row + i;
            const float value = totals[r][i / BLOCK_CHANNELS][i % BLOCK_CHANNELS] * job->factor;
            *to = job->accumulate ? *to + value : value;
        }
}

void convolve_squares_plain(const struct squares_job *job, float *outputs)
{
    for (int set = 0; set < job->sets; set++)
        for (int s = 0; s < SQUARES_OF_SET; s++)
            convolve_square(job, &job->squares[set * SQUARES_OF_SET + s], job->input + (size_t)set * job->set_step + s * 8, outputs);
}
