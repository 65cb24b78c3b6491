// Packed convolutions, two rows at a time by Winograd's way: what struct winograd_job and struct winograd_gradient_job need.
#include <string.h>

#include "base/memory.h"
#include "kernels/packed_internal.h"

#define BAND_BYTES ((size_t)24 << 10) // of transformed rows: they stay in the first cache, most of them
#define MOST_CHANNELS 8192            // of a group: its sums are below 2^31 by far, the offsets' part included

// The quads whose products can be summed at a time; 0: not one. Sums of two rows of the input and of three of the window must fit a byte.
// In 16 bits, the products of two bytes must fit, and twice those of two channels with the whole window.
static int quads_that_fit(const struct mls_format *map, const struct mls_format *weights, int bits)
{
    const int64_t input = mls_largest_integer(map), weight = mls_largest_integer(weights);
    if (2 * input > 127 || 3 * weight > 127) return 0;
    if (bits == 32) return MOST_CHANNELS;
    if (2 * (WINOGRAD_OFFSET + 2 * input) * 3 * weight > INT16_MAX) return 0;
    return (int)(INT16_MAX / (2 * 2 * 9 * input * weight));
}

static bool shape_fits(const struct packed_convolution *packed, const struct direction *d)
{
    const struct convolution_shape *s = &packed->shape;
    bool window = s->kernel_height == 3 && s->kernel_width == 3 && s->stride == 1;
    bool tiles = d->output_height % 2 == 0 && (d->output_width % 8 == 0 || d->output_width % 7 == 0);
    // In packed blocks not where groups are one quad: it would be faster in the cache, but is 5 % slower in a step of ResNet-20.
    bool groups = d->planar ? d->total_quads == d->groups : d->total_quads >= 2 * d->groups && d->reduced <= MOST_CHANNELS;
    return window && tiles && groups && d->together == 1 && (!d->planar || packed->request.kernels->winograd_planar);
}

// The transformed rows of a map: lines of one channel, the last output of a row reads 4 bytes; or of a packed block.
static bool create_rows(struct packed_convolution *packed, struct direction *d, struct error *error)
{
    const struct packed_map *map = d == &packed->forward ? &packed->activations : &packed->errors;
    struct winograd *w = &d->winograd;
    size_t quads = (size_t)map->blocks * BLOCK_CHANNELS / (d->planar ? 1 : 4);
    w->lines = d->planar ? d->reduced : map->blocks;
    w->columns = d->planar ? 1 : WINOGRAD_COLUMNS;
    w->pitch = d->planar ? ((size_t)d->output_width + 3 + 15) / 16 * 16 : (size_t)(d->output_width + 2) * BLOCK_CHANNELS;
    w->band = minimum((int)(BAND_BYTES / ((size_t)w->lines * 4 * w->pitch)), d->output_height / 2);
    if (w->band < 1) w->band = 1;
    w->quad_offsets = memory_allocate(quads, sizeof(size_t), error);
    packed->memory += quads * sizeof(size_t);
    for (size_t q = 0; w->quad_offsets && q < quads; q++)
        w->quad_offsets[q] = d->planar ? q * 4 * w->pitch : q / 4 * 4 * w->pitch + q % 4 * 4;
    return w->quad_offsets != NULL;
}

bool winograd_create(struct packed_convolution *packed, struct direction *d, struct error *error)
{
    const struct packed_map *map = d == &packed->forward ? &packed->activations : &packed->errors;
    struct winograd *w = &d->winograd;
    size_t blocks = (size_t)d->output_blocks, starts;
    if (!packed->request.kernels->winograd_rows || !shape_fits(packed, d)) return true;
    w->chunk = quads_that_fit(&map->format, &packed->request.formats[MLS_WEIGHT], packed->request.kernels->winograd_bits);
    if (w->chunk < 1) return true;
    if (!create_rows(packed, d, error)) return false;
    starts = blocks * winograd_starts_block(d);
    w->weights = memory_allocate(blocks, winograd_weights_block(d), error);
    w->starts = memory_allocate(starts, sizeof(int32_t), error);
    packed->memory += blocks * winograd_weights_block(d) + starts * sizeof(int32_t);
    return w->weights && w->starts;
}

size_t winograd_bytes(const struct direction *d)
{
    if (!d->winograd.weights) return 0;
    return (size_t)d->winograd.band * (size_t)d->winograd.lines * 4 * d->winograd.pitch;
}

// ---------------------------------------------------------------------------------------------
// Weights

// Sums of the weights of the four products, by output, bytes 0 and 1 of each 4 apart from bytes 2 and 3.
typedef int32_t weight_sums[4][BLOCK_CHANNELS][2];

// [16][4] of three taps, one below the other -> of the four that are multiplied, `distance` bytes apart; their sums.
VECTORIZED static void transform_weights(const int8_t *top, const int8_t *middle, const int8_t *bottom, int outer, int8_t *to, size_t distance,
                                         weight_sums sums)
{
    for (int i = 0; i < 64; i++) {
        int sum = top[i] + bottom[i];
        to[i] = (int8_t)(outer * top[i]);
        to[distance + (size_t)i] = (int8_t)(sum + middle[i]);
        to[2 * distance + (size_t)i] = (int8_t)(sum - middle[i]);
        to[3 * distance + (size_t)i] = (int8_t)(outer * bottom[i]);
    }
    for (int k = 0; k < 4; k++)
        for (int i = 0; i < BLOCK_CHANNELS; i++)
            for (int c = 0; c < 4; c++) sums[k][i][c / 2] += to[(size_t)k * distance + (size_t)(4 * i + c)];
}

// The offsets' part of all products is subtracted from m1 and m2 beforehand, such that both their sum and their difference are right.
static int32_t start(const int32_t sums[4], int m, int outer)
{
    const int32_t rest = m ? sums[0] - sums[3] : sums[0] + sums[3];
    return -WINOGRAD_OFFSET * (sums[1 + m] + rest / outer);
}

static void set_starts(weight_sums sums, int outer, int bits, int32_t starts[2 * BLOCK_CHANNELS])
{
    for (int m = 0; m < 2; m++)
        for (int i = 0; i < BLOCK_CHANNELS; i++) {
            int32_t of_pair[2];
            for (int pair = 0; pair < 2; pair++)
                of_pair[pair] = start((const int32_t[4]){sums[0][i][pair], sums[1][i][pair], sums[2][i][pair], sums[3][i][pair]}, m, outer);
            const uint16_t small[2] = {(uint16_t)of_pair[0], (uint16_t)of_pair[1]};
            if (bits == 16)
                memcpy(&starts[m * BLOCK_CHANNELS + i], small, sizeof small);
            else
                starts[m * BLOCK_CHANNELS + i] = of_pair[0] + of_pair[1];
        }
}

// Some quads of a group.
static void pack_chunk(const struct direction *d, int bits, int quads, const int8_t *from, int8_t *to, int32_t *starts)
{
    const size_t columns = (size_t)d->winograd.columns, top = from_the_bottom(d) ? 2 * columns : 0;
    const int outer = d->planar ? 1 : 2;
    weight_sums sums = {{{0}}};
    for (int quad = 0; quad < quads; quad++, from += 3 * columns * 64, to += 4 * columns * 64)
        for (size_t c = 0; c < columns; c++)
            transform_weights(from + (top + c) * 64, from + (columns + c) * 64, from + (2 * columns - top + c) * 64, outer, to + c * 64,
                              columns * 64, sums);
    set_starts(sums, outer, bits, starts);
}

void winograd_pack_block(const struct packed_convolution *packed, const struct direction *d, int block)
{
    const size_t columns = (size_t)d->winograd.columns;
    const int bits = packed->request.kernels->winograd_bits;
    const int8_t *from = d->phases->weights + (size_t)block * d->phases->weights_block;
    int8_t *to = d->winograd.weights + (size_t)block * winograd_weights_block(d);
    int32_t *starts = d->winograd.starts + (size_t)block * winograd_starts_block(d);
    for (int group = d->block_first[block]; group < d->block_first[block] + d->block_groups[block]; group++)
        for (int quad = d->quad_first[group], quads; quad <= d->quad_last[group]; quad += quads, starts += 2 * BLOCK_CHANNELS) {
            quads = minimum(d->winograd.chunk, d->quad_last[group] + 1 - quad);
            pack_chunk(d, bits, quads, from, to, starts);
            from += (size_t)quads * 3 * columns * 64;
            to += (size_t)quads * 4 * columns * 64;
        }
}

// ---------------------------------------------------------------------------------------------
// Input

void winograd_transform(const struct packed_convolution *packed, const struct packed_map *map, const struct direction *d,
                        const uint8_t *bytes, int first, int pairs, uint8_t *rows)
{
    const struct phase *phase = d->phases;
    const struct winograd *w = &d->winograd;
    struct winograd_input_job job = {.lines = w->lines, .pairs = pairs, .pitch = w->pitch, .rows = rows,
                                     .line_bytes = d->planar ? map->plane_bytes : map->block_bytes,
                                     .row_bytes = d->planar ? (size_t)map->padded_width : map->row_bytes};
    job.input = bytes + (size_t)phase->tap_offsets[from_the_bottom(d) ? 2 * w->columns : 0] + 2 * (size_t)first * job.row_bytes;
    packed->request.kernels->winograd_input(&job);
}

// ---------------------------------------------------------------------------------------------
// Weight gradient

#define LEAST_QUADS 8           // of an image; with less, what is done once an image costs more than it saves
#define LARGEST_SUM (1LL << 31) // of M in struct winograd_gradient_job

bool winograd_gradient_fits(const struct packed_convolution *packed)
{
    const struct convolution_shape *s = &packed->shape;
    const struct packed_map *e = &packed->errors;
    if (!packed->request.for_training || !packed->request.kernels->winograd_gradient || packed->gradient_one_group) return false;
    if (s->kernel_height != 3 || s->kernel_width != 3 || s->stride != 1 || e->height % 2 != 0) return false;
    const int64_t input = mls_largest_integer(&packed->activations.format), error = mls_largest_integer(&e->format);
    bool sums_fit = 2 * (int64_t)e->height * e->row_quads * 4 * (2 * input + WINOGRAD_OFFSET) * 2 * error < LARGEST_SUM;
    return 2 * input <= 127 && 2 * error <= 127 && sums_fit && e->height * e->row_quads >= LEAST_QUADS;
}

// Of one image and block. The last row is read to the end of its last quad.
static size_t image_row_bytes(const struct packed_convolution *packed)
{
    return (size_t)packed->errors.height / 2 * 4 * packed->gradient.pitch;
}

size_t winograd_gradient_row_bytes(const struct packed_convolution *packed)
{
    return packed->gradient.winograd ? (size_t)packed->gradient.images * image_row_bytes(packed) + 64 : 0;
}

size_t winograd_gradient_mixed_bytes(const struct packed_convolution *packed)
{
    if (!packed->gradient.winograd) return 0;
    return (size_t)packed->gradient.images * gradient_output_blocks(packed) * packed->errors.quads_block;
}

size_t winograd_gradient_start_bytes(const struct packed_convolution *packed)
{
    if (!packed->gradient.winograd) return 0;
    return (size_t)packed->gradient.images * gradient_output_blocks(packed) * 4 * BLOCK_CHANNELS * sizeof(int32_t);
}

void winograd_gradient_errors(const struct packed_convolution *packed, const struct gradient_images *images, int first_out, int end_out,
                              const struct packed_scratch *scratch)
{
    const struct packed_map *e = &packed->errors;
    const size_t blocks = gradient_output_blocks(packed);
    const int first = first_out / BLOCK_CHANNELS, end = minimum(blocked_count(end_out), e->blocks);
    struct winograd_errors_job job = {.pairs = e->height / 2, .row_quads = e->row_quads};
    for (int n = 0; n < images->count; n++)
        for (int block = first; block < end; block++) {
            const size_t to = (size_t)n * blocks + (size_t)(block - first);
            job.quads = gradient_errors(packed, images, n, block);
            job.mixed = scratch->mixed + to * e->quads_block;
            job.starts = scratch->starts + to * 4 * BLOCK_CHANNELS;
            packed->request.kernels->winograd_errors(&job);
        }
}

void winograd_gradient_rows(const struct packed_convolution *packed, const struct gradient_images *images, int block,
                            const struct packed_scratch *scratch)
{
    const struct packed_map *a = &packed->activations;
    struct winograd_input_job job = {.lines = 1, .pairs = packed->errors.height / 2, .row_bytes = a->row_bytes, .pitch = packed->gradient.pitch};
    for (int n = 0; n < images->count; n++) {
        job.input = a->pixels + (size_t)(images->first + n) * a->image_bytes + (size_t)block * a->block_bytes + packed->gradient_offsets[0];
        job.rows = scratch->rows + (size_t)n * image_row_bytes(packed);
        packed->request.kernels->winograd_input(&job);
    }
}

void winograd_gradient_tile(const struct packed_convolution *packed, const struct gradient_images *images, int block, int first_out, int out,
                            const struct packed_scratch *scratch, struct fetch *fetch, float *totals)
{
    const struct packed_map *a = &packed->activations, *e = &packed->errors;
    const size_t blocks = gradient_output_blocks(packed);
    const size_t out_block = (size_t)(out / BLOCK_CHANNELS), to = out_block - (size_t)(first_out / BLOCK_CHANNELS);
    const size_t channel = (size_t)(out % BLOCK_CHANNELS);
    const struct winograd_gradient_job job = {
        .images = images->count, .pairs = e->height / 2, .row_quads = e->row_quads, .pitch = packed->gradient.pitch,
        .rows = scratch->rows, .image_rows = image_row_bytes(packed),
        .quads = gradient_errors(packed, images, 0, (int)out_block) + channel * 4, .image_quads = (size_t)e->blocks * e->quads_block,
        .mixed = scratch->mixed + to * e->quads_block + channel * 4, .image_mixed = blocks * e->quads_block,
        .starts = scratch->starts + to * 4 * BLOCK_CHANNELS + channel, .image_starts = blocks * 4 * BLOCK_CHANNELS,
        .in_scales = gradient_in_scales(packed, images, block), .image_in_scales = (size_t)a->blocks * BLOCK_CHANNELS,
        .out_scales = gradient_out_scales(packed, images, out), .image_out_scales = (size_t)e->blocks * BLOCK_CHANNELS, .fetch = fetch};
    packed->request.kernels->winograd_gradient(&job, totals);
}
