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

struct maxpool {
    int size, stride, offset;
    int *offsets;      // [size * size]: of a position in the window, floats of a block
    uint16_t *winners; // [images] of the output shape, as stored: 1 + position in the window; 0: none
};

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
    return pool->offsets && (pool->winners = layer_allocate(layer, count, sizeof *pool->winners, diagnostics)) != NULL;
}

typedef uint16_t vector_positions __attribute__((vector_size(2 * BLOCK_CHANNELS)));

// A window of a block of channels as far as it was looked at: 1 + the position of the largest value, 0 at the start.
struct window {
    vector_float largest;
    vector_int winners;
};

// The first among equals stays; a NaN wins.
VECTOR_INLINE vector_int stays(vector_float largest, vector_float v, const bool native)
{
    if (native) return v <= largest;
    int32_t mask[BLOCK_CHANNELS];
    float a[BLOCK_CHANNELS], b[BLOCK_CHANNELS];
    vector_store(a, v);
    vector_store(b, largest);
    for (int i = 0; i < BLOCK_CHANNELS; i++) mask[i] = a[i] <= b[i] ? -1 : 0;
    vector_int result;
    memcpy(&result, mask, sizeof result);
    return result;
}

VECTOR_INLINE void window_add(struct window *w, vector_float v, int32_t position, bool first, const bool native)
{
    vector_int old = first ? (vector_int){0} : stays(w->largest, v, native);
    w->largest = (vector_float)(((vector_int)w->largest & old) | ((vector_int)v & ~old));
    w->winners = (w->winners & old) | ((1 + position) & ~old);
}

// A window outside the picture gives 0.
VECTOR_INLINE void pool_block_body(const struct maxpool *pool, struct shape in, struct shape out, const float *block, float *output,
                                   uint16_t *winners, const bool native)
{
    for (int y = 0; y < out.height; y++)
        for (int x = 0; x < out.width; x++, output += BLOCK_CHANNELS, winners += BLOCK_CHANNELS) {
            struct window w = {{0}, {0}};
            bool first = true;
            for (int ky = 0; ky < pool->size; ky++)
                for (int kx = 0; kx < pool->size; kx++) {
                    int r = y * pool->stride + ky - pool->offset, c = x * pool->stride + kx - pool->offset;
                    if (r < 0 || r >= in.height || c < 0 || c >= in.width) continue;
                    window_add(&w, vector_load(block + (size_t)(r * in.width + c) * BLOCK_CHANNELS), ky * pool->size + kx, first, native);
                    first = false;
                }
            vector_store(output, w.largest);
            vector_positions positions = __builtin_convertvector(w.winners, vector_positions);
            memcpy(winners, &positions, sizeof positions);
        }
}
VECTORIZED_VERSIONS(static, pool_block, (const struct maxpool *pool, struct shape in, struct shape out, const float *block, float *output,
                    uint16_t *winners), pool, in, out, block, output, winners)

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

VECTOR_INLINE void spread_block_body(const struct maxpool *pool, struct shape in, struct shape out, const float *errors, const uint16_t *winners,
                                     float *delta, bool accumulate, const bool native)
{
    for (int y = 0; y < out.height; y++)
        for (int x = 0; x < out.width; x++, errors += BLOCK_CHANNELS, winners += BLOCK_CHANNELS) {
            vector_positions positions;
            memcpy(&positions, winners, sizeof positions);
            vector_int winner = __builtin_convertvector(positions, vector_int);
            vector_float e = vector_load(errors);
            float *corner = delta + (size_t)(y * pool->stride * in.width + x * pool->stride) * BLOCK_CHANNELS;
            for (int k = 0; k < pool->size * pool->size; k++) {
                // Positions are small numbers: d - 1 and -d - 1 are both negative for d = 0 alone.
                vector_int difference = winner - (k + 1), same = native ? difference == 0 : ((difference - 1) & (-difference - 1)) >> 31;
                vector_float value = vector_where(same, e);
                float *to = corner + pool->offsets[k];
                vector_store(to, accumulate ? vector_load(to) + value : value);
            }
        }
}
VECTORIZED_VERSIONS(static, spread_block, (const struct maxpool *pool, struct shape in, struct shape out, const float *errors, const uint16_t *winners,
                    float *delta, bool accumulate), pool, in, out, errors, winners, delta, accumulate)

static void backward_task(void *context, int image, int thread)
{
    (void)thread;
    const struct work *work = context;
    const struct maxpool *pool = work->layer->state;
    struct shape in = work->layer->input_shape, out = work->layer->output_shape;
    float *delta = work->target.values + (size_t)image * shape_stored(in);
    size_t at = (size_t)image * shape_stored(out);
    bool once = covers(pool, in, out);
    for (int block = 0; once && block < blocked_count(in.channels); block++) {
        size_t from = at + (size_t)block * shape_pixels(out) * BLOCK_CHANNELS;
        spread_block(pool, in, out, work->layer->delta + from, pool->winners + from, delta + (size_t)block * shape_pixels(in) * BLOCK_CHANNELS,
                     work->target.accumulate);
    }
    if (!once && !work->target.accumulate) memset(delta, 0, shape_stored(in) * sizeof(float));
    for (int block = 0; !once && block < blocked_count(in.channels); block++, delta += shape_pixels(in) * BLOCK_CHANNELS)
        for (int y = 0; y < out.height; y++)
            for (int x = 0; x < out.width; x++) {
                int corner = ((y * pool->stride - pool->offset) * in.width + x * pool->stride - pool->offset) * BLOCK_CHANNELS;
                for (int i = 0; i < BLOCK_CHANNELS; i++, at++)
                    if (pool->winners[at]) delta[corner + pool->offsets[pool->winners[at] - 1] + i] += work->layer->delta[at];
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
