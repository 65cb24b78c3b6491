// Packed convolutions: the weight gradient of small maps. Rows of a few pixels fill no quads, and what is rearranged for a tile would be
// rearranged again for each of its neighbours; so the pixels of a block are packed once for all its tiles, for each tap a quad of the raster
// after the other (struct raster_job). Where rows are whole quads the taps of a column share them, as the raster of one begins a row below
// that of the other.
#include <string.h>

#include "base/vector.h"
#include "kernels/packed_internal.h"

#define MOST_QUADS 16                  // of a map
#define MOST_ROWS 7                    // of a window
#define MOST_PACKED (MOST_QUADS * MOST_ROWS) // of a map and the rows below it
#define FIRST_CACHE ((size_t)16 << 10) // bytes of the images at a time, of a block

int raster_gradient_quads(const struct packed_convolution *packed)
{
    return (packed->errors.height * packed->errors.width + 3) / 4;
}

bool raster_gradient_fits(const struct packed_convolution *packed)
{
    const struct convolution_shape *s = &packed->shape;
    if (!packed->request.for_training || !packed->request.kernels->gradient_raster || packed->gradient_one_group) return false;
    return s->kernel_width == 3 && s->kernel_height <= MOST_ROWS && raster_gradient_quads(packed) <= MOST_QUADS;
}

static bool rows_are_quads(const struct packed_convolution *packed)
{
    return packed->errors.width % 4 == 0;
}

static bool shares_rows(const struct packed_convolution *packed)
{
    return rows_are_quads(packed) && packed->shape.stride == 1;
}

// What is packed of one image and block: [rasters][quads of a raster][16][4].
static int rasters_of(const struct packed_convolution *packed)
{
    return packed->shape.kernel_width * (shares_rows(packed) ? 1 : packed->shape.kernel_height);
}

static int packed_quads(const struct packed_convolution *packed)
{
    const int rows_below = shares_rows(packed) ? packed->shape.kernel_height - 1 : 0;
    return raster_gradient_quads(packed) + rows_below * packed->errors.row_quads;
}

// Of one image and block.
static size_t pixel_bytes(const struct packed_convolution *packed)
{
    return (size_t)rasters_of(packed) * (size_t)packed_quads(packed) * 64;
}

int raster_gradient_images(const struct packed_convolution *packed)
{
    const size_t images = FIRST_CACHE / pixel_bytes(packed);
    return images < 1 ? 1 : (int)images;
}

size_t raster_gradient_pixel_bytes(const struct packed_convolution *packed)
{
    return packed->gradient.raster ? (size_t)packed->gradient.images * pixel_bytes(packed) : 0;
}

size_t raster_gradient_error_bytes(const struct packed_convolution *packed)
{
    if (!packed->gradient.raster || rows_are_quads(packed)) return 0;
    return (size_t)packed->gradient.images * gradient_output_blocks(packed) * (size_t)raster_gradient_quads(packed) * 64;
}

// Of one image and block: [row][quads of a row][16][4] -> [quads][16][4].
VECTORIZED static void pack_errors(const struct packed_map *e, int quads, const int8_t *from, int8_t *to)
{
    for (int quad = 0; quad < quads; quad++, to += 64) {
        vector_bits packed = {0};
        for (int k = 0; k < 4; k++) {
            const int pixel = 4 * quad + k, x = pixel % e->width;
            vector_bits four;
            if (pixel >= e->height * e->width) break;
            memcpy(&four, from + (size_t)(pixel / e->width * e->row_quads + x / 4) * 64, sizeof four);
            packed |= (four >> (8 * (x % 4)) & 0xff) << (8 * k);
        }
        memcpy(to, &packed, sizeof packed);
    }
}

void raster_gradient_errors(const struct packed_convolution *packed, const struct gradient_images *images, int first_out, int end_out,
                            const struct packed_scratch *scratch)
{
    const struct packed_map *e = &packed->errors;
    const size_t blocks = gradient_output_blocks(packed), bytes = (size_t)raster_gradient_quads(packed) * 64;
    const int first = first_out / BLOCK_CHANNELS, end = minimum(blocked_count(end_out), e->blocks);
    for (int n = 0; !rows_are_quads(packed) && n < images->count; n++)
        for (int block = first; block < end; block++)
            pack_errors(e, raster_gradient_quads(packed), gradient_errors(packed, images, n, block),
                        scratch->mixed + ((size_t)n * blocks + (size_t)(block - first)) * bytes);
}

void raster_gradient_pixels(const struct packed_convolution *packed, const struct gradient_images *images, int block,
                            const struct packed_scratch *scratch)
{
    const struct packed_map *a = &packed->activations;
    const struct convolution_shape *s = &packed->shape;
    const int quads = packed_quads(packed), columns = s->out_width;
    size_t offsets[4 * MOST_PACKED];
    for (int p = 0; p < 4 * quads; p++) {
        // Behind the last pixel that one is repeated: the errors are 0 there.
        const int pixel = shares_rows(packed) ? p : minimum(p, s->out_height * columns - 1);
        offsets[p] = (size_t)(pixel / columns * s->stride) * a->row_bytes + (size_t)(pixel % columns * s->stride) * BLOCK_CHANNELS;
    }
    for (int n = 0; n < images->count; n++) {
        const uint8_t *from = a->pixels + (size_t)(images->first + n) * a->image_bytes + (size_t)block * a->block_bytes;
        struct raster_pixels_job job = {.quads = quads, .offsets = offsets, .raster = scratch->rows + (size_t)n * pixel_bytes(packed)};
        for (int i = 0; i < rasters_of(packed); i++, job.raster += (size_t)quads * 64) {
            job.pixels = from + packed->gradient_offsets[i];
            packed->request.kernels->raster_pixels(&job);
        }
    }
}

void raster_gradient_tile(const struct packed_convolution *packed, const struct gradient_images *images, int block, int first_out, int out,
                          const struct packed_scratch *scratch, struct fetch *fetch, float *totals)
{
    const struct packed_map *a = &packed->activations, *e = &packed->errors;
    const size_t blocks = gradient_output_blocks(packed), out_block = (size_t)(out / BLOCK_CHANNELS);
    const size_t in_task = out_block - (size_t)(first_out / BLOCK_CHANNELS);
    const size_t bytes = (size_t)raster_gradient_quads(packed) * 64, channel = (size_t)(out % BLOCK_CHANNELS);
    const bool packs = !rows_are_quads(packed);
    const size_t raster = (size_t)packed_quads(packed) * 64;
    const int8_t *errors = packs ? scratch->mixed + in_task * bytes : gradient_errors(packed, images, 0, (int)out_block);
    const struct raster_job job = {
        .images = images->count, .rows = packed->shape.kernel_height, .quads = raster_gradient_quads(packed),
        .column_bytes = raster, .row_bytes = shares_rows(packed) ? (size_t)e->row_quads * 64 : 3 * raster,
        .pixels = scratch->rows, .image_pixels = pixel_bytes(packed),
        .errors = errors + channel * 4, .image_errors = packs ? blocks * bytes : (size_t)e->blocks * e->quads_block,
        .corrections = scratch->corrections ? scratch->corrections + in_task * BLOCK_CHANNELS + channel : NULL,
        .image_corrections = blocks * BLOCK_CHANNELS,
        .in_scales = gradient_in_scales(packed, images, block), .image_in_scales = (size_t)a->blocks * BLOCK_CHANNELS,
        .out_scales = gradient_out_scales(packed, images, out), .image_out_scales = (size_t)e->blocks * BLOCK_CHANNELS, .fetch = fetch};
    packed->request.kernels->gradient_raster(&job, totals);
}
