// Packed convolutions: what fits, creation and destruction. The operands are filled in packed_operands.c, the convolutions
// run in packed_convolve.c.
#include <limits.h>
#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "kernels/depthwise.h"
#include "kernels/packed_internal.h"

static void *take(struct packed_convolution *packed, size_t count, size_t size, struct error *error)
{
    packed->memory += count * size;
    return memory_allocate(count, size, error);
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
    double channels = (shape->in_channels > shape->out_channels ? shape->in_channels : shape->out_channels) / shape->groups;
    double products = largest_product(&formats[MLS_WEIGHT], &formats[MLS_ACTIVATION]);
    products = fmax(products, largest_product(&formats[MLS_WEIGHT], &formats[MLS_ERROR]));
    products = fmax(products, largest_product(&formats[MLS_ACTIVATION], &formats[MLS_ERROR]));
    double pixels = (double)shape->out_height * shape->out_width;
    // A sum of forward or input error begins with what the zero point adds, which may be as large as all products: hence twice.
    // A weight gradient's sum begins with what the zero point adds, so no part of it is larger than all products together.
    if (2 * products * window * channels > INT32_MAX || products * pixels > INT32_MAX)
        *reason = "a sum could exceed 32 bits";
    if (shape->padding >= shape->kernel_height || shape->padding >= shape->kernel_width)
        *reason = "the padding is not smaller than the window";
    return *reason == NULL;
}

// ---------------------------------------------------------------------------------------------
// Building

// Bytes of a map with its halo. The kernels read up to 4 strided pixels past the end, and squares rows that are not there.
static size_t map_bytes(const struct packed_convolution *packed, size_t size)
{
    return (size + MAP_SPARE + 4 * BLOCK_CHANNELS * (size_t)packed->shape.stride + 63) / 64 * 64;
}

// Replaces `bytes`, if there are to be any. The halo holds the zero point.
static bool create_bytes(const struct packed_map *map, size_t size, uint8_t **bytes, struct error *error)
{
    if (size == 0) return true;
    memory_release(*bytes);
    *bytes = memory_allocate(size, 1, error);
    if (*bytes) memset(*bytes, map->zero_point, size);
    return *bytes != NULL;
}

// Bytes of all activations, for the weight gradient.
static bool create_kept(struct packed_convolution *packed, struct error *error)
{
    struct packed_map *map = &packed->activations;
    packed->memory += map->pixels_size;
    return create_bytes(map, map->pixels_size, &map->pixels, error);
}

// Codes and planes of the weights, each.
static size_t weight_bytes(const struct packed_convolution *packed)
{
    const struct convolution_shape *s = &packed->shape;
    return (size_t)s->out_channels * (size_t)inputs_of_group(s) * (size_t)(s->kernel_height * s->kernel_width) + 64;
}

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

// What the errors take of the workspace: their bytes, and behind them their other layout or P.
static size_t error_bytes(const struct packed_convolution *packed)
{
    const struct packed_map *map = &packed->errors;
    const size_t quads = packed->gradient_by_image ? gradient_product_bytes(packed) : map->quads_size;
    return (map->passing ? 0 : map->pixels_size) + quads;
}

size_t packed_workspace_bytes(const struct packed_convolution *packed)
{
    return larger(error_bytes(packed), 2 * weight_bytes(packed));
}

void packed_use_workspace(struct packed_convolution *packed, void *workspace)
{
    struct packed_map *map = &packed->errors;
    uint8_t *bytes = workspace;
    packed->weight_codes = workspace;
    packed->weight_planes = packed->weight_codes + weight_bytes(packed);
    if (packed->gradient_by_image)
        packed->products = workspace;
    else if (map->quads_size)
        map->quads = (int8_t *)bytes;
    if (map->passing || !map->pixels_size) return;
    map->pixels = bytes + map->quads_size;
    map->shared = true;
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
    map->grouping = mls_grouping_of(&map->format, operand, dims[0], dims[1], packed->shape.groups);
    size_t groups = (size_t)map->grouping.blocks[0] * (size_t)map->grouping.blocks[1];
    map->plane_bytes = (size_t)map->padded_width * (size_t)map->padded_height;
    map->maxima = take(packed, groups, sizeof(float), error);
    map->scales = take(packed, groups, sizeof(float), error);
    map->plane_maxima = take(packed, images * (size_t)map->blocks * BLOCK_CHANNELS, sizeof(float), error);
    map->plane_scales = take(packed, images * (size_t)map->blocks * BLOCK_CHANNELS, sizeof(float), error);
    map->plane_groups = take(packed, images * (size_t)dims[1], sizeof(int), error);
    map->image_bounds = take(packed, images, sizeof(float), error);
    map->image_seen = take(packed, images, sizeof(bool), error);
    if (!map->maxima || !map->scales || !map->plane_maxima || !map->plane_scales || !map->plane_groups || !map->image_bounds ||
        !map->image_seen)
        return false;
    for (int image = 0; image < dims[0]; image++)
        for (int c = 0; c < dims[1]; c++)
            map->plane_groups[image * dims[1] + c] = mls_group_index(&map->grouping, image, c);
    map->row_quads = (dims[3] + 3) / 4;
    map->quads_block = (size_t)map->row_quads * (size_t)dims[2] * 4 * BLOCK_CHANNELS;
    if (operand == MLS_ERROR && !packed->depthwise) map->quads_size = map_bytes(packed, images * (size_t)map->blocks * map->quads_block);
    return true;
}

// G of section 4: a new one wherever the block of either operand changes along the reduced channels, and where a convolution group begins.
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
    int count = 0, span = direction->reduced / packed->shape.groups;
    for (int c = 0; c < direction->reduced; c++) {
        bool starts = c % span == 0 || mls_group_index(map, 0, c) != mls_group_index(map, 0, c - 1) ||
                      (weights_reduce_dim1 ? mls_group_index(weights, 0, c) != mls_group_index(weights, 0, c - 1)
                                           : mls_group_index(weights, c, 0) != mls_group_index(weights, c - 1, 0));
        if (starts) direction->group_first[count++] = c;
        direction->group_last[count - 1] = c;
    }
    direction->all_groups = count;
    return true;
}

// Dot products of an output: quads of 4 channels for each window position, or channels for each 4 columns of the window.
static void choose_layout(const struct packed_convolution *packed, struct direction *d)
{
    const struct convolution_shape *s = &packed->shape;
    int columns = d == &packed->forward ? s->kernel_width : (s->kernel_width + s->stride - 1) / s->stride, quads = 0;
    for (int g = 0; g < d->all_groups; g++) quads += d->group_last[g] / 4 - d->group_first[g] / 4 + 1;
    d->planar = d->reduced * ((columns + 3) / 4) < quads * columns;
}

static bool create_quads(struct packed_convolution *packed, struct direction *d, struct packed_map *map, struct error *error)
{
    size_t quads = (size_t)map->blocks * BLOCK_CHANNELS;
    int channels = d->planar ? 1 : 4;
    if (!(d->quad_offsets = take(packed, quads, sizeof(size_t), error))) return false;
    for (size_t q = 0; q < quads; q++) d->quad_offsets[q] = d->planar ? q * map->plane_bytes : q / 4 * map->block_bytes + q % 4 * 4;
    for (int g = 0; g < d->all_groups; g++) {
        d->quad_first[g] = d->group_first[g] / channels;
        d->quad_last[g] = d->group_last[g] / channels;
    }
    if (!d->planar) map->pixels_size = map_bytes(packed, (size_t)packed->shape.images * map->image_bytes);
    return true;
}

// What each block of outputs reduces over: the convolution groups from that of its first output to that of its last one.
static bool create_blocks(struct packed_convolution *packed, struct direction *d, struct error *error)
{
    const int reduced = d->reduced / packed->shape.groups, outputs = d->outputs / packed->shape.groups;
    d->block_first = take(packed, (size_t)d->output_blocks, sizeof(int), error);
    d->block_groups = take(packed, (size_t)d->output_blocks, sizeof(int), error);
    if (!d->block_first || !d->block_groups) return false;
    for (int block = 0; block < d->output_blocks; block++) {
        const int last_output = minimum((block + 1) * BLOCK_CHANNELS, d->outputs) - 1;
        const int first = block * BLOCK_CHANNELS / outputs * reduced, end = (last_output / outputs + 1) * reduced;
        int quads = 0, *groups = &d->block_groups[block];
        for (int g = 0; g < d->all_groups; g++) {
            if (d->group_first[g] < first || d->group_first[g] >= end) continue;
            if ((*groups)++ == 0) d->block_first[block] = g;
            quads += d->quad_last[g] - d->quad_first[g] + 1;
        }
        if (*groups > d->groups) d->groups = *groups;
        if (quads > d->total_quads) d->total_quads = quads;
    }
    return true;
}

// What a direction reads of a map.
static bool create_layout(struct packed_convolution *packed, struct direction *d, struct packed_map *map, bool weights_reduce_dim1,
                          struct error *error)
{
    d->output_blocks = blocked_count(d->outputs);
    if (packed->depthwise) {
        d->groups = d->total_quads = 1;
        map->pixels_size = map_bytes(packed, (size_t)packed->shape.images * map->image_bytes);
        return true;
    }
    if (!create_groups(packed, d, &map->grouping, weights_reduce_dim1, error)) return false;
    choose_layout(packed, d);
    return create_quads(packed, d, map, error) && create_blocks(packed, d, error);
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

bool phase_create(struct packed_convolution *packed, const struct direction *direction, struct phase *phase, int window, struct error *error)
{
    size_t blocks = (size_t)direction->output_blocks;
    phase->tap_offsets = take(packed, (size_t)window, sizeof(int32_t), error);
    phase->tap_weights = take(packed, (size_t)window, sizeof *phase->tap_weights, error);
    if (!phase->tap_offsets || !phase->tap_weights) return false;
    phase->weights_block = (size_t)direction->total_quads * (size_t)window * 64;
    phase->weights = take(packed, blocks * phase->weights_block, 1, error);
    phase->starts = take(packed, blocks * (size_t)direction->groups * BLOCK_CHANNELS, sizeof(int32_t), error);
    return phase->weights && phase->starts;
}

static bool create_direction(struct packed_convolution *packed, struct direction *direction, int phases, int window,
                             struct error *error)
{
    direction->phase_count = phases;
    direction->together = images_together(packed, direction);
    direction->phases = take(packed, (size_t)phases, sizeof *direction->phases, error);
    direction->weight_scales = take(packed, (size_t)direction->output_blocks * (size_t)direction->groups * BLOCK_CHANNELS,
                                    sizeof(float), error);
    if (!direction->phases || !direction->weight_scales) return false;
    for (int i = 0; i < phases; i++)
        if (!phase_create(packed, direction, &direction->phases[i], window, error)) return false;
    return true;
}

static bool create_fast_ways(struct packed_convolution *packed, struct direction *d, struct error *error)
{
    return winograd_create(packed, d, error) && squares_create(packed, d, error) && small_create(packed, d, error);
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
    if (!create_layout(packed, d, &packed->activations, true, error)) return false;
    if (!create_direction(packed, d, 1, s->kernel_height * s->kernel_width, error)) return false;
    struct phase *phase = d->phases;
    phase->step = 1;
    phase->rows = s->out_height;
    phase->columns = s->out_width;
    phase->run = !d->planar && s->kernel_width == 3 && s->stride == 1 ? 3 : 1;
    for (int ky = 0; ky < s->kernel_height; ky++)
        add_taps(d, map, phase, ky, 0, 1, ky * s->kernel_width, 1, s->kernel_width);
    return packed->depthwise ? depthwise_finish_phase(packed, d, phase, error) : create_fast_ways(packed, d, error);
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
    phase->run = !packed->backward.planar && columns == 3 ? 3 : 1;
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
    if (!create_layout(packed, d, &packed->errors, false, error)) return false;
    int stride = s->stride, window = s->kernel_height * s->kernel_width;
    if (!create_direction(packed, d, stride * stride, window, error)) return false;
    for (int y = 0; y < stride; y++)
        for (int x = 0; x < stride; x++) {
            struct phase *phase = &d->phases[y * stride + x];
            fill_backward_phase(packed, phase, y, x);
            if (packed->depthwise && !depthwise_finish_phase(packed, d, phase, error)) return false;
        }
    return packed->depthwise || create_fast_ways(packed, d, error);
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
    packed->activations.pixels_size = map_bytes(packed, (size_t)s->images * packed->activations.image_bytes);
    packed->gradient_offsets = take(packed, (size_t)(s->kernel_height * s->kernel_width), sizeof(size_t), error);
    if (!packed->gradient_offsets) return false;
    for (int k = 0; k < s->kernel_height * s->kernel_width; k++)
        packed->gradient_offsets[k] = (size_t)(k / s->kernel_width) * packed->activations.row_bytes + (size_t)(k % s->kernel_width) * BLOCK_CHANNELS;
    packed->gradient_one_group = packed->activations.grouping.blocks[0] == 1 && packed->errors.grouping.blocks[0] == 1;
    packed->gradient_by_image = packed->errors.quads_passing = gradient_by_image_fits(packed);
    return true;
}

static bool create_weight_blocks(struct packed_convolution *packed, struct error *error)
{
    const struct convolution_shape *s = &packed->shape;
    const struct mls_grouping *g = &packed->weight_grouping;
    packed->out_blocks = take(packed, (size_t)s->out_channels, sizeof(int), error);
    const int inputs = inputs_of_group(s);
    packed->in_blocks = take(packed, (size_t)inputs, sizeof(int), error);
    packed->in_ends = take(packed, (size_t)inputs, sizeof(int), error);
    packed->row_maxima = take(packed, (size_t)s->out_channels * (size_t)g->blocks[1], sizeof(float), error);
    if (!packed->out_blocks || !packed->in_blocks || !packed->in_ends || !packed->row_maxima) return false;
    for (int out = 0; out < s->out_channels; out++) packed->out_blocks[out] = mls_group_index(g, out, 0) / g->blocks[1];
    for (int in = inputs - 1; in >= 0; in--) {
        packed->in_blocks[in] = mls_group_index(g, 0, in);
        bool ends = in + 1 == inputs || packed->in_blocks[in + 1] != packed->in_blocks[in];
        packed->in_ends[in] = ends ? in + 1 : packed->in_ends[in + 1];
    }
    return true;
}

static bool create_all(struct packed_convolution *packed, struct error *error)
{
    const struct convolution_shape *s = &packed->shape;
    const struct mls_format *format = &packed->request.formats[MLS_WEIGHT];
    packed->depthwise = is_depthwise(s);
    packed->weight_grouping = mls_grouping_of(format, MLS_WEIGHT, s->out_channels, inputs_of_group(s), s->groups);
    size_t groups = (size_t)packed->weight_grouping.blocks[0] * (size_t)packed->weight_grouping.blocks[1];
    packed->weight_maxima = take(packed, groups, sizeof(float), error);
    packed->weight_scales = take(packed, groups, sizeof(float), error);
    if (!packed->weight_maxima || !packed->weight_scales) return false;
    if (!packed->depthwise && !create_weight_blocks(packed, error)) return false;
    if (!create_maps(packed, error) || !create_forward(packed, error)) return false;
    if (packed->request.for_training && (!create_backward(packed, error) || !create_gradient(packed, error))) return false;
    packed->activations.passing = !packed->request.for_training;
    packed->errors.passing = !packed->depthwise; // whose weight gradient reads the same bytes
    if (packed->request.for_training && !create_kept(packed, error)) return false;
    if (packed->request.shared_workspace) return true;
    packed->workspace = take(packed, packed_workspace_bytes(packed), 1, error);
    if (packed->workspace) packed_use_workspace(packed, packed->workspace);
    return packed->workspace != NULL;
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

// ---------------------------------------------------------------------------------------------
// Scratch of the threads

static size_t scale_floats(const struct packed_convolution *packed)
{
    int forward = packed->forward.groups * packed->forward.together, backward = packed->backward.groups * packed->backward.together;
    return 2 * (size_t)(forward > backward ? forward : backward) * BLOCK_CHANNELS;
}

static size_t sums_floats(const struct packed_convolution *packed)
{
    return packed->gradient_one_group ? gradient_floats(packed) * sizeof(int64_t) / sizeof(float) : 0;
}

static size_t rows_floats(const struct packed_convolution *packed)
{
    size_t forward = winograd_bytes(&packed->forward), backward = winograd_bytes(&packed->backward);
    size_t gradient = winograd_gradient_row_bytes(packed) + squares_gradient_pixel_bytes(packed) + raster_gradient_pixel_bytes(packed);
    return larger(larger(larger(forward, backward), larger(squares_scratch_bytes(&packed->forward), squares_scratch_bytes(&packed->backward))),
                  gradient) / sizeof(float);
}

static size_t mixed_floats(const struct packed_convolution *packed)
{
    return (winograd_gradient_mixed_bytes(packed) + winograd_gradient_start_bytes(packed) + squares_gradient_error_bytes(packed) +
            raster_gradient_error_bytes(packed)) /
           sizeof(float);
}

static size_t scratch_floats(const struct packed_convolution *packed)
{
    return scale_floats(packed) + gradient_floats(packed) + sums_floats(packed) + rows_floats(packed) + mixed_floats(packed) +
           gradient_correction_floats(packed);
}

struct packed_scratch packed_scratch_of(const struct packed_convolution *packed, int thread)
{
    float *scales = packed->scratch + (size_t)thread * scratch_floats(packed), *totals = scales + scale_floats(packed);
    float *sums = totals + gradient_floats(packed), *rows = sums + sums_floats(packed), *mixed = rows + rows_floats(packed);
    float *starts = mixed + winograd_gradient_mixed_bytes(packed) / sizeof(float);
    struct packed_scratch scratch = {.scales = scales, .totals = totals};
    if (packed->gradient_one_group) scratch.sums = (void *)sums;
    if (rows_floats(packed)) scratch.rows = (void *)rows;
    if (mixed_floats(packed)) scratch.mixed = (void *)mixed, scratch.starts = (void *)starts;
    if (gradient_correction_floats(packed)) scratch.corrections = (void *)(rows + rows_floats(packed) + mixed_floats(packed));
    return scratch;
}

// Bytes of the images at work, for each thread, of the map that the direction reads.
static bool create_passing(const struct packed_convolution *packed, const struct direction *direction, struct packed_map *map, int threads,
                           struct error *error)
{
    const size_t images = (size_t)threads * (size_t)direction->together, size = map_bytes(packed, images * map->image_bytes);
    if (map->quads_passing) {
        memory_release(map->quads);
        map->quads = memory_allocate(map_bytes(packed, images * (size_t)map->blocks * map->quads_block), 1, error);
        if (!map->quads) return false;
    }
    return create_bytes(map, map->passing && map->pixels_size ? size : 0, &map->pixels, error) &&
           create_bytes(map, direction->planar ? size : 0, &map->planes, error);
}

bool packed_meet_pool(struct packed_convolution *packed, struct thread_pool *pool, struct error *error)
{
    int threads = thread_pool_size(pool);
    if (packed->threads == threads) return true;
    packed->threads = 0;
    memory_release(packed->scratch);
    gradient_plan(packed, threads);
    squares_plan(packed, &packed->forward, threads);
    squares_plan(packed, &packed->backward, threads);
    packed->scratch = memory_allocate((size_t)threads * scratch_floats(packed), sizeof(float), error);
    if (!packed->scratch || !create_passing(packed, &packed->forward, &packed->activations, threads, error) ||
        !create_passing(packed, &packed->backward, &packed->errors, threads, error))
        return false;
    packed->threads = threads;
    return true;
}

// ---------------------------------------------------------------------------------------------
// Release

static void destroy_map(struct packed_map *map)
{
    memory_release(map->maxima);
    memory_release(map->scales);
    memory_release(map->plane_maxima);
    memory_release(map->image_bounds);
    memory_release(map->image_seen);
    memory_release(map->plane_scales);
    memory_release(map->plane_groups);
}

void phases_destroy(struct direction *direction)
{
    for (int i = 0; direction->phases && i < direction->phase_count; i++) {
        memory_release(direction->phases[i].tap_offsets);
        memory_release(direction->phases[i].tap_weights);
        memory_release(direction->phases[i].weights);
        memory_release(direction->phases[i].tap_codes);
        memory_release(direction->phases[i].quad_taps);
        memory_release(direction->phases[i].starts);
    }
    memory_release(direction->phases);
}

static void destroy_direction(struct direction *direction)
{
    phases_destroy(direction);
    memory_release(direction->group_first);
    memory_release(direction->group_last);
    memory_release(direction->block_first);
    memory_release(direction->block_groups);
    memory_release(direction->quad_first);
    memory_release(direction->quad_last);
    memory_release(direction->quad_offsets);
    memory_release(direction->weight_scales);
    memory_release(direction->winograd.weights);
    memory_release(direction->winograd.starts);
    memory_release(direction->winograd.quad_offsets);
    memory_release(direction->squares.quad_offsets);
    memory_release(direction->squares.weights);
}

void packed_destroy(struct packed_convolution *packed)
{
    if (!packed) return;
    memory_release(packed->activations.pixels);
    memory_release(packed->activations.planes);
    if (packed->errors.passing) memory_release(packed->errors.pixels);
    if (packed->errors.quads_passing) memory_release(packed->errors.quads);
    memory_release(packed->errors.planes);
    memory_release(packed->workspace);
    destroy_map(&packed->activations);
    destroy_map(&packed->errors);
    destroy_direction(&packed->forward);
    destroy_direction(&packed->backward);
    memory_release(packed->out_blocks);
    memory_release(packed->in_blocks);
    memory_release(packed->in_ends);
    memory_release(packed->row_maxima);
    memory_release(packed->weight_maxima);
    memory_release(packed->weight_scales);
    memory_release(packed->gradient_offsets);
    memory_release(packed->scratch);
    memory_release(packed);
}

size_t packed_memory(const struct packed_convolution *packed)
{
    return packed->memory;
}
