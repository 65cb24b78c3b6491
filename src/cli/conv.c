// mlsnet conv: one low-bit convolution, any of the three passes, on any kernel set: the golden model.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/npy.h"
#include "cli/arguments.h"
#include "cli/command.h"
#include "cli/format_arguments.h"
#include "kernels/convolve_once.h"

struct options {
    const char *pass, *first, *second, *output, *kernel, *input_size, *kernel_size;
    struct format_texts all, operand[3];
    int stride, padding, groups;
    bool simulated, json;
};

#define MOST_CHANNELS (1 << 20) // as convolution_shape_complete takes

struct conv {
    enum convolution_pass pass;
    const enum mls_operand *operands; // of the two inputs
    struct npy in[2];
    struct convolution_shape shape;
    struct mls_format formats[3];
    const struct kernel_set *kernels; // NULL: the reference
    const char *path; // what computed it
    float *output;
};

static bool parse_pass(const char *text, struct conv *c, struct error *error)
{
    static const char *const names[] = {"forward", "input-error", "weight-gradient"};
    for (int i = 0; text && i < 3; i++)
        if (strcmp(text, names[i]) == 0) {
            c->pass = (enum convolution_pass)i;
            c->operands = once_operands(c->pass);
            return true;
        }
    return error_set(error, "--pass %s: expected forward, input-error or weight-gradient", text ? text : "is missing");
}

static bool parse_size(const char *name, const char *text, int *height, int *width, struct error *error)
{
    char rest;
    if (sscanf(text, "%dx%d%c", height, width, &rest) == 2 && *height > 0 && *width > 0) return true;
    return error_set(error, "%s %s: expected HxW, such as 32x32", name, text);
}

static const int *dims_of(const struct conv *c, enum mls_operand operand)
{
    return c->operands[0] == operand ? c->in[0].dims : c->operands[1] == operand ? c->in[1].dims : NULL;
}

static bool in_range(const char *option, int value, int least, int most, struct error *error)
{
    return (value >= least && value <= most) || error_set(error, "%s %d: expected %d to %d", option, value, least, most);
}

// The sizes that the two arrays give, and those that they leave open.
static bool find_shape(const struct options *o, struct conv *c, struct error *error)
{
    const int *a = dims_of(c, MLS_ACTIVATION), *w = dims_of(c, MLS_WEIGHT), *e = dims_of(c, MLS_ERROR);
    struct convolution_shape *s = &c->shape;
    const int most_groups = w ? MOST_CHANNELS / w[1] : MOST_CHANNELS; // so that all channels are a number that can be
    if (!in_range("--groups", o->groups, 1, most_groups, error)) return false;
    *s = (struct convolution_shape){.stride = o->stride, .padding = o->padding, .groups = o->groups};
    s->images = a ? a[0] : e[0];
    s->out_channels = w ? w[0] : e[1];
    s->in_channels = a ? a[1] : w[1] * o->groups;
    if (w) s->kernel_height = w[2], s->kernel_width = w[3];
    if (a) s->in_height = a[2], s->in_width = a[3];
    if (!w) { // weight gradient: the smallest window that fits, unless given
        s->kernel_height = a[2] + 2 * o->padding - (e[2] - 1) * o->stride;
        s->kernel_width = a[3] + 2 * o->padding - (e[3] - 1) * o->stride;
        if (o->kernel_size && !parse_size("--kernel-size", o->kernel_size, &s->kernel_height, &s->kernel_width, error)) return false;
    }
    if (!a) { // input error: the smallest input that fits, unless given
        s->in_height = (e[2] - 1) * o->stride + w[2] - 2 * o->padding;
        s->in_width = (e[3] - 1) * o->stride + w[3] - 2 * o->padding;
        if (o->input_size && !parse_size("--input-size", o->input_size, &s->in_height, &s->in_width, error)) return false;
    }
    if (!convolution_shape_complete(s, error)) return false;
    if (e && (e[0] != s->images || e[1] != s->out_channels || e[2] != s->out_height || e[3] != s->out_width))
        return error_set(error, "the errors are [%d, %d, %d, %d]: expected [%d, %d, %d, %d]", e[0], e[1], e[2], e[3], s->images,
                         s->out_channels, s->out_height, s->out_width);
    if (w && (w[1] * o->groups != s->in_channels))
        return error_set(error, "the weights take %d x %d input channels, the activations have %d", o->groups, w[1], s->in_channels);
    return true;
}

static size_t output_dims(const struct conv *c, int dims[4])
{
    once_dims(&c->shape, c->operands[2], dims);
    return (size_t)dims[0] * (size_t)dims[1] * (size_t)dims[2] * (size_t)dims[3];
}

static bool find_formats(const struct options *o, struct conv *c, struct error *error)
{
    for (int k = 0; k < 3; k++) {
        c->formats[k] = mls_format_default((enum mls_operand)k);
        c->formats[k].rounding = MLS_NEAREST;
        if (!format_from_texts(&o->all, &c->formats[k], error) || !format_from_texts(&o->operand[k], &c->formats[k], error)) return false;
    }
    return true;
}

static bool find_kernels(const struct options *o, struct conv *c, struct error *error)
{
    c->kernels = kernel_set_find(o->kernel);
    return c->kernels || strcmp(o->kernel, "reference") == 0 ||
           error_set(error, "--kernel %s: unknown or not supported by this processor; see mlsnet kernels", o->kernel);
}

// What the options say, before any file is read.
static bool choose(const struct options *o, struct conv *c, struct error *error)
{
    return parse_pass(o->pass, c, error) && find_formats(o, c, error) && find_kernels(o, c, error) &&
           in_range("--stride", o->stride, 1, 1024, error) && in_range("--pad", o->padding, 0, 1024, error);
}

static bool compute(const struct options *o, struct conv *c, struct error *error)
{
    struct once_request request = {.shape = c->shape, .pass = c->pass, .kernels = c->kernels, .simulated = o->simulated};
    const char *reason;
    memcpy(request.formats, c->formats, sizeof request.formats);
    const enum once_path path = once_path_of(&request, &reason);
    c->path = path == ONCE_SIMULATED ? "simulated" : path == ONCE_REFERENCE ? "reference" : request.kernels->name;
    if (path == ONCE_SIMULATED && !o->simulated)
        fprintf(stderr, "mlsnet conv: the elements of the format are no integers of 8 bits: simulated in fp32\n");
    if (reason) fprintf(stderr, "mlsnet conv: %s: computed by the plain reference\n", reason);
    return convolve_once(&request, c->in[0].values, c->in[1].values, c->output, error);
}

static bool read_inputs(const struct options *o, struct conv *c, struct error *error)
{
    const char *const paths[2] = {o->first, o->second};
    for (int i = 0; i < 2; i++) {
        if (!npy_read(paths[i], &c->in[i], error)) return false;
        if (c->in[i].rank != 4 || c->in[i].count == 0)
            return error_set(error, "%s: %d dimensions, %zu elements: expected 4 dimensions and at least 1 element", paths[i], c->in[i].rank,
                             c->in[i].count);
    }
    return true;
}

static bool run(const struct options *o, struct conv *c, struct error *error)
{
    int dims[4];
    bool good = read_inputs(o, c, error) && find_shape(o, c, error) &&
                (c->output = memory_allocate(output_dims(c, dims), sizeof(float), error)) != NULL && compute(o, c, error) &&
                npy_write_float(o->output, 4, dims, c->output, error);
    if (good)
        printf(o->json ? "{\"shape\": [%d, %d, %d, %d], \"path\": \"%s\", \"multiply_adds\": %.0f}\n" : "[%d, %d, %d, %d] by %s, %.0f multiply-adds\n",
               dims[0], dims[1], dims[2], dims[3], c->path, convolution_multiply_adds(&c->shape));
    memory_release(c->output);
    npy_release(&c->in[0]);
    npy_release(&c->in[1]);
    return good;
}

int command_conv(int argc, char **argv)
{
    struct options o = {.stride = 1, .groups = 1};
    const struct argument table[] = {
        {"FIRST.npy", ARGUMENT_POSITIONAL, &o.first, "activations (forward, weight-gradient) or errors (input-error), [N, C, H, W]"},
        {"SECOND.npy", ARGUMENT_POSITIONAL, &o.second, "weights [Co, Ci / groups, Kh, Kw] (forward, input-error) or errors"},
        {"OUT.npy", ARGUMENT_POSITIONAL, &o.output, "the fp32 result"},
        {"--pass", ARGUMENT_TEXT, &o.pass, "forward, input-error or weight-gradient"},
        {"--stride", ARGUMENT_INT, &o.stride, "(default: 1)"},
        {"--pad", ARGUMENT_INT, &o.padding, "zeros on every side (default: 0)"},
        {"--groups", ARGUMENT_INT, &o.groups, "convolution groups (default: 1)"},
        {"--input-size", ARGUMENT_TEXT, &o.input_size, "HxW of the input, for input-error (default: the smallest that fits)"},
        {"--kernel-size", ARGUMENT_TEXT, &o.kernel_size, "KxK of the window, for weight-gradient (default: the largest that fits)"},
        {"--kernel", ARGUMENT_TEXT, &o.kernel, "kernel set, or reference (default: the best supported, see mlsnet kernels)"},
        {"--simulated", ARGUMENT_FLAG, &o.simulated, "fp32 arithmetic on dequantized operands instead of integers"},
        FORMAT_ARGUMENTS("", o.all, " (default: as <2,1>, nc, 16, <8,1>)"),
        FORMAT_ARGUMENTS("weight-", o.operand[MLS_WEIGHT], ", weights only"),
        FORMAT_ARGUMENTS("activation-", o.operand[MLS_ACTIVATION], ", activations only"),
        FORMAT_ARGUMENTS("error-", o.operand[MLS_ERROR], ", errors only"),
        {"--json", ARGUMENT_FLAG, &o.json, "print as JSON"},
        {0},
    };
    enum arguments_result result = arguments_parse(argc, argv, "--pass PASS FIRST.npy SECOND.npy OUT.npy [options]", table);
    if (result != ARGUMENTS_GO_ON) return (int)result;
    struct conv c = {0};
    struct error error;
    bool chosen = choose(&o, &c, &error);
    if (chosen && run(&o, &c, &error)) return 0;
    fprintf(stderr, "mlsnet conv: %s\n", error.message);
    return chosen ? 1 : 2;
}
