// [convolutional]: z = conv(w, x); with batch_normalize=1 y = activation(scale * norm(z) + bias), otherwise
// y = activation(z + bias). How it is computed: convolutional.h.
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "mls/presets.h"
#include "net/layers/convolutional.h"
#include "net/operations.h"

struct convolutional_settings {
    int filters, size, stride, pad, padding, groups, batch_normalize, activation, binary, xnor;
    float initial_deviation;
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
    {"initial_deviation", OPTION_FLOAT, AT(initial_deviation), 0, 100, NULL, NULL,
     "standard deviation of the initial weights; not given: sqrt(2 / (window * filters)), He's by fan-out"},
    {"binary", OPTION_BOOL, AT(binary), 0, 1, "0", NULL, "Darknet's binary weights: only 0"},
    {"xnor", OPTION_BOOL, AT(xnor), 0, 1, "0", NULL, "Darknet's binary weights and inputs: only 0"},
    {"flipped", OPTION_IGNORED, 0, 0, 0, NULL, NULL, "tells how weights stand in a .weights file (train/darknet_weights.h)"},
    IGNORED("dot"),
    {0},
};
// clang-format on

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
    c->mode = MODE_DIRECT;
    layer->low_bit = mls;
    unsigned plain = layer->network->plain_operands & MLS_ALL_OPERANDS;
    if (!mls || plain == MLS_ALL_OPERANDS) return true;
    bool fits = mls_fits_int8(&c->formats[0]) && mls_fits_int8(&c->formats[1]) && mls_fits_int8(&c->formats[2]);
    c->mode = MODE_REFERENCE;
    if (!fits || plain)
        c->mode = MODE_ROUNDED;
    else if (packed_supports(&c->shape, c->formats, NULL))
        c->mode = MODE_PACKED;
    return true;
}

static bool add_parameters(struct layer *layer, struct convolutional *c, struct diagnostics *diagnostics)
{
    const struct convolution_shape *s = &c->shape;
    const int dims[4] = {s->out_channels, s->in_channels / s->groups, s->kernel_height, s->kernel_width};
    c->weights = layer_add_parameter(layer, "conv.weight", 4, dims, true, true, diagnostics);
    if (!c->weights) return false;
    // He initialization by fan-out, as PyTorch's reference networks: there convolution groups do not count.
    float deviation = ((const struct convolutional_settings *)layer->settings)->initial_deviation;
    if (isnan(deviation)) deviation = sqrtf(2.0f / ((float)(s->kernel_height * s->kernel_width) * (float)s->out_channels));
    struct random_stream stream = {random_key(layer->network->seed, 1, (uint64_t)layer->index, 0), 0};
    for (size_t i = 0; i < c->weights->count; i++) c->weights->value[i] = deviation * random_normal(&stream);
    if (c->normalize)
        return batch_normalization_create(&c->norm, layer, s->out_channels, s->out_height * s->out_width, diagnostics);
    c->bias = layer_add_parameter(layer, "conv.bias", 1, dims, true, false, diagnostics);
    return c->bias != NULL;
}

static bool create_packed(struct layer *layer, struct convolutional *c, struct error *error)
{
    struct packed_request request = {.kernels = layer->network->kernels, .shape = c->shape,
                                     .nonnegative = layer->inputs[0] && layer->inputs[0]->output_nonnegative,
                                     .for_training = layer->network->for_training, .shared_workspace = true};
    memcpy(request.formats, c->formats, sizeof request.formats);
    c->packed = packed_create(&request, error);
    if (!c->packed) return false;
    layer->extra_memory += packed_memory(c->packed);
    network_request_workspace(layer->network, packed_workspace_bytes(c->packed));
    return c->packed != NULL;
}

static bool create_direct(struct layer *layer, struct convolutional *c, struct error *error)
{
    bool planar = !layer->inputs[0] && c->shape.groups == 1 && c->mode == MODE_DIRECT;
    struct direct_request request = {.kernels = layer->network->kernels, .shape = c->shape, .planar_input = planar,
                                     .for_training = layer->network->for_training};
    c->direct = direct_create(&request, error);
    if (c->direct) layer->extra_memory += direct_memory(c->direct);
    layer->reads_planar = request.planar_input;
    return c->direct != NULL;
}

static bool create_planar(struct layer *layer, struct convolutional *c, struct diagnostics *diagnostics)
{
    size_t images = (size_t)layer->network->max_images;
    size_t inputs = images * shape_size(layer->input_shape), outputs = images * shape_size(layer->output_shape);
    if (!(c->planar_input = layer_allocate(layer, inputs, sizeof(float), diagnostics)) ||
        !(c->planar_output = layer_allocate(layer, outputs, sizeof(float), diagnostics)))
        return false;
    if (!layer->network->for_training) return true;
    c->planar_input_error = layer_allocate(layer, inputs, sizeof(float), diagnostics);
    c->scratch_gradient = layer_allocate(layer, c->weights->count, sizeof(float), diagnostics);
    return c->planar_input_error && c->scratch_gradient;
}

static bool create_rounded_maps(struct layer *layer, struct convolutional *c, struct diagnostics *diagnostics)
{
    size_t images = (size_t)layer->network->max_images;
    c->rounded_weights = layer_allocate(layer, c->weights->count, sizeof(float), diagnostics);
    c->rounded_input = layer_allocate(layer, images * shape_stored(layer->input_shape), sizeof(float), diagnostics);
    if (layer->network->for_training)
        c->rounded_errors = layer_allocate(layer, images * shape_stored(layer->output_shape), sizeof(float), diagnostics);
    return c->rounded_weights && c->rounded_input && (c->rounded_errors || !layer->network->for_training);
}

static bool create_mode(struct layer *layer, struct convolutional *c, struct diagnostics *diagnostics)
{
    struct error error;
    if (!reads_sources(c)) return create_planar(layer, c, diagnostics);
    bool good = c->mode == MODE_PACKED ? create_packed(layer, c, &error) : create_direct(layer, c, &error);
    if (!good) diagnostics_add(diagnostics, layer->section->line, layer->section->name, "%s", error.message);
    return good && (c->mode != MODE_ROUNDED || create_rounded_maps(layer, c, diagnostics));
}

static void delta_ready(struct layer *layer, int image, const int32_t *gates);

// What the layer can do for its neighbours (net/layer.h).
static void set_abilities(struct layer *layer, struct convolutional *c)
{
    bool simple = activation_piecewise(c->activation, &c->piecewise) && c->normalize;
    layer->output_nonnegative = activation_is_nonnegative(c->activation);
    layer->reads_sources = reads_sources(c);
    layer->can_defer = simple;
    layer->can_be_followed = simple && reads_sources(c);
    layer->keeps_delta = simple && reads_sources(c);
    layer->delta_ready = simple ? delta_ready : NULL;
    layer->delta_reads = layer;
    layer->backward_spares_input = c->mode != MODE_DIRECT; // codes or copies instead
    layer->backward_spares_output = simple;
}

static bool create(struct layer *layer, struct diagnostics *diagnostics)
{
    struct convolutional_settings *settings = layer->settings;
    struct convolutional *c = layer->state = layer_allocate(layer, 1, sizeof *c, diagnostics);
    if (!c || !options_read(mls_option_table, layer->section, &settings->mls, diagnostics) ||
        !mls_settings_check(&settings->mls, &layer->network->settings.mls, layer->section, diagnostics))
        return false;
    if (settings->binary || settings->xnor) {
        diagnostics_add(diagnostics, layer->section->line, layer->section->name, "binary=1 and xnor=1 are not supported");
        return false;
    }
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
    if (!convolution_shape_complete(&c->shape, &error) || !direct_fits(&c->shape, &error)) {
        diagnostics_add(diagnostics, layer->section->line, layer->section->name, "%s", error.message);
        return false;
    }
    layer->output_shape = (struct shape){settings->filters, c->shape.out_height, c->shape.out_width};
    layer->multiply_adds = convolution_multiply_adds(&c->shape) / c->shape.images;
    if (!choose_mode(layer, c, settings, diagnostics) || !add_parameters(layer, c, diagnostics) || !create_mode(layer, c, diagnostics))
        return false;
    set_abilities(layer, c);
    layer->wants_raw = c->normalize; // z
    if (!c->normalize || c->mode != MODE_PACKED) return true;
    size_t planes = (size_t)layer->network->max_images * blocked_channels(settings->filters);
    return (c->error_bounds = layer_allocate(layer, planes, sizeof(float), diagnostics)) != NULL;
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
    direct_destroy(c->direct);
    release_quantized(c);
    memory_release(c->rounded_weights);
    memory_release(c->rounded_input);
    memory_release(c->rounded_errors);
    memory_release(c->planar_input);
    memory_release(c->planar_output);
    memory_release(c->planar_input_error);
    memory_release(c->scratch_gradient);
    memory_release(c->error_bounds);
    memory_release(c);
}

static void describe(const struct layer *layer, char *text, size_t size)
{
    const struct convolutional *c = layer->state;
    char formats[128] = "fp32";
    static const char *const suffix[] = {[MODE_DIRECT] = "", [MODE_PACKED] = "", [MODE_ROUNDED] = " simulated", [MODE_REFERENCE] = " plain C"};
    if (c->mode != MODE_DIRECT) mls_formats_describe(c->formats, formats, sizeof formats);
    snprintf(text, size, "%dx%d/%d%s %s%s", c->shape.kernel_height, c->shape.kernel_width, c->shape.stride,
             c->shape.groups > 1 ? " grouped" : "", formats, suffix[c->mode]);
}

// ---------------------------------------------------------------------------------------------
// Sums

static void sum_image(void *context, int image)
{
    struct layer *layer = context;
    struct convolutional *c = layer->state;
    batch_normalization_sum_image(&c->norm, layer->raw, image);
    if (layer->output_followed) layer->output_follower->follow(layer->output_follower, image);
}

// Evaluation, where batch normalization is known before its input is: the layer's follower can go along with it.
static void begin_followed(struct layer *layer, struct image_done *done)
{
    struct convolutional *c = layer->state;
    const struct layer *follower = layer->output_follower;
    const struct source other = layer_input_source(follower, 1);
    batch_normalization_use_running(&c->norm);
    layer->source = batch_normalization_source(&c->norm, layer->raw, c->piecewise);
    layer->output_followed = true;
    if (other.kind != SOURCE_PLAIN) return;
    done->reads = other.x;
    done->image_floats = shape_stored(layer_input_shape(follower, 1));
}

static void delta_ready(struct layer *layer, int image, const int32_t *gates)
{
    struct convolutional *c = layer->state;
    batch_normalization_sum_error_image(&c->norm, layer->raw, layer->delta, gates, c->piecewise, image);
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
    size_t pixels = shape_pixels(layer->output_shape), stored = shape_stored(layer->output_shape);
    float *output = layer->output + (size_t)image * stored;
    for (int k = 0; k < c->shape.out_channels; k++)
        for (size_t p = 0; p < pixels; p++) output[blocked_at(pixels, k, p)] += c->bias->value[k];
    activation_apply(c->activation, output, stored);
}

// Without batch normalization the output is what the convolution wrote.
static bool finish_forward(struct layer *layer, const struct pass *pass, bool sums_known, struct error *error)
{
    struct convolutional *c = layer->state;
    if (!c->normalize) {
        thread_pool_run(pass->pool, pass->images, bias_task, &(struct bias_work){layer, pass});
        return true;
    }
    layer->output_maximum_known = true;
    if (layer->output) {
        if (!batch_normalization_forward(&c->norm, pass, layer->raw, sums_known, c->activation, layer->output, layer->output_maximum, error))
            return false;
    } else {
        for (int image = 0; !sums_known && image < pass->images; image++) sum_image(layer, image);
        if (!batch_normalization_statistics(&c->norm, pass, error)) return false;
        batch_normalization_maxima(&c->norm, pass->images, c->piecewise, layer->output_maximum);
        layer->source = batch_normalization_source(&c->norm, layer->raw, c->piecewise);
    }
    convolutional_lap(layer, pass, PART_NORMALIZE, 0, layer->output ? 2 : 0);
    return true;
}

static bool forward(struct layer *layer, const struct pass *pass, struct error *error)
{
    struct convolutional *c = layer->state;
    float *z = c->normalize ? layer->raw : layer->output;
    struct image_done done = {.function = c->normalize ? sum_image : NULL, .context = layer};
    if (layer->output_follower && !layer->output && !pass->training) begin_followed(layer, &done);
    if (!convolutional_show(layer, pass, MLS_WEIGHT, error) || !convolutional_show(layer, pass, MLS_ACTIVATION, error)) return false;
    return convolutional_forward_mode(layer, pass, z, done, error) && finish_forward(layer, pass, reads_sources(c), error);
}

// delta *= activation'; the bias gradient is a sum over images and pixels, owned by the block of channels.
static void bias_gradient_task(void *context, int block, int thread)
{
    (void)thread;
    struct bias_work *work = context;
    struct layer *layer = work->layer;
    struct convolutional *c = layer->state;
    size_t plane = shape_pixels(layer->output_shape) * BLOCK_CHANNELS, blocks = (size_t)blocked_count(c->shape.out_channels);
    double sums[BLOCK_CHANNELS] = {0};
    for (int n = 0; n < work->pass->images; n++) {
        size_t at = ((size_t)n * blocks + (size_t)block) * plane;
        activation_gradient(c->activation, layer->output + at, layer->delta + at, plane);
        for (size_t i = 0; i < plane; i++) sums[i % BLOCK_CHANNELS] += (double)layer->delta[at + i];
    }
    for (int i = 0; i < BLOCK_CHANNELS && block * BLOCK_CHANNELS + i < c->shape.out_channels; i++)
        c->bias->gradient[block * BLOCK_CHANNELS + i] += (float)sums[i];
}

static void delta_ready_task(void *context, int image, int thread)
{
    (void)thread;
    delta_ready(context, image, NULL);
}

// dL/dy -> dL/dz: left to the readers of delta where they can, else written to delta.
static bool begin_backward(struct layer *layer, const struct pass *pass, struct error *error)
{
    struct convolutional *c = layer->state;
    if (!c->normalize) {
        thread_pool_run(pass->pool, blocked_count(c->shape.out_channels), bias_gradient_task, &(struct bias_work){layer, pass});
        return true;
    }
    if (layer->keeps_delta) {
        if (!layer->delta_seen) thread_pool_run(pass->pool, pass->images, delta_ready_task, layer);
        convolutional_lap(layer, pass, PART_NORMALIZE_BACKWARD, 0, layer->delta_seen ? 0 : 2);
        return batch_normalization_error_statistics(&c->norm, pass->images, error);
    }
    bool good = batch_normalization_backward(&c->norm, pass, layer->raw, layer->output, c->activation, layer->delta, layer->delta, false, error);
    convolutional_lap(layer, pass, PART_NORMALIZE_BACKWARD, 0, 5);
    return good;
}

static bool backward(struct layer *layer, const struct pass *pass, struct error *error)
{
    if (!begin_backward(layer, pass, error) || !convolutional_show(layer, pass, MLS_ERROR, error)) return false;
    struct delta_target target = layer_delta_target(layer, 0);
    return convolutional_backward_mode(layer, pass, target, error);
}

static void operations(const struct layer *layer, struct operations *operations)
{
    const struct convolutional *c = layer->state;
    bool mls = c->mode != MODE_DIRECT;
    struct arithmetic own = arithmetic_of_formats(c->formats);
    double elements = (double)shape_size(layer->output_shape);
    operations_of_convolution(operations, &c->shape, mls ? &own : NULL, layer->inputs[0] && layer->inputs[0]->output_nonnegative);
    if (c->normalize) operations_of_batch_normalization(operations, elements, c->shape.out_channels);
    operations_of_activation(operations, c->activation, elements, !c->normalize);
}

const struct layer_type convolutional_layer_type = {
    .name = "convolutional", .alias = "conv", .properties = LAYER_TAKES_MLS | LAYER_HAS_PARTS, .help = "convolution, with batch normalization and activation",
    .options = options, .settings_size = sizeof(struct convolutional_settings),
    .create = create, .forward = forward, .backward = backward, .destroy = destroy, .operations = operations, .describe = describe,
};
