// Formats by one word (mls-format.md section 6), the values of the option `format`:
//
//   mls        MLS itself; its elements, groups and scales are options of their own
//   fixedK     K bits, <0,K-1> with one scale a tensor
//   bfpK       block floating point, as HBFP (M. Drumond et al., NeurIPS 2018, arXiv 1804.01526): <0,K-1>, for each group the scale
//              is the smallest power of two that is not below its maximum, elements saturate; group and group_size are options.
//              That is section 3 with scale_mantissa=0, but for St: <0,K-1> with scale_mantissa=0 alone has the scales max |x| * 2^-e,
//              no powers of two; here St is rounded up to one, and St * Sg is then exactly the power of two wanted. Beside HBFP's own
//              definition: no scale is below 2^-63 St, and what is below 2^-60 everywhere counts as zero; the nearest rounding is
//              section 3's (ties away from zero) instead of ties to even.
//   mx*, fp8_* standards of the Open Compute Project (mls/standard.h)
//
// fixedK and bfpK of up to 8 bits run in integers, the rest is simulated.
// Rounding where it is not set: fixedK and bfpK as MLS (errors stochastic, the rest to nearest), so that they differ from it in
// nothing but the format; mx* and fp8_* to nearest for all operands, as the standards define conversion (ties to even).
#ifndef MLS_PRESETS_H
#define MLS_PRESETS_H

#include <stddef.h>

#include "mls/format.h"

#define MLS_FORMAT_NAMES                                                                                         \
    "mls fixed2 fixed3 fixed4 fixed5 fixed6 fixed7 fixed8 fixed10 fixed12 fixed16 "                              \
    "bfp2 bfp3 bfp4 bfp5 bfp6 bfp7 bfp8 bfp10 bfp12 bfp16 "                                                      \
    "mxfp4 mxfp6_e2m3 mxfp6_e3m2 mxfp8_e4m3 mxfp8_e5m2 mxint8 fp8_e4m3 fp8_e5m2"

// By name; false for a name that is none of the list. `mls`: mls_format_default.
bool mls_preset(const char *name, enum mls_operand operand, struct mls_format *format);
// The same by the place in the list, the value of an option of choices.
struct mls_format mls_preset_at(int index, enum mls_operand operand);
// The word at a place in the list.
void mls_preset_name(int index, char *name, size_t size);

// What a preset decides by itself; options of these names beside it are a contradiction.
enum mls_field {
    MLS_FIELD_EXPONENT, MLS_FIELD_MANTISSA, MLS_FIELD_GROUP, MLS_FIELD_GROUP_SIZE, MLS_FIELD_SCALE_EXPONENT, MLS_FIELD_SCALE_MANTISSA,
    MLS_FIELDS
};
extern const char *const mls_field_names[MLS_FIELDS]; // as in cfg files
bool mls_preset_decides(enum mls_family family, enum mls_field field);

// "<2,1>", "bfp4", "mxfp4", for people.
void mls_format_describe(const struct mls_format *format, char *text, size_t size);
// The formats of a layer by operand: "MLS <2,1> nc 16", "MLS w<2,1> a<2,2> e<2,1> nc 16", "mxfp4", "MLS w:mxfp4 a:mxfp4 e:<2,1> nc 16".
void mls_formats_describe(const struct mls_format formats[3], char *text, size_t size);

#endif
