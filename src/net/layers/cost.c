// [cost]: after a [softmax] it only passes on what that computed (Darknet's files end so); elsewhere a loss against the one-hot label,
// d being the difference from it: sse d^2, L1 |d|, smooth d^2 below 1 and 2 |d| - 1 above. Darknet's masked and seg differ from sse
// only for labels that classification does not have.
//
// Errors are the slopes of these. Darknet passes back half of them for sse and smooth (scale=0.5 is the same), and behind a
// [softmax] the difference once more, which doubles the error of the cross-entropy.
#include <math.h>
#include <string.h>

#include "net/operations.h"

enum cost_type { COST_SSE, COST_MASKED, COST_SMOOTH, COST_L1, COST_SEG };

struct cost_settings {
    int type;
    float scale;
};

#define AT(field) offsetof(struct cost_settings, field)

// clang-format off
static const struct option_description options[] = {
    {"type", OPTION_CHOICE, AT(type), 0, 0, "sse", "sse masked smooth L1 seg", "sse: squared error against the one-hot label; masked, seg: the same; L1: absolute; smooth: squared below 1, then linear"},
    {"scale", OPTION_FLOAT, AT(scale), 0, 1e6, "1", NULL, "factor of the loss"},
    {0},
};
// clang-format on

static bool follows_softmax(const struct layer *layer)
{
    return layer->inputs[0] && layer_is(layer->inputs[0], LAYER_GIVES_PROBABILITIES);
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

static double loss_of(enum cost_type type, double d)
{
    if (type == COST_L1) return fabs(d);
    return type == COST_SMOOTH && fabs(d) >= 1 ? 2 * fabs(d) - 1 : d * d;
}

static float slope_of(enum cost_type type, float d)
{
    if (type == COST_L1) return d > 0 ? 1 : d < 0 ? -1 : 0;
    return type == COST_SMOOTH && fabsf(d) >= 1 ? (d > 0 ? 2 : -2) : 2 * d;
}

static bool forward(struct layer *layer, const struct pass *pass, struct error *error)
{
    (void)error;
    const struct cost_settings *settings = layer->settings;
    struct shape shape = layer->output_shape;
    const float *x = layer_input(layer, 0);
    memcpy(layer->output, x, (size_t)pass->images * shape_stored(shape) * sizeof(float));
    if (!pass->labels || follows_softmax(layer)) return true;
    for (size_t n = 0; n < (size_t)pass->images; n++)
        for (size_t i = 0; i < shape_size(shape); i++) {
            double difference = (double)x[value_at(shape, n, i)] - ((size_t)pass->labels[n] == i);
            layer->network->loss += (double)settings->scale * loss_of((enum cost_type)settings->type, difference);
        }
    return true;
}

static bool backward(struct layer *layer, const struct pass *pass, struct error *error)
{
    (void)error;
    const struct cost_settings *settings = layer->settings;
    if (follows_softmax(layer)) return true;
    struct shape shape = layer->output_shape;
    bool accumulate = false;
    float *delta = layer_input_delta(layer, 0, &accumulate);
    for (size_t n = 0; delta && n < (size_t)pass->images; n++)
        for (size_t i = 0; i < shape_size(shape); i++) {
            size_t at = value_at(shape, n, i);
            float difference = layer->output[at] - (float)((size_t)pass->labels[n] == i);
            float value = settings->scale * slope_of((enum cost_type)settings->type, difference) * pass->loss_scale;
            delta[at] = accumulate ? delta[at] + value : value;
        }
    return true;
}

static void destroy(struct layer *layer)
{
    (void)layer;
}

// Forward the difference, its loss (smooth: by the larger branch), the sum; backward the difference, its slope, the factors. A sign is
// free, a scale of 1 too.
static void operations(const struct layer *layer, struct operations *operations)
{
    const struct cost_settings *settings = layer->settings;
    double elements = (double)shape_size(layer->output_shape) * operations->images;
    bool smooth = settings->type == COST_SMOOTH, linear = settings->type == COST_L1;
    int scaled = settings->scale != 1;
    if (follows_softmax(layer) || !operations->training) return;
    operations_add(operations, IN_FORWARD, OTHER, elements,
                   UNITS(FP32_ADD(2 + smooth), FP32_COMPARE(smooth), FP32_MULTIPLY(!linear + scaled)));
    if (operations->passes_error)
        operations_add(operations, IN_BACKWARD, OTHER, elements,
                       UNITS(FP32_ADD(1), FP32_COMPARE(smooth || linear), FP32_MULTIPLY(1 + !linear + scaled)));
}

const struct layer_type cost_layer_type = {
    .name = "cost", .properties = LAYER_IS_LOSS, .help = "loss of networks without [softmax]", .options = options,
    .settings_size = sizeof(struct cost_settings),
    .create = create, .forward = forward, .backward = backward, .destroy = destroy, .operations = operations,
};
