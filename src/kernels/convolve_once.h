// One low-bit convolution by itself, from planar fp32 operands to the planar fp32 result: for `mlsnet conv` and mlsnet_convolve.
#ifndef KERNELS_CONVOLVE_ONCE_H
#define KERNELS_CONVOLVE_ONCE_H

#include "kernels/kernels.h"
#include "mls/convolution.h"

struct once_request {
    struct convolution_shape shape;
    enum convolution_pass pass;
    struct mls_format formats[3];    // by operand; all rounding is to nearest, and the operand that is the result has none
    const struct kernel_set *kernels; // NULL: the plain reference
    bool simulated;                  // in fp32 on dequantized operands, as it is where the elements are no integers of 8 bits
};

// The operands of a pass: forward activations and weights, input error errors and weights, weight gradient activations and errors;
// the third one is the kind of the result.
const enum mls_operand *once_operands(enum convolution_pass pass);
void once_dims(const struct convolution_shape *shape, enum mls_operand operand, int dims[4]);

enum once_path { ONCE_KERNELS, ONCE_REFERENCE, ONCE_SIMULATED };
// What would compute it. `reason`, if not NULL, gets a text if that is the reference although kernels were asked for, else NULL.
enum once_path once_path_of(const struct once_request *request, const char **reason);
// first, second, result: [dims] by once_dims.
bool convolve_once(const struct once_request *request, const float *first, const float *second, float *result, struct error *error);

#endif
