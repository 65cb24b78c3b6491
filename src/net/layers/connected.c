// [connected]: y = activation(W x + b), W [outputs][inputs], in fp32.
#include <math.h>

#include "base/memory.h"
#include "base/random.h"
#include "kernels/fully_connected.h"
#include "net/batch_normalization.h"
#include "net/operations.h"
#include "net/planar.h"

struct connected_settings {
    int output, activation, batch_normalize;
    float initial_deviation;
};

#define AT(field) offsetof(struct connected_settings, field)

// clang-format off
static const struct option_description options[] = {
    {"output", OPTION_INT, AT(output), 1, 1000000, "1", NULL, "number of outputs"},
    {"activation", OPTION_CHOICE, AT(activation), 0, 0, "logistic", ACTIVATION_NAMES, "activation function"},
    {"batch_normalize", OPTION_BOOL, AT(batch_normalize), 0, 1, "0", NULL, "1: batch normalization before the activation"},
    {"initial_deviation", OPTION_FLOAT, AT(initial_deviation), 0, 100, NULL, NULL,
     "standard deviation of the initial weights, biases 0; not given: all uniform within 1/sqrt(inputs)"},
    {0},
};
// clang-format on

struct connected {
    int inputs, outputs;
    enum activation activation;
    bool normalize;
    struct parameter *weights, *bias;
    struct batch_normalization norm;
    float *raw;   // before batch normalization
    float *input; // [images][inputs] in the order of the weights, [channels][pixels]; NULL where the map has it so
    float *input_error;
};

// Uniform within 1 / sqrt(inputs), weights and biases, which is PyTorch's nn.Linear; or normal weights and no biases, as VGG and
// MobileNetV2 of torchvision.
static void initialize(const struct layer *layer, const struct connected *c)
{
    float bound = 1 / sqrtf((float)c->inputs), deviation = ((const struct connected_settings *)layer->settings)->initial_deviation;
    struct random_stream stream = {random_key(layer->network->seed, 1, (uint64_t)layer->index, 0), 0};
    for (size_t i = 0; i < c->weights->count; i++)
        c->weights->value[i] = isnan(deviation) ? bound * (2 * random_uniform(&stream) - 1) : deviation * random_normal(&stream);
    for (int i = 0; c->bias && isnan(deviation) && i < c->outputs; i++) c->bias->value[i] = bound * (2 * random_uniform(&stream) - 1);
}

static bool create(struct layer *layer, struct diagnostics *diagnostics)
{
    const struct connected_settings *settings = layer->settings;
    struct connected *c = layer->state = layer_allocate(layer, 1, sizeof *c, diagnostics);
    if (!c) return false;
    size_t inputs = shape_size(layer->input_shape);
    if (inputs > 1 << 28) {
        diagnostics_add(diagnostics, layer->section->line, layer->section->name, "%zu inputs: expected at most 2^28", inputs);
        return false;
    }
    c->inputs = (int)inputs;
    c->outputs = settings->output;
    c->activation = (enum activation)settings->activation;
    c->normalize = settings->batch_normalize;
    layer->output_shape = (struct shape){c->outputs, 1, 1};
    layer->output_nonnegative = activation_is_nonnegative(c->activation);
    layer->multiply_adds = (double)c->inputs * c->outputs;
    if (shape_pixels(layer->input_shape) > 1) {
        size_t count = (size_t)layer->network->max_images * inputs;
        c->input = layer_allocate(layer, count, sizeof(float), diagnostics);
        c->input_error = layer->network->for_training ? layer_allocate(layer, count, sizeof(float), diagnostics) : NULL;
        if (!c->input || (layer->network->for_training && !c->input_error)) return false;
    }
    const int dims[2] = {c->outputs, c->inputs};
    c->weights = layer_add_parameter(layer, "connected.weight", 2, dims, true, true, diagnostics);
    if (!c->weights) return false;
    if (!c->normalize && !(c->bias = layer_add_parameter(layer, "connected.bias", 1, dims, true, false, diagnostics))) return false;
    initialize(layer, c);
    if (!c->normalize) return true;
    c->raw = layer_allocate(layer, (size_t)layer->network->max_images * blocked_channels(c->outputs), sizeof(float), diagnostics);
    return c->raw && batch_normalization_create(&c->norm, layer, c->outputs, 1, diagnostics);
}

static struct fully_connected_shape shape_of(const struct layer *layer, int images)
{
    const struct connected *c = layer->state;
    return (struct fully_connected_shape){.images = images, .inputs = c->inputs, .outputs = c->outputs,
                                          .input_stride = c->input ? (size_t)c->inputs : shape_stored(layer->input_shape),
                                          .output_stride = blocked_channels(c->outputs)};
}

// The input as rows of numbers.
static const float *input_rows(const struct layer *layer, const struct pass *pass)
{
    const struct connected *c = layer->state;
    if (!c->input) return layer_input(layer, 0);
    planar_from_map(pass, layer_input(layer, 0), layer->input_shape, c->input);
    return c->input;
}

static bool forward(struct layer *layer, const struct pass *pass, struct error *error)
{
    struct connected *c = layer->state;
    float *z = c->normalize ? c->raw : layer->output;
    const struct fully_connected_shape shape = shape_of(layer, pass->images);
    fully_connected_forward(&shape, pass->pool, c->weights->value, input_rows(layer, pass), z);
    if (c->normalize)
        return batch_normalization_forward(&c->norm, pass, z, false, c->activation, layer->output, NULL, error);
    for (int n = 0; n < pass->images; n++)
        for (int i = 0; i < c->outputs; i++) z[(size_t)n * shape.output_stride + (size_t)i] += c->bias->value[i];
    activation_apply(c->activation, z, (size_t)pass->images * shape.output_stride);
    return true;
}

static void pass_error_on(struct layer *layer, const struct pass *pass, const struct fully_connected_shape *shape)
{
    struct connected *c = layer->state;
    bool accumulate = false;
    float *delta = layer_input_delta(layer, 0, &accumulate);
    if (!delta) return;
    fully_connected_input_error(shape, pass->pool, c->weights->value, layer->delta, c->input ? c->input_error : delta,
                                accumulate && !c->input);
    if (c->input) planar_to_map(pass, c->input_error, layer->input_shape, delta, accumulate);
}

static bool backward(struct layer *layer, const struct pass *pass, struct error *error)
{
    struct connected *c = layer->state;
    const struct fully_connected_shape shape = shape_of(layer, pass->images);
    const size_t stored = shape.output_stride;
    if (c->normalize) {
        if (!batch_normalization_backward(&c->norm, pass, c->raw, layer->output, c->activation, layer->delta, layer->delta, false, error))
            return false;
    } else {
        activation_gradient(c->activation, layer->output, layer->delta, (size_t)pass->images * stored);
        for (int n = 0; n < pass->images; n++)
            for (int i = 0; i < c->outputs; i++) c->bias->gradient[i] += layer->delta[(size_t)n * stored + (size_t)i];
    }
    // The rows of the forward pass are still there.
    fully_connected_weight_gradient(&shape, pass->pool, c->input ? c->input : layer_input(layer, 0), layer->delta, c->weights->gradient);
    pass_error_on(layer, pass, &shape);
    return true;
}

static void destroy(struct layer *layer)
{
    struct connected *c = layer->state;
    batch_normalization_destroy(&c->norm);
    memory_release(c->raw);
    memory_release(c->input);
    memory_release(c->input_error);
    memory_release(c);
}

static void operations(const struct layer *layer, struct operations *operations)
{
    const struct connected *c = layer->state;
    operations_of_float_products(operations, (double)c->inputs * c->outputs, (double)c->inputs * c->outputs, c->inputs, c->outputs);
    if (c->normalize) operations_of_batch_normalization(operations, c->outputs, c->outputs);
    operations_of_activation(operations, c->activation, c->outputs, !c->normalize);
}

const struct layer_type connected_layer_type = {
    .name = "connected", .alias = "conn", .help = "fully connected layer, fp32", .options = options,
    .settings_size = sizeof(struct connected_settings),
    .create = create, .forward = forward, .backward = backward, .destroy = destroy, .operations = operations,
};
