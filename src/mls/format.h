// The MLS number format (mls-format.md sections 1 and 2): descriptors and the constants that
// follow from them. X ~ sign * St * Sg[group] * I / 2^F. Other formats (section 6) are described by the same structure.
#ifndef MLS_FORMAT_H
#define MLS_FORMAT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

enum mls_group { MLS_GROUP_NONE, MLS_GROUP_N, MLS_GROUP_C, MLS_GROUP_NC };
enum mls_rounding { MLS_NEAREST, MLS_STOCHASTIC };
enum mls_operand { MLS_WEIGHT, MLS_ACTIVATION, MLS_ERROR };
#define MLS_ALL_OPERANDS 7u // a set of operands: 1 << enum mls_operand of each

enum mls_family {
    MLS_FAMILY_MLS,
    // MLS integers by another name:
    MLS_FAMILY_FIXED,        // one scale a tensor
    MLS_FAMILY_BLOCK_FLOAT,  // St is rounded up to a power of two, so that every scale is one
    // Not MLS integers, always simulated (mls/standard.h):
    MLS_FAMILY_MICROSCALING, // OCP Microscaling v1.0: a power of two for 32 channels at one pixel
    MLS_FAMILY_FP8           // OCP 8-bit floating point with one fp32 scale a tensor
};

struct mls_format {
    int exponent;        // Ex, 0..3
    int mantissa;        // Mx, 0..7
    enum mls_group group;
    int group_size;      // channels that share a scale, >= 1
    int scale_exponent;  // Eg, 1..8
    int scale_mantissa;  // Mg, 0..1
    enum mls_rounding rounding;
    enum mls_family family; // others than MLS: made by mls_preset (mls/presets.h)
};

// <2,1>, nc, group size 16, scale <8,1>; stochastic for errors, nearest for the rest.
struct mls_format mls_format_default(enum mls_operand operand);

// false with a message that names the field, its value and its range.
bool mls_format_check(const struct mls_format *format, struct error *error);

int mls_fraction_bits(const struct mls_format *format);       // F
int32_t mls_largest_integer(const struct mls_format *format); // largest I
int mls_quantizer_bits(const struct mls_format *format);      // Q of section 3: 16 where F <= 8, else 24
bool mls_has_integers(const struct mls_format *format);       // the elements are MLS integers; the three functions above are for these
bool mls_fits_int8(const struct mls_format *format);          // largest I <= 127: the integer path

// Number of blocks along a dimension of `size` channels that is divided into `convolution_groups`
// equal parts (1 but for grouped convolution), with groups of `group_size` that never cross a part;
// and the block of one channel.
int mls_block_count(int size, int convolution_groups, int group_size);
int mls_block_index(int channel, int size, int convolution_groups, int group_size);

// How a tensor [D0, D1, ...] is cut into groups: blocks along both dimensions and, for each, how
// many indices a block spans. `convolution_groups` as in grouped convolution (activations and errors:
// D1 is divided; weights [Co, Ci / K, Kh, Kw]: D0 is divided). A dimension that does not take part
// has one block, but for weights with group=c, whose blocks do not cross convolution groups either.
struct mls_grouping {
    int blocks[2];             // number of blocks along D0 and D1
    int size[2];               // D0, D1
    int parts[2];              // convolution groups along D0 and D1
    int span[2];               // indices a full block spans
};
struct mls_grouping mls_grouping_of(const struct mls_format *format, enum mls_operand operand, int dim0, int dim1,
                                    int convolution_groups);

// Index of the group of element [i, j, ...]: block0 * blocks[1] + block1.
static inline int mls_group_index(const struct mls_grouping *g, int i, int j)
{
    int b0 = g->blocks[0] == 1 ? 0 : mls_block_index(i, g->size[0], g->parts[0], g->span[0]);
    int b1 = g->blocks[1] == 1 ? 0 : mls_block_index(j, g->size[1], g->parts[1], g->span[1]);
    return b0 * g->blocks[1] + b1;
}

#endif
