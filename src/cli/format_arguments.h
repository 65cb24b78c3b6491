// The format options that quantize and conv share.
#ifndef CLI_FORMAT_ARGUMENTS_H
#define CLI_FORMAT_ARGUMENTS_H

#include "mls/format.h"

// Text as it stands on the command line; NULL: not given.
struct format_texts {
    const char *format, *exponent, *mantissa, *group, *group_size, *scale_exponent, *scale_mantissa, *rounding;
};

#define FORMAT_ARGUMENTS(prefix, texts, whose)                                                                       \
    {"--" prefix "format", ARGUMENT_TEXT, &(texts).format, "format by name, as the cfg option: mxfp4, bfp4, ..." whose}, \
    {"--" prefix "exponent", ARGUMENT_TEXT, &(texts).exponent, "exponent bits, 0..3" whose},                         \
    {"--" prefix "mantissa", ARGUMENT_TEXT, &(texts).mantissa, "mantissa bits, 0..7" whose},                         \
    {"--" prefix "group", ARGUMENT_TEXT, &(texts).group, "none, n, c or nc" whose},                                  \
    {"--" prefix "group-size", ARGUMENT_TEXT, &(texts).group_size, "channels that share a scale" whose},             \
    {"--" prefix "scale-exponent", ARGUMENT_TEXT, &(texts).scale_exponent, "exponent bits of a group scale, 1..8" whose}, \
    {"--" prefix "scale-mantissa", ARGUMENT_TEXT, &(texts).scale_mantissa, "mantissa bits of a group scale, 0..1" whose}

// Changes what the texts give, and checks the result; rounding is to nearest unless given. false with a message.
bool format_from_texts(const struct format_texts *texts, struct mls_format *format, struct error *error);

#endif
