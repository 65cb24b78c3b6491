// Packed convolutions, the weight gradient in squares by Winograd's way: what struct squares_gradient_job needs.
#include "kernels/packed_internal.h"

#define LEAST_SQUARES 9      // of an image; with less, what is done once an image costs more than it saves

static int rows_of(const struct packed_convolution *packed)
{
    return divide_up(packed->errors.height, SQUARE);
}

static int columns_of(const struct packed_convolution *packed)
{
    return divide_up(packed->errors.width, SQUARE);
}

bool squares_gradient_fits(const struct packed_convolution *packed)
{
    const struct convolution_shape *s = &packed->shape;
    const struct packed_map *a = &packed->activations, *e = &packed->errors;
    if (!packed->request.for_training || !packed->request.kernels->gradient_squares || packed->gradient_one_group) return false;
    if (s->kernel_height != 3 || s->kernel_width != 3 || s->stride != 1) return false;
    const int64_t product = (int64_t)mls_largest_integer(&a->format) * mls_largest_integer(&e->format);
    return rows_of(packed) * columns_of(packed) >= LEAST_SQUARES && product * e->height * e->width < SQUARES_LIMIT &&
           squares_cover(e->height, e->width, a->row_bytes);
}

static int pairs_of(const struct packed_convolution *packed)
{
    return divide_up(rows_of(packed) * columns_of(packed), 2);
}

// Transformed, of one image and block: pixels or errors.
static size_t block_numbers(const struct packed_convolution *packed)
{
    return (size_t)pairs_of(packed) * PAIR_NUMBERS;
}

size_t squares_gradient_pixel_bytes(const struct packed_convolution *packed)
{
    return packed->gradient.squares ? (size_t)packed->gradient.images * block_numbers(packed) * sizeof(int16_t) : 0;
}

size_t squares_gradient_error_bytes(const struct packed_convolution *packed)
{
    if (!packed->gradient.squares) return 0;
    return (size_t)packed->gradient.images * gradient_output_blocks(packed) * block_numbers(packed) * sizeof(int16_t);
}

size_t squares_gradient_turns(const struct packed_convolution *packed)
{
    return (size_t)pairs_of(packed) * SQUARE_INPUTS;
}

void squares_gradient_errors(const struct packed_convolution *packed, const struct gradient_images *images, int first_out, int end_out,
                             const struct packed_scratch *scratch)
{
    const struct packed_map *e = &packed->errors;
    const size_t blocks = gradient_output_blocks(packed);
    const int first = first_out / BLOCK_CHANNELS, end = minimum(blocked_count(end_out), e->blocks);
    struct squares_errors_job job = {.rows = rows_of(packed), .columns = columns_of(packed), .height = e->height};
    for (int n = 0; n < images->count; n++)
        for (int block = first; block < end; block++) {
            job.quads = gradient_errors(packed, images, n, block);
            job.transformed = (int16_t *)scratch->mixed + ((size_t)n * blocks + (size_t)(block - first)) * block_numbers(packed);
            packed->request.kernels->squares_errors(&job);
        }
}

void squares_gradient_pixels(const struct packed_convolution *packed, const struct gradient_images *images, int block,
                             const struct packed_scratch *scratch)
{
    const struct packed_map *a = &packed->activations;
    struct squares_pixels_job job = {.rows = rows_of(packed), .columns = columns_of(packed), .row_bytes = a->row_bytes, .zero_point = a->zero_point};
    for (int n = 0; n < images->count; n++) {
        job.pixels = a->pixels + (size_t)(images->first + n) * a->image_bytes + (size_t)block * a->block_bytes + packed->gradient_offsets[0];
        job.transformed = (int16_t *)scratch->rows + (size_t)n * block_numbers(packed);
        packed->request.kernels->squares_pixels(&job);
    }
}

void squares_gradient_tile(const struct packed_convolution *packed, const struct gradient_images *images, int block, int first_out, int out,
                           const struct packed_scratch *scratch, struct fetch *fetch, float *totals)
{
    const struct packed_map *a = &packed->activations, *e = &packed->errors;
    const size_t in_task = (size_t)(out / BLOCK_CHANNELS - first_out / BLOCK_CHANNELS), channel = (size_t)(out % BLOCK_CHANNELS);
    const struct squares_gradient_job job = {
        .images = images->count, .pairs = pairs_of(packed),
        .pixels = (const int16_t *)scratch->rows, .image_pixels = block_numbers(packed),
        .errors = (const int16_t *)scratch->mixed + in_task * block_numbers(packed) + 2 * channel,
        .image_errors = gradient_output_blocks(packed) * block_numbers(packed),
        .in_scales = gradient_in_scales(packed, images, block), .image_in_scales = (size_t)a->blocks * BLOCK_CHANNELS,
        .out_scales = gradient_out_scales(packed, images, out), .image_out_scales = (size_t)e->blocks * BLOCK_CHANNELS, .fetch = fetch};
    packed->request.kernels->gradient_squares(&job, totals);
}
