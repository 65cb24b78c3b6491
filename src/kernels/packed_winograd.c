// Packed convolutions in groups of one channel, two rows of outputs at a time (struct winograd_job): weights and input for it.
#include <string.h>

#include "base/memory.h"
#include "kernels/packed_internal.h"

#define BAND_BYTES ((size_t)24 << 10) // of transformed rows: half of the first cache

// Sums of two rows of the input and of three of the window must fit a byte.
static bool integers_fit(const struct mls_format *map, const struct mls_format *weights)
{
    return 2 * mls_largest_integer(map) <= 127 && 3 * mls_largest_integer(weights) <= 127;
}

static bool shape_fits(const struct packed_convolution *packed, const struct direction *d)
{
    const struct convolution_shape *s = &packed->shape;
    bool window = s->kernel_height == 3 && s->kernel_width == 3 && s->stride == 1;
    bool tiles = d->output_height % 2 == 0 && (d->output_width % 8 == 0 || d->output_width % 7 == 0);
    return window && tiles && d->planar && d->total_quads == d->groups;
}

bool winograd_create(struct packed_convolution *packed, struct direction *d, struct error *error)
{
    const struct packed_map *map = d == &packed->forward ? &packed->activations : &packed->errors;
    struct winograd *w = &d->winograd;
    size_t blocks = (size_t)d->output_blocks, groups = (size_t)d->groups;
    if (!packed->request.kernels->winograd_rows || !shape_fits(packed, d)) return true;
    if (!integers_fit(&map->format, &packed->request.formats[MLS_WEIGHT])) return true;
    w->weights = memory_allocate(blocks * groups, 4 * 64, error);
    w->starts = memory_allocate(blocks * groups, 2 * BLOCK_CHANNELS * sizeof(int32_t), error);
    packed->memory += blocks * groups * (4 * 64 + 2 * BLOCK_CHANNELS * sizeof(int32_t));
    // The last output of a row reads 4 bytes.
    w->pitch = ((size_t)d->output_width + 3 + 15) / 16 * 16;
    w->band = minimum((int)(BAND_BYTES / (groups * 4 * w->pitch)), d->output_height / 2);
    if (w->band < 1) w->band = 1;
    return w->weights && w->starts;
}

size_t winograd_bytes(const struct direction *d)
{
    if (!d->winograd.weights) return 0;
    return (size_t)d->winograd.band * (size_t)d->groups * 4 * d->winograd.pitch;
}

// ---------------------------------------------------------------------------------------------
// Weights

// The taps of a phase from the top of the window down: an input error's go upwards.
static bool from_the_bottom(const struct phase *phase)
{
    return phase->tap_offsets[0] > phase->tap_offsets[2];
}

// [16][4] of three taps -> of the four that are multiplied.
static void transform_weights(const int8_t *top, const int8_t *middle, const int8_t *bottom, int8_t to[4][64])
{
    for (int i = 0; i < 64; i++) {
        int sum = top[i] + bottom[i];
        to[0][i] = (int8_t)(2 * top[i]);
        to[1][i] = (int8_t)(sum + middle[i]);
        to[2][i] = (int8_t)(sum - middle[i]);
        to[3][i] = (int8_t)(2 * bottom[i]);
    }
}

// What the offsets add to each product is taken off m1 and m2 already, and so that it is right in their sum and in their difference.
static void set_starts(int8_t weights[4][64], int32_t starts[2 * BLOCK_CHANNELS])
{
    for (int i = 0; i < BLOCK_CHANNELS; i++) {
        int sums[4] = {0};
        for (int k = 0; k < 4; k++)
            for (int c = 0; c < 4; c++) sums[k] += weights[k][4 * i + c];
        starts[i] = -WINOGRAD_OFFSET * (sums[1] + (sums[0] + sums[3]) / 2); // both are even
        starts[BLOCK_CHANNELS + i] = -WINOGRAD_OFFSET * (sums[2] + (sums[0] - sums[3]) / 2);
    }
}

void winograd_pack_block(const struct direction *d, int block)
{
    const struct phase *phase = d->phases;
    const size_t groups = (size_t)d->groups, first = (size_t)block * groups;
    const int top = from_the_bottom(phase) ? 2 : 0;
    for (size_t group = 0; group < groups; group++) {
        const int8_t *from = phase->weights + (size_t)block * phase->weights_block + group * 3 * 64;
        int8_t to[4][64];
        transform_weights(from + top * 64, from + 64, from + (2 - top) * 64, to);
        memcpy(d->winograd.weights + (first + group) * sizeof to, to, sizeof to);
        set_starts(to, d->winograd.starts + (first + group) * 2 * BLOCK_CHANNELS);
    }
}

// ---------------------------------------------------------------------------------------------
// Input

void winograd_transform(const struct packed_convolution *packed, const struct packed_map *map, const struct direction *d, int image, int first,
                        int pairs, uint8_t *rows)
{
    const struct phase *phase = d->phases;
    struct winograd_input_job job = {.groups = d->groups, .pairs = pairs, .offsets = d->quad_offsets, .pitch = d->winograd.pitch, .rows = rows};
    job.row_bytes = (size_t)map->padded_width;
    job.planes = map->planes + (size_t)image * map->image_bytes + phase->tap_offsets[from_the_bottom(phase) ? 2 : 0];
    job.planes += 2 * (size_t)first * job.row_bytes;
    packed->request.kernels->winograd_input(&job);
}
