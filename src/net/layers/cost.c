// [cost]: after a [softmax] it only passes on what that computed (Darknet's files end so); elsewhere type=sse is
// the sum of squared differences from the one-hot label.
#include <string.h>

#include "net/network.h"

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

static bool forward(struct layer *layer, const struct pass *pass, struct error *error)
{
    (void)error;
    size_t size = shape_size(layer->output_shape);
    const float *x = layer_input(layer, 0);
    memcpy(layer->output, x, (size_t)pass->images * size * sizeof(float));
    if (!pass->labels || follows_softmax(layer)) return true;
    for (size_t i = 0; i < (size_t)pass->images * size; i++) {
        double difference = (double)x[i] - ((size_t)pass->labels[i / size] == i % size);
        layer->network->loss += difference * difference;
    }
    return true;
}

static bool backward(struct layer *layer, const struct pass *pass, struct error *error)
{
    (void)error;
    if (follows_softmax(layer)) return true;
    size_t size = shape_size(layer->output_shape);
    bool accumulate = false;
    float *delta = layer_input_delta(layer, 0, &accumulate);
    for (size_t i = 0; delta && i < (size_t)pass->images * size; i++) {
        float value = 2 * (layer->output[i] - (float)((size_t)pass->labels[i / size] == i % size)) * pass->loss_scale;
        delta[i] = accumulate ? delta[i] + value : value;
    }
    return true;
}

static void destroy(struct layer *layer)
{
    (void)layer;
}

const struct layer_type cost_layer_type = {
    .name = "cost", .help = "loss of networks without [softmax]", .options = options,
    .settings_size = sizeof(struct cost_settings),
    .create = create, .forward = forward, .backward = backward, .destroy = destroy,
};
