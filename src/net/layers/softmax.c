// [softmax]: class probabilities; with labels also the cross-entropy, summed into network->loss. The target is
// 1 - smoothing for the label plus smoothing / classes for all.
#include <math.h>

#include "base/memory.h"
#include "net/operations.h"

static const struct option_description options[] = {
    {"groups", OPTION_IGNORED, 0, 0, 0, NULL, NULL, "accepted for Darknet's files; without effect"},
    {"temperature", OPTION_IGNORED, 0, 0, 0, NULL, NULL, "accepted for Darknet's files; without effect"},
    {0},
};

struct softmax {
    float *scores; // of one image, [classes]
};

static bool create(struct layer *layer, struct diagnostics *diagnostics)
{
    struct softmax *state = layer->state = layer_allocate(layer, 1, sizeof *state, diagnostics);
    if (!state || !(state->scores = layer_allocate(layer, shape_size(layer->input_shape), sizeof(float), diagnostics))) return false;
    layer->output_shape = (struct shape){(int)shape_size(layer->input_shape), 1, 1};
    layer->output_nonnegative = true;
    return true;
}

static void softmax(const float *x, float *p, int classes)
{
    float largest = x[0], sum = 0;
    for (int i = 1; i < classes; i++) largest = x[i] > largest ? x[i] : largest;
    for (int i = 0; i < classes; i++) sum += p[i] = expf(x[i] - largest);
    for (int i = 0; i < classes; i++) p[i] /= sum;
}

// -sum of target * log p, from the scores, so that no logarithm of 0 comes up.
static double cross_entropy(const float *x, int classes, int label, float smoothing)
{
    double largest = (double)x[0], sum = 0, all = 0;
    for (int i = 1; i < classes; i++) largest = (double)x[i] > largest ? (double)x[i] : largest;
    for (int i = 0; i < classes; i++) {
        sum += exp((double)x[i] - largest);
        all += (double)x[i];
    }
    double normalizer = largest + log(sum), mean = all / classes;
    return (1 - (double)smoothing) * (normalizer - (double)x[label]) + (double)smoothing * (normalizer - mean);
}

static bool forward(struct layer *layer, const struct pass *pass, struct error *error)
{
    (void)error;
    const struct softmax *state = layer->state;
    struct shape in = layer->input_shape;
    int classes = layer->output_shape.channels;
    for (size_t n = 0; n < (size_t)pass->images; n++) {
        blocked_to_planar(layer_input(layer, 0) + n * shape_stored(in), in.channels, shape_pixels(in), state->scores);
        softmax(state->scores, layer->output + n * shape_stored(layer->output_shape), classes);
        if (pass->labels) layer->network->loss += cross_entropy(state->scores, classes, pass->labels[n], pass->label_smoothing);
    }
    return true;
}

// dL/dx = p - target: the loss starts here, the layer's own delta is not read.
static bool backward(struct layer *layer, const struct pass *pass, struct error *error)
{
    (void)error;
    struct shape in = layer->input_shape;
    int classes = layer->output_shape.channels;
    bool accumulate = false;
    float *delta = layer_input_delta(layer, 0, &accumulate), spread = pass->label_smoothing / (float)classes;
    for (size_t n = 0; delta && n < (size_t)pass->images; n++)
        for (int i = 0; i < classes; i++) {
            float target = spread + (pass->labels[n] == i ? 1 - pass->label_smoothing : 0);
            float value = (layer->output[n * shape_stored(layer->output_shape) + (size_t)i] - target) * pass->loss_scale;
            size_t pixels = shape_pixels(in);
            float *to = &delta[n * shape_stored(in) + blocked_at(pixels, i / (int)pixels, (size_t)i % pixels)];
            *to = accumulate ? *to + value : value;
        }
    return true;
}

static void destroy(struct layer *layer)
{
    struct softmax *state = layer->state;
    memory_release(state->scores);
    memory_release(state);
}

// The largest score, exponentials, their sum, a division each; backward: p - target.
static void operations(const struct layer *layer, struct operations *operations)
{
    double elements = (double)shape_size(layer->output_shape) * operations->images;
    operations_add(operations, IN_FORWARD, OTHER, elements, UNITS(FP32_COMPARE(1), {FLOAT_FUNCTION, 2, 0, 0}, FP32_ADD(2)));
    if (operations->passes_error) operations_add(operations, IN_BACKWARD, OTHER, elements, UNITS(FP32_ADD(1), FP32_MULTIPLY(1)));
}

const struct layer_type softmax_layer_type = {
    .name = "softmax", .alias = "soft", .help = "class probabilities and cross-entropy loss", .options = options,
    .settings_size = 1, .create = create, .forward = forward, .backward = backward, .destroy = destroy, .operations = operations,
};
