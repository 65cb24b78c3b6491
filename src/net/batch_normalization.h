// Batch normalization of feature maps, blocked [images][blocks][plane][16], used by [batchnorm], by [convolutional] and
// by [connected] with batch_normalize=1, joined with the activation that follows.
//
//   training:   mean, variance over images and plane (biased); x^ = (x - mean) / sqrt(variance + epsilon)
//   evaluation: running mean and variance (with batch_norm_epsilon=deviation / (sqrt(variance) + 1e-6), Darknet's)
//   y = activation(scale * x^ + bias);  running = (1 - momentum) * running + momentum * batch (unbiased variance)
// epsilon 1e-5 and momentum 0.1, as PyTorch.
//
// Both directions come in two halves, so that a map is read no more often than it must be. Forward: sums of each image
// (while whoever made it still has it in the cache), then statistics; what is left is a multiplication and an addition a
// channel, which the reader of the output does (kernels/source.h). Backward the same with the sums of the errors.
#ifndef NET_BATCH_NORMALIZATION_H
#define NET_BATCH_NORMALIZATION_H

#include "kernels/source.h"
#include "net/activations.h"
#include "net/layer.h"

struct batch_normalization {
    const struct network *network;   // whose batch_norm_epsilon evaluation uses
    int channels, blocks, plane;
    struct parameter *scale, *bias, *running_mean, *running_variance;
    // By channel, with the empty lanes of the last block, which hold zeros.
    float *mean, *inverse_deviation; // of the batch
    float *multiplier, *offset;      // y = activation(multiplier * x + offset), of the last forward pass
    float *coefficients[3];          // of the backward pass, see SOURCE_ERROR
    // By image and block.
    float *sums;                     // [2][16]: of x and x^2; backward: of d and d * (x - mean)
    float *extremes;                 // [2][16]: largest and smallest x
    float *largest_errors;           // [16]: largest |d|
};

// Registers layers.N.batchnorm.{scale,bias,running_mean,running_variance} and allocates. scale = 1, bias = 0, mean = 0,
// variance = 1.
bool batch_normalization_create(struct batch_normalization *norm, struct layer *layer, int channels, int plane,
                                struct diagnostics *diagnostics);
void batch_normalization_destroy(struct batch_normalization *norm);

// Evaluation: multiplier and offset of the running statistics, for those who want them before the second half.
void batch_normalization_use_running(struct batch_normalization *norm);
// First half: sums and extremes of one image, x being the whole map.
void batch_normalization_sum_image(struct batch_normalization *norm, const float *x, int image);
// Second half: multiplier and offset, and in training the running statistics. false, with a message, if x is not finite.
bool batch_normalization_statistics(struct batch_normalization *norm, const struct pass *pass, struct error *error);
// maximum[images][blocked channels] = max |y|, which follows from the extremes where the activation is piecewise linear.
void batch_normalization_maxima(const struct batch_normalization *norm, int images, enum piecewise activation, float *maximum);
// The output, still to be computed by its reader.
struct source batch_normalization_source(const struct batch_normalization *norm, const float *x, enum piecewise activation);

// First half of backward: sums of one image; delta = dL/dy, whole map; gates of the image: see net/layer.h.
void batch_normalization_sum_error_image(struct batch_normalization *norm, const float *x, float *delta, const int32_t *gates,
                                         enum piecewise activation, int image);
// Second half: adds dL/dscale and dL/dbias to the gradients, sets the coefficients.
bool batch_normalization_error_statistics(struct batch_normalization *norm, int images, struct error *error);
// dL/dx, still to be computed by its reader.
struct source batch_normalization_error_source(const struct batch_normalization *norm, const float *x, const float *delta,
                                               enum piecewise activation);

// bounds[images][blocked channels]: no |dL/dx| of the plane is larger; from the extremes of x and d alone.
void batch_normalization_error_bounds(const struct batch_normalization *norm, int images, float *bounds);

// All of it in one call: x -> y. Fills maximum if it is not NULL.
bool batch_normalization_forward(struct batch_normalization *norm, const struct pass *pass, const float *x, bool sums_known,
                                 enum activation activation, float *y, float *maximum, struct error *error);
// delta = dL/dy; where the activation is not piecewise linear it is overwritten with dL/d(before the activation), which
// needs y. Writes dL/dx to input_delta (may be delta itself; NULL: only parameter gradients), or adds to it.
bool batch_normalization_backward(struct batch_normalization *norm, const struct pass *pass, const float *x, const float *y,
                                  enum activation activation, float *delta, float *input_delta, bool accumulate,
                                  struct error *error);

#endif
