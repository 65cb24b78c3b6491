// [convolutional]: z = conv(w, x); with batch_normalize=1 y = activation(scale * norm(z) + bias), otherwise
// y = activation(z + bias). The three convolutions of training run in one of four ways, chosen when the layer is made:
//
//   packed      MLS integers, fast kernels
//   reference   MLS integers, plain C: shapes that the fast kernels do not take
//   simulated   MLS formats whose integers do not fit 8 bits: fp32 arithmetic on dequantized operands
//   fp32        mls=0
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "kernels/packed.h"
#include "net/batch_normalization.h"
#include "net/float_convolution.h"
#include "net/network.h"

struct convolutional_settings {
    int filters, size, stride, pad, padding, groups, batch_normalize, activation;
    struct mls_settings mls;
};

#define AT(field) offsetof(struct convolutional_settings, field)
#define IGNORED(name) {name, OPTION_IGNORED, 0, 0, 0, NULL, NULL, "accepted for Darknet's files; without effect"}

// clang-format off
static const struct option_description options[] = {
    {"filters", OPTION_INT, AT(filters), 1, 65536, "1", NULL, "output channels"},
    {"size", OPTION_INT, AT(size), 1, 255, "1", NULL, "rows and columns of the window"},
    {"stride", OPTION_INT, AT(stride), 1, 255, "1", NULL, "pixels between windows"},
    {"pad", OPTION_BOOL, AT(pad), 0, 1, "0", NULL, "1: padding is size/2"},
    {"padding", OPTION_INT, AT(padding), 0, 255, "0", NULL, "zeros around the input; not read with pad=1"},
    {"groups", OPTION_INT, AT(groups), 1, 65536, "1", NULL, "convolution groups"},
    {"batch_normalize", OPTION_BOOL, AT(batch_normalize), 0, 1, "0", NULL, "1: batch normalization before the activation"},
    {"activation", OPTION_CHOICE, AT(activation), 0, 0, "logistic", ACTIVATION_NAMES, "activation function"},
    IGNORED("flipped"), IGNORED("binary"), IGNORED("xnor"), IGNORED("dot"),
    {0},
};
// clang-format on

enum mode { MODE_FLOAT, MODE_PACKED, MODE_REFERENCE, MODE_SIMULATED };

struct convolutional {
    enum mode mode;
    const char *reason; // why not MODE_PACKED
    struct convolution_shape shape;
    struct mls_format formats[3];
    enum activation activation;
    bool normalize;
    struct parameter *weights, *bias;
    struct batch_normalization norm;
    float *raw;             // z, [images][filters][plane]; NULL without batch normalization
    float *error_maximum;   // [images][filters]
    float *partial;         // of the fp32 weight gradient
    struct packed_convolution *packed;
    struct mls_tensor quantized[3];  // reference and simulated, by operand
    float *dequantized[3];           // simulated
    float *scratch_error;            // reference: one input error; also the gradient
};

// ---------------------------------------------------------------------------------------------
// Creation

static bool choose_mode(struct layer *layer, struct convolutional *c, const struct convolutional_settings *settings,
                        struct diagnostics *diagnostics)
{
    int mls;
    struct error error;
    mls_settings_resolve(&settings->mls, &layer->network->settings.mls, &mls, c->formats);
    for (int k = 0; k < 3; k++)
        if (!mls_format_check(&c->formats[k], &error)) {
            diagnostics_add(diagnostics, layer->section->line, layer->section->name, "%s", error.message);
            return false;
        }
    c->mode = MODE_FLOAT;
    if (!mls) return true;
    bool fits = mls_fits_int8(&c->formats[0]) && mls_fits_int8(&c->formats[1]) && mls_fits_int8(&c->formats[2]);
    c->mode = !fits                                                 ? MODE_SIMULATED
              : packed_supports(&c->shape, c->formats, &c->reason) ? MODE_PACKED
                                                                    : MODE_REFERENCE;
    return true;
}

static bool add_parameters(struct layer *layer, struct convolutional *c, struct diagnostics *diagnostics)
{
    const struct convolution_shape *s = &c->shape;
    const int dims[4] = {s->out_channels, s->in_channels / s->groups, s->kernel_height, s->kernel_width};
    c->weights = layer_add_parameter(layer, "conv.weight", 4, dims, true, true, diagnostics);
    if (!c->weights) return false;
    // He initialization by fan-out, as PyTorch's reference networks.
    float deviation = sqrtf(2.0f / (float)(s->kernel_height * s->kernel_width * s->out_channels / s->groups));
    struct random_stream stream = {random_key(layer->network->seed, 1, (uint64_t)layer->index, 0), 0};
    for (size_t i = 0; i < c->weights->count; i++) c->weights->value[i] = deviation * random_normal(&stream);
    if (c->normalize)
        return batch_normalization_create(&c->norm, layer, s->out_channels, s->out_height * s->out_width, diagnostics);
    c->bias = layer_add_parameter(layer, "conv.bias", 1, dims, true, false, diagnostics);
    return c->bias != NULL;
}

static bool allocate_mode(struct layer *layer, struct convolutional *c, struct diagnostics *diagnostics)
{
    struct network *network = layer->network;
    struct error error;
    if (c->mode == MODE_PACKED) {
        struct packed_request request = {.kernels = network->kernels, .shape = c->shape,
                                         .nonnegative = layer->inputs[0] && layer->inputs[0]->output_nonnegative,
                                         .for_training = network->for_training};
        memcpy(request.formats, c->formats, sizeof request.formats);
        c->packed = packed_create(&request, &error);
        if (c->packed)
            layer->extra_memory += packed_memory(c->packed);
        else
            diagnostics_add(diagnostics, layer->section->line, layer->section->name, "%s", error.message);
        return c->packed != NULL;
    }
    size_t images = (size_t)network->max_images;
    size_t sizes[3] = {c->weights->count, images * shape_size(layer->input_shape), images * shape_size(layer->output_shape)};
    network_request_scratch(network, float_convolution_scratch(&c->shape));
    if (network->for_training && c->mode != MODE_REFERENCE)
        c->partial = layer_allocate(layer, float_convolution_partial(&c->shape), sizeof(float), diagnostics);
    for (int k = 0; k < 3 && c->mode == MODE_SIMULATED; k++)
        if (!(c->dequantized[k] = layer_allocate(layer, sizes[k], sizeof(float), diagnostics))) return false;
    if (c->mode == MODE_REFERENCE) {
        size_t most = sizes[0] > sizes[1] ? sizes[0] : sizes[1];
        if (!(c->scratch_error = layer_allocate(layer, most, sizeof(float), diagnostics))) return false;
    }
    return c->partial || !network->for_training || c->mode == MODE_REFERENCE;
}

static bool create(struct layer *layer, struct diagnostics *diagnostics)
{
    struct convolutional_settings *settings = layer->settings;
    struct convolutional *c = layer->state = layer_allocate(layer, 1, sizeof *c, diagnostics);
    if (!c || !options_read(mls_option_table, layer->section, &settings->mls, diagnostics)) return false;
    struct shape in = layer->input_shape;
    c->activation = (enum activation)settings->activation;
    c->normalize = settings->batch_normalize;
    c->shape = (struct convolution_shape){.images = layer->network->max_images, .in_channels = in.channels,
                                          .in_height = in.height, .in_width = in.width, .out_channels = settings->filters,
                                          .kernel_height = settings->size, .kernel_width = settings->size,
                                          .stride = settings->stride,
                                          .padding = settings->pad ? settings->size / 2 : settings->padding,
                                          .groups = settings->groups};
    struct error error;
    if (!convolution_shape_complete(&c->shape, &error)) {
        diagnostics_add(diagnostics, layer->section->line, layer->section->name, "%s", error.message);
        return false;
    }
    layer->output_shape = (struct shape){settings->filters, c->shape.out_height, c->shape.out_width};
    layer->output_nonnegative = activation_is_nonnegative(c->activation);
    layer->multiply_adds = convolution_multiply_adds(&c->shape) / c->shape.images;
    size_t maps = (size_t)layer->network->max_images, size = shape_size(layer->output_shape);
    if (!choose_mode(layer, c, settings, diagnostics) || !add_parameters(layer, c, diagnostics) ||
        !allocate_mode(layer, c, diagnostics))
        return false;
    c->error_maximum = layer_allocate(layer, maps * (size_t)settings->filters, sizeof(float), diagnostics);
    if (c->normalize) c->raw = layer_allocate(layer, maps * size + 64, sizeof(float), diagnostics);
    return c->error_maximum && (c->raw || !c->normalize);
}

static void release_quantized(struct convolutional *c)
{
    for (int k = 0; k < 3; k++) mls_tensor_release(&c->quantized[k]);
}

static void destroy(struct layer *layer)
{
    struct convolutional *c = layer->state;
    batch_normalization_destroy(&c->norm);
    packed_destroy(c->packed);
    release_quantized(c);
    for (int k = 0; k < 3; k++) memory_release(c->dequantized[k]);
    memory_release(c->scratch_error);
    memory_release(c->raw);
    memory_release(c->error_maximum);
    memory_release(c->partial);
    memory_release(c);
}

static void describe_formats(const struct convolutional *c, char *text, size_t size)
{
    static const char *const groups[] = {"none", "n", "c", "nc"};
    const struct mls_format *w = &c->formats[MLS_WEIGHT], *a = &c->formats[MLS_ACTIVATION], *e = &c->formats[MLS_ERROR];
    bool same = w->exponent == a->exponent && w->mantissa == a->mantissa && e->exponent == a->exponent && e->mantissa == a->mantissa;
    int used = same ? snprintf(text, size, "<%d,%d>", w->exponent, w->mantissa)
                    : snprintf(text, size, "w<%d,%d> a<%d,%d> e<%d,%d>", w->exponent, w->mantissa, a->exponent, a->mantissa,
                               e->exponent, e->mantissa);
    bool same_group = w->group == a->group && w->group_size == a->group_size && e->group == a->group && e->group_size == a->group_size;
    if (used > 0 && (size_t)used < size)
        snprintf(text + used, size - (size_t)used, " %s %d%s", groups[a->group], a->group_size, same_group ? "" : " (differ)");
}

static void describe(const struct layer *layer, char *text, size_t size)
{
    const struct convolutional *c = layer->state;
    char formats[96] = "";
    describe_formats(c, formats, sizeof formats);
    const char *suffix[] = {"", "", " plain C", " simulated"};
    snprintf(text, size, "%dx%d/%d%s %s%s%s", c->shape.kernel_height, c->shape.kernel_width, c->shape.stride,
             c->shape.groups > 1 ? " grouped" : "", c->mode == MODE_FLOAT ? "fp32" : "MLS ",
             c->mode == MODE_FLOAT ? "" : formats, suffix[c->mode]);
}

// ---------------------------------------------------------------------------------------------
// The convolutions, by mode

static uint64_t key_of(const struct layer *layer, const struct pass *pass, enum mls_operand operand)
{
    return random_key(pass->seed, pass->step, (uint64_t)layer->index, (uint64_t)operand);
}

static struct float_convolution float_convolution_of(const struct layer *layer, const struct pass *pass)
{
    const struct convolutional *c = layer->state;
    struct float_convolution f = {.shape = c->shape, .pool = pass->pool, .scratch = layer->network->scratch,
                                  .scratch_bytes = layer->network->scratch_bytes, .partial = c->partial};
    f.shape.images = pass->images;
    return f;
}

// Quantizes one operand for the reference and simulated modes.
static bool quantize(struct layer *layer, const struct pass *pass, enum mls_operand operand, const float *values,
                     struct error *error)
{
    static const char *const names[] = {"weights: ", "activations: ", "errors: "};
    struct convolutional *c = layer->state;
    const struct convolution_shape *s = &c->shape;
    struct mls_format format = c->formats[operand];
    if (!pass->training) format.rounding = MLS_NEAREST;
    const int dims[3][4] = {{s->out_channels, s->in_channels / s->groups, s->kernel_height, s->kernel_width},
                            {pass->images, s->in_channels, s->in_height, s->in_width},
                            {pass->images, s->out_channels, s->out_height, s->out_width}};
    mls_tensor_release(&c->quantized[operand]);
    if (!mls_quantize(&format, operand, values, dims[operand], s->groups, key_of(layer, pass, operand),
                      &c->quantized[operand], error))
        return error_prefix(error, "%s", names[operand]);
    if (c->mode == MODE_SIMULATED) mls_dequantize(&c->quantized[operand], c->dequantized[operand]);
    return true;
}

static const float *known_maximum(const struct layer *layer)
{
    const struct layer *input = layer->inputs[0];
    return input && input->output_maximum_known ? input->output_maximum : NULL;
}

static void sum_image(void *context, int image, const float *output)
{
    struct convolutional *c = context;
    batch_normalization_sum_image(&c->norm, image, output);
}

// Ends a part of the step: `inputs` arrays of the input's size and `outputs` of the output's were read or written, 4 bytes an element.
static void lap(const struct layer *layer, const struct pass *pass, enum profile_part part, double inputs, double outputs)
{
    const struct convolutional *c = layer->state;
    bool convolution = part == PART_CONVOLVE || part == PART_WEIGHT_GRADIENT || part == PART_INPUT_ERROR;
    double bytes = 4 * pass->images * (inputs * (double)shape_size(layer->input_shape) + outputs * (double)shape_size(layer->output_shape));
    profile_lap(layer->network->profile, layer->index, part, convolution ? layer->multiply_adds * pass->images : 0, bytes,
                c->mode == MODE_PACKED);
}

static bool convolve_packed(struct layer *layer, const struct pass *pass, float *z, bool sums, struct error *error)
{
    struct convolutional *c = layer->state;
    bool evaluation = !pass->training;
    if (!packed_quantize_weights(c->packed, pass->pool, c->weights->value, key_of(layer, pass, MLS_WEIGHT), evaluation,
                                 error))
        return false;
    lap(layer, pass, PART_QUANTIZE_WEIGHTS, 0, 0);
    if (!packed_quantize_activations(c->packed, pass->pool, pass->images, layer_input(layer, 0), known_maximum(layer),
                                     key_of(layer, pass, MLS_ACTIVATION), evaluation, error))
        return false;
    lap(layer, pass, PART_QUANTIZE_ACTIVATIONS, 1.25, 0);
    packed_forward(c->packed, pass->pool, pass->images, z, sums ? sum_image : NULL, c);
    lap(layer, pass, PART_CONVOLVE, 0.25, 1);
    return true;
}

// z = conv(weights, input). *sums: wanted; afterwards whether the sums of batch normalization are there.
static bool convolve(struct layer *layer, const struct pass *pass, float *z, bool *sums, struct error *error)
{
    struct convolutional *c = layer->state;
    if (c->mode == MODE_PACKED) return convolve_packed(layer, pass, z, *sums, error);
    *sums = false;
    struct float_convolution f = float_convolution_of(layer, pass);
    if (c->mode == MODE_FLOAT) {
        float_convolve_forward(&f, c->weights->value, layer_input(layer, 0), z);
        lap(layer, pass, PART_CONVOLVE, 1, 1);
        return true;
    }
    if (!quantize(layer, pass, MLS_WEIGHT, c->weights->value, error) ||
        !quantize(layer, pass, MLS_ACTIVATION, layer_input(layer, 0), error))
        return false;
    if (c->mode == MODE_SIMULATED)
        float_convolve_forward(&f, c->dequantized[MLS_WEIGHT], c->dequantized[MLS_ACTIVATION], z);
    else
        mls_convolution_forward(&f.shape, &c->quantized[MLS_WEIGHT], &c->quantized[MLS_ACTIVATION], z);
    return true;
}

static bool backward_packed(struct layer *layer, const struct pass *pass, bool maxima_known, float *input_delta,
                            bool accumulate, struct error *error)
{
    struct convolutional *c = layer->state;
    if (!packed_quantize_errors(c->packed, pass->pool, pass->images, layer->delta, maxima_known ? c->error_maximum : NULL,
                                key_of(layer, pass, MLS_ERROR), error))
        return false;
    lap(layer, pass, PART_QUANTIZE_ERRORS, 0, 1.5);
    packed_weight_gradient(c->packed, pass->pool, pass->images, c->weights->gradient);
    lap(layer, pass, PART_WEIGHT_GRADIENT, 0.25, 0.25);
    if (!input_delta) return true;
    packed_input_error(c->packed, pass->pool, pass->images, input_delta, accumulate);
    lap(layer, pass, PART_INPUT_ERROR, accumulate ? 2 : 1, 0.25);
    return true;
}

static void add(float *to, const float *from, size_t count)
{
    for (size_t i = 0; i < count; i++) to[i] += from[i];
}

static bool backward_reference(struct layer *layer, const struct pass *pass, float *input_delta, bool accumulate,
                               struct error *error)
{
    struct convolutional *c = layer->state;
    struct convolution_shape shape = c->shape;
    shape.images = pass->images;
    if (!quantize(layer, pass, MLS_ERROR, layer->delta, error)) return false;
    mls_convolution_weight_gradient(&shape, &c->quantized[MLS_ACTIVATION], &c->quantized[MLS_ERROR], c->scratch_error);
    add(c->weights->gradient, c->scratch_error, c->weights->count);
    if (!input_delta) return true;
    float *to = accumulate ? c->scratch_error : input_delta;
    mls_convolution_input_error(&shape, &c->quantized[MLS_WEIGHT], &c->quantized[MLS_ERROR], to);
    if (accumulate) add(input_delta, to, (size_t)pass->images * shape_size(layer->input_shape));
    return true;
}

// From layer->delta = dL/dz.
static bool convolve_backward(struct layer *layer, const struct pass *pass, bool maxima_known, struct error *error)
{
    struct convolutional *c = layer->state;
    bool accumulate = false;
    float *input_delta = layer_input_delta(layer, 0, &accumulate);
    if (c->mode == MODE_PACKED) return backward_packed(layer, pass, maxima_known, input_delta, accumulate, error);
    if (c->mode == MODE_REFERENCE) return backward_reference(layer, pass, input_delta, accumulate, error);
    struct float_convolution f = float_convolution_of(layer, pass);
    const float *weights = c->weights->value, *input = layer_input(layer, 0), *errors = layer->delta;
    if (c->mode == MODE_SIMULATED) {
        if (!quantize(layer, pass, MLS_ERROR, layer->delta, error)) return false;
        weights = c->dequantized[MLS_WEIGHT];
        input = c->dequantized[MLS_ACTIVATION];
        errors = c->dequantized[MLS_ERROR];
    }
    float_convolve_weight_gradient(&f, input, errors, c->weights->gradient);
    lap(layer, pass, PART_WEIGHT_GRADIENT, 1, 1);
    if (!input_delta) return true;
    float_convolve_input_error(&f, weights, errors, input_delta, accumulate);
    lap(layer, pass, PART_INPUT_ERROR, accumulate ? 2 : 1, 1);
    return true;
}

// ---------------------------------------------------------------------------------------------
// The layer

struct bias_work {
    struct layer *layer;
    const struct pass *pass;
};

static void bias_task(void *context, int image, int thread)
{
    (void)thread;
    struct layer *layer = ((struct bias_work *)context)->layer;
    struct convolutional *c = layer->state;
    size_t plane = (size_t)c->shape.out_height * (size_t)c->shape.out_width, size = shape_size(layer->output_shape);
    float *output = layer->output + (size_t)image * size;
    for (int k = 0; k < c->shape.out_channels; k++)
        for (size_t i = 0; i < plane; i++) output[(size_t)k * plane + i] += c->bias->value[k];
    activation_apply(c->activation, output, size);
}

static bool forward(struct layer *layer, const struct pass *pass, struct error *error)
{
    struct convolutional *c = layer->state;
    bool sums = c->normalize && pass->training;
    if (!convolve(layer, pass, c->normalize ? c->raw : layer->output, &sums, error)) return false;
    if (c->normalize) {
        layer->output_maximum_known = true;
        if (!batch_normalization_forward(&c->norm, pass, c->raw, sums, c->activation, layer->output, layer->output_maximum, error))
            return false;
        lap(layer, pass, PART_NORMALIZE, 0, sums ? 2 : 3);
        return true;
    }
    thread_pool_run(pass->pool, pass->images, bias_task, &(struct bias_work){layer, pass});
    return true;
}

// delta *= activation'; the bias gradient is a sum over images and pixels, owned by the channel.
static void bias_gradient_task(void *context, int channel, int thread)
{
    (void)thread;
    struct bias_work *work = context;
    struct layer *layer = work->layer;
    struct convolutional *c = layer->state;
    size_t plane = (size_t)c->shape.out_height * (size_t)c->shape.out_width;
    double sum = 0;
    for (int n = 0; n < work->pass->images; n++) {
        size_t at = ((size_t)n * (size_t)c->shape.out_channels + (size_t)channel) * plane;
        activation_gradient(c->activation, layer->output + at, layer->delta + at, plane);
        for (size_t i = 0; i < plane; i++) sum += (double)layer->delta[at + i];
    }
    c->bias->gradient[channel] += (float)sum;
}

static bool backward(struct layer *layer, const struct pass *pass, struct error *error)
{
    struct convolutional *c = layer->state;
    if (c->normalize) {
        if (!batch_normalization_backward(&c->norm, pass, c->raw, layer->output, c->activation, layer->delta, layer->delta,
                                          false, c->error_maximum, error))
            return false;
        lap(layer, pass, PART_NORMALIZE_BACKWARD, 0, 5);
    } else {
        thread_pool_run(pass->pool, c->shape.out_channels, bias_gradient_task, &(struct bias_work){layer, pass});
    }
    return convolve_backward(layer, pass, c->normalize, error);
}

const struct layer_type convolutional_layer_type = {
    .name = "convolutional", .alias = "conv", .help = "convolution, with batch normalization and activation",
    .options = options, .settings_size = sizeof(struct convolutional_settings),
    .create = create, .forward = forward, .backward = backward, .destroy = destroy, .describe = describe,
};
