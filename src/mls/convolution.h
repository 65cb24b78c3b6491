// The three low-bit convolutions (mls-format.md section 4) in plain scalar C: the definition.
#ifndef MLS_CONVOLUTION_H
#define MLS_CONVOLUTION_H

#include "mls/quantize.h"

// One convolution: activations [images, in_channels, in_height, in_width], weights [out_channels,
// in_channels / groups, kernel_height, kernel_width], output and errors [images, out_channels,
// out_height, out_width].
struct convolution_shape {
    int images;
    int in_channels, in_height, in_width;
    int out_channels, out_height, out_width;
    int kernel_height, kernel_width, stride, padding, groups;
};

// Fills out_height and out_width from the rest: (in + 2 * padding - kernel) / stride + 1. false with a
// message if a field is out of range or the shapes do not fit.
bool convolution_shape_complete(struct convolution_shape *shape, struct error *error);

// Multiply-adds of one pass over all images.
double convolution_multiply_adds(const struct convolution_shape *shape);

enum convolution_pass { CONVOLUTION_FORWARD, CONVOLUTION_INPUT_ERROR, CONVOLUTION_WEIGHT_GRADIENT };

// Integer path. Each result element is computed exactly as section 4 says: P in 64-bit integers, one
// rounding of P to fp32, fmaf over G in ascending order, the tensor scales last.
//   forward:          output[N, Co, Ho, Wo]     from weights and activations
//   input error:      input_error[N, Ci, H, W]  from weights and errors
//   weight gradient:  gradient[Co, Ci/K, Kh, Kw] from activations and errors
void mls_convolution_forward(const struct convolution_shape *shape, const struct mls_tensor *weights,
                             const struct mls_tensor *activations, float *output);
void mls_convolution_input_error(const struct convolution_shape *shape, const struct mls_tensor *weights,
                                 const struct mls_tensor *errors, float *input_error);
void mls_convolution_weight_gradient(const struct convolution_shape *shape, const struct mls_tensor *activations,
                                     const struct mls_tensor *errors, float *gradient);

// The same, and what was executed is added to counts. Products with the zeros of the padding are not computed, nor those with
// the zeros that a stride leaves between errors, so they do not count.
void mls_convolution_forward_counted(const struct convolution_shape *shape, const struct mls_tensor *weights,
                                     const struct mls_tensor *activations, float *output, struct mls_counts *counts);
void mls_convolution_input_error_counted(const struct convolution_shape *shape, const struct mls_tensor *weights,
                                         const struct mls_tensor *errors, float *input_error, struct mls_counts *counts);
void mls_convolution_weight_gradient_counted(const struct convolution_shape *shape, const struct mls_tensor *activations,
                                             const struct mls_tensor *errors, float *gradient, struct mls_counts *counts);

// fp32 convolutions of plain arrays, naive loops: the simulated path (on dequantized operands) and
// the reference for the fp32 layers' tests.
void float_convolution_forward(const struct convolution_shape *shape, const float *weights, const float *activations,
                               float *output);
void float_convolution_input_error(const struct convolution_shape *shape, const float *weights, const float *errors,
                                   float *input_error);
void float_convolution_weight_gradient(const struct convolution_shape *shape, const float *activations,
                                       const float *errors, float *gradient);

#endif
