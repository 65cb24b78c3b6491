// [avgpool]: the mean of each channel over the whole picture, or over windows where size is given (padding
// counts as zeros that take part, as PyTorch does).
#include <string.h>

#include "base/memory.h"
#include "net/operations.h"

struct avgpool_settings {
    int size, stride, padding;
};

#define AT(field) offsetof(struct avgpool_settings, field)

// clang-format off
static const struct option_description options[] = {
    {"size", OPTION_INT, AT(size), 1, 4096, NULL, NULL, "rows and columns of the window; the whole picture if not given"},
    {"stride", OPTION_INT, AT(stride), 1, 4096, NULL, NULL, "pixels between windows; size if not given"},
    {"padding", OPTION_INT, AT(padding), 0, 4096, "0", NULL, "zeros on every side"},
    {0},
};
// clang-format on

struct avgpool {
    int height, width, stride, padding; // of the window
};

struct work {
    struct layer *layer;
    struct delta_target target;
};

static bool create(struct layer *layer, struct diagnostics *diagnostics)
{
    const struct avgpool_settings *settings = layer->settings;
    struct avgpool *pool = layer->state = layer_allocate(layer, 1, sizeof *pool, diagnostics);
    if (!pool) return false;
    struct shape in = layer->input_shape;
    bool global = settings->size == OPTION_UNSET;
    *pool = (struct avgpool){global ? in.height : settings->size, global ? in.width : settings->size, 1, settings->padding};
    pool->stride = settings->stride != OPTION_UNSET ? settings->stride : global ? 1 : settings->size;
    int height = in.height + 2 * pool->padding - pool->height, width = in.width + 2 * pool->padding - pool->width;
    if (height < 0 || width < 0 || pool->padding >= pool->height) {
        diagnostics_add(diagnostics, layer->section->line, layer->section->name,
                        "a window of %dx%d with padding=%d does not fit an input of %dx%d", pool->height, pool->width,
                        pool->padding, in.height, in.width);
        return false;
    }
    layer->output_shape = (struct shape){in.channels, height / pool->stride + 1, width / pool->stride + 1};
    layer->backward_spares_input = layer->backward_spares_output = true;
    layer->output_nonnegative = layer->inputs[0] && layer->inputs[0]->output_nonnegative;
    return true;
}

struct window {
    int top, bottom, left, right; // inside the picture, ends not included
};

static struct window window_of(const struct avgpool *pool, struct shape in, int y, int x)
{
    int top = y * pool->stride - pool->padding, left = x * pool->stride - pool->padding;
    int bottom = top + pool->height, right = left + pool->width;
    return (struct window){top < 0 ? 0 : top, bottom > in.height ? in.height : bottom, left < 0 ? 0 : left,
                           right > in.width ? in.width : right};
}

// sum[16] += the pixels of one window of a block.
static void add_window(const float *block, int width, struct window w, float sum[BLOCK_CHANNELS])
{
    for (int r = w.top; r < w.bottom; r++)
        for (int k = w.left; k < w.right; k++)
            for (int i = 0; i < BLOCK_CHANNELS; i++) sum[i] += block[(r * width + k) * BLOCK_CHANNELS + i];
}

static void forward_task(void *context, int image, int thread)
{
    (void)thread;
    struct layer *layer = ((struct work *)context)->layer;
    const struct avgpool *pool = layer->state;
    struct shape in = layer->input_shape, out = layer->output_shape;
    const float *input = layer_input(layer, 0) + (size_t)image * shape_stored(in);
    float *output = layer->output + (size_t)image * shape_stored(out), share = 1.0f / (float)(pool->height * pool->width);
    for (int block = 0; block < blocked_count(in.channels); block++, input += shape_pixels(in) * BLOCK_CHANNELS)
        for (int y = 0; y < out.height; y++)
            for (int x = 0; x < out.width; x++, output += BLOCK_CHANNELS) {
                float sum[BLOCK_CHANNELS] = {0};
                add_window(input, in.width, window_of(pool, in, y, x), sum);
                for (int i = 0; i < BLOCK_CHANNELS; i++) output[i] = sum[i] * share;
            }
}

static bool forward(struct layer *layer, const struct pass *pass, struct error *error)
{
    (void)error;
    struct work work = {.layer = layer};
    thread_pool_run(pass->pool, pass->images, forward_task, &work);
    return true;
}

static void spread_window(float *block, int width, struct window w, const float *error, float share)
{
    for (int r = w.top; r < w.bottom; r++)
        for (int k = w.left; k < w.right; k++)
            for (int i = 0; i < BLOCK_CHANNELS; i++) block[(r * width + k) * BLOCK_CHANNELS + i] += error[i] * share;
}

static void backward_task(void *context, int image, int thread)
{
    (void)thread;
    const struct work *work = context;
    const struct avgpool *pool = work->layer->state;
    struct shape in = work->layer->input_shape, out = work->layer->output_shape;
    const float *errors = work->layer->delta + (size_t)image * shape_stored(out);
    float *delta = work->target.values + (size_t)image * shape_stored(in), share = 1.0f / (float)(pool->height * pool->width);
    if (!work->target.accumulate) memset(delta, 0, shape_stored(in) * sizeof(float));
    for (int block = 0; block < blocked_count(in.channels); block++, delta += shape_pixels(in) * BLOCK_CHANNELS)
        for (int y = 0; y < out.height; y++)
            for (int x = 0; x < out.width; x++, errors += BLOCK_CHANNELS)
                spread_window(delta, in.width, window_of(pool, in, y, x), errors, share);
    if (work->target.done.function) work->target.done.function(work->target.done.context, image);
}

static bool backward(struct layer *layer, const struct pass *pass, struct error *error)
{
    (void)error;
    struct work work = {.layer = layer};
    work.target = layer_delta_target(layer, 0);
    if (work.target.values) thread_pool_run(pass->pool, pass->images, backward_task, &work);
    return true;
}

static void destroy(struct layer *layer)
{
    memory_release(layer->state);
}

static void operations(const struct layer *layer, struct operations *operations)
{
    const struct avgpool *pool = layer->state;
    struct shape in = layer->input_shape, out = layer->output_shape;
    double images = operations->images, results = images * (double)shape_size(out);
    double added = images * in.channels * window_positions(in.height, out.height, pool->height, pool->stride, pool->padding) *
                   window_positions(in.width, out.width, pool->width, pool->stride, pool->padding);
    double moved = images * (double)(shape_size(in) + shape_size(out));
    operations_add(operations, IN_FORWARD, POOLING, added, UNITS(FP32_ADD(1)));
    operations_add(operations, IN_FORWARD, POOLING, results, UNITS(FP32_MULTIPLY(1)));
    operations_move(operations, IN_FORWARD, MLS_ACTIVATION, moved, 32);
    if (!operations->passes_error) return;
    operations_add(operations, IN_BACKWARD, POOLING, added, UNITS(FP32_ADD(1)));
    operations_add(operations, IN_BACKWARD, POOLING, results, UNITS(FP32_MULTIPLY(1)));
    operations_move(operations, IN_BACKWARD, MLS_ERROR, moved, 32);
}

const struct layer_type avgpool_layer_type = {
    .name = "avgpool", .alias = "avg", .help = "mean of each channel", .options = options,
    .settings_size = sizeof(struct avgpool_settings),
    .create = create, .forward = forward, .backward = backward, .destroy = destroy, .operations = operations,
};
