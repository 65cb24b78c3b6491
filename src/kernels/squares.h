// Squares of outputs by Winograd's way in plain C (struct squares_job): members of the scalar kernel set.
#ifndef KERNELS_SQUARES_H
#define KERNELS_SQUARES_H

#include "kernels/kernels.h"

#define INVERSE_OF_9 0x38e38e39u // modulo 2^32

// The first input of a square.
static inline const uint8_t *square_of_pixels(const struct squares_pixels_job *job, int square)
{
    return job->pixels + (size_t)(square / job->columns * SQUARE) * job->row_bytes + (size_t)(square % job->columns * SQUARE) * BLOCK_CHANNELS;
}

// B of struct squares_job for a column of the input.
void squares_transform_input(const int d[SQUARE_INPUTS], int to[SQUARE_INPUTS]);

void squares_weights_plain(const int8_t *taps, int quads, bool from_the_bottom, int16_t *transformed);
void squares_input_plain(const struct squares_input_job *job);
void convolve_squares_plain(const struct squares_job *job, float *outputs);

// gradient_squares.c
void squares_pixels_plain(const struct squares_pixels_job *job);
void squares_errors_plain(const struct squares_errors_job *job);
void gradient_squares_plain(const struct squares_gradient_job *job, float *totals);

#endif
