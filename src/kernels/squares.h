// Squares of outputs by Winograd's way in plain C (struct squares_job): members of the scalar kernel set.
#ifndef KERNELS_SQUARES_H
#define KERNELS_SQUARES_H

#include "kernels/kernels.h"

#define INVERSE_OF_9 0x38e38e39u // modulo 2^32

void squares_weights_plain(const int8_t *taps, int quads, bool from_the_bottom, int16_t *transformed);
void squares_input_plain(const struct squares_input_job *job);
void convolve_squares_plain(const struct squares_job *job, float *outputs);

#endif
