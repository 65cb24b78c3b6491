#include "kernels/packed.h"

#include <limits.h>
#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "base/vector.h"

#define STRIP_PIXELS 256 // outputs kept in the first cache before they are stored

// One operand that is a feature map.
struct packed_map {
    int channels, height, width, blocks;
    int top, left, padded_height, padded_width; // halo above and to the left; whole padded size
    size_t row_bytes, block_bytes, image_bytes;
    int zero_point;
    uint8_t *pixels;         // blocks of channels; NULL if nobody reads them
    uint8_t *planes;         // [image][blocks * 16][padded_height][padded_width]; NULL if nobody reads them
    size_t plane_bytes;
    int row_pitch;
    size_t rows_plane; // bytes of a channel in `rows`
    int8_t *rows;      // NULL for activations
    struct mls_format format;
    struct mls_grouping grouping;
    float *maxima, *scales; // by group
    float *plane_maxima;    // [images][channels]
    float *plane_scales;    // [images][blocks * 16]: the group scale of each plane, 1 where there is no channel
    int *plane_groups;      // [images][channels]: the group of each plane
    float tensor_scale;
};

// A set of outputs that share their window: all outputs of a forward convolution; of an input error with stride s,
// one of s * s phases. Output (j, i) of the phase is pixel (first_y + j * step, first_x + i * step) and reads, for each
// tap, map pixel (j * stride, i * stride) + offset.
struct phase {
    int first_y, first_x, step, rows, columns;
    int taps;
    int32_t *tap_offsets;   // bytes
    int (*tap_weights)[4];  // window index ky * Kw + kx of each of a tap's 4 bytes (in planes), -1: none
    int8_t *weights;        // [output block][group][quad][tap][16][4]
    size_t weights_block;   // bytes of one output block
    int32_t *corrections;   // [output block][group][16]
};

// Forward or input error: reduces over `reduced` channels into `outputs` channels.
struct direction {
    int reduced, outputs, output_blocks;
    int groups, total_quads;
    int *group_first, *group_last; // channels
    bool planar;            // reads planes: fewer dot products where groups are small
    int *quad_first, *quad_last;
    size_t *quad_offsets;
    float *weight_scales;   // [output block][group][16]
    int stride;             // of the map's pixels between neighbouring outputs
    int phase_count;
    struct phase *phases;
    int output_height, output_width;
};

struct packed_convolution {
    struct packed_request request;
    struct convolution_shape shape;
    struct packed_map activations, errors;
    struct direction forward, backward;
    // Weights: codes [Co][Ci][Kh][Kw] and scales of their groups.
    struct mls_grouping weight_grouping;
    float *weight_maxima, *weight_scales;
    int8_t *weight_codes;
    float weight_tensor_scale;
    int gradient_tasks, threads;
    float *gradient_totals;   // [task][taps][8][16]
    int64_t *gradient_sums;   // the same, where all images are one group; else NULL
    struct convolve_scratch *scratch; // per thread, grown on demand
    size_t memory;
};

struct convolve_scratch {
    float strips[2][STRIP_PIXELS * BLOCK_CHANNELS];
    float scales[]; // [2][groups][16]
};

static void *take(struct packed_convolution *packed, size_t count, size_t size, struct error *error)
{
    packed->memory += count * size;
    return memory_allocate(count, size, error);
}

static int minimum(int a, int b)
{
    return a < b ? a : b;
}

// ---------------------------------------------------------------------------------------------
// What fits

static double largest_product(const struct mls_format *a, const struct mls_format *b)
{
    // As bytes with a zero point an operand reaches 255; the other one stays within its I.
    double x = mls_largest_integer(a), y = mls_largest_integer(b);
    return 255 * (x > y ? x : y);
}

bool packed_supports(const struct convolution_shape *shape, const struct mls_format formats[3], const char **reason)
{
    const char *ignored;
    if (!reason) reason = &ignored;
    *reason = NULL;
    for (int i = 0; i < 3; i++)
        if (!mls_fits_int8(&formats[i])) *reason = "the integers of the format do not fit 8 bits";
    double window = (double)shape->kernel_height * shape->kernel_width;
    double channels = shape->in_channels > shape->out_channels ? shape->in_channels : shape->out_channels;
    double products = largest_product(&formats[MLS_WEIGHT], &formats[MLS_ACTIVATION]);
    products = fmax(products, largest_product(&formats[MLS_WEIGHT], &formats[MLS_ERROR]));
    products = fmax(products, largest_product(&formats[MLS_ACTIVATION], &formats[MLS_ERROR]));
    double pixels = (double)shape->out_height * shape->out_width;
    if (2 * products * window * channels > INT32_MAX || 2 * products * pixels > INT32_MAX)
        *reason = "a sum could exceed 32 bits";
    if (shape->groups != 1) *reason = "grouped convolution";
    if (shape->padding >= shape->kernel_height || shape->padding >= shape->kernel_width)
        *reason = "the padding is not smaller than the window";
    return *reason == NULL;
}

// ---------------------------------------------------------------------------------------------
// Building

// Room for the bytes; the halo holds the zero point. The kernels read up to 4 strided pixels past the end.
static uint8_t *create_bytes(struct packed_convolution *packed, const struct packed_map *map, size_t size, struct error *error)
{
    size += 1024 + 4 * BLOCK_CHANNELS * (size_t)packed->shape.stride;
    uint8_t *bytes = take(packed, size, 1, error);
    if (bytes) memset(bytes, map->zero_point, size);
    return bytes;
}

static bool create_map(struct packed_convolution *packed, struct packed_map *map, const int dims[4], const int halo[4],
                       enum mls_operand operand, bool is_signed, struct error *error)
{
    size_t images = (size_t)dims[0];
    map->format = packed->request.formats[operand];
    map->channels = dims[1];
    map->height = dims[2];
    map->width = dims[3];
    map->blocks = (dims[1] + BLOCK_CHANNELS - 1) / BLOCK_CHANNELS;
    map->top = halo[0];
    map->left = halo[1];
    map->padded_height = halo[0] + dims[2] + halo[2];
    map->padded_width = halo[1] + dims[3] + halo[3];
    map->row_bytes = (size_t)map->padded_width * BLOCK_CHANNELS;
    map->block_bytes = map->row_bytes * (size_t)map->padded_height;
    map->image_bytes = map->block_bytes * (size_t)map->blocks;
    map->zero_point = is_signed ? 128 : 0;
    map->grouping = mls_grouping_of(&map->format, operand, dims[0], dims[1], 1);
    size_t groups = (size_t)map->grouping.blocks[0] * (size_t)map->grouping.blocks[1];
    map->plane_bytes = (size_t)map->padded_width * (size_t)map->padded_height;
    map->maxima = take(packed, groups, sizeof(float), error);
    map->scales = take(packed, groups, sizeof(float), error);
    map->plane_maxima = take(packed, images * (size_t)dims[1], sizeof(float), error);
    map->plane_scales = take(packed, images * (size_t)map->blocks * BLOCK_CHANNELS, sizeof(float), error);
    map->plane_groups = take(packed, images * (size_t)dims[1], sizeof(int), error);
    if (!map->maxima || !map->scales || !map->plane_maxima || !map->plane_scales || !map->plane_groups)
        return false;
    for (int image = 0; image < dims[0]; image++)
        for (int c = 0; c < dims[1]; c++)
            map->plane_groups[image * dims[1] + c] = mls_group_index(&map->grouping, image, c);
    map->row_pitch = (dims[3] + 3) / 4 * 4;
    map->rows_plane = (size_t)map->row_pitch * (size_t)dims[2];
    if (operand != MLS_ERROR) return true;
    map->rows = take(packed, images * (size_t)map->blocks * BLOCK_CHANNELS * map->rows_plane + 64, 1, error);
    return map->rows != NULL;
}

// G of section 4: a new one wherever the block of either operand changes along the reduced channels.
static bool create_groups(struct packed_convolution *packed, struct direction *direction,
                          const struct mls_grouping *map, bool weights_reduce_dim1, struct error *error)
{
    const struct mls_grouping *weights = &packed->weight_grouping;
    size_t most = (size_t)direction->reduced;
    direction->group_first = take(packed, most, sizeof(int), error);
    direction->group_last = take(packed, most, sizeof(int), error);
    direction->quad_first = take(packed, most, sizeof(int), error);
    direction->quad_last = take(packed, most, sizeof(int), error);
    if (!direction->group_first || !direction->group_last || !direction->quad_first || !direction->quad_last)
        return false;
    int count = 0;
    for (int c = 0; c < direction->reduced; c++) {
        bool starts = c == 0 || mls_group_index(map, 0, c) != mls_group_index(map, 0, c - 1) ||
                      (weights_reduce_dim1 ? mls_group_index(weights, 0, c) != mls_group_index(weights, 0, c - 1)
                                           : mls_group_index(weights, c, 0) != mls_group_index(weights, c - 1, 0));
        if (starts) direction->group_first[count++] = c;
        direction->group_last[count - 1] = c;
    }
    direction->groups = count;
    return true;
}

// Dot products of an output: quads of 4 channels for each window position, or channels for each 4 columns of the window.
static void choose_layout(const struct packed_convolution *packed, struct direction *d)
{
    const struct convolution_shape *s = &packed->shape;
    int columns = d == &packed->forward ? s->kernel_width : (s->kernel_width + s->stride - 1) / s->stride, quads = 0;
    for (int g = 0; g < d->groups; g++) quads += d->group_last[g] / 4 - d->group_first[g] / 4 + 1;
    d->planar = d->reduced * ((columns + 3) / 4) < quads * columns;
}

static bool create_quads(struct packed_convolution *packed, struct direction *d, struct packed_map *map, struct error *error)
{
    size_t quads = (size_t)map->blocks * BLOCK_CHANNELS;
    int channels = d->planar ? 1 : 4;
    if (!(d->quad_offsets = take(packed, quads, sizeof(size_t), error))) return false;
    for (size_t q = 0; q < quads; q++) d->quad_offsets[q] = d->planar ? q * map->plane_bytes : q / 4 * map->block_bytes + q % 4 * 4;
    for (int g = 0; g < d->groups; g++) {
        d->quad_first[g] = d->group_first[g] / channels;
        d->quad_last[g] = d->group_last[g] / channels;
        d->total_quads += d->quad_last[g] - d->quad_first[g] + 1;
    }
    size_t images = (size_t)packed->shape.images;
    if (d->planar) return (map->planes = create_bytes(packed, map, images * quads * map->plane_bytes, error)) != NULL;
    return map->pixels || (map->pixels = create_bytes(packed, map, images * map->image_bytes, error)) != NULL;
}

// Adds one row of taps: window positions k, k + step, ... read from map columns x, x + direction, ... (-1 or 1).
static void add_taps(const struct direction *d, const struct packed_map *map, struct phase *phase, int y, int x, int direction,
                     int first_k, int step, int count)
{
    int leftmost = direction > 0 ? x : x - (count - 1);
    for (int t = 0; t < count; t += d->planar ? 4 : 1) {
        int *window = phase->tap_weights[phase->taps];
        int column = leftmost + t;
        for (int b = 0; b < 4; b++) {
            int index = direction > 0 ? t + (d->planar ? b : 0) : count - 1 - t - (d->planar ? b : 0);
            window[b] = index >= 0 && index < count ? first_k + step * index : -1;
        }
        phase->tap_offsets[phase->taps++] =
            (int32_t)(d->planar ? (size_t)y * (size_t)map->padded_width + (size_t)column
                                : (size_t)y * map->row_bytes + (size_t)column * BLOCK_CHANNELS);
    }
}

static bool create_phase(struct packed_convolution *packed, struct direction *direction, struct phase *phase, int window,
                         struct error *error)
{
    size_t blocks = (size_t)direction->output_blocks;
    phase->tap_offsets = take(packed, (size_t)window, sizeof(int32_t), error);
    phase->tap_weights = take(packed, (size_t)window, sizeof *phase->tap_weights, error);
    if (!phase->tap_offsets || !phase->tap_weights) return false;
    phase->weights_block = (size_t)direction->total_quads * (size_t)window * 64;
    phase->weights = take(packed, blocks * phase->weights_block, 1, error);
    phase->corrections = take(packed, blocks * (size_t)direction->groups * BLOCK_CHANNELS, sizeof(int32_t), error);
    return phase->weights && phase->corrections;
}

static bool create_direction(struct packed_convolution *packed, struct direction *direction, int phases, int window,
                             struct error *error)
{
    direction->output_blocks = (direction->outputs + BLOCK_CHANNELS - 1) / BLOCK_CHANNELS;
    direction->phase_count = phases;
    direction->phases = take(packed, (size_t)phases, sizeof *direction->phases, error);
    direction->weight_scales = take(packed, (size_t)direction->output_blocks * (size_t)direction->groups * BLOCK_CHANNELS,
                                    sizeof(float), error);
    if (!direction->phases || !direction->weight_scales) return false;
    for (int i = 0; i < phases; i++)
        if (!create_phase(packed, direction, &direction->phases[i], window, error)) return false;
    return true;
}

static bool create_forward(struct packed_convolution *packed, struct error *error)
{
    const struct convolution_shape *s = &packed->shape;
    struct direction *d = &packed->forward;
    const struct packed_map *map = &packed->activations;
    d->reduced = s->in_channels;
    d->outputs = s->out_channels;
    d->stride = s->stride;
    d->output_height = s->out_height;
    d->output_width = s->out_width;
    if (!create_groups(packed, d, &map->grouping, true, error)) return false;
    choose_layout(packed, d);
    if (!create_quads(packed, d, &packed->activations, error)) return false;
    if (!create_direction(packed, d, 1, s->kernel_height * s->kernel_width, error)) return false;
    struct phase *phase = d->phases;
    phase->step = 1;
    phase->rows = s->out_height;
    phase->columns = s->out_width;
    for (int ky = 0; ky < s->kernel_height; ky++)
        add_taps(d, map, phase, ky, 0, 1, ky * s->kernel_width, 1, s->kernel_width);
    return true;
}

// The window positions that reach input rows (or columns) first, first + stride, ...: k = remainder + stride * t, read
// from error row base + j - t for the j-th such row.
static int phase_remainder(int first, int padding, int stride)
{
    return (first + padding) % stride;
}

static void fill_backward_phase(const struct packed_convolution *packed, struct phase *phase, int first_y, int first_x)
{
    const struct convolution_shape *s = &packed->shape;
    const struct packed_map *map = &packed->errors;
    int stride = s->stride;
    phase->first_y = first_y;
    phase->first_x = first_x;
    phase->step = stride;
    phase->rows = first_y < s->in_height ? (s->in_height - first_y + stride - 1) / stride : 0;
    phase->columns = first_x < s->in_width ? (s->in_width - first_x + stride - 1) / stride : 0;
    int remainder_y = phase_remainder(first_y, s->padding, stride), base_y = (first_y + s->padding) / stride;
    int remainder_x = phase_remainder(first_x, s->padding, stride), base_x = (first_x + s->padding) / stride;
    int columns = remainder_x < s->kernel_width ? (s->kernel_width - remainder_x + stride - 1) / stride : 0;
    for (int ty = 0; remainder_y + stride * ty < s->kernel_height; ty++)
        add_taps(&packed->backward, map, phase, map->top + base_y - ty, map->left + base_x, -1,
                 (remainder_y + stride * ty) * s->kernel_width + remainder_x, stride, columns);
}

static bool create_backward(struct packed_convolution *packed, struct error *error)
{
    const struct convolution_shape *s = &packed->shape;
    struct direction *d = &packed->backward;
    d->reduced = s->out_channels;
    d->outputs = s->in_channels;
    d->stride = 1;
    d->output_height = s->in_height;
    d->output_width = s->in_width;
    if (!create_groups(packed, d, &packed->errors.grouping, false, error)) return false;
    choose_layout(packed, d);
    if (!create_quads(packed, d, &packed->errors, error)) return false;
    int stride = s->stride, window = s->kernel_height * s->kernel_width;
    if (!create_direction(packed, d, stride * stride, window, error)) return false;
    for (int y = 0; y < stride; y++)
        for (int x = 0; x < stride; x++) fill_backward_phase(packed, &d->phases[y * stride + x], y, x);
    return true;
}

static bool create_maps(struct packed_convolution *packed, struct error *error)
{
    const struct convolution_shape *s = &packed->shape;
    // Rows that a window reaches below the padded input are not there where the stride leaves a rest.
    const int input_dims[4] = {s->images, s->in_channels, s->in_height, s->in_width};
    const int input_halo[4] = {s->padding, s->padding, s->padding, s->padding};
    bool is_signed = !packed->request.nonnegative;
    if (!create_map(packed, &packed->activations, input_dims, input_halo, MLS_ACTIVATION, is_signed, error)) return false;
    if (!packed->request.for_training) return true;
    const int error_dims[4] = {s->images, s->out_channels, s->out_height, s->out_width};
    int before_y = (s->kernel_height - 1) / s->stride, before_x = (s->kernel_width - 1) / s->stride;
    int after_y = (s->in_height - 1 + s->padding) / s->stride - (s->out_height - 1);
    int after_x = (s->in_width - 1 + s->padding) / s->stride - (s->out_width - 1);
    const int error_halo[4] = {before_y, before_x, after_y > 0 ? after_y : 0, after_x > 0 ? after_x : 0};
    return create_map(packed, &packed->errors, error_dims, error_halo, MLS_ERROR, true, error);
}

static bool create_gradient(struct packed_convolution *packed, struct error *error)
{
    const struct convolution_shape *s = &packed->shape;
    struct packed_map *map = &packed->activations;
    if (!map->pixels && !(map->pixels = create_bytes(packed, map, (size_t)s->images * map->image_bytes, error))) return false;
    int tiles = (s->out_channels + GRADIENT_CHANNELS - 1) / GRADIENT_CHANNELS;
    packed->gradient_tasks = packed->activations.blocks * tiles;
    size_t size = (size_t)(s->kernel_height * s->kernel_width) * GRADIENT_CHANNELS * BLOCK_CHANNELS;
    packed->gradient_totals = take(packed, (size_t)packed->gradient_tasks * size, sizeof(float), error);
    if (!packed->gradient_totals) return false;
    bool one_group = packed->activations.grouping.blocks[0] == 1 && packed->errors.grouping.blocks[0] == 1;
    if (!one_group) return true;
    packed->gradient_sums = take(packed, (size_t)packed->gradient_tasks * size, sizeof(int64_t), error);
    return packed->gradient_sums != NULL;
}

static bool create_all(struct packed_convolution *packed, struct error *error)
{
    const struct convolution_shape *s = &packed->shape;
    const struct mls_format *format = &packed->request.formats[MLS_WEIGHT];
    packed->weight_grouping = mls_grouping_of(format, MLS_WEIGHT, s->out_channels, s->in_channels, 1);
    size_t groups = (size_t)packed->weight_grouping.blocks[0] * (size_t)packed->weight_grouping.blocks[1];
    size_t weights = (size_t)s->out_channels * (size_t)s->in_channels * (size_t)(s->kernel_height * s->kernel_width);
    packed->weight_maxima = take(packed, groups, sizeof(float), error);
    packed->weight_scales = take(packed, groups, sizeof(float), error);
    packed->weight_codes = take(packed, weights + 64, 1, error);
    if (!packed->weight_maxima || !packed->weight_scales || !packed->weight_codes) return false;
    if (!create_maps(packed, error) || !create_forward(packed, error)) return false;
    if (!packed->request.for_training) return true;
    return create_backward(packed, error) && create_gradient(packed, error);
}

struct packed_convolution *packed_create(const struct packed_request *request, struct error *error)
{
    struct packed_convolution *packed = memory_allocate(1, sizeof *packed, error);
    if (!packed) return NULL;
    packed->request = *request;
    packed->shape = request->shape;
    if (create_all(packed, error)) return packed;
    packed_destroy(packed);
    return NULL;
}

static void destroy_map(struct packed_map *map)
{
    memory_release(map->pixels);
    memory_release(map->planes);
    memory_release(map->rows);
    memory_release(map->maxima);
    memory_release(map->scales);
    memory_release(map->plane_maxima);
    memory_release(map->plane_scales);
    memory_release(map->plane_groups);
}

static void destroy_direction(struct direction *direction)
{
    for (int i = 0; direction->phases && i < direction->phase_count; i++) {
        memory_release(direction->phases[i].tap_offsets);
        memory_release(direction->phases[i].tap_weights);
        memory_release(direction->phases[i].weights);
        memory_release(direction->phases[i].corrections);
    }
    memory_release(direction->phases);
    memory_release(direction->group_first);
    memory_release(direction->group_last);
    memory_release(direction->quad_first);
    memory_release(direction->quad_last);
    memory_release(direction->quad_offsets);
    memory_release(direction->weight_scales);
}

void packed_destroy(struct packed_convolution *packed)
{
    if (!packed) return;
    destroy_map(&packed->activations);
    destroy_map(&packed->errors);
    destroy_direction(&packed->forward);
    destroy_direction(&packed->backward);
    memory_release(packed->weight_maxima);
    memory_release(packed->weight_scales);
    memory_release(packed->weight_codes);
    memory_release(packed->gradient_totals);
    memory_release(packed->gradient_sums);
    memory_release(packed->scratch);
    memory_release(packed);
}

size_t packed_memory(const struct packed_convolution *packed)
{
    return packed->memory;
}

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

static bool quantize_map(struct packed_convolution *packed, struct packed_map *map, struct thread_pool *pool, int images,
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
    return quantize_map(packed, &packed->activations, pool, images, x, maxima, tensor_key, evaluation, error);
}

bool packed_quantize_errors(struct packed_convolution *packed, struct thread_pool *pool, int images, const float *x,
                            const float *maxima, uint64_t tensor_key, struct error *error)
{
    return quantize_map(packed, &packed->errors, pool, images, x, maxima, tensor_key, false, error);
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

// ---------------------------------------------------------------------------------------------
// Forward and input error

struct convolve_work {
    struct packed_convolution *packed;
    const struct direction *direction;
    const struct packed_map *map;
    float factor;
    float *output;
    bool accumulate;
    size_t scratch_bytes;
    packed_image_done done;
    void *context;
};

// (St_1 * 2^-F_1) * (St_2 * 2^-F_2)
static float tensor_factor(float scale1, const struct mls_format *format1, float scale2, const struct mls_format *format2)
{
    return ldexpf(scale1, -mls_fraction_bits(format1)) * ldexpf(scale2, -mls_fraction_bits(format2));
}

static void store_phase_strip(const struct convolve_work *work, const struct phase *phase, const float *strip, int row,
                              int rows, int channels, float *out)
{
    const struct direction *d = work->direction;
    size_t plane = (size_t)d->output_height * (size_t)d->output_width;
    if (phase->step == 1) {
        work->packed->request.kernels->store_strip(strip, rows * phase->columns, channels, work->factor,
                                                   out + (size_t)row * (size_t)d->output_width, plane, work->accumulate);
        return;
    }
    for (int c = 0; c < channels; c++)
        for (int j = 0; j < rows; j++) {
            size_t y = (size_t)(phase->first_y + (row + j) * phase->step);
            float *to = out + (size_t)c * plane + y * (size_t)d->output_width + (size_t)phase->first_x;
            const float *from = strip + (size_t)j * (size_t)phase->columns * BLOCK_CHANNELS + c;
            for (int i = 0; i < phase->columns; i++) {
                float value = from[(size_t)i * BLOCK_CHANNELS] * work->factor;
                float *element = &to[(size_t)i * (size_t)phase->step];
                *element = work->accumulate ? *element + value : value;
            }
        }
}

// All outputs of one phase of one image, for one or two output blocks from `block`.
static void convolve_phase(const struct convolve_work *work, const struct phase *phase, struct convolve_job *job,
                           int image, int block, float *strips[2])
{
    const struct direction *d = work->direction;
    const struct packed_map *map = work->map;
    size_t plane = (size_t)d->output_height * (size_t)d->output_width;
    job->taps = phase->taps;
    job->tap_offsets = phase->tap_offsets;
    for (int b = 0; b < job->blocks; b++) {
        job->weights[b] = phase->weights + (size_t)(block + b) * phase->weights_block;
        job->corrections[b] = phase->corrections + (size_t)(block + b) * (size_t)d->groups * BLOCK_CHANNELS;
    }
    // Pieces of a row where it is long, several rows where it is short.
    int columns = minimum(phase->columns, STRIP_PIXELS);
    int rows = columns > 0 && columns == phase->columns ? STRIP_PIXELS / columns : 1;
    // From one row and column of the map to the next, in bytes; an image has as many in either layout.
    size_t row_bytes = d->planar ? (size_t)map->padded_width : map->row_bytes, column_bytes = d->planar ? 1 : BLOCK_CHANNELS;
    const uint8_t *input = (d->planar ? map->planes : map->pixels) + (size_t)image * map->image_bytes;
    for (int row = 0; row < phase->rows; row += rows)
        for (int column = 0; column < phase->columns; column += columns) {
            int count = minimum(rows, phase->rows - row), width = minimum(columns, phase->columns - column);
            for (int j = 0; j < count; j++) {
                float *outputs[2] = {strips[0] + j * columns * BLOCK_CHANNELS, strips[1] + j * columns * BLOCK_CHANNELS};
                const uint8_t *from = input + (size_t)((row + j) * d->stride) * row_bytes + (size_t)(column * d->stride) * column_bytes;
                work->packed->request.kernels->convolve_row(job, from, width, outputs);
            }
            struct phase piece = *phase;
            piece.columns = width;
            piece.first_x += column * phase->step;
            for (int b = 0; b < job->blocks; b++) {
                int first = (block + b) * BLOCK_CHANNELS;
                float *out = work->output + ((size_t)image * (size_t)d->outputs + (size_t)first) * plane;
                if (phase->step == 1) out += column;
                store_phase_strip(work, &piece, strips[b], row, count, minimum(d->outputs - first, BLOCK_CHANNELS), out);
            }
        }
}

static void convolve_task(void *context, int image, int thread)
{
    struct convolve_work *work = context;
    const struct direction *d = work->direction;
    struct convolve_scratch *scratch =
        (struct convolve_scratch *)((char *)work->packed->scratch + (size_t)thread * work->scratch_bytes);
    float *strips[2] = {scratch->strips[0], scratch->strips[1]};
    const float *plane_scales = work->map->plane_scales + (size_t)image * (size_t)work->map->blocks * BLOCK_CHANNELS;
    for (int block = 0; block < d->output_blocks; block += 2) {
        struct convolve_job job = {.groups = d->groups, .blocks = minimum(2, d->output_blocks - block),
                                   .quad_first = d->quad_first, .quad_last = d->quad_last,
                                   .quad_offsets = d->quad_offsets,
                                   .pixel_bytes = (size_t)d->stride * (d->planar ? 1 : BLOCK_CHANNELS)};
        for (int b = 0; b < job.blocks; b++) {
            float *scales = scratch->scales + (size_t)b * (size_t)d->groups * BLOCK_CHANNELS;
            const float *weights = d->weight_scales + (size_t)(block + b) * (size_t)d->groups * BLOCK_CHANNELS;
            for (int group = 0; group < d->groups; group++) {
                float scale = plane_scales[d->group_first[group]];
                for (int i = 0; i < BLOCK_CHANNELS; i++)
                    scales[group * BLOCK_CHANNELS + i] = scale * weights[group * BLOCK_CHANNELS + i];
            }
            job.scales[b] = scales;
        }
        for (int i = 0; i < d->phase_count; i++) convolve_phase(work, &d->phases[i], &job, image, block, strips);
    }
    size_t size = (size_t)d->outputs * (size_t)d->output_height * (size_t)d->output_width;
    if (work->done) work->done(work->context, image, work->output + (size_t)image * size);
}

static size_t scratch_bytes(const struct packed_convolution *packed)
{
    int groups = packed->forward.groups > packed->backward.groups ? packed->forward.groups : packed->backward.groups;
    size_t bytes = sizeof(struct convolve_scratch) + 2 * (size_t)groups * BLOCK_CHANNELS * sizeof(float);
    return (bytes + 63) / 64 * 64;
}

static void convolve(struct convolve_work *work, struct thread_pool *pool, int images)
{
    struct packed_convolution *packed = work->packed;
    work->scratch_bytes = scratch_bytes(packed);
    if (packed->threads != thread_pool_size(pool)) { // the first call with this pool
        memory_release(packed->scratch);
        packed->threads = thread_pool_size(pool);
        packed->scratch = memory_allocate((size_t)packed->threads, work->scratch_bytes, NULL);
    }
    thread_pool_run(pool, images, convolve_task, work);
}

void packed_forward(struct packed_convolution *packed, struct thread_pool *pool, int images, float *output,
                    packed_image_done done, void *context)
{
    const struct mls_format *formats = packed->request.formats;
    struct convolve_work work = {.packed = packed, .direction = &packed->forward, .map = &packed->activations,
                                 .output = output, .done = done, .context = context};
    work.factor = tensor_factor(packed->weight_tensor_scale, &formats[MLS_WEIGHT], packed->activations.tensor_scale,
                                &formats[MLS_ACTIVATION]);
    convolve(&work, pool, images);
}

void packed_input_error(struct packed_convolution *packed, struct thread_pool *pool, int images, float *input_error,
                        bool accumulate)
{
    const struct mls_format *formats = packed->request.formats;
    struct convolve_work work = {.packed = packed, .direction = &packed->backward, .map = &packed->errors,
                                 .output = input_error, .accumulate = accumulate};
    work.factor = tensor_factor(packed->weight_tensor_scale, &formats[MLS_WEIGHT], packed->errors.tensor_scale,
                                &formats[MLS_ERROR]);
    convolve(&work, pool, images);
}

// ---------------------------------------------------------------------------------------------
// Weight gradient

struct gradient_work {
    struct packed_convolution *packed;
    int images;
    float factor;
    float *gradient;
};

// What the activations' zero point adds to P of an output channel: 128 times the sum of its errors.
static void zero_point_sums(const struct packed_convolution *packed, const int8_t *rows, int channels, int32_t *sums)
{
    const struct packed_map *errors = &packed->errors;
    for (int c = 0; c < GRADIENT_CHANNELS; c++) {
        int32_t sum = 0;
        if (c < channels && packed->activations.zero_point)
            for (size_t i = 0; i < errors->rows_plane; i++) sum += rows[(size_t)c * errors->rows_plane + i];
        sums[c] = packed->activations.zero_point * sum;
    }
}

// Adds P of one image, for up to three taps.
static void add_sums(const struct packed_convolution *packed, int taps, const int32_t *sums, const int32_t *corrections,
                     int image, int block, int first_out, int64_t *wide, float *totals)
{
    const struct packed_map *a = &packed->activations, *e = &packed->errors;
    const float *in_scales = a->plane_scales + ((size_t)image * (size_t)a->blocks + (size_t)block) * BLOCK_CHANNELS;
    const float *out_scales = e->plane_scales + (size_t)image * (size_t)e->blocks * BLOCK_CHANNELS + (size_t)first_out;
    if (!wide) {
        packed->request.kernels->add_gradient(taps, sums, corrections, in_scales, out_scales, totals);
        return;
    }
    for (int i = 0; i < taps * GRADIENT_CHANNELS * BLOCK_CHANNELS; i++)
        wide[i] += sums[i] - corrections[i / BLOCK_CHANNELS % GRADIENT_CHANNELS];
}

static void gradient_of_image(const struct gradient_work *work, int image, int block, int first_out, int64_t *wide,
                              float *totals)
{
    const struct packed_convolution *packed = work->packed;
    const struct convolution_shape *s = &packed->shape;
    const struct packed_map *a = &packed->activations, *e = &packed->errors;
    const int8_t *rows = e->rows + ((size_t)image * (size_t)e->blocks * BLOCK_CHANNELS + (size_t)first_out) * e->rows_plane;
    struct gradient_job job = {.out_channels = minimum(s->out_channels - first_out, GRADIENT_CHANNELS),
                               .height = e->height, .width = e->width,
                               .pixels = a->pixels + (size_t)image * a->image_bytes + (size_t)block * a->block_bytes,
                               .pixel_bytes = (size_t)s->stride * BLOCK_CHANNELS,
                               .row_bytes = (size_t)s->stride * a->row_bytes, .rows = rows,
                               .rows_plane = e->rows_plane, .row_pitch = e->row_pitch};
    int32_t corrections[GRADIENT_CHANNELS];
    zero_point_sums(packed, rows, job.out_channels, corrections);
    int32_t sums[GRADIENT_TAPS * GRADIENT_CHANNELS * BLOCK_CHANNELS];
    for (int ky = 0; ky < s->kernel_height; ky++)
        for (int kx = 0; kx < s->kernel_width; kx += job.taps) {
            job.taps = minimum(GRADIENT_TAPS, s->kernel_width - kx);
            for (int t = 0; t < job.taps; t++)
                job.tap_offsets[t] = (size_t)ky * a->row_bytes + (size_t)(kx + t) * BLOCK_CHANNELS;
            packed->request.kernels->gradient_image(&job, sums);
            size_t at = (size_t)(ky * s->kernel_width + kx) * GRADIENT_CHANNELS * BLOCK_CHANNELS;
            add_sums(packed, job.taps, sums, corrections, image, block, first_out, wide ? wide + at : NULL, totals + at);
        }
}

static void store_gradient(const struct gradient_work *work, int block, int first_out, const float *totals)
{
    const struct convolution_shape *s = &work->packed->shape;
    int window = s->kernel_height * s->kernel_width;
    for (int c = 0; c < GRADIENT_CHANNELS && first_out + c < s->out_channels; c++)
        for (int i = 0; i < BLOCK_CHANNELS && block * BLOCK_CHANNELS + i < s->in_channels; i++) {
            size_t plane = (size_t)(first_out + c) * (size_t)s->in_channels + (size_t)(block * BLOCK_CHANNELS + i);
            for (int k = 0; k < window; k++)
                work->gradient[plane * (size_t)window + (size_t)k] +=
                    totals[(k * GRADIENT_CHANNELS + c) * BLOCK_CHANNELS + i] * work->factor;
        }
}

// Where all images share their scales P runs over all of them.
static void totals_of_one_group(const struct packed_convolution *packed, int block, int first_out, const int64_t *wide,
                                float *totals, int window)
{
    const struct packed_map *a = &packed->activations, *e = &packed->errors;
    for (int k = 0; k < window; k++)
        for (int c = 0; c < GRADIENT_CHANNELS && first_out + c < e->channels; c++)
            for (int i = 0; i < BLOCK_CHANNELS && block * BLOCK_CHANNELS + i < a->channels; i++) {
                int at = (k * GRADIENT_CHANNELS + c) * BLOCK_CHANNELS + i;
                float scale = a->scales[mls_group_index(&a->grouping, 0, block * BLOCK_CHANNELS + i)] *
                              e->scales[mls_group_index(&e->grouping, 0, first_out + c)];
                totals[at] = fmaf((float)wide[at], scale, 0.0f);
            }
}

static void gradient_task(void *context, int task, int thread)
{
    (void)thread;
    struct gradient_work *work = context;
    struct packed_convolution *packed = work->packed;
    const struct convolution_shape *s = &packed->shape;
    int block = task % packed->activations.blocks, first_out = task / packed->activations.blocks * GRADIENT_CHANNELS;
    int window = s->kernel_height * s->kernel_width;
    size_t size = (size_t)window * GRADIENT_CHANNELS * BLOCK_CHANNELS;
    float *totals = packed->gradient_totals + (size_t)task * size;
    int64_t *wide = packed->gradient_sums ? packed->gradient_sums + (size_t)task * size : NULL;
    memset(totals, 0, size * sizeof *totals);
    if (wide) memset(wide, 0, size * sizeof *wide);
    for (int image = 0; image < work->images; image++) gradient_of_image(work, image, block, first_out, wide, totals);
    if (wide) totals_of_one_group(packed, block, first_out, wide, totals, window);
    store_gradient(work, block, first_out, totals);
}

void packed_weight_gradient(struct packed_convolution *packed, struct thread_pool *pool, int images, float *gradient)
{
    const struct mls_format *formats = packed->request.formats;
    struct gradient_work work = {.packed = packed, .images = images, .gradient = gradient};
    work.factor = tensor_factor(packed->activations.tensor_scale, &formats[MLS_ACTIVATION], packed->errors.tensor_scale,
                                &formats[MLS_ERROR]);
    thread_pool_run(pool, packed->gradient_tasks, gradient_task, &work);
}

// ---------------------------------------------------------------------------------------------
// One pass by itself

static bool quantize_one(struct packed_convolution *packed, struct thread_pool *pool, enum mls_operand operand, const float *x,
                         struct error *error)
{
    int images = packed->shape.images;
    if (operand == MLS_WEIGHT) return packed_quantize_weights(packed, pool, x, 0, true, error);
    if (operand == MLS_ACTIVATION) return packed_quantize_activations(packed, pool, images, x, NULL, 0, true, error);
    return quantize_map(packed, &packed->errors, pool, images, x, NULL, 0, true, error);
}

bool packed_convolve_once(const struct packed_request *request, enum convolution_pass pass, const float *first,
                          const float *second, float *result, struct error *error)
{
    static const enum mls_operand operands[3][2] = {{MLS_ACTIVATION, MLS_WEIGHT}, {MLS_ERROR, MLS_WEIGHT}, {MLS_ACTIVATION, MLS_ERROR}};
    const struct convolution_shape *s = &request->shape;
    struct thread_pool *pool = thread_pool_create(1, error);
    struct packed_convolution *packed = pool ? packed_create(request, error) : NULL;
    bool good = packed && quantize_one(packed, pool, operands[pass][0], first, error) &&
                quantize_one(packed, pool, operands[pass][1], second, error);
    size_t weights = (size_t)s->out_channels * (size_t)s->in_channels * (size_t)(s->kernel_height * s->kernel_width);
    if (good && pass == CONVOLUTION_FORWARD) packed_forward(packed, pool, s->images, result, NULL, NULL);
    if (good && pass == CONVOLUTION_INPUT_ERROR) packed_input_error(packed, pool, s->images, result, false);
    if (good && pass == CONVOLUTION_WEIGHT_GRADIENT) {
        memset(result, 0, weights * sizeof *result);
        packed_weight_gradient(packed, pool, s->images, result);
    }
    packed_destroy(packed);
    thread_pool_destroy(pool);
    return good;
}
