// mlsnet quantize: one tensor in the MLS format.
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "base/npy.h"
#include "cli/arguments.h"
#include "cli/command.h"
#include "cli/format_arguments.h"
#include "mls/quantize.h"

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

static bool run(const struct options *o, struct error *error)
{
    enum mls_operand operand = MLS_ACTIVATION;
    struct npy in = {0};
    struct mls_tensor tensor = {0};
    if (!operand_of(o->operand, &operand, error)) return false;
    struct mls_format format = mls_format_default(operand);
    format.rounding = MLS_NEAREST;
    if (!format_from_texts(&o->format, &format, error) || !npy_read(o->input, &in, error)) return false;
    int dims[4] = {1, 1, 1, 1};
    bool good = in.rank <= 4 && in.count > 0;
    if (!good) error_set(error, "%s: %d dimensions, %zu elements: expected 1 to 4 dimensions and at least 1 element", o->input, in.rank, in.count);
    for (int i = 0; good && i < in.rank; i++) dims[i] = in.dims[i];
    int divided = dims[operand == MLS_WEIGHT ? 0 : 1];
    if (good && (o->channel_groups < 1 || divided % o->channel_groups))
        good = error_set(error, "--groups %d does not divide the %d channels", o->channel_groups, divided);
    good = good && mls_quantize(&format, operand, in.values, dims, o->channel_groups, random_key((uint64_t)o->seed, 0, 0, (uint64_t)operand), &tensor, error) &&
           write_results(o, &in, &tensor, error);
    if (good && o->json)
        printf("{\"tensor_scale\": %.9g, \"tensor_scale_hex\": \"%a\", \"fraction_bits\": %d, \"groups\": [%d, %d]}\n", (double)tensor.tensor_scale,
               (double)tensor.tensor_scale, mls_fraction_bits(&format), tensor.grouping.blocks[0], tensor.grouping.blocks[1]);
    else if (good)
        printf("tensor scale St = %.9g (%a); F = %d; %d x %d groups\n", (double)tensor.tensor_scale, (double)tensor.tensor_scale,
               mls_fraction_bits(&format), tensor.grouping.blocks[0], tensor.grouping.blocks[1]);
    mls_tensor_release(&tensor);
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
        {"--codes", ARGUMENT_TEXT, &o.codes, "write the signed integers I (int32) to this .npy (default: do not)"},
        {"--group-scales", ARGUMENT_TEXT, &o.scales, "write the group scales Sg (fp32, [D0 blocks, D1 blocks]) (default: do not)"},
        {"--json", ARGUMENT_FLAG, &o.json, "print as JSON"},
        {0},
    };
    enum arguments_result result = arguments_parse(argc, argv, "IN.npy OUT.npy [options]", table);
    if (result != ARGUMENTS_GO_ON) return (int)result;
    struct error error;
    if (run(&o, &error)) return 0;
    fprintf(stderr, "mlsnet quantize: %s\n", error.message);
    return 1;
}
