#include "mls/format.h"

#include "mls/standard.h"

struct mls_format mls_format_default(enum mls_operand operand)
{
    return (struct mls_format){.exponent = 2, .mantissa = 1, .group = MLS_GROUP_NC, .group_size = 16,
                               .scale_exponent = 8, .scale_mantissa = 1,
                               .rounding = operand == MLS_ERROR ? MLS_STOCHASTIC : MLS_NEAREST};
}

static bool check_range(const char *name, int value, int low, int high, struct error *error)
{
    if (value >= low && value <= high) return true;
    return error_set(error, "%s=%d: expected %d to %d", name, value, low, high);
}

bool mls_format_check(const struct mls_format *format, struct error *error)
{
    if (!mls_has_integers(format))
        return standard_element_of(format) || error_set(error, "family=%d: no such element", (int)format->family);
    bool fixed_point = format->family != MLS_FAMILY_MLS && format->exponent == 0;
    return check_range("exponent", format->exponent, 0, 3, error) &&
           check_range("mantissa", format->mantissa, 0, fixed_point ? 15 : 7, error) &&
           check_range("group", (int)format->group, MLS_GROUP_NONE, MLS_GROUP_NC, error) &&
           check_range("group_size", format->group_size, 1, 1 << 20, error) &&
           check_range("scale_exponent", format->scale_exponent, 1, 8, error) &&
           check_range("scale_mantissa", format->scale_mantissa, 0, 1, error) &&
           (format->exponent + format->mantissa > 0 || error_set(error, "exponent=0 mantissa=0: an element without bits"));
}

int mls_fraction_bits(const struct mls_format *format)
{
    return format->exponent ? format->mantissa + (1 << format->exponent) - 1 : format->mantissa;
}

int32_t mls_largest_integer(const struct mls_format *format)
{
    int32_t all_ones = ((int32_t)1 << (format->mantissa + 1)) - 1;
    return format->exponent ? all_ones << ((1 << format->exponent) - 2) : ((int32_t)1 << format->mantissa) - 1;
}

bool mls_has_integers(const struct mls_format *format)
{
    return format->family < MLS_FAMILY_MICROSCALING;
}

bool mls_fits_int8(const struct mls_format *format)
{
    return mls_has_integers(format) && mls_largest_integer(format) <= 127;
}

int mls_quantizer_bits(const struct mls_format *format)
{
    return mls_fraction_bits(format) <= 8 ? 16 : 24;
}

int mls_block_count(int size, int convolution_groups, int group_size)
{
    int part = size / convolution_groups;
    return convolution_groups * ((part + group_size - 1) / group_size);
}

int mls_block_index(int channel, int size, int convolution_groups, int group_size)
{
    int part = size / convolution_groups;
    return channel / part * ((part + group_size - 1) / group_size) + channel % part / group_size;
}

struct mls_grouping mls_grouping_of(const struct mls_format *format, enum mls_operand operand, int dim0, int dim1,
                                    int convolution_groups)
{
    bool weight = operand == MLS_WEIGHT;
    struct mls_grouping g = {.blocks = {1, 1}, .size = {dim0, dim1},
                             .parts = {weight ? convolution_groups : 1, weight ? 1 : convolution_groups},
                             .span = {weight ? format->group_size : 1, format->group_size}};
    // Input channels of weights are numbered anew in each convolution group.
    if (weight && format->group == MLS_GROUP_C) g.span[0] = dim0 / convolution_groups;
    if (format->group != MLS_GROUP_NONE && (weight || format->group != MLS_GROUP_C))
        g.blocks[0] = mls_block_count(dim0, g.parts[0], g.span[0]);
    if (format->group == MLS_GROUP_C || format->group == MLS_GROUP_NC)
        g.blocks[1] = mls_block_count(dim1, g.parts[1], g.span[1]);
    return g;
}
