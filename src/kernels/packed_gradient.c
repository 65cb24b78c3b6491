// Packed convolutions: the weight gradient, from the bytes that forward and input error leave.
//
// A tile is a block of 16 input channels x GRADIENT_CHANNELS output channels. Its sum runs over the images in their order, so a tile
// belongs to one thread, which reads all images, those that other threads wrote, too. A task is a number of neighbouring tiles; it takes as
// many images at a time as the first cache holds of one tile, and computes all its tiles for them, so that each byte is fetched from far
// away only once.
//
// Where P of all tiles takes less memory than the errors of an image, it is computed of each image by itself, by the thread that has just
// quantized its errors, which need not be kept then; afterwards the P of all images are added, in their order.
#include <math.h>
#include <string.h>

#include "base/vector.h"
#include "kernels/fetch.h"
#include "kernels/packed_internal.h"

#define FIRST_CACHE ((size_t)16 << 10)  // bytes for the images of one tile
#define MOST_TOTALS ((size_t)512 << 10) // bytes of the totals of a task
#define MOST_AHEAD ((size_t)256 << 10)  // bytes of the next images that are fetched ahead
#define MOST_TASKS 4                    // of each thread, where the blocks of input channels are enough
#define LEAST_TASKS 2                   // where they are not, and tiles of output channels have to be parted as well

static size_t tile_floats(const struct packed_convolution *packed)
{
    return (size_t)(packed->shape.kernel_height * packed->shape.kernel_width) * GRADIENT_CHANNELS * BLOCK_CHANNELS;
}

static int tiles_of_outputs(const struct packed_convolution *packed)
{
    return divide_up(packed->shape.out_channels, GRADIENT_CHANNELS);
}

// P of all tiles of an image.
static size_t product_floats(const struct packed_convolution *packed)
{
    return (size_t)packed->activations.blocks * (size_t)tiles_of_outputs(packed) * tile_floats(packed);
}

bool gradient_by_image_fits(const struct packed_convolution *packed)
{
    const struct packed_map *e = &packed->errors;
    if (!packed->request.for_training || packed->depthwise || packed->gradient_one_group) return false;
    return product_floats(packed) * sizeof(float) <= (size_t)e->blocks * e->quads_block;
}

size_t gradient_product_bytes(const struct packed_convolution *packed)
{
    return (size_t)packed->shape.images * product_floats(packed) * sizeof(float);
}

// The activations are cut first: of them a task reads only its own blocks, of the errors every thread reads most.
static void plan_tasks(struct packed_convolution *packed, int threads)
{
    struct gradient_plan *plan = &packed->gradient;
    const struct packed_map *a = &packed->activations;
    int tiles = tiles_of_outputs(packed), most = (int)(MOST_TOTALS / (tile_floats(packed) * sizeof(float)));
    // In squares few tasks, since each transforms the errors by itself, which costs a third of what it does with them for a block.
    int rows = minimum(a->blocks, (plan->squares ? 1 : MOST_TASKS) * threads);
    int columns = minimum(tiles, divide_up((plan->squares ? 1 : LEAST_TASKS) * threads, rows));
    plan->tiles = minimum(divide_up(tiles, columns), most < 1 ? 1 : most);
    plan->blocks = minimum(divide_up(a->blocks, rows), most / plan->tiles < 1 ? 1 : most / plan->tiles);
    plan->rows = divide_up(a->blocks, plan->blocks);
    plan->columns = divide_up(tiles, plan->tiles);
    size_t bytes = (a->block_bytes + packed->errors.quads_block) * (plan->winograd ? 2 : 1);
    if (bytes < FIRST_CACHE) plan->images = (int)(FIRST_CACHE / bytes);
    if (plan->squares) plan->images = 1;
    if (plan->raster) plan->images = raster_gradient_images(packed);
}

void gradient_plan(struct packed_convolution *packed, int threads)
{
    struct gradient_plan *plan = &packed->gradient;
    *plan = (struct gradient_plan){.blocks = 1, .tiles = 1, .images = 1};
    if (packed->depthwise) return;
    plan->winograd = winograd_gradient_fits(packed);
    plan->squares = !plan->winograd && squares_gradient_fits(packed);
    plan->raster = !plan->winograd && !plan->squares && raster_gradient_fits(packed);
    plan->pitch = (size_t)(packed->shape.out_width + 2) * BLOCK_CHANNELS;
    if (!packed->gradient_by_image) {
        plan_tasks(packed, threads);
        return;
    }
    plan->blocks = packed->activations.blocks;
    plan->tiles = tiles_of_outputs(packed);
}

size_t gradient_floats(const struct packed_convolution *packed)
{
    if (!packed->request.for_training) return 0;
    return packed->gradient_by_image ? tile_floats(packed) : (size_t)packed->gradient.blocks * (size_t)packed->gradient.tiles * tile_floats(packed);
}

size_t gradient_turns(const struct packed_convolution *packed, int images)
{
    const struct packed_map *e = &packed->errors;
    const int window = packed->shape.kernel_height * packed->shape.kernel_width;
    const size_t parts = packed->gradient.winograd ? 2 : (size_t)divide_up(window, GRADIENT_TAPS);
    const size_t quads = (size_t)(packed->gradient.raster ? raster_gradient_quads(packed) : e->height * e->row_quads);
    const size_t of_tile = packed->gradient.squares ? squares_gradient_turns(packed) : parts * quads;
    return (size_t)packed->gradient.blocks * (size_t)packed->gradient.tiles * (size_t)images * of_tile;
}

size_t gradient_output_blocks(const struct packed_convolution *packed)
{
    return (size_t)packed->gradient.tiles * GRADIENT_CHANNELS / BLOCK_CHANNELS + 1;
}

size_t gradient_correction_floats(const struct packed_convolution *packed)
{
    if (!packed->request.for_training || !packed->activations.zero_point || packed->depthwise || packed->gradient.winograd ||
        packed->gradient.squares)
        return 0;
    return (size_t)packed->gradient.images * gradient_output_blocks(packed) * BLOCK_CHANNELS;
}

// What the activations' zero point adds to P of each output channel of a block: its value times the sum of the channel's errors.
VECTORIZED static void zero_point_sums(const int8_t *quads, int count, int zero_point, int32_t corrections[BLOCK_CHANNELS])
{
    vector_int sum = {0};
    for (int i = 0; i < count; i++) {
        vector_bits four; // of each channel
        memcpy(&four, quads + (size_t)i * 4 * BLOCK_CHANNELS, sizeof four);
        sum += ((vector_int)(four << 24) >> 24) + ((vector_int)(four << 16) >> 24) + ((vector_int)(four << 8) >> 24) + ((vector_int)four >> 24);
    }
    sum *= zero_point;
    memcpy(corrections, &sum, sizeof sum);
}

// The tiles of a task: [first_block, end_block) x [first_tile, end_tile).
struct tile_range {
    int first_block, end_block, first_tile, end_tile;
};

static const uint8_t *pixels_of(const struct packed_map *a, int image, int block)
{
    return a->pixels + (size_t)image * a->image_bytes + (size_t)block * a->block_bytes;
}

static struct gradient_images images_from(const struct packed_map *e, int first, int count)
{
    return (struct gradient_images){.first = first, .count = count, .quads = e->quads + (size_t)first * (size_t)e->blocks * e->quads_block};
}

// What the zero point adds for the images and outputs of a task.
static void correct_zero_point(const struct packed_convolution *packed, const struct tile_range *t, const struct gradient_images *images,
                               int32_t *corrections)
{
    const struct packed_map *e = &packed->errors;
    const int first = t->first_tile * GRADIENT_CHANNELS / BLOCK_CHANNELS, end = minimum(blocked_count(t->end_tile * GRADIENT_CHANNELS), e->blocks);
    const size_t image_corrections = gradient_output_blocks(packed) * BLOCK_CHANNELS;
    for (int n = 0; n < images->count; n++, corrections += image_corrections)
        for (int block = first; block < end; block++)
            zero_point_sums(gradient_errors(packed, images, n, block), e->height * e->row_quads, packed->activations.zero_point,
                            corrections + (block - first) * BLOCK_CHANNELS);
}

// Points the job at the images of a tile.
static void aim(const struct packed_convolution *packed, const struct tile_range *t, const struct gradient_images *images, int block, int first_out,
                const int32_t *corrections, struct gradient_job *job)
{
    job->images = images->count;
    job->pixels = pixels_of(&packed->activations, images->first, block);
    job->quads = gradient_errors(packed, images, 0, first_out / BLOCK_CHANNELS) + first_out % BLOCK_CHANNELS * 4;
    job->in_scales = gradient_in_scales(packed, images, block);
    job->out_scales = gradient_out_scales(packed, images, first_out);
    if (corrections) job->corrections = corrections + first_out - t->first_tile * GRADIENT_CHANNELS / BLOCK_CHANNELS * BLOCK_CHANNELS;
}

// The input channels of a block, from *first to before *end, that have weights to one of the outputs from first_out to before end_out.
static void inputs_of_outputs(const struct convolution_shape *s, int block, int first_out, int end_out, int *first, int *end)
{
    const int inputs = inputs_of_group(s), outputs = s->out_channels / s->groups, last = minimum(end_out, s->out_channels) - 1;
    *first = block * BLOCK_CHANNELS;
    *end = minimum(*first + BLOCK_CHANNELS, (last / outputs + 1) * inputs);
    if (*first < first_out / outputs * inputs) *first = first_out / outputs * inputs;
}

static bool have_weights(const struct convolution_shape *s, int block, int first_out, int end_out)
{
    int first, end;
    if (s->groups == 1) return true; // asked often, and the divisions take time
    inputs_of_outputs(s, block, first_out, end_out, &first, &end);
    return first < end;
}

static void store_gradient(const struct gradient_work *work, int block, int first_out, const float *totals)
{
    const struct convolution_shape *s = &work->packed->shape;
    const int window = s->kernel_height * s->kernel_width, inputs = inputs_of_group(s);
    for (int out = first_out; out < minimum(first_out + GRADIENT_CHANNELS, s->out_channels); out++) {
        int first, end;
        inputs_of_outputs(s, block, out, out + 1, &first, &end);
        if (first >= end) continue;
        float *to = work->gradient + ((size_t)out * (size_t)inputs + (size_t)(first % inputs)) * (size_t)window;
        const float *from = totals + (out - first_out) * BLOCK_CHANNELS + first - block * BLOCK_CHANNELS;
        for (int i = 0; i < end - first; i++)
            for (int k = 0; k < window; k++) *to++ += from[k * GRADIENT_CHANNELS * BLOCK_CHANNELS + i] * work->factor;
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

static struct tile_range tiles_of(const struct packed_convolution *packed, int task)
{
    const struct gradient_plan *plan = &packed->gradient;
    int block = task / plan->columns * plan->blocks, tile = task % plan->columns * plan->tiles;
    return (struct tile_range){block, minimum(block + plan->blocks, packed->activations.blocks), tile,
                               minimum(tile + plan->tiles, divide_up(packed->shape.out_channels, GRADIENT_CHANNELS))};
}

// What the images have for the tiles.
static struct fetch plan_fetch(const struct packed_convolution *packed, const struct tile_range *t, const struct gradient_images *images)
{
    const struct packed_map *a = &packed->activations, *e = &packed->errors;
    struct fetch fetch = {.count = 0};
    const int count = images->count;
    if (count <= 0) return fetch;
    int first_out = t->first_tile * GRADIENT_CHANNELS, end_out = t->end_tile * GRADIENT_CHANNELS;
    size_t blocks = (size_t)(blocked_count(end_out) - first_out / BLOCK_CHANNELS);
    fetch_add(&fetch, gradient_errors(packed, images, 0, first_out / BLOCK_CHANNELS), blocks * e->quads_block,
              (size_t)e->blocks * e->quads_block, count);
    fetch_add(&fetch, pixels_of(a, images->first, t->first_block), (size_t)(t->end_block - t->first_block) * a->block_bytes, a->image_bytes, count);
    fetch_spread(&fetch, gradient_turns(packed, packed->gradient.images), MOST_AHEAD);
    return fetch;
}

static struct gradient_job job_of(const struct packed_convolution *packed)
{
    const struct convolution_shape *s = &packed->shape;
    const struct packed_map *a = &packed->activations, *e = &packed->errors;
    return (struct gradient_job){.taps = s->kernel_height * s->kernel_width, .row_taps = s->kernel_width, .tap_offsets = packed->gradient_offsets,
                                 .height = e->height, .width = e->width, .row_quads = e->row_quads,
                                 .pixel_bytes = (size_t)s->stride * BLOCK_CHANNELS, .row_bytes = (size_t)s->stride * a->row_bytes,
                                 .largest_input = largest_byte(a), .largest_error = (int)mls_largest_integer(&e->format),
                                 .image_pixels = a->image_bytes, .image_quads = (size_t)e->blocks * e->quads_block,
                                 .image_in_scales = (size_t)a->blocks * BLOCK_CHANNELS, .image_out_scales = (size_t)e->blocks * BLOCK_CHANNELS,
                                 .image_corrections = gradient_output_blocks(packed) * BLOCK_CHANNELS};
}

// What all tiles of a task share, or those of a block of inputs, of some images.
static void prepare_errors(const struct packed_convolution *packed, const struct tile_range *t, const struct gradient_images *images,
                           const struct packed_scratch *scratch)
{
    const int first_out = t->first_tile * GRADIENT_CHANNELS, end_out = t->end_tile * GRADIENT_CHANNELS;
    if (packed->gradient.winograd) winograd_gradient_errors(packed, images, first_out, end_out, scratch);
    if (packed->gradient.squares) squares_gradient_errors(packed, images, first_out, end_out, scratch);
    if (packed->gradient.raster) raster_gradient_errors(packed, images, first_out, end_out, scratch);
    if (scratch->corrections) correct_zero_point(packed, t, images, scratch->corrections);
}

static void prepare_pixels(const struct packed_convolution *packed, const struct gradient_images *images, int block,
                           const struct packed_scratch *scratch)
{
    if (packed->gradient.winograd) winograd_gradient_rows(packed, images, block, scratch);
    if (packed->gradient.squares) squares_gradient_pixels(packed, images, block, scratch);
    if (packed->gradient.raster) raster_gradient_pixels(packed, images, block, scratch);
}

// A tile, into totals or, where all images are one group, into sums; `at`: of it among those of the task, in numbers.
static void gradient_of_tile(const struct packed_convolution *packed, const struct tile_range *t, const struct gradient_images *images, int block,
                             int out, size_t at, const struct packed_scratch *scratch, struct gradient_job *job)
{
    const struct kernel_set *kernels = packed->request.kernels;
    const int first_out = t->first_tile * GRADIENT_CHANNELS;
    if (packed->gradient.winograd) {
        winograd_gradient_tile(packed, images, block, first_out, out, scratch, job->fetch, scratch->totals + at);
        return;
    }
    if (packed->gradient.squares) {
        squares_gradient_tile(packed, images, block, first_out, out, scratch, job->fetch, scratch->totals + at);
        return;
    }
    if (packed->gradient.raster) {
        raster_gradient_tile(packed, images, block, first_out, out, scratch, job->fetch, scratch->totals + at);
        return;
    }
    aim(packed, t, images, block, out, scratch->corrections, job);
    if (scratch->sums)
        kernels->gradient_images_sums(job, scratch->sums + at);
    else
        kernels->gradient_images(job, scratch->totals + at);
}

static void gradient_of_images(const struct packed_convolution *packed, const struct tile_range *t, const struct gradient_images *images,
                               const struct packed_scratch *scratch, struct gradient_job *job)
{
    const struct convolution_shape *s = &packed->shape;
    const int first_out = t->first_tile * GRADIENT_CHANNELS, end_out = t->end_tile * GRADIENT_CHANNELS;
    size_t at = 0;
    prepare_errors(packed, t, images, scratch);
    for (int block = t->first_block; block < t->end_block; block++) {
        if (have_weights(s, block, first_out, end_out)) prepare_pixels(packed, images, block, scratch);
        for (int out = first_out; out < end_out; out += GRADIENT_CHANNELS, at += tile_floats(packed))
            if (have_weights(s, block, out, out + GRADIENT_CHANNELS)) gradient_of_tile(packed, t, images, block, out, at, scratch, job);
    }
}

static void gradient_task(void *context, int task, int thread)
{
    const struct gradient_work *work = context;
    struct packed_convolution *packed = work->packed;
    const struct tile_range t = tiles_of(packed, task);
    const struct packed_scratch scratch = packed_scratch_of(packed, thread);
    size_t size = tile_floats(packed), all = (size_t)(t.end_block - t.first_block) * (size_t)(t.end_tile - t.first_tile) * size;
    float *totals = scratch.totals;
    int64_t *wide = scratch.sums;
    struct gradient_job job = job_of(packed);
    memset(totals, 0, all * sizeof *totals);
    if (wide) memset(wide, 0, all * sizeof *wide);
    for (int image = 0, next; image < work->images; image = next) {
        next = minimum(image + packed->gradient.images, work->images);
        const struct gradient_images images = images_from(&packed->errors, image, next - image);
        const struct gradient_images ahead = images_from(&packed->errors, next, minimum(packed->gradient.images, work->images - next));
        struct fetch fetch = plan_fetch(packed, &t, &ahead);
        job.fetch = &fetch;
        gradient_of_images(packed, &t, &images, &scratch, &job);
    }
    for (int block = t.first_block; block < t.end_block; block++)
        for (int tile = t.first_tile; tile < t.end_tile; tile++, totals += size) {
            if (wide) totals_of_one_group(packed, block, tile * GRADIENT_CHANNELS, wide, totals, job.taps);
            if (wide) wide += size;
            store_gradient(work, block, tile * GRADIENT_CHANNELS, totals);
        }
}

// ---------------------------------------------------------------------------------------------
// By image

void gradient_image_products(const struct packed_convolution *packed, int image, int place, const struct packed_scratch *scratch,
                             struct fetch *fetch)
{
    const size_t size = product_floats(packed);
    const struct packed_map *e = &packed->errors;
    const struct tile_range all = {0, packed->activations.blocks, 0, tiles_of_outputs(packed)};
    const struct gradient_images one = {.first = image, .count = 1, .unscaled = true,
                                        .quads = e->quads + (size_t)place * (size_t)e->blocks * e->quads_block};
    struct packed_scratch own = *scratch;
    struct gradient_job job = job_of(packed);
    own.totals = packed->products + (size_t)image * size;
    memset(own.totals, 0, size * sizeof *own.totals);
    job.fetch = fetch;
    gradient_of_images(packed, &all, &one, &own, &job);
}

// A tile: totals = fma((float)P, Sg_1 * Sg_2, totals) over the images.
static void add_products_task(void *context, int task, int thread)
{
    const struct gradient_work *work = context;
    struct packed_convolution *packed = work->packed;
    const struct packed_map *a = &packed->activations, *e = &packed->errors;
    const int tiles = tiles_of_outputs(packed), block = task / tiles, first_out = task % tiles * GRADIENT_CHANNELS;
    if (!have_weights(&packed->shape, block, first_out, first_out + GRADIENT_CHANNELS)) return;
    const struct products_job job = {.images = work->images, .taps = packed->shape.kernel_height * packed->shape.kernel_width,
                                     .products = packed->products + (size_t)task * tile_floats(packed), .image_products = product_floats(packed),
                                     .in_scales = a->plane_scales + (size_t)block * BLOCK_CHANNELS,
                                     .image_in_scales = (size_t)a->blocks * BLOCK_CHANNELS,
                                     .out_scales = e->plane_scales + first_out, .image_out_scales = (size_t)e->blocks * BLOCK_CHANNELS};
    float *totals = packed_scratch_of(packed, thread).totals;
    memset(totals, 0, tile_floats(packed) * sizeof *totals);
    packed->request.kernels->add_image_products(&job, totals);
    store_gradient(work, block, first_out, totals);
}

bool packed_gradient_by_image(const struct packed_convolution *packed)
{
    return packed->gradient_by_image;
}

void packed_weight_gradient(struct packed_convolution *packed, struct thread_pool *pool, int images, float *gradient)
{
    const struct mls_format *formats = packed->request.formats;
    struct gradient_work work = {.packed = packed, .images = images, .gradient = gradient};
    work.factor = tensor_factor(packed->activations.tensor_scale, &formats[MLS_ACTIVATION], packed->errors.tensor_scale,
                                &formats[MLS_ERROR]);
    if (packed->depthwise)
        thread_pool_run(pool, packed->activations.blocks, depthwise_gradient_task, &work);
    else if (packed->gradient_by_image)
        thread_pool_run(pool, packed->activations.blocks * tiles_of_outputs(packed), add_products_task, &work);
    else
        thread_pool_run(pool, packed->gradient.rows * packed->gradient.columns, gradient_task, &work);
}
