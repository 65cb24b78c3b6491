// Packed convolutions: quantization of feature maps and weights into the bytes that the kernels read.
#include <math.h>
#include <string.h>

#include "base/vector.h"
#include "kernels/packed_internal.h"

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

// max |x| of `count` numbers, compared as bit patterns so that a NaN comes out on top.
VECTORIZED static float maximum_of(const float *x, size_t count)
{
    vector_int maximum = {0};
    size_t i = 0;
    for (; i + VECTOR_LANES <= count; i += VECTOR_LANES) maximum = vector_maximum(maximum, vector_load(x + i));
    if (i < count) maximum = vector_maximum(maximum, vector_load_part(x + i, count - i));
    return vector_maximum_of_lanes(maximum);
}

// a > b, with NaN above all.
static float larger_maximum(float a, float b)
{
    return isnan(a) || a > b ? a : b;
}

struct map_work {
    struct packed_convolution *packed;
    struct packed_map *map;
    const float *x;
    struct quantizer quantizer;
    uint64_t tensor_key;
};

static void maxima_task(void *context, int image, int thread)
{
    (void)thread;
    struct map_work *work = context;
    struct packed_map *map = work->map;
    size_t plane = (size_t)map->height * (size_t)map->width, first = (size_t)image * (size_t)map->channels;
    for (int c = 0; c < map->channels; c++)
        map->plane_maxima[first + (size_t)c] = maximum_of(work->x + (first + (size_t)c) * plane, plane);
}

static void quantize_map_task(void *context, int task, int thread)
{
    (void)thread;
    struct map_work *work = context;
    struct packed_map *map = work->map;
    int image = task / map->blocks, block = task % map->blocks, first = block * BLOCK_CHANNELS;
    size_t plane = (size_t)map->height * (size_t)map->width;
    size_t first_plane = (size_t)image * (size_t)map->channels + (size_t)first;
    struct quantize_job job = {.quantizer = work->quantizer, .x = work->x + first_plane * plane,
                               .channels = minimum(map->channels - first, BLOCK_CHANNELS), .height = map->height,
                               .width = map->width, .plane = plane, .zero_point = map->zero_point,
                               .row_bytes = map->row_bytes, .rows_plane = map->rows_plane, .row_pitch = map->row_pitch};
    float *scales = map->plane_scales + ((size_t)image * (size_t)map->blocks + (size_t)block) * BLOCK_CHANNELS;
    for (int c = 0; c < BLOCK_CHANNELS; c++)
        scales[c] = c < job.channels ? map->scales[map->plane_groups[first_plane + (size_t)c]] : 1;
    for (int c = 0; c < job.channels; c++) {
        job.reciprocals[c] = map->tensor_scale > 0 ? 1.0f / (map->tensor_scale * scales[c]) : 0;
        job.keys[c] = mls_plane_keys_of(work->tensor_key, first_plane + (uint64_t)c);
    }
    size_t halo_pixel = (size_t)map->top * (size_t)map->padded_width + (size_t)map->left;
    size_t first_byte = ((size_t)image * (size_t)map->blocks + (size_t)block) * BLOCK_CHANNELS * map->plane_bytes;
    if (map->planes) job.planes = map->planes + first_byte + halo_pixel;
    job.plane_bytes = map->plane_bytes;
    job.plane_pitch = map->padded_width;
    if (map->pixels)
        job.pixels = map->pixels + (size_t)image * map->image_bytes + (size_t)block * map->block_bytes +
                 (size_t)map->top * map->row_bytes + (size_t)map->left * BLOCK_CHANNELS;
    if (map->rows)
        job.rows = map->rows + ((size_t)image * (size_t)map->blocks + (size_t)block) * BLOCK_CHANNELS * map->rows_plane;
    work->packed->request.kernels->quantize_block(&job);
}

bool packed_quantize_map(struct packed_convolution *packed, struct packed_map *map, struct thread_pool *pool, int images,
                         const float *x, const float *maxima, uint64_t tensor_key, bool nearest, struct error *error)
{
    struct map_work work = {packed, map, x, quantizer_of(&map->format, nearest), tensor_key};
    if (!maxima) {
        thread_pool_run(pool, images, maxima_task, &work);
        maxima = map->plane_maxima;
    }
    // The groups of images that did not come are not read by anyone.
    int groups = (map->grouping.blocks[0] == 1 ? 1 : images) * map->grouping.blocks[1];
    memset(map->maxima, 0, (size_t)groups * sizeof(float));
    for (int plane = 0; plane < images * map->channels; plane++) {
        float *group = &map->maxima[map->plane_groups[plane]];
        *group = larger_maximum(maxima[plane], *group);
    }
    if (!mls_scales(&map->format, map->maxima, groups, &map->tensor_scale, map->scales))
        return error_set(error, "%s to quantize: not a finite number", map->rows ? "the errors" : "the activations");
    thread_pool_run(pool, images * map->blocks, quantize_map_task, &work);
    return true;
}

bool packed_quantize_activations(struct packed_convolution *packed, struct thread_pool *pool, int images,
                                 const float *x, const float *maxima, uint64_t tensor_key, bool evaluation,
                                 struct error *error)
{
    return packed_quantize_map(packed, &packed->activations, pool, images, x, maxima, tensor_key, evaluation, error);
}

bool packed_quantize_errors(struct packed_convolution *packed, struct thread_pool *pool, int images, const float *x,
                            const float *maxima, uint64_t tensor_key, struct error *error)
{
    return packed_quantize_map(packed, &packed->errors, pool, images, x, maxima, tensor_key, false, error);
}

// ---------------------------------------------------------------------------------------------
// Weights

struct weight_work {
    struct packed_convolution *packed;
    const float *weights;
    struct quantizer quantizer;
    uint64_t tensor_key;
    struct direction *direction;
};

static float weight_reciprocal(const struct packed_convolution *packed, int out, int in)
{
    float scale = packed->weight_tensor_scale * packed->weight_scales[mls_group_index(&packed->weight_grouping, out, in)];
    return packed->weight_tensor_scale > 0 ? 1.0f / scale : 0;
}

static void quantize_weights_task(void *context, int out, int thread)
{
    (void)thread;
    struct weight_work *work = context;
    struct packed_convolution *packed = work->packed;
    const struct convolution_shape *s = &packed->shape;
    const struct mls_format *format = &packed->request.formats[MLS_WEIGHT];
    int window = s->kernel_height * s->kernel_width;
    for (int in = 0; in < s->in_channels; in++) {
        size_t plane = (size_t)out * (size_t)s->in_channels + (size_t)in, start = plane * (size_t)window;
        float reciprocal = weight_reciprocal(packed, out, in);
        if (!work->quantizer.stochastic) {
            packed->request.kernels->quantize_run(&work->quantizer, work->weights + start, window, reciprocal,
                                                  packed->weight_codes + start);
            continue;
        }
        struct mls_plane_keys keys = mls_plane_keys_of(work->tensor_key, plane);
        for (int k = 0; k < window; k++)
            packed->weight_codes[start + (size_t)k] = (int8_t)mls_quantize_element(
                format, work->weights[start + (size_t)k], reciprocal, mls_random_bits(keys, (uint32_t)k, 16));
    }
}

static int weight_code(const struct packed_convolution *packed, bool forward, int output, int reduced, int window)
{
    const struct convolution_shape *s = &packed->shape;
    int out = forward ? output : reduced, in = forward ? reduced : output;
    if (out >= s->out_channels || in >= s->in_channels) return 0;
    size_t index = (size_t)out * (size_t)s->in_channels + (size_t)in;
    return packed->weight_codes[index * (size_t)(s->kernel_height * s->kernel_width) + (size_t)window];
}

// One group of one output block of one phase, in the order in which the kernel reads it.
static int8_t *pack_group(const struct packed_convolution *packed, const struct direction *d, const struct phase *phase,
                          int block, int group, int8_t *to, int32_t sums[BLOCK_CHANNELS])
{
    bool forward = d == &packed->forward;
    for (int quad = d->quad_first[group]; quad <= d->quad_last[group]; quad++)
        for (int tap = 0; tap < phase->taps; tap++)
            for (int i = 0; i < BLOCK_CHANNELS; i++)
                for (int b = 0; b < 4; b++) {
                    int channel = d->planar ? quad : 4 * quad + b, window = phase->tap_weights[tap][b];
                    bool inside = channel >= d->group_first[group] && channel <= d->group_last[group] && window >= 0;
                    int code = inside ? weight_code(packed, forward, block * BLOCK_CHANNELS + i, channel, window) : 0;
                    sums[i] += code;
                    *to++ = (int8_t)code;
                }
    return to;
}

static void pack_weights_task(void *context, int task, int thread)
{
    (void)thread;
    struct weight_work *work = context;
    const struct packed_convolution *packed = work->packed;
    const struct direction *d = work->direction;
    bool forward = d == &packed->forward;
    int zero_point = forward ? packed->activations.zero_point : packed->errors.zero_point;
    int block = task % d->output_blocks;
    const struct phase *phase = &d->phases[task / d->output_blocks];
    int8_t *to = phase->weights + (size_t)block * phase->weights_block;
    for (int group = 0; group < d->groups; group++) {
        int32_t sums[BLOCK_CHANNELS] = {0};
        to = pack_group(packed, d, phase, block, group, to, sums);
        size_t at = ((size_t)block * (size_t)d->groups + (size_t)group) * BLOCK_CHANNELS;
        for (int i = 0; i < BLOCK_CHANNELS; i++) {
            int output = minimum(block * BLOCK_CHANNELS + i, d->outputs - 1), reduced = d->group_first[group];
            phase->corrections[at + (size_t)i] = zero_point * sums[i];
            d->weight_scales[at + (size_t)i] = packed->weight_scales[mls_group_index(
                &packed->weight_grouping, forward ? output : reduced, forward ? reduced : output)];
        }
    }
}

static void weight_maxima(struct packed_convolution *packed, const float *weights)
{
    const struct convolution_shape *s = &packed->shape;
    const struct mls_grouping *grouping = &packed->weight_grouping;
    size_t window = (size_t)(s->kernel_height * s->kernel_width);
    memset(packed->weight_maxima, 0, (size_t)grouping->blocks[0] * (size_t)grouping->blocks[1] * sizeof(float));
    for (int out = 0; out < s->out_channels; out++)
        for (int in = 0; in < s->in_channels;) {
            int group = mls_group_index(grouping, out, in), end = in + 1;
            while (end < s->in_channels && mls_group_index(grouping, out, end) == group) end++;
            size_t start = ((size_t)out * (size_t)s->in_channels + (size_t)in) * window;
            float maximum = maximum_of(weights + start, (size_t)(end - in) * window);
            packed->weight_maxima[group] = larger_maximum(maximum, packed->weight_maxima[group]);
            in = end;
        }
}

bool packed_quantize_weights(struct packed_convolution *packed, struct thread_pool *pool, const float *weights,
                             uint64_t tensor_key, bool evaluation, struct error *error)
{
    const struct mls_format *format = &packed->request.formats[MLS_WEIGHT];
    const struct mls_grouping *grouping = &packed->weight_grouping;
    weight_maxima(packed, weights);
    if (!mls_scales(format, packed->weight_maxima, grouping->blocks[0] * grouping->blocks[1],
                    &packed->weight_tensor_scale, packed->weight_scales))
        return error_set(error, "the weights to quantize: not a finite number");
    struct weight_work work = {packed, weights, quantizer_of(format, evaluation), tensor_key, &packed->forward};
    thread_pool_run(pool, packed->shape.out_channels, quantize_weights_task, &work);
    thread_pool_run(pool, packed->forward.phase_count * packed->forward.output_blocks, pack_weights_task, &work);
    if (!packed->request.for_training) return true;
    work.direction = &packed->backward;
    thread_pool_run(pool, packed->backward.phase_count * packed->backward.output_blocks, pack_weights_task, &work);
    return true;
}
