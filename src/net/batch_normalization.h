// Batch normalization of feature maps [images][channels][plane], used by [batchnorm] and by [convolutional]
// with batch_normalize=1, joined with the activation that follows so that each is one pass over memory.
//
//   training:   mean, variance over images and plane (biased); x^ = (x - mean) / sqrt(variance + epsilon)
//   evaluation: running mean and variance
//   y = activation(scale * x^ + bias);  running = (1 - momentum) * running + momentum * batch (unbiased variance)
// epsilon 1e-5 and momentum 0.1, as PyTorch.
#ifndef NET_BATCH_NORMALIZATION_H
#define NET_BATCH_NORMALIZATION_H

#include "net/activations.h"
#include "net/layer.h"

struct batch_normalization {
    int channels, plane;
    struct parameter *scale, *bias, *running_mean, *running_variance;
    float *mean, *inverse_deviation; // of the batch, [channels]
    float *multiplier, *offset;      // y = activation(multiplier * x + offset), [channels], of the last forward pass
    float *partial_sums;             // [max_images][channels][2], added in image order
    float *coefficients;             // [channels][3], of the backward pass
};

// Registers layers.N.batchnorm.{scale,bias,running_mean,running_variance} and allocates. scale = 1, bias = 0, mean = 0,
// variance = 1.
bool batch_normalization_create(struct batch_normalization *norm, struct layer *layer, int channels, int plane,
                                struct diagnostics *diagnostics);
void batch_normalization_destroy(struct batch_normalization *norm);

// The sums of one image, x[channels][plane], that the statistics are made of. A convolution calls it while the image
// is still in the cache; then it passes sums_known to the forward function.
void batch_normalization_sum_image(struct batch_normalization *norm, int image, const float *x);

// x -> y (may be the same array). Fills maximum[images][channels] = max |y| of each plane if it is not NULL.
// false, with a message, if the statistics are not finite.
bool batch_normalization_forward(struct batch_normalization *norm, const struct pass *pass, const float *x,
                                 bool sums_known, enum activation activation, float *y, float *maximum,
                                 struct error *error);

// delta = dL/dy; where the activation is none of linear, relu, leaky and relu6 it is overwritten with dL/d(before
// the activation), which needs y. Writes dL/dx to input_delta (may be delta itself; NULL: only parameter
// gradients), or adds to it; adds dL/dscale and dL/dbias to the gradients; fills maximum[images][channels] of
// what it computed if not NULL. x and y are those of the forward pass.
bool batch_normalization_backward(struct batch_normalization *norm, const struct pass *pass, const float *x,
                                  const float *y, enum activation activation, float *delta, float *input_delta,
                                  bool accumulate, float *maximum, struct error *error);

#endif
