// The three convolutions of one layer in fp32, directly on blocked maps: each thread copies one image, or several small ones, into
// a buffer with a halo of zeros, doing what is still owed to it on the way (source.h), and runs the kernels over its rows. Sums
// are made in one order, so results depend neither on the number of threads nor on the kernel set.
#ifndef KERNELS_DIRECT_H
#define KERNELS_DIRECT_H

#include "kernels/packed.h"

struct direct_convolution;

struct direct_request {
    const struct kernel_set *kernels;
    struct convolution_shape shape; // images: the most that will come
    bool planar_input;              // the input is [images][channels][height][width]: the network's own; not for depthwise convolutions
    bool for_training;
};
// Whether indices of weights are ints, and those of the packed weights of a block of outputs. To be asked before all else: a layer that
// does not fit is not made, in whatever way it computes.
bool direct_fits(const struct convolution_shape *shape, struct error *error);
struct direct_convolution *direct_create(const struct direct_request *request, struct error *error);
void direct_destroy(struct direct_convolution *direct);
size_t direct_memory(const struct direct_convolution *direct); // bytes

// The input: a source of the whole map, or source->x planar (planar_input). Output and errors are blocked.
// weights[Co][Ci][Kh][Kw]; they are kept until the next call for the input errors.
bool direct_forward(struct direct_convolution *direct, struct thread_pool *pool, int images, const float *weights,
                    const struct source *input, float *output, struct image_done done, struct error *error);
// With the weights of the last forward pass.
void direct_input_error(struct direct_convolution *direct, struct thread_pool *pool, int images, const struct source *errors,
                        float *input_error, bool accumulate, struct image_done done);
// gradient[Co][Ci][Kh][Kw] += the weight gradient.
void direct_weight_gradient(struct direct_convolution *direct, struct thread_pool *pool, int images, const struct source *input,
                            const struct source *errors, float *gradient);

#endif
