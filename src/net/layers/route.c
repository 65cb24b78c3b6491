// [route]: the outputs of several layers, one after the other along the channels. A route of one layer is only another name
// for it.
#include <string.h>

#include "base/vector.h"
#include "net/operations.h"

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
    layer->backward_spares_input = layer->backward_spares_output = true;
    layer->is_alias = layer->input_count == 1;
    return true;
}

// Where the channels of one input (part) stand in the output (whole).
struct slice {
    struct shape whole, part;
    int channel;
};

// The first `lanes` of a block of channels, in all pixels.
VECTOR_INLINE void copy_lanes(float *to, const float *from, size_t pixels, int lanes, bool accumulate)
{
    for (size_t p = 0; p < pixels; p++)
        for (int i = 0; i < lanes; i++)
            to[p * BLOCK_CHANNELS + i] = accumulate ? to[p * BLOCK_CHANNELS + i] + from[p * BLOCK_CHANNELS + i] : from[p * BLOCK_CHANNELS + i];
}

VECTORIZED static void copy(float *to, const float *from, size_t pixels, int lanes, bool accumulate)
{
    if (lanes == BLOCK_CHANNELS && !accumulate)
        memcpy(to, from, pixels * BLOCK_CHANNELS * sizeof(float));
    else if (lanes == BLOCK_CHANNELS)
        copy_lanes(to, from, pixels, BLOCK_CHANNELS, true);
    else
        copy_lanes(to, from, pixels, lanes, accumulate);
}

// As many channels from `channel` of the part on as lie side by side in both.
static int run_length(const struct slice *s, int channel)
{
    int here = BLOCK_CHANNELS - channel % BLOCK_CHANNELS, there = BLOCK_CHANNELS - (s->channel + channel) % BLOCK_CHANNELS;
    int run = here < there ? here : there, left = s->part.channels - channel;
    return run < left ? run : left;
}

static void copy_in(const struct slice *s, const float *part, float *whole)
{
    const size_t pixels = shape_pixels(s->part);
    for (int c = 0, run; c < s->part.channels; c += run) {
        run = run_length(s, c);
        copy(whole + blocked_at(pixels, s->channel + c, 0), part + blocked_at(pixels, c, 0), pixels, run, false);
    }
}

static void copy_out(const struct slice *s, const float *whole, float *part, bool accumulate)
{
    const size_t pixels = shape_pixels(s->part);
    for (int c = 0, run; c < s->part.channels; c += run) {
        run = run_length(s, c);
        copy(part + blocked_at(pixels, c, 0), whole + blocked_at(pixels, s->channel + c, 0), pixels, run, accumulate);
    }
}

struct work {
    struct layer *layer;
    struct slice slice;
    const float *part;
    float *delta;
    bool accumulate;
};

static void forward_task(void *context, int image, int thread)
{
    (void)thread;
    const struct work *work = context;
    copy_in(&work->slice, work->part + (size_t)image * shape_stored(work->slice.part),
            work->layer->output + (size_t)image * shape_stored(work->slice.whole));
}

static bool forward(struct layer *layer, const struct pass *pass, struct error *error)
{
    (void)error;
    if (layer->is_alias) return true;
    bool known = true;
    struct work work = {.layer = layer, .slice = {.whole = layer->output_shape}};
    size_t stored = blocked_channels(layer->output_shape.channels);
    for (int i = 0; i < layer->input_count; i++) {
        const struct layer *input = layer->inputs[i];
        work.slice.part = input->output_shape;
        work.part = input->output;
        thread_pool_run(pass->pool, pass->images, forward_task, &work);
        for (size_t n = 0; n < (size_t)pass->images; n++)
            memcpy(layer->output_maximum + n * stored + work.slice.channel,
                   input->output_maximum + n * blocked_channels(input->output_shape.channels),
                   (size_t)input->output_shape.channels * sizeof(float));
        known = known && input->output_maximum_known;
        work.slice.channel += input->output_shape.channels;
    }
    layer->output_maximum_known = known;
    return true;
}

static void backward_task(void *context, int image, int thread)
{
    (void)thread;
    const struct work *work = context;
    copy_out(&work->slice, work->layer->delta + (size_t)image * shape_stored(work->slice.whole),
             work->delta + (size_t)image * shape_stored(work->slice.part), work->accumulate);
}

static bool backward(struct layer *layer, const struct pass *pass, struct error *error)
{
    (void)error;
    struct work work = {.layer = layer, .slice = {.whole = layer->output_shape}};
    for (int i = 0; i < layer->input_count; i++) {
        work.slice.part = layer_input_shape(layer, i);
        work.delta = layer_input_delta(layer, i, &work.accumulate);
        if (work.delta) thread_pool_run(pass->pool, pass->images, backward_task, &work);
        work.slice.channel += work.slice.part.channels;
    }
    return true;
}

static void destroy(struct layer *layer)
{
    (void)layer;
}

static void operations(const struct layer *layer, struct operations *operations)
{
    double moved = 2 * (double)shape_size(layer->output_shape) * operations->images;
    if (layer->is_alias) return;
    operations_move(operations, IN_FORWARD, MLS_ACTIVATION, moved, 32);
    if (operations->backward) operations_move(operations, IN_BACKWARD, MLS_ERROR, moved, 32);
}

const struct layer_type route_layer_type = {
    .name = "route", .help = "joins layers along the channels", .options = options,
    .settings_size = sizeof(struct route_settings),
    .create = create, .forward = forward, .backward = backward, .destroy = destroy, .operations = operations,
};
