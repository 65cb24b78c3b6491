// [shortcut]: y = activation(x + from). Where the shapes differ, Darknet's rule: `from` is subsampled (or spread
// out) by the ratio of the widths, and only the channels that both have are added.
#include <string.h>

#include "base/memory.h"
#include "base/vector.h"
#include "net/activations.h"
#include "net/operations.h"

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
    int channels;     // that both have
    int step, spread; // output pixel (y * spread, x * spread) takes from's pixel (y * step, x * step)
    int32_t *gates;   // of the ReLU, where backward is done in place (plan_backward); NULL otherwise
};

struct work {
    struct layer *layer;
    struct source sources[2];
    struct delta_target targets[2];
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
    s->channels = from.channels < to.channels ? from.channels : to.channels;
    s->step = from.width >= to.width ? from.width / to.width : 1;
    s->spread = to.width > from.width ? to.width / from.width : 1;
    // As Darknet the ratios are rounded down, so that borders may be left out.
    bool fits = from.height / to.height == from.width / to.width && to.height / from.height == to.width / from.width;
    if (!fits) {
        diagnostics_add(diagnostics, layer->section->line, layer->section->name,
                        "from=%d: %d x %d pixels do not fit %d x %d: expected the same ratio, rounded down, for both", settings->from,
                        from.height, from.width, to.height, to.width);
        return false;
    }
    layer->output_shape = to;
    layer->reads_sources = true;
    layer->output_nonnegative = activation_is_nonnegative(s->activation) ||
                                (s->activation == ACTIVATION_LINEAR && layer->inputs[0]->output_nonnegative &&
                                 layer->inputs[1]->output_nonnegative);
    return true;
}

static bool same_shape(const struct shortcut *s, struct shape to)
{
    return s->from.height == to.height && s->from.width == to.width && s->from.channels == to.channels;
}

// All ones in the first `lanes` lanes.
VECTOR_INLINE vector_int first_lanes(int lanes)
{
    int32_t mask[BLOCK_CHANNELS];
    for (int i = 0; i < BLOCK_CHANNELS; i++) mask[i] = i < lanes ? -1 : 0;
    vector_int v;
    memcpy(&v, mask, sizeof v);
    return v;
}

// What to make of a sum: y, then its ReLU or not; maximum[16] = max |y| of each lane; gates of the ReLU unless NULL.
struct sum {
    float *y, *maximum;
    int32_t *gates;
    bool relu;
};

// y = a + b
VECTOR_INLINE void add_block(const struct source *first, const struct source *second, size_t pixels, const struct sum *sum,
                             enum source_kind kind1, enum source_kind kind2, const bool native)
{
    struct source_vectors a = source_open(first, kind1), b = source_open(second, kind2);
    vector_int largest = {0}, gates = {0};
    float *y = sum->y;
    int32_t *to = sum->gates;
    for (size_t p = 0; p < pixels; p++) {
        vector_float v = source_value(&a, p, kind1, first->activation, native) + source_value(&b, p, kind2, second->activation, native);
        if (sum->relu) v = vector_rectify(v, native);
        __builtin_prefetch(y + (p + 16) * BLOCK_CHANNELS, 1);
        vector_store(y + p * BLOCK_CHANNELS, v);
        largest = vector_maximum(largest, v, native);
        if (!to) continue;
        // Not with a subtraction: gcc 12 gets that of signed vectors wrong under its sanitizers.
        gates = (vector_int)((vector_bits)gates << 1) | (vector_positive(v, native) & 1);
        if (p % GATE_PIXELS + 1 == GATE_PIXELS || p + 1 == pixels) {
            gates = (vector_int)((vector_bits)gates << (int)(GATE_PIXELS - 1 - p % GATE_PIXELS));
            memcpy(to, &gates, sizeof gates);
            to += BLOCK_CHANNELS;
        }
    }
    vector_store(sum->maximum, (vector_float)largest);
}

VECTOR_INLINE void add_sources_body(const struct source *a, const struct source *b, size_t pixels, const struct sum *sum, const bool native)
{
    if (a->kind == SOURCE_NORMALIZED && b->kind == SOURCE_PLAIN)
        add_block(a, b, pixels, sum, SOURCE_NORMALIZED, SOURCE_PLAIN, native);
    else if (a->kind == SOURCE_NORMALIZED)
        add_block(a, b, pixels, sum, SOURCE_NORMALIZED, SOURCE_NORMALIZED, native);
    else
        add_block(a, b, pixels, sum, a->kind, b->kind, native);
}
VECTORIZED_VERSIONS(static, add_sources, (const struct source *a, const struct source *b, size_t pixels, const struct sum *sum), a, b, pixels, sum)

// Channels of a block that both have.
static int shared_lanes(const struct shortcut *s, int block)
{
    int left = s->channels - block * BLOCK_CHANNELS;
    return left < 0 ? 0 : left < BLOCK_CHANNELS ? left : BLOCK_CHANNELS;
}

// Rows (or columns) of the output that take something: those that `from` reaches.
static int reached(int to, int from, int spread)
{
    return from * spread < to ? from * spread : to;
}

// The general form: y = a + what of b is subsampled or spread out, in the first `lanes` channels.
VECTORIZED static void add_subsampled(const struct shortcut *s, struct shape to, const struct source *first, const struct source *second, int lanes,
                                      float *y, float *maximum, bool relu)
{
    struct source_vectors a = source_open(first, first->kind), b = source_open(second, second->kind);
    vector_int shared = first_lanes(lanes), largest = {0};
    int rows = lanes > 0 ? reached(to.height, s->from.height, s->spread) : 0, columns = reached(to.width, s->from.width, s->spread);
    for (int r = 0; r < to.height; r++)
        for (int c = 0; c < to.width; c++) {
            size_t p = (size_t)(r * to.width + c), q = (size_t)(r / s->spread * s->step * s->from.width + c / s->spread * s->step);
            vector_float v = source_value(&a, p, first->kind, first->activation, false);
            if (r < rows && c < columns && r % s->spread == 0 && c % s->spread == 0)
                v += vector_where(shared, source_value(&b, q, second->kind, second->activation, false));
            if (relu) v = vector_rectify(v, false);
            vector_store(y + p * BLOCK_CHANNELS, v);
            largest = vector_maximum(largest, v, false);
        }
    vector_store(maximum, (vector_float)largest);
}

static void forward_task(void *context, int image, int thread)
{
    (void)thread;
    const struct work *work = context;
    struct layer *layer = work->layer;
    const struct shortcut *s = layer->state;
    struct shape to = layer->output_shape;
    size_t plane = shape_pixels(to);
    int blocks = blocked_count(to.channels);
    bool relu = s->activation == ACTIVATION_RELU, simple = relu || s->activation == ACTIVATION_LINEAR;
    for (int block = 0; block < blocks; block++) {
        size_t number = (size_t)image * (size_t)blocks + (size_t)block;
        float *y = layer->output + number * plane * BLOCK_CHANNELS, *maximum = layer->output_maximum + number * BLOCK_CHANNELS;
        struct source a = source_of_block(&work->sources[0], image, block, blocks, plane), b = {.kind = SOURCE_PLAIN};
        if (shared_lanes(s, block) > 0)
            b = source_of_block(&work->sources[1], image, block, blocked_count(s->from.channels), shape_pixels(s->from));
        if (same_shape(s, to)) {
            struct sum sum = {y, maximum, s->gates ? s->gates + number * gate_words(plane) : NULL, relu};
            add_sources(&a, &b, plane, &sum);
        } else {
            add_subsampled(s, to, &a, &b, shared_lanes(s, block), y, maximum, relu);
        }
        if (!simple) activation_apply(s->activation, y, plane * BLOCK_CHANNELS);
    }
}

static bool forward(struct layer *layer, const struct pass *pass, struct error *error)
{
    (void)error;
    const struct shortcut *s = layer->state;
    struct work work = {.layer = layer, .sources = {layer_input_source(layer, 0), layer_input_source(layer, 1)}};
    bool followed = layer->inputs[0]->output_followed && layer->inputs[0]->output_follower == layer;
    if (!followed) thread_pool_run(pass->pool, pass->images, forward_task, &work);
    layer->output_maximum_known = s->activation == ACTIVATION_RELU || s->activation == ACTIVATION_LINEAR;
    return true;
}

// Writes the errors of both inputs, of equal shape, in one pass. Either may be `delta` itself; a and b may be one array because
// it serves both, or, adding, because both inputs are one layer.
VECTOR_INLINE void spread_errors_body(const float *delta, const float *y, bool relu, float *a, bool add_a, float *b, bool add_b,
                                      size_t count, const bool native)
{
    for (size_t i = 0; i < count; i += VECTOR_LANES) {
        vector_float d = vector_load(delta + i);
        if (relu) d = vector_where(vector_positive(vector_load(y + i), native), d);
        if (a) vector_store(a + i, add_a ? vector_load(a + i) + d : d);
        if (b && (b != a || add_b)) vector_store(b + i, add_b ? vector_load(b + i) + d : d);
    }
}
VECTORIZED_VERSIONS(static, spread_errors, (const float *delta, const float *y, bool relu, float *a, bool add_a, float *b, bool add_b, size_t count),
                    delta, y, relu, a, add_a, b, add_b, count)

// b += the errors at the pixels it was read from, in the first `lanes` channels of a block.
VECTORIZED static void spread_subsampled(const struct shortcut *s, struct shape to, const float *delta, int lanes, float *b)
{
    vector_int shared = first_lanes(lanes);
    int rows = reached(to.height, s->from.height, s->spread), columns = reached(to.width, s->from.width, s->spread);
    for (int r = 0; r < rows; r += s->spread)
        for (int c = 0; c < columns; c += s->spread) {
            float *pixel = b + (r / s->spread * s->step * s->from.width + c / s->spread * s->step) * BLOCK_CHANNELS;
            vector_float d = vector_load(delta + (r * to.width + c) * BLOCK_CHANNELS);
            vector_store(pixel, vector_load(pixel) + vector_where(shared, d));
        }
}

// delta = delta * activation', and the errors of both inputs.
static void spread_general(const struct work *work, int image, float *delta, const float *y, bool relu)
{
    const struct layer *layer = work->layer;
    const struct shortcut *s = layer->state;
    struct shape to = layer->output_shape;
    float *a = work->targets[0].values, *b = work->targets[1].values;
    if (a) a += (size_t)image * shape_stored(to);
    // Masked in place first: b reads it too.
    if (relu || (a && a != delta)) spread_errors(delta, y, relu, delta, false, a != delta ? a : NULL, work->targets[0].accumulate, shape_stored(to));
    if (!b) return;
    b += (size_t)image * shape_stored(s->from);
    if (!work->targets[1].accumulate) memset(b, 0, shape_stored(s->from) * sizeof(float));
    for (int block = 0; block < blocked_count(to.channels) && shared_lanes(s, block) > 0; block++)
        spread_subsampled(s, to, delta + (size_t)block * shape_pixels(to) * BLOCK_CHANNELS, shared_lanes(s, block),
                          b + (size_t)block * shape_pixels(s->from) * BLOCK_CHANNELS);
}

static void backward_task(void *context, int image, int thread)
{
    (void)thread;
    const struct work *work = context;
    struct layer *layer = work->layer;
    const struct shortcut *s = layer->state;
    size_t size = shape_stored(layer->output_shape), at = (size_t)image * size;
    float *delta = layer->delta + at, *a = work->targets[0].values, *b = work->targets[1].values;
    const float *y = layer->output + at;
    bool relu = s->activation == ACTIVATION_RELU;
    if (!relu) activation_gradient(s->activation, y, delta, size);
    if (same_shape(s, layer->output_shape))
        spread_errors(delta, y, relu, a ? a + at : NULL, work->targets[0].accumulate, b ? b + at : NULL, work->targets[1].accumulate, size);
    else
        spread_general(work, image, delta, y, relu);
    for (int i = 0; i < 2; i++)
        if (work->targets[i].done.function) work->targets[i].done.function(work->targets[i].done.context, image);
}

// Whether the input's delta is complete when this layer has written it.
static bool is_complete(const struct layer *input)
{
    return input && input->needs_delta && input->delta_ready && input->delta_writers == 1;
}

// Both inputs share the array of delta: backward changes one image in place, as soon as it is complete. The ReLU is left to
// the first input, which reads the errors anyway (plan_backward).
static void delta_ready(struct layer *layer, int image, const int32_t *none)
{
    (void)none; // only a shortcut has gates, and it does not read another one first
    const struct shortcut *s = layer->state;
    size_t words = (size_t)blocked_count(layer->output_shape.channels) * gate_words(shape_pixels(layer->output_shape));
    layer->inputs[0]->delta_ready(layer->inputs[0], image, s->gates ? s->gates + (size_t)image * words : NULL);
    if (is_complete(layer->inputs[1])) layer->inputs[1]->delta_ready(layer->inputs[1], image, NULL);
}

static bool plan_backward(struct layer *layer, struct diagnostics *diagnostics)
{
    struct shortcut *s = layer->state;
    const struct layer *first = layer->inputs[0], *second = layer->inputs[1], *owner = layer->delta_owner;
    bool in_place = owner && first->delta_owner == owner && (!second || !second->delta_owner || second->delta_owner == owner);
    bool relu = s->activation == ACTIVATION_RELU;
    layer->backward_spares_input = true;
    layer->backward_spares_output = s->activation == ACTIVATION_LINEAR;
    if (!in_place || !same_shape(s, layer->output_shape) || !is_complete(first) || !first->wants_raw) return true;
    if (!relu && s->activation != ACTIVATION_LINEAR) return true;
    layer->delta_ready = delta_ready;
    layer->delta_reads = first;
    size_t blocks = (size_t)layer->network->max_images * (size_t)blocked_count(layer->output_shape.channels);
    if (relu) s->gates = layer_allocate(layer, blocks * gate_words(shape_pixels(layer->output_shape)), sizeof *s->gates, diagnostics);
    layer->backward_spares_output = true;
    return !relu || s->gates;
}

static void follow(struct layer *layer, int image)
{
    const struct work work = {.layer = layer, .sources = {layer_input_source(layer, 0), layer_input_source(layer, 1)}};
    forward_task((void *)&work, image, 0);
}

// The layer follows its first input if that comes after the second.
static bool planned(struct layer *layer, struct diagnostics *diagnostics)
{
    struct layer *first = layer->inputs[0], *second = layer->inputs[1];
    if (first && first->can_be_followed && first != second && (!second || second->index < first->index)) {
        layer->follow = follow;
        first->output_follower = layer;
    }
    return plan_backward(layer, diagnostics);
}

static bool backward(struct layer *layer, const struct pass *pass, struct error *error)
{
    (void)error;
    struct work work = {.layer = layer};
    for (int i = 0; i < 2; i++) work.targets[i] = layer_delta_target(layer, i);
    if (!layer->delta_seen) thread_pool_run(pass->pool, pass->images, backward_task, &work);
    return true;
}

static void destroy(struct layer *layer)
{
    struct shortcut *s = layer->state;
    if (s) memory_release(s->gates);
    memory_release(s);
}

static void operations(const struct layer *layer, struct operations *operations)
{
    const struct shortcut *s = layer->state;
    struct shape to = layer->output_shape, from = s->from;
    double pixels = (double)(from.height < to.height ? from.height : to.height) * (from.width < to.width ? from.width : to.width);
    double added = pixels * (from.channels < to.channels ? from.channels : to.channels), all = (double)shape_size(to);
    operations_add(operations, IN_FORWARD, RESIDUAL_ADD, added * operations->images, UNITS(FP32_ADD(1)));
    operations_of_activation(operations, s->activation, all, false);
    operations_move(operations, IN_FORWARD, MLS_ACTIVATION, (2 * all + added) * operations->images, 32);
    if (operations->backward) operations_move(operations, IN_BACKWARD, MLS_ERROR, 2 * all * operations->images, 32);
}

const struct layer_type shortcut_layer_type = {
    .name = "shortcut", .properties = LAYER_SHARES_DELTA, .help = "adds the output of an earlier layer", .options = options,
    .settings_size = sizeof(struct shortcut_settings),
    .create = create, .planned = planned, .forward = forward, .backward = backward, .destroy = destroy, .operations = operations,
};
