// Packed convolutions: quantization of feature maps and weights into the bytes that the kernels read.
#include <math.h>
#include <string.h>

#include "base/vector.h"
#include "kernels/packed_internal.h"
#include "mls/elements.h"

// ---------------------------------------------------------------------------------------------
// Quantization of feature maps

static struct quantizer quantizer_of(const struct mls_format *format, bool nearest)
{
    struct quantizer q = {.mantissa = format->mantissa, .largest = (int)mls_largest_integer(format)};
    q.high = format->exponent ? 15 : 16;
    q.low = format->exponent ? 16 + 1 - (1 << format->exponent) : 16;
    q.stochastic = !nearest && format->rounding == MLS_STOCHASTIC;
    return q;
}

// The larger number, or a NaN if there is one.
static float larger_maximum(float a, float b)
{
    return isnan(a) || a > b ? a : b;
}

static void find_plane_maxima(const struct map_quantization *q, int image)
{
    const struct packed_map *map = q->map;
    size_t plane = (size_t)map->height * (size_t)map->width;
    for (int block = 0; block < map->blocks; block++) {
        struct source source = source_of_block(&q->input->source, image, block, map->blocks, plane);
        source_maxima(&source, plane, map->plane_maxima + ((size_t)image * (size_t)map->blocks + (size_t)block) * BLOCK_CHANNELS);
    }
    map->image_seen[image] = true;
}

static void maxima_task(void *context, int task, int thread)
{
    (void)thread;
    const struct map_quantization *q = context;
    find_plane_maxima(q, q->list ? q->list[task] : task);
}

static float largest_of_image(const struct packed_map *map, const float *maxima, int image)
{
    float largest = 0;
    maxima += (size_t)image * (size_t)map->blocks * BLOCK_CHANNELS;
    for (int c = 0; c < map->channels; c++) largest = larger_maximum(maxima[c], largest);
    return largest;
}

// Up to `most` images with the largest bounds above `above` that were not seen yet.
static int next_candidates(const struct packed_map *map, int images, float above, int most, int *list)
{
    int count = 0;
    for (int n = 0; n < images; n++) {
        float bound = map->image_bounds[n];
        if (map->image_seen[n] || !(bound > above) || (count == most && bound <= map->image_bounds[list[count - 1]])) continue;
        int at = count < most ? count++ : most - 1;
        for (; at > 0 && map->image_bounds[list[at - 1]] < bound; at--) list[at] = list[at - 1];
        list[at] = n;
    }
    return count;
}

// The largest |value| of the tensor without reading all of it: images in the order of their bounds, until no bound of the
// others exceeds what was found.
static float find_largest(struct map_quantization *q, struct thread_pool *pool, int images)
{
    struct packed_map *map = q->map;
    int list[8], count;
    float largest = 0;
    for (int n = 0; n < images; n++) map->image_bounds[n] = largest_of_image(map, q->input->bounds, n);
    q->list = list;
    while (isfinite(largest) && (count = next_candidates(map, images, largest, 8, list)) > 0) {
        thread_pool_run(pool, count, maxima_task, q);
        for (int k = 0; k < count; k++) largest = larger_maximum(largest_of_image(map, map->plane_maxima, list[k]), largest);
    }
    q->list = NULL;
    return largest;
}

static float find_all(struct map_quantization *q, struct thread_pool *pool, int images)
{
    float largest = 0;
    if (!q->maxima) {
        thread_pool_run(pool, images, maxima_task, q);
        q->maxima = q->map->plane_maxima;
    }
    for (int n = 0; n < images; n++) largest = larger_maximum(largest_of_image(q->map, q->maxima, n), largest);
    return largest;
}

// Group maxima of one image, from those of its planes.
static void add_group_maxima(const struct map_quantization *q, int image)
{
    const struct packed_map *map = q->map;
    const float *maxima = (q->maxima ? q->maxima : map->plane_maxima) + (size_t)image * (size_t)map->blocks * BLOCK_CHANNELS;
    for (int c = 0; c < map->channels; c++) {
        float *group = &map->maxima[map->plane_groups[image * map->channels + c]];
        *group = larger_maximum(maxima[c], *group);
    }
}

static void set_scales(struct map_quantization *q, int first_group, int groups)
{
    const struct packed_map *map = q->map;
    for (int g = first_group; g < first_group + groups; g++) {
        if (!(map->maxima[g] <= q->largest)) q->failed = true; // a NaN, or an infinity that no bound announced
        map->scales[g] = mls_group_scale(&map->format, map->tensor_scale > 0 ? map->maxima[g] / map->tensor_scale : 0);
    }
}

bool map_quantization_begin(struct map_quantization *q, struct thread_pool *pool, int images, struct error *error)
{
    struct packed_map *map = q->map;
    q->quantizer = quantizer_of(&map->format, q->nearest);
    q->maxima = q->input->maxima;
    q->by_image = map->grouping.blocks[0] == map->grouping.size[0];
    memset(map->image_seen, 0, (size_t)images * sizeof(bool));
    q->largest = q->by_image && !q->maxima && q->input->bounds ? find_largest(q, pool, images) : find_all(q, pool, images);
    q->failed = !isfinite(q->largest);
    if (q->failed) return map_quantization_end(q, error);
    map->tensor_scale = mls_tensor_scale(&map->format, q->largest);
    // The groups of images that did not come are not read by anyone.
    memset(map->maxima, 0, (size_t)(q->by_image ? images : map->grouping.blocks[0]) * (size_t)map->grouping.blocks[1] * sizeof(float));
    if (q->by_image) return true;
    for (int n = 0; n < images; n++) add_group_maxima(q, n);
    set_scales(q, 0, map->grouping.blocks[0] * map->grouping.blocks[1]);
    return true;
}

bool map_quantization_end(const struct map_quantization *q, struct error *error)
{
    return !q->failed || error_set(error, "%s to quantize: not a finite number", q->map == &q->packed->errors ? "the errors" : "the activations");
}

// Where a block of an image goes.
static void set_targets(const struct packed_map *map, int image, int place, int block, struct quantize_job *job)
{
    const size_t blocks = (size_t)map->blocks, of_image = (size_t)image * blocks + (size_t)block, at_work = (size_t)place * blocks + (size_t)block;
    job->plane_bytes = map->plane_bytes;
    job->plane_pitch = map->padded_width;
    const size_t inside = (size_t)map->top * (size_t)map->padded_width + (size_t)map->left;
    if (map->planes) job->planes = map->planes + at_work * map->block_bytes + inside;
    job->row_bytes = map->row_bytes;
    if (map->pixels) job->pixels = map->pixels + (map->passing ? at_work : of_image) * map->block_bytes + inside * BLOCK_CHANNELS;
    job->row_quads = map->row_quads;
    if (map->quads) job->quads = map->quads + (map->quads_passing ? at_work : of_image) * map->quads_block;
}

#define FILL_WHOLE ((size_t)32 << 10) // bytes of a block that stay in the first cache: to fill all of it is less work than around its inside

// Of a block of an image, in memory that is shared.
static void fill_halo(const struct packed_map *map, int image, int block)
{
    size_t row = map->row_bytes, inside = (size_t)map->width * BLOCK_CHANNELS;
    size_t before = (size_t)map->top * row + (size_t)map->left * BLOCK_CHANNELS;
    uint8_t *pixels = map->pixels + ((size_t)image * (size_t)map->blocks + (size_t)block) * map->block_bytes, *to = pixels + before + inside;
    if (map->block_bytes <= FILL_WHOLE) {
        memset(pixels, map->zero_point, map->block_bytes);
        return;
    }
    memset(pixels, map->zero_point, before);
    // What is right of a row and left of the next one lies side by side: a few bytes, not worth a call.
    for (int y = 1; y < map->height; y++, to += row)
        for (size_t i = 0; i < row - inside; i++) to[i] = (uint8_t)map->zero_point;
    memset(to, map->zero_point, map->block_bytes - (size_t)(to - pixels));
}

static void quantize_block_of_image(const struct map_quantization *q, int image, int place, int block)
{
    const struct packed_map *map = q->map;
    int first = block * BLOCK_CHANNELS;
    size_t first_plane = (size_t)image * (size_t)map->channels + (size_t)first;
    struct quantize_job job = {.quantizer = q->quantizer, .height = map->height, .width = map->width, .zero_point = map->zero_point};
    job.source = source_of_block(&q->input->source, image, block, map->blocks, (size_t)map->height * (size_t)map->width);
    float *scales = map->plane_scales + ((size_t)image * (size_t)map->blocks + (size_t)block) * BLOCK_CHANNELS;
    for (int c = 0; c < BLOCK_CHANNELS; c++) {
        bool exists = first + c < map->channels;
        scales[c] = exists ? map->scales[map->plane_groups[first_plane + (size_t)c]] : 1;
        job.reciprocals[c] = exists && map->tensor_scale > 0 ? 1.0f / (map->tensor_scale * scales[c]) : 0;
        if (!q->quantizer.stochastic) continue;
        struct mls_plane_keys keys = mls_plane_keys_of(q->input->tensor_key, first_plane + (uint64_t)c);
        job.first_keys[c] = keys.first;
        job.second_keys[c] = keys.second;
    }
    set_targets(map, image, place, block, &job);
    q->packed->request.kernels->quantize_block(&job);
}

void map_quantization_image(struct map_quantization *q, int image, int place)
{
    const struct packed_map *map = q->map;
    if (q->by_image) {
        if (!q->maxima && !map->image_seen[image]) find_plane_maxima(q, image);
        add_group_maxima(q, image);
        set_scales(q, image * map->grouping.blocks[1], map->grouping.blocks[1]);
    }
    for (int block = 0; block < map->blocks; block++) {
        if (map->shared) fill_halo(map, image, block);
        quantize_block_of_image(q, image, place, block);
    }
}

// ---------------------------------------------------------------------------------------------
// Weights

struct weight_work {
    struct packed_convolution *packed;
    const float *weights;
    struct quantizer quantizer;
    uint64_t tensor_key;
};

static float weight_reciprocal(const struct packed_convolution *packed, int out, int in)
{
    float scale = packed->weight_tensor_scale * packed->weight_scales[weight_group(packed, out, in)];
    return packed->weight_tensor_scale > 0 ? 1.0f / scale : 0;
}

// One output channel, into codes[Ci][window]. Neighbouring input channels of one group are one run.
static void quantize_output_channel(const struct weight_work *work, int out, int8_t *codes)
{
    const struct packed_convolution *packed = work->packed;
    const struct convolution_shape *s = &packed->shape;
    const struct mls_format *format = &packed->request.formats[MLS_WEIGHT];
    const int window = s->kernel_height * s->kernel_width, inputs = inputs_of_group(s);
    for (int in = 0, end; in < inputs; in = end) {
        end = work->quantizer.stochastic ? in + 1 : packed->in_ends[in];
        size_t plane = (size_t)out * (size_t)inputs + (size_t)in;
        const float *weights = work->weights + plane * (size_t)window;
        float reciprocal = weight_reciprocal(packed, out, in);
        int8_t *to = codes + in * window;
        if (!work->quantizer.stochastic) {
            packed->request.kernels->quantize_run(&work->quantizer, weights, (end - in) * window, reciprocal, to);
            continue;
        }
        struct mls_plane_keys keys = mls_plane_keys_of(work->tensor_key, plane);
        for (int k = 0; k < window; k++)
            to[k] = (int8_t)mls_quantize_element(format, weights[k], reciprocal, mls_random_bits(keys, (uint32_t)k, 16));
    }
}

static void quantize_weights_task(void *context, int out, int thread)
{
    (void)thread;
    const struct weight_work *work = context;
    struct packed_convolution *packed = work->packed;
    const struct convolution_shape *s = &packed->shape;
    int window = s->kernel_height * s->kernel_width;
    size_t channels = (size_t)inputs_of_group(s), plane = (size_t)s->out_channels * channels;
    int8_t *codes = packed->weight_codes + (size_t)out * channels * (size_t)window;
    quantize_output_channel(work, out, codes);
    for (int k = 0; k < window; k++) {
        int8_t *to = packed->weight_planes + (size_t)k * plane + (size_t)out * channels;
        for (size_t in = 0; in < channels; in++) to[in] = codes[in * (size_t)window + (size_t)k];
    }
}

typedef int8_t bytes_16 __attribute__((vector_size(16)));
typedef int16_t pairs_8 __attribute__((vector_size(16)));

// to[16][4] = the columns of 4 rows of 16.
VECTOR_INLINE void transpose_4(const int8_t *from, size_t stride, int8_t to[64])
{
    bytes_16 r[4];
    for (size_t i = 0; i < 4; i++) memcpy(&r[i], from + i * stride, sizeof r[i]);
    const pairs_8 low[2] = {(pairs_8)__builtin_shufflevector(r[0], r[1], 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23),
                            (pairs_8)__builtin_shufflevector(r[2], r[3], 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23)};
    const pairs_8 high[2] = {(pairs_8)__builtin_shufflevector(r[0], r[1], 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31),
                             (pairs_8)__builtin_shufflevector(r[2], r[3], 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31)};
    const pairs_8 out[4] = {__builtin_shufflevector(low[0], low[1], 0, 8, 1, 9, 2, 10, 3, 11),
                            __builtin_shufflevector(low[0], low[1], 4, 12, 5, 13, 6, 14, 7, 15),
                            __builtin_shufflevector(high[0], high[1], 0, 8, 1, 9, 2, 10, 3, 11),
                            __builtin_shufflevector(high[0], high[1], 4, 12, 5, 13, 6, 14, 7, 15)};
    memcpy(to, out, sizeof out);
}

// Where the code of an output, a reduced channel of its convolution group and a window position lies in weight_planes.
static inline size_t code_at(const struct packed_convolution *packed, bool forward, int window, int output, int reduced)
{
    const size_t channels = (size_t)inputs_of_group(&packed->shape);
    const size_t out = (size_t)(forward ? output : reduced), in = (size_t)(forward ? reduced : output);
    return ((size_t)window * (size_t)packed->shape.out_channels + out) * channels + (in < channels ? in : in % channels);
}

// The codes of one window position and 4 reduced channels for 16 outputs, [16][4]: all there.
VECTOR_INLINE void pack_whole(const struct packed_convolution *packed, bool forward, int window, int output, int reduced, int8_t to[64])
{
    const size_t channels = (size_t)inputs_of_group(&packed->shape);
    const int8_t *from = packed->weight_planes + code_at(packed, forward, window, output, reduced);
    if (!forward) {
        transpose_4(from, channels, to);
        return;
    }
    for (int i = 0; i < BLOCK_CHANNELS; i++) memcpy(to + 4 * i, from + (size_t)i * channels, 4);
}

// Of a direction's outputs, those of the convolution group to which a reduced channel belongs: from *first to before *end.
static inline void outputs_of_group(const struct packed_convolution *packed, const struct direction *d, int reduced, int *first, int *end)
{
    const int groups = packed->shape.groups, outputs = d->outputs / groups;
    *first = reduced / (d->reduced / groups) * outputs;
    *end = *first + outputs;
}

// The 64 bytes of one quad and tap: 4 of each of 16 outputs, 0 where the group, the window, the outputs or their convolution group end,
// which has the outputs from `first` to before `end`.
VECTOR_INLINE void pack_dot_product(const struct packed_convolution *packed, const struct direction *d, const int window[4], int block,
                             int group, int quad, int first, int end, int8_t to[64])
{
    const bool forward = d == &packed->forward;
    const int block_first = block * BLOCK_CHANNELS, block_end = block_first + BLOCK_CHANNELS;
    bool whole = first <= block_first && end >= block_end && 4 * quad >= d->group_first[group] && 4 * quad + 3 <= d->group_last[group];
    if (!d->planar && whole) {
        pack_whole(packed, forward, window[0], block_first, 4 * quad, to);
        return;
    }
    memset(to, 0, 64);
    if (first < block_first) first = block_first;
    for (int b = 0; b < 4; b++) {
        int channel = d->planar ? quad : 4 * quad + b;
        if (channel < d->group_first[group] || channel > d->group_last[group] || window[b] < 0) continue;
        const int8_t *from = packed->weight_planes + code_at(packed, forward, window[b], first, channel);
        const size_t stride = forward ? (size_t)inputs_of_group(&packed->shape) : 1;
        for (int i = first; i < minimum(end, block_end); i++) to[4 * (i - block_first) + b] = from[(size_t)(i - first) * stride];
    }
}

// sums[i] += the 4 bytes of each.
VECTOR_INLINE vector_int add_sums(vector_int sums, const int8_t bytes[64])
{
    vector_int fours;
    memcpy(&fours, bytes, sizeof fours);
    vector_bits b = (vector_bits)fours;
    return sums + ((vector_int)(b << 24) >> 24) + ((vector_int)(b << 16) >> 24) + ((vector_int)(b << 8) >> 24) + (fours >> 24);
}

// One group of one output block of one phase, in the order in which the kernel reads it; its sums where they are wanted.
VECTORIZED static int8_t *pack_group(const struct packed_convolution *packed, const struct direction *d, const struct phase *phase,
                                     int block, int group, int8_t *to, int32_t sums[BLOCK_CHANNELS])
{
    vector_int total = {0};
    int first, end;
    outputs_of_group(packed, d, d->group_first[group], &first, &end);
    for (int quad = d->quad_first[group]; quad <= d->quad_last[group]; quad++)
        for (int tap = 0; tap < phase->taps; tap++, to += 64) {
            pack_dot_product(packed, d, phase->tap_weights[tap], block, group, quad, first, end, to);
            total = add_sums(total, to);
        }
    memcpy(sums, &total, sizeof total);
    return to;
}

// Sg of the weights of a group by output of a block; 0 for what has no weights.
static void set_weight_scales(const struct packed_convolution *packed, const struct direction *d, int block, int group, float scales[BLOCK_CHANNELS])
{
    const int reduced = d->group_first[group], inputs = inputs_of_group(&packed->shape);
    int first, end;
    outputs_of_group(packed, d, reduced, &first, &end);
    for (int i = 0; i < BLOCK_CHANNELS; i++) {
        const int output = block * BLOCK_CHANNELS + i;
        scales[i] = 0;
        if (output < first || output >= end) continue;
        scales[i] = packed->weight_scales[d == &packed->forward ? weight_group(packed, output, reduced % inputs)
                                                                : weight_group(packed, reduced, output % inputs)];
    }
}

static void pack_block(const struct packed_convolution *packed, const struct direction *d, const struct phase *phase, int block)
{
    int zero_point = d == &packed->forward ? packed->activations.zero_point : packed->errors.zero_point;
    int8_t *to = phase->weights + (size_t)block * phase->weights_block;
    for (int group = 0; group < d->block_groups[block]; group++) {
        int32_t sums[BLOCK_CHANNELS];
        to = pack_group(packed, d, phase, block, d->block_first[block] + group, to, sums);
        size_t at = ((size_t)block * (size_t)d->groups + (size_t)group) * BLOCK_CHANNELS;
        for (int i = 0; i < BLOCK_CHANNELS; i++) phase->starts[at + (size_t)i] = -zero_point * sums[i];
        set_weight_scales(packed, d, block, d->block_first[block] + group, d->weight_scales + at);
    }
    if (d->winograd.weights) winograd_pack_block(packed, d, block);
    if (d->squares.weights) squares_pack_block(packed, d, block);
}

// Tasks: the output blocks of each phase, of forward and then of input error.
static void pack_weights_task(void *context, int task, int thread)
{
    (void)thread;
    const struct packed_convolution *packed = ((struct weight_work *)context)->packed;
    const struct direction *d = &packed->forward;
    if (task >= d->phase_count * d->output_blocks) {
        task -= d->phase_count * d->output_blocks;
        d = &packed->backward;
    }
    pack_block(packed, d, &d->phases[task / d->output_blocks], task % d->output_blocks);
}

// max |weight| of one output channel and each block of input channels.
static void row_maxima_task(void *context, int out, int thread)
{
    (void)thread;
    const struct weight_work *work = context;
    const struct packed_convolution *packed = work->packed;
    const struct convolution_shape *s = &packed->shape;
    const size_t window = (size_t)(s->kernel_height * s->kernel_width);
    const int inputs = inputs_of_group(s);
    float *maxima = packed->row_maxima + (size_t)out * (size_t)packed->weight_grouping.blocks[1];
    for (int k = 0; k < packed->weight_grouping.blocks[1]; k++) maxima[k] = 0;
    for (int in = 0, end; in < inputs; in = end) {
        end = packed->in_ends[in];
        size_t start = ((size_t)out * (size_t)inputs + (size_t)in) * window;
        float *maximum = &maxima[packed->in_blocks[in]];
        *maximum = larger_maximum(largest_magnitude(work->weights + start, (size_t)(end - in) * window), *maximum);
    }
}

static void weight_maxima(struct packed_convolution *packed)
{
    const struct mls_grouping *grouping = &packed->weight_grouping;
    int columns = grouping->blocks[1];
    memset(packed->weight_maxima, 0, (size_t)grouping->blocks[0] * (size_t)columns * sizeof(float));
    for (int out = 0; out < packed->shape.out_channels; out++) {
        float *groups = packed->weight_maxima + (size_t)packed->out_blocks[out] * (size_t)columns;
        const float *row = packed->row_maxima + (size_t)out * (size_t)columns;
        for (int k = 0; k < columns; k++) groups[k] = larger_maximum(row[k], groups[k]);
    }
}

// Small layers are not worth waking the other threads.
static void run(struct packed_convolution *packed, struct thread_pool *pool, int tasks, thread_task task, struct weight_work *work)
{
    const struct convolution_shape *s = &packed->shape;
    if (s->out_channels * inputs_of_group(s) * s->kernel_height * s->kernel_width >= 8192) {
        thread_pool_run(pool, tasks, task, work);
        return;
    }
    for (int i = 0; i < tasks; i++) task(work, i, 0);
}

bool packed_quantize_weights(struct packed_convolution *packed, struct thread_pool *pool, const float *weights,
                             uint64_t tensor_key, bool evaluation, struct error *error)
{
    const struct mls_format *format = &packed->request.formats[MLS_WEIGHT];
    const struct mls_grouping *grouping = &packed->weight_grouping;
    struct weight_work work = {packed, weights, quantizer_of(format, evaluation), tensor_key};
    if (packed->depthwise) return depthwise_quantize_weights(packed, weights, &work.quantizer, tensor_key, error);
    run(packed, pool, packed->shape.out_channels, row_maxima_task, &work);
    weight_maxima(packed);
    if (!mls_scales(format, packed->weight_maxima, grouping->blocks[0] * grouping->blocks[1],
                    &packed->weight_tensor_scale, packed->weight_scales))
        return error_set(error, "the weights to quantize: not a finite number");
    run(packed, pool, packed->shape.out_channels, quantize_weights_task, &work);
    const struct direction *forward = &packed->forward, *backward = &packed->backward;
    int tasks = forward->phase_count * forward->output_blocks;
    if (packed->request.for_training) tasks += backward->phase_count * backward->output_blocks;
    run(packed, pool, tasks, pack_weights_task, &work);
    return true;
}
