#include "net/mls_options.h"

#include <stddef.h>

#define ROW(prefix, field, at, type, low, high, choices, help)                                                     \
    {prefix #field, type, offsetof(struct mls_settings, at.field), low, high, NULL, choices, help}

#define FORMAT_ROWS(prefix, at, whose)                                                                             \
    ROW(prefix, exponent, at, OPTION_INT, 0, 3, NULL, "exponent bits of an element (2)" whose),                        \
    ROW(prefix, mantissa, at, OPTION_INT, 0, 7, NULL, "mantissa bits of an element (1)" whose),                        \
    ROW(prefix, group, at, OPTION_CHOICE, 0, 0, "none n c nc", "dimensions that have scales of their own (nc)" whose),  \
    ROW(prefix, group_size, at, OPTION_INT, 1, 1048576, NULL, "neighbouring channels that share a scale (16)" whose),   \
    ROW(prefix, scale_exponent, at, OPTION_INT, 1, 8, NULL, "exponent bits of a group scale (8)" whose),               \
    ROW(prefix, scale_mantissa, at, OPTION_INT, 0, 1, NULL, "mantissa bits of a group scale (1)" whose),               \
    ROW(prefix, rounding, at, OPTION_CHOICE, 0, 0, "nearest stochastic", "rounding in training (errors stochastic, others nearest)" whose)

// An option that is not set is as in [net], or else as the help says in brackets (mls_format_default).
// clang-format off
const struct option_description mls_option_table[] = {
    {"mls", OPTION_BOOL, offsetof(struct mls_settings, mls), 0, 1, NULL, NULL, "1: convolutions in MLS integers, 0: in fp32 (1)"},
    FORMAT_ROWS("", all, ""),
    FORMAT_ROWS("weight_", operand[MLS_WEIGHT], ", weights only"),
    FORMAT_ROWS("activation_", operand[MLS_ACTIVATION], ", activations only"),
    FORMAT_ROWS("error_", operand[MLS_ERROR], ", errors only"),
    {0},
};
// clang-format on

static int first_set(int a, int b, int c, int d, int otherwise)
{
    return a != OPTION_UNSET ? a : b != OPTION_UNSET ? b : c != OPTION_UNSET ? c : d != OPTION_UNSET ? d : otherwise;
}

void mls_settings_resolve(const struct mls_settings *layer, const struct mls_settings *net, int *mls,
                          struct mls_format formats[3])
{
    *mls = first_set(layer->mls, net->mls, OPTION_UNSET, OPTION_UNSET, 1);
    for (int k = 0; k < 3; k++) {
        struct mls_format d = mls_format_default((enum mls_operand)k);
#define RESOLVE(field)                                                                                             \
    first_set(layer->operand[k].field, layer->all.field, net->operand[k].field, net->all.field, (int)d.field)
        formats[k] = (struct mls_format){
            .exponent = RESOLVE(exponent), .mantissa = RESOLVE(mantissa), .group = (enum mls_group)RESOLVE(group),
            .group_size = RESOLVE(group_size), .scale_exponent = RESOLVE(scale_exponent),
            .scale_mantissa = RESOLVE(scale_mantissa), .rounding = (enum mls_rounding)RESOLVE(rounding)};
#undef RESOLVE
    }
}
