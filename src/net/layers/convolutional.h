// What the two files of [convolutional] share. The three convolutions of training run in one of these ways, chosen when the layer is
// made:
//
//   packed      MLS integers, fast kernels
//   direct      mls=0: fp32, fast kernels
//   rounded     MLS formats whose integers do not fit 8 bits, other formats, or some operands left in fp32
//               (network->plain_operands): operands rounded to the values of the format, then as direct
//   reference   MLS integers, plain C: shapes that the packed kernels do not take
//
// Reference works on planar copies of the maps. The others read sources (kernels/source.h): the batch normalization and activation
// before them are done as they read.
#ifndef NET_LAYERS_CONVOLUTIONAL_H
#define NET_LAYERS_CONVOLUTIONAL_H

#include "kernels/direct.h"
#include "kernels/packed.h"
#include "mls/quantize.h"
#include "net/batch_normalization.h"
#include "net/network.h"
#include "net/profile.h"

enum mode { MODE_DIRECT, MODE_PACKED, MODE_ROUNDED, MODE_REFERENCE };

struct convolutional {
    enum mode mode;
    struct convolution_shape shape;
    struct mls_format formats[3];
    enum activation activation;
    enum piecewise piecewise; // of the activation, if it is that
    bool normalize;
    struct parameter *weights, *bias;
    struct batch_normalization norm;
    float *error_bounds;    // [images][blocked filters]; MODE_PACKED with batch normalization
    struct packed_convolution *packed;
    struct direct_convolution *direct;
    float *rounded_weights, *rounded_input, *rounded_errors; // MODE_ROUNDED; the last two are maps
    // MODE_REFERENCE:
    float *planar_input, *planar_output; // x; z and the errors
    float *planar_input_error;
    struct mls_tensor quantized[3]; // by operand
    float *scratch_gradient;
};

// Whether this mode reads sources.
static inline bool reads_sources(const struct convolutional *c)
{
    return c->mode != MODE_REFERENCE;
}

// Of the layer's mode (convolutional_modes.c). z: its output, without batch normalization and activation; `done`, where the mode
// reads sources, is called for each image.
bool convolutional_forward_mode(struct layer *layer, const struct pass *pass, float *z, struct image_done done, struct error *error);
// From the errors dL/dz, in the source that batch normalization left them in, or in delta.
bool convolutional_backward_mode(struct layer *layer, const struct pass *pass, struct delta_target target, struct error *error);
// Lets the network's observer, if there is one, see an operand before it is quantized.
bool convolutional_show(const struct layer *layer, const struct pass *pass, enum mls_operand operand, struct error *error);
// Ends a part of the step: `inputs` arrays of the input's size and `outputs` of the output's were read or written, 4 bytes
// an element.
void convolutional_lap(const struct layer *layer, const struct pass *pass, enum profile_part part, double inputs, double outputs);

#endif
