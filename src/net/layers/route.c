// [route]: the outputs of several layers, one after the other along the channels.
#include <string.h>

#include "net/network.h"

struct route_settings {
    struct option_list layers;
};

static const struct option_description options[] = {
    {"layers", OPTION_INT_LIST, offsetof(struct route_settings, layers), -1000000, 1000000, NULL, NULL,
     "layers to join: negative: relative, else absolute"},
    {0},
};

static bool create(struct layer *layer, struct diagnostics *diagnostics)
{
    const struct route_settings *settings = layer->settings;
    if (settings->layers.count == 0) {
        diagnostics_add(diagnostics, layer->section->line, layer->section->name, "layers is missing: expected a list of layers");
        return false;
    }
    if (!layer_set_inputs(layer, settings->layers.integers, settings->layers.count, diagnostics)) return false;
    struct shape shape = layer->input_shape;
    layer->output_nonnegative = layer->inputs[0]->output_nonnegative;
    for (int i = 1; i < layer->input_count; i++) {
        struct shape next = layer_input_shape(layer, i);
        if (next.height != shape.height || next.width != shape.width) {
            diagnostics_add(diagnostics, layer->section->line, layer->section->name,
                            "layers=%d: %d x %d pixels do not fit the %d x %d of the first one", settings->layers.integers[i],
                            next.height, next.width, shape.height, shape.width);
            return false;
        }
        shape.channels += next.channels;
        layer->output_nonnegative = layer->output_nonnegative && layer->inputs[i]->output_nonnegative;
    }
    layer->output_shape = shape;
    return true;
}

static bool forward(struct layer *layer, const struct pass *pass, struct error *error)
{
    (void)error;
    bool known = true;
    size_t size = shape_size(layer->output_shape), offset = 0, channel = 0;
    for (int i = 0; i < layer->input_count; i++) {
        const struct layer *input = layer->inputs[i];
        size_t part = shape_size(input->output_shape), channels = (size_t)input->output_shape.channels;
        for (size_t n = 0; n < (size_t)pass->images; n++) {
            memcpy(layer->output + n * size + offset, input->output + n * part, part * sizeof(float));
            memcpy(layer->output_maximum + n * (size_t)layer->output_shape.channels + channel, input->output_maximum + n * channels,
                   channels * sizeof(float));
        }
        known = known && input->output_maximum_known;
        offset += part;
        channel += channels;
    }
    layer->output_maximum_known = known;
    return true;
}

static bool backward(struct layer *layer, const struct pass *pass, struct error *error)
{
    (void)error;
    size_t size = shape_size(layer->output_shape), offset = 0;
    for (int i = 0; i < layer->input_count; i++) {
        bool accumulate = false;
        size_t part = shape_size(layer_input_shape(layer, i));
        float *delta = layer_input_delta(layer, i, &accumulate);
        for (size_t n = 0; delta && n < (size_t)pass->images; n++) {
            const float *from = layer->delta + n * size + offset;
            float *to = delta + n * part;
            if (!accumulate) memset(to, 0, part * sizeof(float));
            for (size_t k = 0; k < part; k++) to[k] += from[k];
        }
        offset += part;
    }
    return true;
}

static void destroy(struct layer *layer)
{
    (void)layer;
}

const struct layer_type route_layer_type = {
    .name = "route", .help = "joins layers along the channels", .options = options,
    .settings_size = sizeof(struct route_settings),
    .create = create, .forward = forward, .backward = backward, .destroy = destroy,
};
