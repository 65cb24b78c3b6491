// mlsnet quantize: one tensor in a number format.
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "base/npy.h"
#include "cli/arguments.h"
#include "cli/command.h"
#include "cli/format_arguments.h"
#include "mls/quantize.h"
#include "mls/standard.h"

struct options {
    const char *input, *output, *operand, *codes, *scales;
    struct format_texts format;
    int seed, channel_groups;
    bool json;
};

static bool operand_of(const char *text, enum mls_operand *operand, struct error *error)
{
    static const char *const names[] = {"weight", "activation", "error"};
    for (int i = 0; i < 3; i++)
        if (strcmp(text, names[i]) == 0) {
            *operand = (enum mls_operand)i;
            return true;
        }
    return error_set(error, "--operand %s: expected weight, activation or error", text);
}

static bool write_results(const struct options *o, const struct npy *in, const struct mls_tensor *tensor, struct error *error)
{
    float *values = memory_allocate(in->count, sizeof(float), error);
    if (!values) return false;
    mls_dequantize(tensor, values);
    bool good = npy_write_float(o->output, in->rank, in->dims, values, error) &&
                (!o->codes || npy_write_int(o->codes, in->rank, in->dims, tensor->integers, error)) &&
                (!o->scales || npy_write_float(o->scales, 2, tensor->grouping.blocks, tensor->group_scales, error));
    memory_release(values);
    return good;
}

static bool quantize_mls(const struct options *o, const struct npy *in, const int dims[4], const struct mls_format *format,
                         enum mls_operand operand, struct error *error)
{
    struct mls_tensor tensor;
    uint64_t key = random_key((uint64_t)o->seed, 0, 0, (uint64_t)operand);
    if (!mls_quantize(format, operand, in->values, dims, o->channel_groups, key, &tensor, error)) return false;
    bool good = write_results(o, in, &tensor, error);
    if (good && o->json)
        printf("{\"tensor_scale\": %.9g, \"tensor_scale_hex\": \"%a\", \"fraction_bits\": %d, \"groups\": [%d, %d]}\n",
               (double)tensor.tensor_scale, (double)tensor.tensor_scale, mls_fraction_bits(format), tensor.grouping.blocks[0],
               tensor.grouping.blocks[1]);
    else if (good)
        printf("tensor scale St = %.9g (%a); F = %d; %d x %d groups\n", (double)tensor.tensor_scale, (double)tensor.tensor_scale,
               mls_fraction_bits(format), tensor.grouping.blocks[0], tensor.grouping.blocks[1]);
    mls_tensor_release(&tensor);
    return good;
}

static bool write_codes(const struct options *o, const struct npy *in, const struct standard_element *element, const float *elements,
                        struct error *error)
{
    int32_t *codes = memory_allocate(in->count, sizeof *codes, error);
    for (size_t i = 0; codes && i < in->count; i++) codes[i] = standard_code(element, elements[i]);
    bool good = codes && npy_write_int(o->codes, in->rank, in->dims, codes, error);
    memory_release(codes);
    return good;
}

// Microscaling and FP8: the codes are those of the standard, the scales [D0, blocks, D2, D3], or the one of the tensor.
static bool quantize_standard(const struct options *o, const struct npy *in, const int dims[4], const struct mls_format *format,
                              enum mls_operand operand, struct error *error)
{
    bool one_scale = format->family == MLS_FAMILY_FP8;
    int scale_dims[4] = {dims[0], standard_blocks(operand, dims, o->channel_groups), dims[2], dims[3]};
    size_t scales = one_scale ? 1 : (size_t)scale_dims[0] * (size_t)scale_dims[1] * (size_t)scale_dims[2] * (size_t)scale_dims[3];
    struct standard_result result = {memory_allocate(in->count, sizeof(float), error), memory_allocate(in->count, sizeof(float), error),
                                     memory_allocate(scales, sizeof(float), error)};
    uint64_t key = random_key((uint64_t)o->seed, 0, 0, (uint64_t)operand);
    const int one[1] = {1};
    bool good = result.values && result.elements && result.scales &&
                standard_quantize(format, operand, in->values, dims, o->channel_groups, key, NULL, &result, error) &&
                npy_write_float(o->output, in->rank, in->dims, result.values, error) &&
                (!o->codes || write_codes(o, in, standard_element_of(format), result.elements, error)) &&
                (!o->scales || npy_write_float(o->scales, one_scale ? 1 : 4, one_scale ? one : scale_dims, result.scales, error));
    const char *name = standard_element_of(format)->name;
    if (good && o->json)
        printf("{\"format\": \"%s\", \"scales\": %zu, \"first_scale_hex\": \"%a\"}\n", name, scales, (double)result.scales[0]);
    else if (good)
        printf("%s, %zu scale%s; the first is %.9g (%a)\n", name, scales, scales == 1 ? "" : "s", (double)result.scales[0],
               (double)result.scales[0]);
    memory_release(result.values);
    memory_release(result.elements);
    memory_release(result.scales);
    return good;
}

// What the options say, before any file is read.
static bool choose(const struct options *o, enum mls_operand *operand, struct mls_format *format, struct error *error)
{
    if (!operand_of(o->operand, operand, error)) return false;
    *format = mls_format_default(*operand);
    format->rounding = MLS_NEAREST;
    return format_from_texts(&o->format, format, error);
}

static bool run(const struct options *o, enum mls_operand operand, const struct mls_format *format, struct error *error)
{
    struct npy in = {0};
    if (!npy_read(o->input, &in, error)) return false;
    int dims[4] = {1, 1, 1, 1};
    bool good = in.rank <= 4 && in.count > 0;
    if (!good) error_set(error, "%s: %d dimensions, %zu elements: expected 1 to 4 dimensions and at least 1 element", o->input, in.rank, in.count);
    for (int i = 0; good && i < in.rank; i++) dims[i] = in.dims[i];
    int divided = dims[operand == MLS_WEIGHT ? 0 : 1];
    if (good && (o->channel_groups < 1 || divided % o->channel_groups))
        good = error_set(error, "--groups %d does not divide the %d channels", o->channel_groups, divided);
    good = good && (mls_has_integers(format) ? quantize_mls : quantize_standard)(o, &in, dims, format, operand, error);
    npy_release(&in);
    return good;
}

int command_quantize(int argc, char **argv)
{
    struct options o = {.operand = "activation", .seed = 1, .channel_groups = 1};
    const struct argument table[] = {
        {"IN.npy", ARGUMENT_POSITIONAL, &o.input, "fp32 array of 1 to 4 dimensions (missing ones count as 1)"},
        {"OUT.npy", ARGUMENT_POSITIONAL, &o.output, "the dequantized values"},
        {"--operand", ARGUMENT_TEXT, &o.operand, "weight, activation or error: what the dimensions are (default: activation)"},
        FORMAT_ARGUMENTS("", o.format, " (default: as <2,1>, nc, 16, <8,1>)"),
        {"--rounding", ARGUMENT_TEXT, &o.format.rounding, "nearest or stochastic (default: nearest)"},
        {"--groups", ARGUMENT_INT, &o.channel_groups, "convolution groups, which no scale group crosses (default: 1)"},
        {"--seed", ARGUMENT_INT, &o.seed, "of stochastic rounding (default: 1)"},
        {"--codes", ARGUMENT_TEXT, &o.codes,
         "write the signed integers I (int32; mx*, fp8_*: the standard's codes) to this .npy (default: do not)"},
        {"--group-scales", ARGUMENT_TEXT, &o.scales,
         "write the group scales Sg (fp32, [D0 blocks, D1 blocks]; mx*: [D0, D1 blocks, D2, D3]) (default: do not)"},
        {"--json", ARGUMENT_FLAG, &o.json, "print as JSON"},
        {0},
    };
    enum arguments_result result = arguments_parse(argc, argv, "IN.npy OUT.npy [options]", table);
    if (result != ARGUMENTS_GO_ON) return (int)result;
    enum mls_operand operand = MLS_ACTIVATION;
    struct mls_format format;
    struct error error;
    bool chosen = choose(&o, &operand, &format, &error);
    if (chosen && run(&o, operand, &format, &error)) return 0;
    fprintf(stderr, "mlsnet quantize: %s\n", error.message);
    return chosen ? 1 : 2;
}
