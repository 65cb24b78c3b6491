// [cost]: after a [softmax] it only passes on what that computed (Darknet's files end so); elsewhere type=sse is
// the sum of squared differences from the one-hot label.
#include <string.h>

#include "net/operations.h"

struct cost_settings {
    int type;
};

static const struct option_description options[] = {
    {"type", OPTION_CHOICE, offsetof(struct cost_settings, type), 0, 0, "sse", "sse", "sse: squared error against the one-hot label"},
    {"scale", OPTION_IGNORED, 0, 0, 0, NULL, NULL, "accepted for Darknet's files; without effect"},
    {0},
};

static bool follows_softmax(const struct layer *layer)
{
    return layer->inputs[0] && strcmp(layer->inputs[0]->type->name, "softmax") == 0;
}

static bool create(struct layer *layer, struct diagnostics *diagnostics)
{
    (void)diagnostics;
    layer->output_shape = layer->input_shape;
    return true;
}

// Value i (in the order [channels][pixels]) of an image.
static size_t value_at(struct shape shape, size_t image, size_t i)
{
    size_t pixels = shape_pixels(shape);
    return image * shape_stored(shape) + blocked_at(pixels, (int)(i / pixels), i % pixels);
}

static bool forward(struct layer *layer, const struct pass *pass, struct error *error)
{
    (void)error;
    struct shape shape = layer->output_shape;
    const float *x = layer_input(layer, 0);
    memcpy(layer->output, x, (size_t)pass->images * shape_stored(shape) * sizeof(float));
    if (!pass->labels || follows_softmax(layer)) return true;
    for (size_t n = 0; n < (size_t)pass->images; n++)
        for (size_t i = 0; i < shape_size(shape); i++) {
            double difference = (double)x[value_at(shape, n, i)] - ((size_t)pass->labels[n] == i);
            layer->network->loss += difference * difference;
        }
    return true;
}

static bool backward(struct layer *layer, const struct pass *pass, struct error *error)
{
    (void)error;
    if (follows_softmax(layer)) return true;
    struct shape shape = layer->output_shape;
    bool accumulate = false;
    float *delta = layer_input_delta(layer, 0, &accumulate);
    for (size_t n = 0; delta && n < (size_t)pass->images; n++)
        for (size_t i = 0; i < shape_size(shape); i++) {
            size_t at = value_at(shape, n, i);
            float value = 2 * (layer->output[at] - (float)((size_t)pass->labels[n] == i)) * pass->loss_scale;
            delta[at] = accumulate ? delta[at] + value : value;
        }
    return true;
}

static void destroy(struct layer *layer)
{
    (void)layer;
}

static void operations(const struct layer *layer, struct operations *operations)
{
    double elements = (double)shape_size(layer->output_shape) * operations->images;
    if (follows_softmax(layer) || !operations->training) return;
    operations_add(operations, IN_FORWARD, OTHER, elements, UNITS(FP32_ADD(2), FP32_MULTIPLY(1)));
    if (operations->passes_error) operations_add(operations, IN_BACKWARD, OTHER, elements, UNITS(FP32_ADD(1), FP32_MULTIPLY(2)));
}

const struct layer_type cost_layer_type = {
    .name = "cost", .help = "loss of networks without [softmax]", .options = options,
    .settings_size = sizeof(struct cost_settings),
    .create = create, .forward = forward, .backward = backward, .destroy = destroy, .operations = operations,
};
