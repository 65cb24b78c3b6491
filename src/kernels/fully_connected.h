// The products of fully connected layers in fp32, on the weights as they lie: W [outputs][inputs]. Each sum is made in one order, so
// results depend neither on the number of threads nor on the processor.
#ifndef KERNELS_FULLY_CONNECTED_H
#define KERNELS_FULLY_CONNECTED_H

#include <stdbool.h>
#include <stddef.h>

#include "base/threads.h"

struct fully_connected_shape {
    int images, inputs, outputs;
    size_t input_stride, output_stride; // floats from one image's numbers to the next one's
};

// output[n][o] = sum over i of input[n][i] * weights[o][i]: sixteen sums, of every sixteenth i, added by vector_sum; so for each
// FULLY_CONNECTED_PART inputs, and these one after the other.
#define FULLY_CONNECTED_PART 1024
void fully_connected_forward(const struct fully_connected_shape *shape, struct thread_pool *pool, const float *weights, const float *input,
                             float *output);
// input_error[n][i] = sum over o, in order, of errors[n][o] * weights[o][i]; with `accumulate` it begins with what is there.
void fully_connected_input_error(const struct fully_connected_shape *shape, struct thread_pool *pool, const float *weights,
                                 const float *errors, float *input_error, bool accumulate);
// gradient[o][i] += errors[n][o] * input[n][i], image by image.
void fully_connected_weight_gradient(const struct fully_connected_shape *shape, struct thread_pool *pool, const float *input,
                                     const float *errors, float *gradient);

#endif
