// The ways in which [convolutional] computes (convolutional.h).
#include <string.h>

#include "kernels/rounded.h"
#include "mls/presets.h"
#include "mls/simulate.h"
#include "net/layers/convolutional.h"
#include "net/observer.h"
#include "net/planar.h"

static uint64_t key_of(const struct layer *layer, const struct pass *pass, enum mls_operand operand)
{
    uint64_t step = operand == MLS_WEIGHT ? pass->step - pass->part : pass->step;
    uint64_t key = random_key(pass->seed, step, (uint64_t)layer->index, (uint64_t)operand);
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

bool convolutional_show(const struct layer *layer, const struct pass *pass, enum mls_operand operand, struct error *error)
{
    const struct convolutional *c = layer->state;
    if (!layer->network->observer || c->mode == MODE_DIRECT) return true;
    struct observation seen = {.layer = layer, .operand = operand, .format = c->formats[operand], .convolution_groups = c->shape.groups,
                               .nonnegative = operand == MLS_ACTIVATION && layer->inputs[0] && layer->inputs[0]->output_nonnegative,
                               .tensor_key = key_of(layer, pass, operand), .values = c->weights->value};
    operand_dims(c, pass, operand, seen.dims);
    struct source map = operand == MLS_ERROR ? error_source(layer) : input_source(layer);
    return observer_show(layer->network->observer, &seen, operand == MLS_WEIGHT ? NULL : &map, error);
}

// How many convolutions a part computes.
static int convolutions_of(const struct layer *layer, enum profile_part part)
{
    const bool passes_error = layer->inputs[0] && layer->inputs[0]->needs_delta;
    switch (part) {
    case PART_CONVOLVE:
    case PART_WEIGHT_GRADIENT: return 1;
    case PART_INPUT_ERROR: return passes_error;
    case PART_ERROR_AND_GRADIENT: return passes_error + 1;
    default: return 0;
    }
}

void convolutional_lap(const struct layer *layer, const struct pass *pass, enum profile_part part, double inputs, double outputs)
{
    const struct convolutional *c = layer->state;
    double bytes = 4 * pass->images * (inputs * (double)shape_size(layer->input_shape) + outputs * (double)shape_size(layer->output_shape));
    profile_lap(layer->network->profile, layer->index, part, convolutions_of(layer, part) * layer->multiply_adds * pass->images, bytes,
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
    convolutional_lap(layer, pass, PART_QUANTIZE_WEIGHTS, 0, 0);
    if (!packed_forward(c->packed, pass->pool, pass->images, &input, evaluation, z, done, error)) return false;
    convolutional_lap(layer, pass, PART_CONVOLVE, 0.25, 1);
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
    const bool by_image = packed_gradient_by_image(c->packed);
    const double inputs = target.accumulate ? 2 : 1, outputs = arrays_of(&errors.source) + 0.5;
    convolutional_lap(layer, pass, by_image ? PART_ERROR_AND_GRADIENT : PART_INPUT_ERROR, inputs, outputs);
    packed_weight_gradient(c->packed, pass->pool, pass->images, c->weights->gradient);
    if (by_image)
        convolutional_lap(layer, pass, PART_ADD_GRADIENTS, 0, 0);
    else
        convolutional_lap(layer, pass, PART_WEIGHT_GRADIENT, 0.25, 0.25);
    return true;
}

// ---------------------------------------------------------------------------------------------
// Direct

static bool forward_direct(struct layer *layer, const struct pass *pass, float *z, struct image_done done, struct error *error)
{
    struct convolutional *c = layer->state;
    struct source input = input_source(layer);
    if (!direct_forward(c->direct, pass->pool, pass->images, c->weights->value, &input, z, done, error)) return false;
    convolutional_lap(layer, pass, PART_CONVOLVE, 1, 1);
    return true;
}

static bool backward_direct(struct layer *layer, const struct pass *pass, struct delta_target target)
{
    struct convolutional *c = layer->state;
    struct source input = input_source(layer), errors = error_source(layer);
    direct_weight_gradient(c->direct, pass->pool, pass->images, &input, &errors, c->weights->gradient);
    convolutional_lap(layer, pass, PART_WEIGHT_GRADIENT, 1, arrays_of(&errors));
    if (!target.values) return true;
    direct_input_error(c->direct, pass->pool, pass->images, &errors, target.values, target.accumulate, target.done);
    convolutional_lap(layer, pass, PART_INPUT_ERROR, target.accumulate ? 2 : 1, arrays_of(&errors));
    return true;
}

// ---------------------------------------------------------------------------------------------
// Rounded

static const char *const operand_prefixes[] = {"weights: ", "activations: ", "errors: "};

// In evaluation all rounding is to nearest.
static struct mls_format format_of(const struct convolutional *c, const struct pass *pass, enum mls_operand operand)
{
    struct mls_format format = c->formats[operand];
    if (!pass->training) format.rounding = MLS_NEAREST;
    return format;
}

// The map rounded, or as it is where its operand is left in fp32; *rounded is what the direct kernels read.
static bool round_map(struct layer *layer, const struct pass *pass, enum mls_operand operand, const struct source *map, float *values,
                      struct source *rounded, struct error *error)
{
    const struct convolutional *c = layer->state;
    const struct mls_format format = format_of(c, pass, operand);
    struct rounded_request request = {.format = layer->network->plain_operands >> operand & 1 ? NULL : &format, .operand = operand,
                                      .convolution_groups = c->shape.groups, .tensor_key = key_of(layer, pass, operand),
                                      .maxima = operand == MLS_ACTIVATION ? known_maximum(layer) : NULL};
    operand_dims(c, pass, operand, request.dims);
    *rounded = (struct source){.kind = SOURCE_PLAIN, .x = values};
    return rounded_map(&request, pass->pool, map, values, error) || error_prefix(error, "%s", operand_prefixes[operand]);
}

static bool round_weights(struct layer *layer, const struct pass *pass, struct error *error)
{
    struct convolutional *c = layer->state;
    const struct mls_format format = format_of(c, pass, MLS_WEIGHT);
    int dims[4];
    operand_dims(c, pass, MLS_WEIGHT, dims);
    if (layer->network->plain_operands >> MLS_WEIGHT & 1) {
        memcpy(c->rounded_weights, c->weights->value, c->weights->count * sizeof(float));
        return true;
    }
    return mls_simulate(&format, MLS_WEIGHT, c->weights->value, dims, c->shape.groups, key_of(layer, pass, MLS_WEIGHT), pass->pool,
                        c->rounded_weights, error) ||
           error_prefix(error, "%s", operand_prefixes[MLS_WEIGHT]);
}

static bool forward_rounded(struct layer *layer, const struct pass *pass, float *z, struct image_done done, struct error *error)
{
    struct convolutional *c = layer->state;
    struct source input = input_source(layer), rounded;
    if (!pass->same_weights && !round_weights(layer, pass, error)) return false;
    convolutional_lap(layer, pass, PART_QUANTIZE_WEIGHTS, 0, 0);
    if (!round_map(layer, pass, MLS_ACTIVATION, &input, c->rounded_input, &rounded, error) ||
        !direct_forward(c->direct, pass->pool, pass->images, c->rounded_weights, &rounded, z, done, error))
        return false;
    convolutional_lap(layer, pass, PART_CONVOLVE, 3, 1);
    return true;
}

static bool backward_rounded(struct layer *layer, const struct pass *pass, struct delta_target target, struct error *error)
{
    struct convolutional *c = layer->state;
    struct source input = {.kind = SOURCE_PLAIN, .x = c->rounded_input}, errors = error_source(layer), rounded;
    if (!round_map(layer, pass, MLS_ERROR, &errors, c->rounded_errors, &rounded, error)) return false;
    direct_weight_gradient(c->direct, pass->pool, pass->images, &input, &rounded, c->weights->gradient);
    convolutional_lap(layer, pass, PART_WEIGHT_GRADIENT, 1, arrays_of(&errors) + 2);
    if (!target.values) return true;
    direct_input_error(c->direct, pass->pool, pass->images, &rounded, target.values, target.accumulate, target.done);
    convolutional_lap(layer, pass, PART_INPUT_ERROR, target.accumulate ? 2 : 1, 1);
    return true;
}

// ---------------------------------------------------------------------------------------------
// Reference

static struct convolution_shape shape_of(const struct convolutional *c, const struct pass *pass)
{
    struct convolution_shape shape = c->shape;
    shape.images = pass->images;
    return shape;
}

static bool quantize(struct layer *layer, const struct pass *pass, enum mls_operand operand, const float *values, struct error *error)
{
    struct convolutional *c = layer->state;
    const struct mls_format format = format_of(c, pass, operand);
    int dims[4];
    operand_dims(c, pass, operand, dims);
    mls_tensor_release(&c->quantized[operand]);
    return mls_quantize(&format, operand, values, dims, c->shape.groups, key_of(layer, pass, operand), &c->quantized[operand], error) ||
           error_prefix(error, "%s", operand_prefixes[operand]);
}

static bool forward_reference(struct layer *layer, const struct pass *pass, float *z, struct error *error)
{
    struct convolutional *c = layer->state;
    const struct convolution_shape shape = shape_of(c, pass);
    planar_from_map(pass, layer_input(layer, 0), layer->input_shape, c->planar_input);
    if ((!pass->same_weights && !quantize(layer, pass, MLS_WEIGHT, c->weights->value, error)) ||
        !quantize(layer, pass, MLS_ACTIVATION, c->planar_input, error))
        return false;
    mls_convolution_forward(&shape, &c->quantized[MLS_WEIGHT], &c->quantized[MLS_ACTIVATION], c->planar_output);
    planar_to_map(pass, c->planar_output, layer->output_shape, z, false);
    convolutional_lap(layer, pass, PART_CONVOLVE, 1, 1);
    return true;
}

static bool backward_reference(struct layer *layer, const struct pass *pass, struct delta_target target, struct error *error)
{
    struct convolutional *c = layer->state;
    const struct convolution_shape shape = shape_of(c, pass);
    planar_from_map(pass, layer->delta, layer->output_shape, c->planar_output);
    if (!quantize(layer, pass, MLS_ERROR, c->planar_output, error)) return false;
    mls_convolution_weight_gradient(&shape, &c->quantized[MLS_ACTIVATION], &c->quantized[MLS_ERROR], c->scratch_gradient);
    for (size_t i = 0; i < c->weights->count; i++) c->weights->gradient[i] += c->scratch_gradient[i];
    convolutional_lap(layer, pass, PART_WEIGHT_GRADIENT, 1, 1);
    if (target.values) {
        mls_convolution_input_error(&shape, &c->quantized[MLS_WEIGHT], &c->quantized[MLS_ERROR], c->planar_input_error);
        planar_to_map(pass, c->planar_input_error, layer->input_shape, target.values, target.accumulate);
        convolutional_lap(layer, pass, PART_INPUT_ERROR, 1, 1);
    }
    for (int image = 0; target.done.function && image < pass->images; image++) target.done.function(target.done.context, image);
    return true;
}

// ---------------------------------------------------------------------------------------------

bool convolutional_forward_mode(struct layer *layer, const struct pass *pass, float *z, struct image_done done, struct error *error)
{
    const struct convolutional *c = layer->state;
    if (c->mode == MODE_PACKED) return forward_packed(layer, pass, z, done, error);
    if (c->mode == MODE_DIRECT) return forward_direct(layer, pass, z, done, error);
    if (c->mode == MODE_ROUNDED) return forward_rounded(layer, pass, z, done, error);
    return forward_reference(layer, pass, z, error);
}

bool convolutional_backward_mode(struct layer *layer, const struct pass *pass, struct delta_target target, struct error *error)
{
    const struct convolutional *c = layer->state;
    if (c->mode == MODE_PACKED) return backward_packed(layer, pass, target, error);
    if (c->mode == MODE_DIRECT) return backward_direct(layer, pass, target);
    if (c->mode == MODE_ROUNDED) return backward_rounded(layer, pass, target, error);
    return backward_reference(layer, pass, target, error);
}
