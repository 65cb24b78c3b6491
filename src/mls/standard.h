// Elements and scales of two standards of the Open Compute Project, which are no MLS integers (mls-format.md section 6):
//
//   Microscaling Formats (MX) v1.0, 2023: blocks of 32 elements share a scale 2^(floor(log2 max|x|) - emax), a power of two
//   from 2^-127 to 2^127 (E8M0; the exponent is held in that range). A block here is 32 channels at one pixel; of weights, 32
//   input channels of one output channel at one window position. A last block that is not full is a smaller one. These are the
//   blocks of the forward convolution's reduced dimension; as in MLS each operand is quantized once a step and serves both
//   directions, so the input error and the weight gradient read the same blocks.
//
//   8-bit Floating Point (OFP8) v1.0, 2023: E4M3 with largest value 448, E5M2 with 57344. The standard has no scale; here one
//   fp32 number a tensor, max|x| / largest value (P. Micikevicius et al., arXiv 2209.05433). A tensor with max|x| < 2^-60 counts
//   as zero, as in MLS.
//
// Elements have subnormals and a signed zero, and saturate; no infinity and no NaN is ever written: in x they are errors.
// Rounding: to nearest, ties to even; or stochastic with 24 random bits an element, the same function of the element's position
// as MLS's where Q is 24.
#ifndef MLS_STANDARD_H
#define MLS_STANDARD_H

#include "base/threads.h"
#include "mls/format.h"

#define MICROSCALING_BLOCK 32

struct standard_element {
    enum mls_family family;
    const char *name;       // of the preset
    int exponent, mantissa; // bits, without the sign; exponent 0: INT8, whose mantissa is 1 bit before the point and 6 behind it
    int fraction;           // bits behind the point of the significand
    int emin, emax;         // exponents of the smallest and the largest normal number (INT8: both 0)
    float largest;
};

// NULL: MLS integers, or no such element. By index, for tables: NULL behind the last one.
const struct standard_element *standard_element_of(const struct mls_format *format);
const struct standard_element *standard_element_at(int index);

// The standard's code of a value that the format has: sign, exponent and mantissa bits; INT8: two's complement of 8 bits.
int standard_code(const struct standard_element *element, float value);

// What quantization gives, each may be NULL: values[dims] = elements * scales, in fp32 (may be x itself); elements[dims];
// scales[D0][blocks][H][W] with blocks = standard_blocks(...) (FP8: one scale).
struct standard_result {
    float *values, *elements, *scales;
};
int standard_blocks(enum mls_operand operand, const int dims[4], int convolution_groups);

// x[dims] (C order) in the format; `pool` may be NULL. false with the position of a NaN or an infinity.
bool standard_quantize(const struct mls_format *format, enum mls_operand operand, const float *x, const int dims[4],
                       int convolution_groups, uint64_t tensor_key, struct thread_pool *pool, const struct standard_result *result,
                       struct error *error);

#endif
