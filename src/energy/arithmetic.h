// The arithmetic of a low-bit convolution, described so that the same rules count and price any format: what an element and
// a scale are made of, who shares a scale, and how products are summed. MLS is one such arithmetic; fp32, fp8, int8 and
// others are read from the [format] sections of an energy table (energy/table.h).
#ifndef ENERGY_ARITHMETIC_H
#define ENERGY_ARITHMETIC_H

#include "energy/operations.h"
#include "mls/convolution.h"

enum scale_kind {
    SCALE_NONE,   // elements are the numbers
    SCALE_TENSOR, // one fp32 scale
    SCALE_GROUP,  // one fp32 scale and a low-bit float <scale_exponent,scale_mantissa> for each group (MLS)
    SCALE_BLOCK   // no tensor scale; a low-bit float for each group (block floating point, Microscaling)
};

struct operand_format {
    int exponent, mantissa; // stored bits of an element, without sign; exponent 0: fixed point
    bool always_signed;     // floats and elements of Microscaling: with a sign even where no element is negative
    bool nonnegative;       // no element is negative: it is stored without a sign
    enum scale_kind scale;
    enum mls_group group;   // SCALE_GROUP, SCALE_BLOCK
    int group_size;
    bool each_pixel;        // a group spans group_size channels of one pixel, or of one tap of a window
    int scale_exponent, scale_mantissa;
    enum mls_rounding rounding; // in training; to nearest in inference
};

struct arithmetic {
    struct operand_format operands[3]; // by enum mls_operand
    bool integer_sum;                  // exact integers within a group pair; else a float of
    int sum_exponent, sum_mantissa;    // ... these bits
    bool exact_product;                // floats only: the product goes to the adder as it is, neither normalized nor rounded
};

// fixedK: a scale a tensor; bfpK: exact sums and block scales; mx* of up to 6 bits and mxint8: the same, a block being of one
// pixel; mxfp8_*, fp8_*, and what they are combined with: exact products and fp32 sums.
struct arithmetic arithmetic_of_formats(const struct mls_format formats[3]);
// One of its operands.
struct operand_format operand_of_format(const struct mls_format *format);

// Bits of an element with its sign, and of its share in nothing else.
int operand_bits(const struct operand_format *format);
// Bits of the scales of some tensors with so many groups together: 32 of each tensor's, where there is one.
double operand_scale_bits(const struct operand_format *format, double tensors, double groups);
// A plain fp32 operand: nothing is quantized.
bool operand_is_fp32(const struct operand_format *format);

// What one convolution of a layer does: in inference the forward pass; in training also the weight gradient, and the input
// error if operations->passes_error; with the quantization of its operands and the memory traffic. `own` NULL: the layer is
// left in fp32, whatever is asked for instead. shape->images is not read (operations->images is).
void operations_of_convolution(struct operations *operations, const struct convolution_shape *shape, const struct arithmetic *own,
                               bool nonnegative_input);

// Products of all images, in any of the passes: those with the padding's zeros are left out.
double convolution_products(const struct convolution_shape *shape, int images);
// Bits of the two's complement sum of `products` products of elements of the two operands (mls-format.md section 4: exact).
int sum_bits(const struct operand_format *a, const struct operand_format *b, double products);

#endif
