// [maxpool]: the largest value of each window. Darknet's shapes: the padding is the sum of both sides, size - 1
// unless given, half of it (rounded down) above and to the left.
#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "base/vector.h"
#include "net/operations.h"

struct maxpool_settings {
    int size, stride, padding;
};

#define AT(field) offsetof(struct maxpool_settings, field)

// clang-format off
static const struct option_description options[] = {
    {"stride", OPTION_INT, AT(stride), 1, 4096, "1", NULL, "pixels between windows"},
    {"size", OPTION_INT, AT(size), 1, 255, NULL, NULL, "rows and columns of the window; stride if not given"},
    {"padding", OPTION_INT, AT(padding), 0, 4096, NULL, NULL, "padding of both sides together; size - 1 if not given"},
    {0},
};
// clang-format on

// From first to end - 1.
struct range {
    int first, end;
};

struct maxpool {
    int size, stride, offset;
    struct range *rows, *columns; // of windows that contain a row or column of the input
    int *offsets;      // [size * size]: of a position in the window, floats of a block
    uint16_t *winners; // [images] of the output shape, as stored: 1 + position in the window; 0: none
};

static struct range *list_windows(struct layer *layer, int length, int windows, struct diagnostics *diagnostics)
{
    const struct maxpool *pool = layer->state;
    struct range *ranges = layer_allocate(layer, (size_t)length, sizeof *ranges, diagnostics);
    for (int at = 0; ranges && at < length; at++) {
        const int behind = at + pool->offset - pool->size; // the windows before it end at `behind` or earlier
        const int first = behind < 0 ? 0 : behind / pool->stride + 1, end = (at + pool->offset) / pool->stride + 1;
        ranges[at] = (struct range){first, end < windows ? end : windows};
    }
    return ranges;
}

static bool create(struct layer *layer, struct diagnostics *diagnostics)
{
    const struct maxpool_settings *settings = layer->settings;
    struct maxpool *pool = layer->state = layer_allocate(layer, 1, sizeof *pool, diagnostics);
    if (!pool) return false;
    struct shape in = layer->input_shape;
    pool->stride = settings->stride;
    pool->size = settings->size == OPTION_UNSET ? settings->stride : settings->size;
    int padding = settings->padding == OPTION_UNSET ? pool->size - 1 : settings->padding;
    pool->offset = padding / 2;
    int height = in.height + padding - pool->size, width = in.width + padding - pool->size;
    if (height < 0 || width < 0 || padding >= 2 * pool->size) {
        diagnostics_add(diagnostics, layer->section->line, layer->section->name,
                        "size=%d padding=%d does not fit an input of %dx%d", pool->size, padding, in.height, in.width);
        return false;
    }
    layer->output_shape = (struct shape){in.channels, height / pool->stride + 1, width / pool->stride + 1};
    layer->reads_sources = true;
    layer->backward_spares_input = layer->backward_spares_output = true; // the winners say it
    network_request_scratch(layer->network, shape_pixels(in) * BLOCK_CHANNELS * sizeof(float));
    layer->output_nonnegative = layer->inputs[0] && layer->inputs[0]->output_nonnegative;
    size_t count = (size_t)layer->network->max_images * shape_stored(layer->output_shape);
    pool->offsets = layer_allocate(layer, (size_t)(pool->size * pool->size), sizeof(int), diagnostics);
    for (int k = 0; pool->offsets && k < pool->size * pool->size; k++)
        pool->offsets[k] = (k / pool->size * in.width + k % pool->size) * BLOCK_CHANNELS;
    pool->rows = list_windows(layer, in.height, layer->output_shape.height, diagnostics);
    pool->columns = list_windows(layer, in.width, layer->output_shape.width, diagnostics);
    pool->winners = layer_allocate(layer, count, sizeof *pool->winners, diagnostics);
    return pool->offsets && pool->rows && pool->columns && pool->winners;
}

// Half a block of channels at a time.
typedef uint16_t half_positions __attribute__((vector_size(2 * HALF_LANES)));

VECTOR_INLINE half_positions load_winners(const uint16_t *from)
{
    half_positions positions;
    memcpy(&positions, from, sizeof positions);
    return positions;
}

// A window as far as it was looked at, and the position of the largest value.
struct window {
    half_float largest;
    half_int winners;
};

// The first among equals stays; a NaN wins.
VECTOR_INLINE void window_add(struct window *w, half_float v, int32_t position)
{
    half_int old = v <= w->largest;
    w->largest = (half_float)(((half_int)w->largest & old) | ((half_int)v & ~old));
    w->winners = (w->winners & old) | (position & ~old);
}

// Of the window that begins at `start`, before 0 where it is in the padding: its positions within the picture.
VECTOR_INLINE struct range positions_within(int start, int size, int length)
{
    return (struct range){start < 0 ? -start : 0, length - start < size ? length - start : size};
}

VECTOR_INLINE bool is_whole(struct range range, int size)
{
    return range.first == 0 && range.end == size;
}

// first: the first number within the picture, whose position the winners are counted from until the end.
VECTOR_INLINE struct window pool_window(const float *first, int width, int size, struct range ys, struct range xs)
{
    const int start = 1 + ys.first * size + xs.first;
    struct window w = {half_load(first), {0}};
    for (int ky = 0; ky < ys.end - ys.first; ky++)
        for (int kx = ky == 0; kx < xs.end - xs.first; kx++)
            window_add(&w, half_load(first + (ky * width + kx) * BLOCK_CHANNELS), ky * size + kx);
    w.winners += start;
    return w;
}

// The common windows by loops of known length. A window outside the picture gives 0.
VECTOR_INLINE struct window pool_at(const struct maxpool *pool, struct shape in, const float *block, int top, int left)
{
    const struct range ys = positions_within(top, pool->size, in.height), xs = positions_within(left, pool->size, in.width);
    if (ys.first >= ys.end || xs.first >= xs.end) return (struct window){{0}, {0}};
    const float *first = block + (size_t)((top + ys.first) * in.width + left + xs.first) * BLOCK_CHANNELS;
    const bool whole = is_whole(ys, pool->size) && is_whole(xs, pool->size);
    if (whole && pool->size == 3) return pool_window(first, in.width, 3, (struct range){0, 3}, (struct range){0, 3});
    if (whole && pool->size == 2) return pool_window(first, in.width, 2, (struct range){0, 2}, (struct range){0, 2});
    return pool_window(first, in.width, pool->size, ys, xs);
}

VECTORIZED static void pool_block(const struct maxpool *pool, struct shape in, struct shape out, const float *block, float *output,
                                  uint16_t *winners)
{
    for (int y = 0; y < out.height; y++)
        for (int x = 0; x < out.width; x++)
            for (int half = 0; half < 2; half++, output += HALF_LANES, winners += HALF_LANES) {
                struct window w = pool_at(pool, in, block + half * HALF_LANES, y * pool->stride - pool->offset, x * pool->stride - pool->offset);
                half_store(output, w.largest);
                half_positions positions = __builtin_convertvector(w.winners, half_positions);
                memcpy(winners, &positions, sizeof positions);
            }
}

static void forward_task(void *context, int image, int thread)
{
    struct layer *layer = context;
    const struct maxpool *pool = layer->state;
    struct shape in = layer->input_shape, out = layer->output_shape;
    struct source map = layer_input_source(layer, 0);
    int blocks = blocked_count(in.channels);
    for (int block = 0; block < blocks; block++) {
        struct source source = source_of_block(&map, image, block, blocks, shape_pixels(in));
        size_t number = (size_t)image * (size_t)blocks + (size_t)block, at = number * shape_pixels(out) * BLOCK_CHANNELS;
        const float *values = source.x;
        if (source.kind != SOURCE_PLAIN) {
            values = network_scratch(layer->network, thread);
            source_write(&source, shape_pixels(in), network_scratch(layer->network, thread), false);
        }
        pool_block(pool, in, out, values, layer->output + at, pool->winners + at);
        source_maxima(&(struct source){.kind = SOURCE_PLAIN, .x = layer->output + at}, shape_pixels(out),
                      layer->output_maximum + number * BLOCK_CHANNELS);
    }
}

static bool forward(struct layer *layer, const struct pass *pass, struct error *error)
{
    (void)error;
    thread_pool_run(pass->pool, pass->images, forward_task, layer);
    layer->output_maximum_known = true;
    return true;
}

struct work {
    struct layer *layer;
    struct delta_target target;
};

// Windows that lie side by side and cover the whole picture: every number of the input's error is written once.
static bool covers(const struct maxpool *pool, struct shape in, struct shape out)
{
    return pool->size == pool->stride && pool->offset == 0 && out.height * pool->size == in.height && out.width * pool->size == in.width;
}

// All ones where this position is the winner.
VECTOR_INLINE half_int won_by(half_positions winners, int position)
{
    return __builtin_convertvector((half_short)(winners == (uint16_t)(1 + position)), half_int);
}

VECTORIZED static void spread_block(const struct maxpool *pool, struct shape in, struct shape out, const float *errors, const uint16_t *winners,
                                    float *delta, bool accumulate)
{
    for (int y = 0; y < out.height; y++)
        for (int x = 0; x < out.width; x++)
            for (int half = 0; half < 2; half++, errors += HALF_LANES, winners += HALF_LANES) {
                const half_positions winner = load_winners(winners);
                const half_float e = half_load(errors);
                float *corner = delta + (size_t)(y * pool->stride * in.width + x * pool->stride) * BLOCK_CHANNELS + half * HALF_LANES;
                for (int k = 0; k < pool->size * pool->size; k++) {
                    half_float value = (half_float)((half_int)e & won_by(winner, k));
                    float *to = corner + pool->offsets[k];
                    half_store(to, accumulate ? half_load(to) + value : value);
                }
            }
}

// sum + the errors of the windows, in their order, whose winner pixel (r, c) of the input is.
VECTOR_INLINE half_float collect(const struct maxpool *pool, int out_width, int r, int c, const float *errors, const uint16_t *winners,
                                 half_float sum)
{
    const struct range ys = pool->rows[r], xs = pool->columns[c];
    for (int y = ys.first; y < ys.end; y++)
        for (int x = xs.first; x < xs.end; x++) {
            const size_t at = (size_t)(y * out_width + x) * BLOCK_CHANNELS;
            const int position = (r + pool->offset - y * pool->stride) * pool->size + c + pool->offset - x * pool->stride;
            const half_int wins = won_by(load_winners(winners + at), position);
            const half_float with = sum + half_load(errors + at);
            sum = (half_float)(((half_int)with & wins) | ((half_int)sum & ~wins));
        }
    return sum;
}

VECTORIZED static void collect_block(const struct maxpool *pool, struct shape in, struct shape out, const float *errors,
                                     const uint16_t *winners, float *delta, bool accumulate)
{
    for (int r = 0; r < in.height; r++)
        for (int c = 0; c < in.width; c++)
            for (int half = 0; half < 2; half++, delta += HALF_LANES) {
                half_float sum = {0};
                if (accumulate) sum = half_load(delta);
                half_store(delta, collect(pool, out.width, r, c, errors + half * HALF_LANES, winners + half * HALF_LANES, sum));
            }
}

static void backward_task(void *context, int image, int thread)
{
    (void)thread;
    const struct work *work = context;
    const struct maxpool *pool = work->layer->state;
    struct shape in = work->layer->input_shape, out = work->layer->output_shape;
    const bool once = covers(pool, in, out);
    for (int block = 0, blocks = blocked_count(in.channels); block < blocks; block++) {
        const size_t number = (size_t)image * (size_t)blocks + (size_t)block, from = number * shape_pixels(out) * BLOCK_CHANNELS;
        (once ? spread_block : collect_block)(pool, in, out, work->layer->delta + from, pool->winners + from,
                                              work->target.values + number * shape_pixels(in) * BLOCK_CHANNELS, work->target.accumulate);
    }
    if (work->target.done.function) work->target.done.function(work->target.done.context, image);
}

static bool backward(struct layer *layer, const struct pass *pass, struct error *error)
{
    (void)error;
    struct work work = {.layer = layer, .target = layer_delta_target(layer, 0)};
    if (work.target.values) thread_pool_run(pass->pool, pass->images, backward_task, &work);
    return true;
}

static void destroy(struct layer *layer)
{
    struct maxpool *pool = layer->state;
    memory_release(pool->offsets);
    memory_release(pool->rows);
    memory_release(pool->columns);
    memory_release(pool->winners);
    memory_release(pool);
}

// Forward compares the positions of each window that lie inside; backward adds each error to its winner.
static void operations(const struct layer *layer, struct operations *operations)
{
    const struct maxpool *pool = layer->state;
    struct shape in = layer->input_shape, out = layer->output_shape;
    double positions = window_positions(in.height, out.height, pool->size, pool->stride, pool->offset) *
                       window_positions(in.width, out.width, pool->size, pool->stride, pool->offset);
    double images = operations->images, errors = images * (double)shape_size(out);
    operations_add(operations, IN_FORWARD, POOLING, images * in.channels * positions, UNITS(FP32_COMPARE(1)));
    operations_move(operations, IN_FORWARD, MLS_ACTIVATION, images * (double)(shape_size(in) + shape_size(out)), 32);
    if (!operations->passes_error) return;
    operations_add(operations, IN_BACKWARD, POOLING, errors, UNITS(FP32_ADD(1)));
    operations_move(operations, IN_BACKWARD, MLS_ERROR, images * (double)(shape_size(in) + shape_size(out)), 32);
}

const struct layer_type maxpool_layer_type = {
    .name = "maxpool", .alias = "max", .help = "largest value of a window", .options = options,
    .settings_size = sizeof(struct maxpool_settings),
    .create = create, .forward = forward, .backward = backward, .destroy = destroy, .operations = operations,
};
