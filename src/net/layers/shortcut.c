// [shortcut]: y = activation(x + from). Where the shapes differ, Darknet's rule: `from` is subsampled (or spread
// out) by the ratio of the widths, and only the channels that both have are added.
#include <string.h>

#include "base/memory.h"
#include "base/vector.h"
#include "net/activations.h"
#include "net/network.h"

struct shortcut_settings {
    int from, activation;
};

#define AT(field) offsetof(struct shortcut_settings, field)

// clang-format off
static const struct option_description options[] = {
    {"from", OPTION_INT, AT(from), -1000000, 1000000, "-3", NULL, "the layer that is added: negative: relative, else absolute"},
    {"activation", OPTION_CHOICE, AT(activation), 0, 0, "linear", ACTIVATION_NAMES, "activation function"},
    {0},
};
// clang-format on

struct shortcut {
    enum activation activation;
    struct shape from;
    int step, spread; // output pixel (y * spread, x * spread) takes from's pixel (y * step, x * step)
};

struct work {
    struct layer *layer;
    float *deltas[2];
    bool accumulate[2];
};

static bool create(struct layer *layer, struct diagnostics *diagnostics)
{
    const struct shortcut_settings *settings = layer->settings;
    struct shortcut *s = layer->state = layer_allocate(layer, 1, sizeof *s, diagnostics);
    if (!s) return false;
    if (layer->index == 0) {
        diagnostics_add(diagnostics, layer->section->line, layer->section->name, "needs a layer before it");
        return false;
    }
    const int references[2] = {-1, settings->from};
    if (!layer_set_inputs(layer, references, 2, diagnostics)) return false;
    struct shape to = layer->input_shape, from = layer_input_shape(layer, 1);
    s->activation = (enum activation)settings->activation;
    s->from = from;
    s->step = from.width >= to.width ? from.width / to.width : 1;
    s->spread = to.width > from.width ? to.width / from.width : 1;
    bool fits = from.width * s->spread == to.width * s->step && from.height * s->spread == to.height * s->step;
    if (!fits) {
        diagnostics_add(diagnostics, layer->section->line, layer->section->name,
                        "from=%d: %d x %d pixels do not fit %d x %d: expected a whole ratio, the same for both", settings->from,
                        from.height, from.width, to.height, to.width);
        return false;
    }
    layer->output_shape = to;
    layer->output_nonnegative = activation_is_nonnegative(s->activation) ||
                                (s->activation == ACTIVATION_LINEAR && layer->inputs[0]->output_nonnegative &&
                                 layer->inputs[1]->output_nonnegative);
    return true;
}

// y = a + b with ReLU or nothing after; returns max |y|.
VECTORIZED static float add_planes(const float *a, const float *b, float *y, size_t count, bool relu)
{
    vector_int maximum = {0};
    for (size_t i = 0; i < count; i += VECTOR_LANES) {
        size_t left = count - i;
        bool whole = left >= VECTOR_LANES;
        vector_float v = whole ? vector_load(a + i) + vector_load(b + i) : vector_load_part(a + i, left) + vector_load_part(b + i, left);
        if (relu) v = vector_where(~(v <= 0), v);
        if (whole)
            vector_store(y + i, v);
        else
            vector_store_part(y + i, v, left);
        maximum = vector_maximum(maximum, v);
    }
    return vector_maximum_of_lanes(maximum);
}

// y = x (+ the subsampled plane): the general form.
static void add_subsampled(const struct shortcut *s, const struct shape *to, const float *from, float *y)
{
    for (int r = 0; r < to->height; r += s->spread)
        for (int c = 0; c < to->width; c += s->spread)
            y[r * to->width + c] += from[(r / s->spread * s->step) * s->from.width + c / s->spread * s->step];
}

static void forward_task(void *context, int image, int thread)
{
    (void)thread;
    struct layer *layer = ((struct work *)context)->layer;
    const struct shortcut *s = layer->state;
    struct shape to = layer->output_shape;
    size_t plane = (size_t)to.height * (size_t)to.width, from_plane = (size_t)s->from.height * (size_t)s->from.width;
    const float *a = layer_input(layer, 0) + (size_t)image * shape_size(to);
    const float *b = layer_input(layer, 1) + (size_t)image * shape_size(s->from);
    float *y = layer->output + (size_t)image * shape_size(to), *maximum = layer->output_maximum + (size_t)image * (size_t)to.channels;
    bool relu = s->activation == ACTIVATION_RELU, simple = relu || s->activation == ACTIVATION_LINEAR;
    float zeros[VECTOR_LANES] = {0};
    for (int c = 0; c < to.channels; c++, a += plane, b += from_plane, y += plane) {
        if (s->step == 1 && s->spread == 1 && c < s->from.channels) {
            maximum[c] = add_planes(a, b, y, plane, relu);
        } else {
            memcpy(y, a, plane * sizeof(float));
            if (c < s->from.channels) add_subsampled(s, &to, b, y);
            maximum[c] = 0;
            for (size_t i = 0; i < plane; i += VECTOR_LANES) { // the activation and the maximum, a vector at a time
                size_t count = plane - i < VECTOR_LANES ? plane - i : VECTOR_LANES;
                float m = add_planes(y + i, zeros, y + i, count, relu);
                if (!(m <= maximum[c])) maximum[c] = m;
            }
        }
        if (!simple) activation_apply(s->activation, y, plane);
    }
}

static bool forward(struct layer *layer, const struct pass *pass, struct error *error)
{
    (void)error;
    const struct shortcut *s = layer->state;
    struct work work = {.layer = layer};
    thread_pool_run(pass->pool, pass->images, forward_task, &work);
    layer->output_maximum_known = s->activation == ACTIVATION_RELU || s->activation == ACTIVATION_LINEAR;
    return true;
}

// Writes the errors of both inputs, of equal shape, in one pass.
VECTORIZED static void spread_errors(const float *delta, const float *y, bool relu, float *a, bool add_a, float *b,
                                     bool add_b, size_t count)
{
    for (size_t i = 0; i + VECTOR_LANES <= count; i += VECTOR_LANES) {
        vector_float d = vector_load(delta + i);
        if (relu) d = vector_where(vector_load(y + i) > 0, d);
        if (a) vector_store(a + i, add_a ? vector_load(a + i) + d : d);
        if (b) vector_store(b + i, add_b ? vector_load(b + i) + d : d);
    }
    for (size_t i = count / VECTOR_LANES * VECTOR_LANES; i < count; i++) {
        float d = !relu || y[i] > 0 ? delta[i] : 0;
        if (a) a[i] = add_a ? a[i] + d : d;
        if (b) b[i] = add_b ? b[i] + d : d;
    }
}

static void spread_subsampled(const struct shortcut *s, const struct shape *to, const float *delta, float *b)
{
    for (int r = 0; r < to->height; r += s->spread)
        for (int c = 0; c < to->width; c += s->spread)
            b[(r / s->spread * s->step) * s->from.width + c / s->spread * s->step] += delta[r * to->width + c];
}

static void backward_task(void *context, int image, int thread)
{
    (void)thread;
    const struct work *work = context;
    struct layer *layer = work->layer;
    const struct shortcut *s = layer->state;
    struct shape to = layer->output_shape;
    size_t size = shape_size(to), plane = (size_t)to.height * (size_t)to.width;
    size_t from_size = shape_size(s->from), from_plane = (size_t)s->from.height * (size_t)s->from.width;
    float *delta = layer->delta + (size_t)image * size;
    const float *y = layer->output + (size_t)image * size;
    float *a = work->deltas[0] ? work->deltas[0] + (size_t)image * size : NULL;
    float *b = work->deltas[1] ? work->deltas[1] + (size_t)image * from_size : NULL;
    bool relu = s->activation == ACTIVATION_RELU;
    if (!relu) activation_gradient(s->activation, y, delta, size);
    if (s->from.channels == to.channels && s->step == 1 && s->spread == 1) {
        spread_errors(delta, y, relu, a, work->accumulate[0], b, work->accumulate[1], size);
        return;
    }
    if (relu) activation_gradient(ACTIVATION_RELU, y, delta, size);
    spread_errors(delta, y, false, a, work->accumulate[0], NULL, false, size);
    if (!b) return;
    if (!work->accumulate[1]) memset(b, 0, from_size * sizeof(float));
    for (int c = 0; c < to.channels && c < s->from.channels; c++)
        spread_subsampled(s, &to, delta + (size_t)c * plane, b + (size_t)c * from_plane);
}

static bool backward(struct layer *layer, const struct pass *pass, struct error *error)
{
    (void)error;
    struct work work = {.layer = layer};
    for (int i = 0; i < 2; i++) work.deltas[i] = layer_input_delta(layer, i, &work.accumulate[i]);
    thread_pool_run(pass->pool, pass->images, backward_task, &work);
    return true;
}

static void destroy(struct layer *layer)
{
    memory_release(layer->state);
}

const struct layer_type shortcut_layer_type = {
    .name = "shortcut", .help = "adds the output of an earlier layer", .options = options,
    .settings_size = sizeof(struct shortcut_settings),
    .create = create, .forward = forward, .backward = backward, .destroy = destroy,
};
