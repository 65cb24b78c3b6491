// [convolutional]: z = conv(w, x); with batch_normalize=1 y = activation(scale * norm(z) + bias), otherwise
// y = activation(z + bias). The three convolutions of training run in one of these ways, chosen when the layer is made:
//
//   packed      MLS integers, fast kernels
//   direct      mls=0: fp32, fast kernels
//   reference   MLS integers, plain C: shapes that the fast kernels do not take
//   rounded     MLS formats whose integers do not fit 8 bits, other formats, or some operands left in fp32
//               (network->plain_operands): operands rounded to the values of the format, then as direct
//   simulated   the same for shapes that the direct kernels do not take: CBLAS
//   blas        mls=0, shapes that the direct kernels do not take (convolution groups of several channels): fp32, CBLAS
//
// Reference, simulated and blas work on planar copies of the maps. The others read sources (kernels/source.h): the batch
// normalization and activation before them are done as they read.
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "kernels/direct.h"
#include "kernels/packed.h"
#include "kernels/rounded.h"
#include "mls/presets.h"
#include "mls/simulate.h"
#include "net/batch_normalization.h"
#include "net/float_convolution.h"
#include "net/operations.h"
#include "net/planar.h"

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

enum mode { MODE_DIRECT, MODE_PACKED, MODE_ROUNDED, MODE_REFERENCE, MODE_SIMULATED, MODE_BLAS };

struct convolutional {
    enum mode mode;
    const char *reason; // why not MODE_PACKED
    struct convolution_shape shape;
    struct mls_format formats[3];
    enum activation activation;
    enum piecewise piecewise; // of the activation, if it is that
    bool normalize;
    struct parameter *weights, *bias;
    struct batch_normalization norm;
    float *error_bounds;    // [images][blocked filters]; MODE_PACKED with batch normalization
    struct packed_convolution *packed;
    struct direct_convolution *direct;
    float *rounded_input, *rounded_errors; // MODE_ROUNDED: maps
    // Planar modes:
    float *planar_input, *planar_output; // x; z and the errors
    float *planar_input_error;
    float *partial;                      // of the fp32 weight gradient
    struct mls_tensor quantized[3];      // reference, by operand
    float *dequantized[3];               // simulated; of weights also MODE_ROUNDED
    float *scratch_gradient;             // reference
};

static bool reads_sources(const struct convolutional *c)
{
    return c->mode == MODE_PACKED || c->mode == MODE_DIRECT || c->mode == MODE_ROUNDED;
}

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
    c->mode = direct_supports(&c->shape) ? MODE_DIRECT : MODE_BLAS;
    layer->low_bit = mls;
    unsigned plain = layer->network->plain_operands & MLS_ALL_OPERANDS;
    if (!mls || plain == MLS_ALL_OPERANDS) return true;
    bool fits = mls_fits_int8(&c->formats[0]) && mls_fits_int8(&c->formats[1]) && mls_fits_int8(&c->formats[2]);
    c->mode = !fits || plain                                        ? c->mode == MODE_DIRECT ? MODE_ROUNDED : MODE_SIMULATED
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
    struct network *network = layer->network;
    size_t images = (size_t)network->max_images;
    size_t sizes[3] = {c->weights->count, images * shape_size(layer->input_shape), images * shape_size(layer->output_shape)};
    bool good = (c->planar_input = layer_allocate(layer, sizes[1], sizeof(float), diagnostics)) != NULL &&
                (c->planar_output = layer_allocate(layer, sizes[2], sizeof(float), diagnostics)) != NULL;
    if (good && network->for_training)
        good = (c->planar_input_error = layer_allocate(layer, sizes[1], sizeof(float), diagnostics)) != NULL;
    if (good && c->mode == MODE_REFERENCE)
        return (c->scratch_gradient = layer_allocate(layer, sizes[0], sizeof(float), diagnostics)) != NULL;
    for (int k = 0; k < 3 && good && c->mode == MODE_SIMULATED; k++)
        good = (c->dequantized[k] = layer_allocate(layer, sizes[k], sizeof(float), diagnostics)) != NULL;
    network_request_scratch(network, float_convolution_scratch(&c->shape));
    if (good && network->for_training)
        good = (c->partial = layer_allocate(layer, float_convolution_partial(&c->shape), sizeof(float), diagnostics)) != NULL;
    return good;
}

static bool create_rounded_maps(struct layer *layer, struct convolutional *c, struct diagnostics *diagnostics)
{
    size_t images = (size_t)layer->network->max_images;
    c->dequantized[MLS_WEIGHT] = layer_allocate(layer, c->weights->count, sizeof(float), diagnostics);
    c->rounded_input = layer_allocate(layer, images * shape_stored(layer->input_shape), sizeof(float), diagnostics);
    if (layer->network->for_training)
        c->rounded_errors = layer_allocate(layer, images * shape_stored(layer->output_shape), sizeof(float), diagnostics);
    return c->dequantized[MLS_WEIGHT] && c->rounded_input && (c->rounded_errors || !layer->network->for_training);
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
    if (!convolution_shape_complete(&c->shape, &error)) {
        diagnostics_add(diagnostics, layer->section->line, layer->section->name, "%s", error.message);
        return false;
    }
    layer->output_shape = (struct shape){settings->filters, c->shape.out_height, c->shape.out_width};
    layer->multiply_adds = convolution_multiply_adds(&c->shape) / c->shape.images;
    if (!choose_mode(layer, c, settings, diagnostics) || !add_parameters(layer, c, diagnostics) || !create_mode(layer, c, diagnostics))
        return false;
    set_abilities(layer, c);
    if (!c->normalize) return true;
    layer->wants_raw = true; // z
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
    for (int k = 0; k < 3; k++) memory_release(c->dequantized[k]);
    memory_release(c->rounded_input);
    memory_release(c->rounded_errors);
    memory_release(c->planar_input);
    memory_release(c->planar_output);
    memory_release(c->planar_input_error);
    memory_release(c->scratch_gradient);
    memory_release(c->error_bounds);
    memory_release(c->partial);
    memory_release(c);
}

static void describe(const struct layer *layer, char *text, size_t size)
{
    const struct convolutional *c = layer->state;
    char formats[128] = "fp32";
    static const char *const suffix[] = {"", "", " simulated", " plain C", " simulated", ""};
    if (c->mode != MODE_DIRECT && c->mode != MODE_BLAS) mls_formats_describe(c->formats, formats, sizeof formats);
    snprintf(text, size, "%dx%d/%d%s %s%s", c->shape.kernel_height, c->shape.kernel_width, c->shape.stride,
             c->shape.groups > 1 ? " grouped" : "", formats, suffix[c->mode]);
}

// ---------------------------------------------------------------------------------------------
// Sources and sums

static uint64_t key_of(const struct layer *layer, const struct pass *pass, enum mls_operand operand)
{
    uint64_t key = random_key(pass->seed, pass->step, (uint64_t)layer->index, (uint64_t)operand);
    return pass->rounding ? key ^ random_mix64(pass->rounding) : key;
}

static struct source input_source(const struct layer *layer)
{
    if (layer->reads_planar) return (struct source){.kind = SOURCE_PLAIN, .x = layer->network->input};
    return layer_input_source(layer, 0);
}

static const float *known_maximum(const struct layer *layer)
{
    const struct layer *input = layer->inputs[0];
    return input && input->output_maximum_known ? input->output_maximum : NULL;
}

// The errors dL/dz, where backward did not write them to delta.
static struct source error_source(const struct layer *layer)
{
    const struct convolutional *c = layer->state;
    if (layer->keeps_delta) return batch_normalization_error_source(&c->norm, layer->raw, layer->delta, c->piecewise);
    return (struct source){.kind = SOURCE_PLAIN, .x = layer->delta};
}

static void operand_dims(const struct convolutional *c, const struct pass *pass, enum mls_operand operand, int dims[4])
{
    const struct convolution_shape *s = &c->shape;
    const int all[3][4] = {{s->out_channels, s->in_channels / s->groups, s->kernel_height, s->kernel_width},
                           {pass->images, s->in_channels, s->in_height, s->in_width},
                           {pass->images, s->out_channels, s->out_height, s->out_width}};
    memcpy(dims, all[operand], sizeof all[operand]);
}

// Lets the network's observer, if there is one, see an operand before it is quantized.
static bool show(const struct layer *layer, const struct pass *pass, enum mls_operand operand, struct error *error)
{
    const struct convolutional *c = layer->state;
    if (!layer->network->observer || c->mode == MODE_DIRECT || c->mode == MODE_BLAS) return true;
    struct observation seen = {.layer = layer, .operand = operand, .format = c->formats[operand], .convolution_groups = c->shape.groups,
                               .nonnegative = operand == MLS_ACTIVATION && layer->inputs[0] && layer->inputs[0]->output_nonnegative,
                               .tensor_key = key_of(layer, pass, operand), .values = c->weights->value};
    operand_dims(c, pass, operand, seen.dims);
    struct source map = operand == MLS_ERROR ? error_source(layer) : input_source(layer);
    return observer_show(layer->network->observer, &seen, operand == MLS_WEIGHT ? NULL : &map, error);
}

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

// Ends a part of the step: `inputs` arrays of the input's size and `outputs` of the output's were read or written, 4 bytes
// an element.
static void lap(const struct layer *layer, const struct pass *pass, enum profile_part part, double inputs, double outputs)
{
    const struct convolutional *c = layer->state;
    bool convolution = part == PART_CONVOLVE || part == PART_WEIGHT_GRADIENT || part == PART_INPUT_ERROR;
    double bytes = 4 * pass->images * (inputs * (double)shape_size(layer->input_shape) + outputs * (double)shape_size(layer->output_shape));
    profile_lap(layer->network->profile, layer->index, part, convolution ? layer->multiply_adds * pass->images : 0, bytes,
                c->mode == MODE_PACKED);
}

// Arrays that are read for a source.
static double arrays_of(const struct source *source)
{
    return source->kind == SOURCE_ERROR ? 2 : 1;
}

// ---------------------------------------------------------------------------------------------
// Packed

static bool forward_packed(struct layer *layer, const struct pass *pass, float *z, struct image_done done, struct error *error)
{
    struct convolutional *c = layer->state;
    packed_use_workspace(c->packed, layer->network->workspace);
    bool evaluation = !pass->training;
    struct packed_input input = {.source = input_source(layer), .maxima = known_maximum(layer), .tensor_key = key_of(layer, pass, MLS_ACTIVATION)};
    if (!pass->same_weights && !packed_quantize_weights(c->packed, pass->pool, c->weights->value, key_of(layer, pass, MLS_WEIGHT), evaluation, error))
        return false;
    lap(layer, pass, PART_QUANTIZE_WEIGHTS, 0, 0);
    if (!packed_forward(c->packed, pass->pool, pass->images, &input, evaluation, z, done, error)) return false;
    lap(layer, pass, PART_CONVOLVE, 0.25, 1);
    return true;
}

static bool backward_packed(struct layer *layer, const struct pass *pass, struct delta_target target, struct error *error)
{
    struct convolutional *c = layer->state;
    struct packed_input errors = {.source = error_source(layer), .tensor_key = key_of(layer, pass, MLS_ERROR)};
    if (errors.source.kind == SOURCE_ERROR) {
        batch_normalization_error_bounds(&c->norm, pass->images, c->error_bounds);
        errors.bounds = c->error_bounds;
    }
    if (!packed_input_error(c->packed, pass->pool, pass->images, &errors, target.values, target.accumulate, target.done, error)) return false;
    lap(layer, pass, PART_INPUT_ERROR, target.accumulate ? 2 : 1, arrays_of(&errors.source) + 0.5);
    packed_weight_gradient(c->packed, pass->pool, pass->images, c->weights->gradient);
    lap(layer, pass, PART_WEIGHT_GRADIENT, 0.25, 0.25);
    return true;
}

// ---------------------------------------------------------------------------------------------
// Direct

static bool forward_direct(struct layer *layer, const struct pass *pass, float *z, struct image_done done, struct error *error)
{
    struct convolutional *c = layer->state;
    struct source input = input_source(layer);
    if (!direct_forward(c->direct, pass->pool, pass->images, c->weights->value, &input, z, done, error)) return false;
    lap(layer, pass, PART_CONVOLVE, 1, 1);
    return true;
}

static bool backward_direct(struct layer *layer, const struct pass *pass, struct delta_target target)
{
    struct convolutional *c = layer->state;
    struct source input = input_source(layer), errors = error_source(layer);
    direct_weight_gradient(c->direct, pass->pool, pass->images, &input, &errors, c->weights->gradient);
    lap(layer, pass, PART_WEIGHT_GRADIENT, 1, arrays_of(&errors));
    if (!target.values) return true;
    direct_input_error(c->direct, pass->pool, pass->images, &errors, target.values, target.accumulate, target.done);
    lap(layer, pass, PART_INPUT_ERROR, target.accumulate ? 2 : 1, arrays_of(&errors));
    return true;
}

// ---------------------------------------------------------------------------------------------
// Planar

static struct float_convolution float_convolution_of(const struct layer *layer, const struct pass *pass)
{
    const struct convolutional *c = layer->state;
    struct float_convolution f = {.shape = c->shape, .pool = pass->pool, .scratch = layer->network->scratch,
                                  .scratch_bytes = layer->network->scratch_bytes, .partial = c->partial};
    f.shape.images = pass->images;
    return f;
}

static const char *const operand_prefixes[] = {"weights: ", "activations: ", "errors: "};

// To `quantized`, or where the layer computes in fp32 `dequantized`.
static bool quantize(struct layer *layer, const struct pass *pass, enum mls_operand operand, const float *values, struct error *error)
{
    struct convolutional *c = layer->state;
    struct mls_format format = c->formats[operand];
    if (!pass->training) format.rounding = MLS_NEAREST;
    int dims[4];
    operand_dims(c, pass, operand, dims);
    if (layer->network->plain_operands >> operand & 1) {
        memcpy(c->dequantized[operand], values, (size_t)dims[0] * (size_t)dims[1] * (size_t)dims[2] * (size_t)dims[3] * sizeof *values);
        return true;
    }
    mls_tensor_release(&c->quantized[operand]);
    uint64_t key = key_of(layer, pass, operand);
    bool good = c->mode != MODE_REFERENCE
                    ? mls_simulate(&format, operand, values, dims, c->shape.groups, key, pass->pool, c->dequantized[operand], error)
                    : mls_quantize(&format, operand, values, dims, c->shape.groups, key, &c->quantized[operand], error);
    return good || error_prefix(error, "%s", operand_prefixes[operand]);
}

static bool forward_planar(struct layer *layer, const struct pass *pass, float *z, struct error *error)
{
    struct convolutional *c = layer->state;
    struct float_convolution f = float_convolution_of(layer, pass);
    planar_from_map(pass, layer_input(layer, 0), layer->input_shape, c->planar_input);
    if (c->mode != MODE_BLAS && ((!pass->same_weights && !quantize(layer, pass, MLS_WEIGHT, c->weights->value, error)) ||
                                 !quantize(layer, pass, MLS_ACTIVATION, c->planar_input, error)))
        return false;
    if (c->mode == MODE_BLAS)
        float_convolve_forward(&f, c->weights->value, c->planar_input, c->planar_output);
    else if (c->mode == MODE_SIMULATED)
        float_convolve_forward(&f, c->dequantized[MLS_WEIGHT], c->dequantized[MLS_ACTIVATION], c->planar_output);
    else
        mls_convolution_forward(&f.shape, &c->quantized[MLS_WEIGHT], &c->quantized[MLS_ACTIVATION], c->planar_output);
    planar_to_map(pass, c->planar_output, layer->output_shape, z, false);
    lap(layer, pass, PART_CONVOLVE, 1, 1);
    return true;
}

static void backward_reference(struct layer *layer, const struct pass *pass, bool input_error_wanted)
{
    struct convolutional *c = layer->state;
    struct convolution_shape shape = c->shape;
    shape.images = pass->images;
    mls_convolution_weight_gradient(&shape, &c->quantized[MLS_ACTIVATION], &c->quantized[MLS_ERROR], c->scratch_gradient);
    for (size_t i = 0; i < c->weights->count; i++) c->weights->gradient[i] += c->scratch_gradient[i];
    if (input_error_wanted)
        mls_convolution_input_error(&shape, &c->quantized[MLS_WEIGHT], &c->quantized[MLS_ERROR], c->planar_input_error);
}

static bool backward_planar(struct layer *layer, const struct pass *pass, struct delta_target target, struct error *error)
{
    struct convolutional *c = layer->state;
    struct float_convolution f = float_convolution_of(layer, pass);
    const float *weights = c->weights->value, *input = c->planar_input, *errors = c->planar_output;
    planar_from_map(pass, layer->delta, layer->output_shape, c->planar_output);
    if (c->mode != MODE_BLAS && !quantize(layer, pass, MLS_ERROR, c->planar_output, error)) return false;
    if (c->mode == MODE_SIMULATED) {
        weights = c->dequantized[MLS_WEIGHT];
        input = c->dequantized[MLS_ACTIVATION];
        errors = c->dequantized[MLS_ERROR];
    }
    if (c->mode == MODE_REFERENCE) {
        backward_reference(layer, pass, target.values);
    } else {
        float_convolve_weight_gradient(&f, input, errors, c->weights->gradient);
        if (target.values) float_convolve_input_error(&f, weights, errors, c->planar_input_error, false);
    }
    lap(layer, pass, PART_WEIGHT_GRADIENT, 1, 1);
    if (target.values) planar_to_map(pass, c->planar_input_error, layer->input_shape, target.values, target.accumulate);
    for (int image = 0; target.done.function && image < pass->images; image++) target.done.function(target.done.context, image);
    return true;
}

// ---------------------------------------------------------------------------------------------
// Rounded

// The map rounded, or as it is where its operand is left in fp32; *rounded is what the direct kernels read.
static bool round_map(struct layer *layer, const struct pass *pass, enum mls_operand operand, const struct source *map, float *values,
                      struct source *rounded, struct error *error)
{
    const struct convolutional *c = layer->state;
    struct mls_format format = c->formats[operand];
    if (!pass->training) format.rounding = MLS_NEAREST;
    struct rounded_request request = {.format = layer->network->plain_operands >> operand & 1 ? NULL : &format, .operand = operand,
                                      .convolution_groups = c->shape.groups, .tensor_key = key_of(layer, pass, operand),
                                      .maxima = operand == MLS_ACTIVATION ? known_maximum(layer) : NULL};
    operand_dims(c, pass, operand, request.dims);
    *rounded = (struct source){.kind = SOURCE_PLAIN, .x = values};
    return rounded_map(&request, pass->pool, map, values, error) || error_prefix(error, "%s", operand_prefixes[operand]);
}

static bool forward_rounded(struct layer *layer, const struct pass *pass, float *z, struct image_done done, struct error *error)
{
    struct convolutional *c = layer->state;
    struct source input = input_source(layer), rounded;
    if (!quantize(layer, pass, MLS_WEIGHT, c->weights->value, error)) return false;
    lap(layer, pass, PART_QUANTIZE_WEIGHTS, 0, 0);
    if (!round_map(layer, pass, MLS_ACTIVATION, &input, c->rounded_input, &rounded, error) ||
        !direct_forward(c->direct, pass->pool, pass->images, c->dequantized[MLS_WEIGHT], &rounded, z, done, error))
        return false;
    lap(layer, pass, PART_CONVOLVE, 3, 1);
    return true;
}

static bool backward_rounded(struct layer *layer, const struct pass *pass, struct delta_target target, struct error *error)
{
    struct convolutional *c = layer->state;
    struct source input = {.kind = SOURCE_PLAIN, .x = c->rounded_input}, errors = error_source(layer), rounded;
    if (!round_map(layer, pass, MLS_ERROR, &errors, c->rounded_errors, &rounded, error)) return false;
    direct_weight_gradient(c->direct, pass->pool, pass->images, &input, &rounded, c->weights->gradient);
    lap(layer, pass, PART_WEIGHT_GRADIENT, 1, arrays_of(&errors) + 2);
    if (!target.values) return true;
    direct_input_error(c->direct, pass->pool, pass->images, &rounded, target.values, target.accumulate, target.done);
    lap(layer, pass, PART_INPUT_ERROR, target.accumulate ? 2 : 1, 1);
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
    lap(layer, pass, PART_NORMALIZE, 0, layer->output ? 2 : 0);
    return true;
}

static bool forward(struct layer *layer, const struct pass *pass, struct error *error)
{
    struct convolutional *c = layer->state;
    float *z = c->normalize ? layer->raw : layer->output;
    struct image_done done = {.function = c->normalize ? sum_image : NULL, .context = layer};
    if (layer->output_follower && !layer->output && !pass->training) begin_followed(layer, &done);
    if (!show(layer, pass, MLS_WEIGHT, error) || !show(layer, pass, MLS_ACTIVATION, error)) return false;
    bool good = c->mode == MODE_PACKED    ? forward_packed(layer, pass, z, done, error)
                : c->mode == MODE_DIRECT  ? forward_direct(layer, pass, z, done, error)
                : c->mode == MODE_ROUNDED ? forward_rounded(layer, pass, z, done, error)
                                          : forward_planar(layer, pass, z, error);
    return good && finish_forward(layer, pass, reads_sources(c), error);
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
        lap(layer, pass, PART_NORMALIZE_BACKWARD, 0, layer->delta_seen ? 0 : 2);
        return batch_normalization_error_statistics(&c->norm, pass->images, error);
    }
    bool good = batch_normalization_backward(&c->norm, pass, layer->raw, layer->output, c->activation, layer->delta, layer->delta, false, error);
    lap(layer, pass, PART_NORMALIZE_BACKWARD, 0, 5);
    return good;
}

static bool backward(struct layer *layer, const struct pass *pass, struct error *error)
{
    struct convolutional *c = layer->state;
    if (!begin_backward(layer, pass, error) || !show(layer, pass, MLS_ERROR, error)) return false;
    struct delta_target target = layer_delta_target(layer, 0);
    if (c->mode == MODE_PACKED) return backward_packed(layer, pass, target, error);
    if (c->mode == MODE_DIRECT) return backward_direct(layer, pass, target);
    if (c->mode == MODE_ROUNDED) return backward_rounded(layer, pass, target, error);
    return backward_planar(layer, pass, target, error);
}

static void operations(const struct layer *layer, struct operations *operations)
{
    const struct convolutional *c = layer->state;
    bool mls = c->mode != MODE_DIRECT && c->mode != MODE_BLAS;
    struct arithmetic own = arithmetic_of_formats(c->formats);
    double elements = (double)shape_size(layer->output_shape);
    operations_of_convolution(operations, &c->shape, mls ? &own : NULL, layer->inputs[0] && layer->inputs[0]->output_nonnegative);
    if (c->normalize) operations_of_batch_normalization(operations, elements, c->shape.out_channels);
    operations_of_activation(operations, c->activation, elements, !c->normalize);
}

const struct layer_type convolutional_layer_type = {
    .name = "convolutional", .alias = "conv", .help = "convolution, with batch normalization and activation",
    .options = options, .settings_size = sizeof(struct convolutional_settings),
    .create = create, .forward = forward, .backward = backward, .destroy = destroy, .operations = operations, .describe = describe,
};
