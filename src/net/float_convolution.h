// fp32 convolutions: one matrix product (CBLAS) an image and convolution group, on a copy of the input in which
// every column is one window (im2col). Results do not depend on the number of threads.
#ifndef NET_FLOAT_CONVOLUTION_H
#define NET_FLOAT_CONVOLUTION_H

#include <stddef.h>

#include "base/threads.h"
#include "mls/convolution.h"

// Per-thread scratch that the functions need, in bytes, and the size of `partial` in floats.
size_t float_convolution_scratch(const struct convolution_shape *shape);
size_t float_convolution_partial(const struct convolution_shape *shape);

struct float_convolution {
    struct convolution_shape shape; // images: of this call
    struct thread_pool *pool;
    char *scratch;                  // scratch_bytes for each thread
    size_t scratch_bytes;
    float *partial;                 // for the weight gradient
};

void float_convolve_forward(const struct float_convolution *c, const float *weights, const float *input, float *output);
void float_convolve_input_error(const struct float_convolution *c, const float *weights, const float *errors,
                                float *input_error, bool accumulate);
// gradient += the weight gradient
void float_convolve_weight_gradient(const struct float_convolution *c, const float *input, const float *errors,
                                    float *gradient);

#endif
