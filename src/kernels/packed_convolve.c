// Packed convolutions: forward, input error and weight gradient on packed operands.
#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "kernels/packed_internal.h"

// ---------------------------------------------------------------------------------------------
// Forward and input error

struct convolve_work {
    struct packed_convolution *packed;
    const struct direction *direction;
    const struct packed_map *map;
    struct map_quantization *quantization; // of the map
    float factor;
    float *output; // NULL: only quantize
    bool accumulate;
    struct image_done done;
    int images;
};

// ---------------------------------------------------------------------------------------------
// Fetching ahead. Quantizing waits for memory and convolving does not, so a thread asks for what it will read next while it
// convolves: what `done` reads of this image, and the source of the next one.

#define LINE 64                        // bytes
#define MOST_AHEAD ((size_t)384 << 10) // bytes of an image that are worth fetching: a part of the second cache

struct fetch {
    const char *regions[3];
    size_t bytes[3], step; // step: to fetch at a time
    int count, current;
};

static void fetch_add(struct fetch *fetch, const void *region, size_t bytes)
{
    fetch->regions[fetch->count] = region;
    fetch->bytes[fetch->count++] = bytes;
}

static void fetch_some(struct fetch *fetch)
{
    for (size_t done = 0; done < fetch->step && fetch->current < fetch->count; done += LINE) {
        __builtin_prefetch(fetch->regions[fetch->current]);
        fetch->regions[fetch->current] += LINE;
        if (fetch->bytes[fetch->current] > LINE)
            fetch->bytes[fetch->current] -= LINE;
        else
            fetch->current++;
    }
}

// The row of outputs that is `floats` behind this one, for writing.
static void fetch_row(float *const outputs[2], const struct convolve_job *job, int pixels, size_t floats)
{
    for (int b = 0; b < job->blocks; b++)
        for (int i = 0; i < pixels; i++) __builtin_prefetch(outputs[b] + floats + (size_t)i * job->output_step, 1);
}

// What to fetch during image `image`, spread over `calls` calls.
static struct fetch fetch_plan(const struct convolve_work *work, int image, int calls)
{
    bool last = image + 1 == work->images;
    const struct packed_map *map = work->map;
    const struct source *source = &work->quantization->input->source;
    struct fetch fetch = {.count = 0};
    size_t floats = (size_t)map->blocks * BLOCK_CHANNELS * (size_t)map->height * (size_t)map->width, next = (size_t)(image + 1) * floats;
    if (work->done.reads)
        fetch_add(&fetch, work->done.reads + (size_t)image * work->done.image_floats, work->done.image_floats * sizeof(float));
    if (!last) fetch_add(&fetch, source->x + next, floats * sizeof(float));
    if (!last && source->kind == SOURCE_ERROR) fetch_add(&fetch, source->delta + next, floats * sizeof(float));
    size_t total = 0;
    for (int i = 0; i < fetch.count; i++) total += fetch.bytes[i];
    if (total > MOST_AHEAD) fetch.count = 0;
    fetch.step = total / (size_t)calls + 1;
    return fetch;
}

// ---------------------------------------------------------------------------------------------
// The convolutions

// (St_1 * 2^-F_1) * (St_2 * 2^-F_2)
static float tensor_factor(float scale1, const struct mls_format *format1, float scale2, const struct mls_format *format2)
{
    return ldexpf(scale1, -mls_fraction_bits(format1)) * ldexpf(scale2, -mls_fraction_bits(format2));
}

// All outputs of one phase of one image, for one or two output blocks from `block`.
static void convolve_phase(const struct convolve_work *work, const struct phase *phase, struct convolve_job *job,
                           int image, int block, struct fetch *fetch)
{
    const struct direction *d = work->direction;
    const struct packed_map *map = work->map;
    size_t plane = (size_t)d->output_height * (size_t)d->output_width * BLOCK_CHANNELS;
    float *output = work->output + ((size_t)image * (size_t)d->output_blocks + (size_t)block) * plane;
    job->taps = phase->taps;
    job->run = phase->run;
    job->planar = d->planar && d->total_quads == d->groups;
    job->tap_offsets = phase->tap_offsets;
    job->output_step = (size_t)phase->step * BLOCK_CHANNELS;
    for (int b = 0; b < job->blocks; b++) {
        job->weights[b] = phase->weights + (size_t)(block + b) * phase->weights_block;
        job->starts[b] = phase->starts + (size_t)(block + b) * (size_t)d->groups * BLOCK_CHANNELS;
    }
    // From one row of the map to the next, in bytes; an image has as many in either layout.
    size_t row_bytes = d->planar ? (size_t)map->padded_width : map->row_bytes;
    const uint8_t *input = (d->planar ? map->planes : map->pixels) + (size_t)image * map->image_bytes;
    for (int row = 0; row < phase->rows && phase->columns > 0; row++) {
        size_t y = (size_t)(phase->first_y + row * phase->step);
        float *out = output + (y * (size_t)d->output_width + (size_t)phase->first_x) * BLOCK_CHANNELS;
        float *outputs[2] = {out, out + plane};
        fetch_some(fetch);
        if (row + 1 < phase->rows) fetch_row(outputs, job, phase->columns, (size_t)(phase->step * d->output_width) * BLOCK_CHANNELS);
        work->packed->request.kernels->convolve_row(job, input + (size_t)(row * d->stride) * row_bytes, phase->columns, outputs);
    }
}

static size_t scale_floats(const struct packed_convolution *packed)
{
    int groups = packed->forward.groups > packed->backward.groups ? packed->forward.groups : packed->backward.groups;
    return 2 * (size_t)groups * BLOCK_CHANNELS;
}

static size_t total_floats(const struct packed_convolution *packed)
{
    const struct convolution_shape *s = &packed->shape;
    if (!packed->request.for_training) return 0;
    return (size_t)GRADIENT_TILES * (size_t)(s->kernel_height * s->kernel_width) * GRADIENT_CHANNELS * BLOCK_CHANNELS;
}

static size_t scratch_floats(const struct packed_convolution *packed)
{
    size_t sums = packed->gradient_one_group ? total_floats(packed) * sizeof(int64_t) / sizeof(float) : 0;
    return scale_floats(packed) + total_floats(packed) + sums;
}

struct packed_scratch packed_scratch_of(const struct packed_convolution *packed, int thread)
{
    float *scales = packed->scratch + (size_t)thread * scratch_floats(packed), *totals = scales + scale_floats(packed);
    void *sums = totals + total_floats(packed);
    return (struct packed_scratch){scales, totals, packed->gradient_one_group ? sums : NULL};
}

// Sg_1 * Sg_2 of one or two output blocks from `block`.
static void set_scales(const struct convolve_work *work, int image, int block, float *scratch, struct convolve_job *job)
{
    const struct direction *d = work->direction;
    const float *plane_scales = work->map->plane_scales + (size_t)image * (size_t)work->map->blocks * BLOCK_CHANNELS;
    for (int b = 0; b < job->blocks; b++) {
        float *scales = scratch + (size_t)b * (size_t)d->groups * BLOCK_CHANNELS;
        const float *weights = d->weight_scales + (size_t)(block + b) * (size_t)d->groups * BLOCK_CHANNELS;
        for (int group = 0; group < d->groups; group++)
            for (int i = 0; i < BLOCK_CHANNELS; i++)
                scales[group * BLOCK_CHANNELS + i] = plane_scales[d->group_first[group]] * weights[group * BLOCK_CHANNELS + i];
        job->scales[b] = scales;
    }
}

static void convolve_task(void *context, int image, int thread)
{
    struct convolve_work *work = context;
    const struct direction *d = work->direction;
    map_quantization_image(work->quantization, image);
    if (!work->output) return;
    if (work->packed->depthwise) {
        depthwise_convolve_image(work->packed, d, work->map, image, work->factor, work->output, work->accumulate);
        if (work->done.function) work->done.function(work->done.context, image);
        return;
    }
    int rows = 0, largest_weight = (int)mls_largest_integer(&work->packed->request.formats[MLS_WEIGHT]);
    for (int i = 0; i < d->phase_count; i++) rows += d->phases[i].rows;
    struct fetch fetch = fetch_plan(work, image, rows * ((d->output_blocks + 1) / 2));
    for (int block = 0; block < d->output_blocks; block += 2) {
        struct convolve_job job = {.groups = d->groups, .blocks = minimum(2, d->output_blocks - block),
                                   .quad_first = d->quad_first, .quad_last = d->quad_last,
                                   .quad_offsets = d->quad_offsets, .factor = work->factor, .accumulate = work->accumulate,
                                   .pixel_bytes = (size_t)d->stride * (d->planar ? 1 : BLOCK_CHANNELS),
                                   .largest_input = largest_byte(work->map), .largest_weight = largest_weight};
        set_scales(work, image, block, packed_scratch_of(work->packed, thread).scales, &job);
        for (int i = 0; i < d->phase_count; i++) convolve_phase(work, &d->phases[i], &job, image, block, &fetch);
    }
    if (work->done.function) work->done.function(work->done.context, image);
}

static bool convolve(struct convolve_work *work, struct thread_pool *pool, int images, struct error *error)
{
    struct packed_convolution *packed = work->packed;
    const struct packed_map *map = work->map;
    if (packed->threads != thread_pool_size(pool)) { // the first call with this pool
        memory_release(packed->scratch);
        packed->scratch = memory_allocate((size_t)thread_pool_size(pool) * scratch_floats(packed), sizeof(float), error);
        packed->threads = packed->scratch ? thread_pool_size(pool) : 0;
        if (!packed->scratch) return false;
    }
    if (!map_quantization_begin(work->quantization, pool, images, error)) return false;
    const struct mls_format *weights = &packed->request.formats[MLS_WEIGHT];
    work->factor = tensor_factor(packed->weight_tensor_scale, weights, map->tensor_scale, &map->format);
    work->images = images;
    thread_pool_run(pool, images, convolve_task, work);
    return map_quantization_end(work->quantization, error);
}

bool packed_forward(struct packed_convolution *packed, struct thread_pool *pool, int images, const struct packed_input *activations,
                    bool evaluation, float *output, struct image_done done, struct error *error)
{
    struct map_quantization q = {.packed = packed, .map = &packed->activations, .input = activations, .nearest = evaluation};
    struct convolve_work work = {.packed = packed, .direction = &packed->forward, .map = q.map, .quantization = &q, .output = output, .done = done};
    return convolve(&work, pool, images, error);
}

bool packed_input_error(struct packed_convolution *packed, struct thread_pool *pool, int images, const struct packed_input *errors,
                        float *input_error, bool accumulate, struct image_done done, struct error *error)
{
    struct map_quantization q = {.packed = packed, .map = &packed->errors, .input = errors};
    struct convolve_work work = {.packed = packed, .direction = &packed->backward, .map = q.map, .quantization = &q,
                                 .output = input_error, .accumulate = accumulate, .done = done};
    return convolve(&work, pool, images, error);
}

// ---------------------------------------------------------------------------------------------
// Weight gradient

// What the activations' zero point adds to P of an output channel: 128 times the sum of its errors.
static void zero_point_sums(const struct packed_convolution *packed, const int8_t *quads, int32_t corrections[GRADIENT_CHANNELS])
{
    const struct packed_map *errors = &packed->errors;
    for (int c = 0; c < GRADIENT_CHANNELS; c++) {
        int32_t sum = 0;
        for (int quad = 0; quad < errors->row_quads * errors->height; quad++)
            for (int k = 0; k < 4; k++) sum += quads[(quad * BLOCK_CHANNELS + c) * 4 + k];
        corrections[c] = packed->activations.zero_point * sum;
    }
}

#define WORTH_FETCHING 2048 // bytes of an image: less is in the second cache anyway
#define MOST_BYTES 16384    // of images that are so small: as many as stay in the first cache while a tile is made

static const uint8_t *gradient_pixels(const struct packed_map *a, int image, int block)
{
    return a->pixels + ((size_t)image * (size_t)a->blocks + (size_t)block) * a->block_bytes;
}

static const int8_t *gradient_errors(const struct packed_map *e, int image, int first_out)
{
    return e->quads + ((size_t)image * (size_t)e->blocks + (size_t)(first_out / BLOCK_CHANNELS)) * e->quads_block;
}

// Images to be given to the kernel at a time.
static int gradient_images(const struct packed_convolution *packed)
{
    size_t bytes = packed->activations.block_bytes + packed->errors.quads_block;
    return bytes < WORTH_FETCHING && !packed->activations.zero_point ? (int)(MOST_BYTES / bytes) : 1;
}

// Fetches the bytes of an image that a task reads.
static void gradient_fetch(const struct packed_convolution *packed, int image, int block, int first_out, int end_out)
{
    const struct packed_map *a = &packed->activations, *e = &packed->errors;
    size_t errors = (size_t)(blocked_count(end_out) - first_out / BLOCK_CHANNELS) * e->quads_block;
    if (a->block_bytes + errors < WORTH_FETCHING) return;
    struct fetch fetch = {.step = a->block_bytes + errors};
    fetch_add(&fetch, gradient_pixels(a, image, block), a->block_bytes);
    fetch_add(&fetch, gradient_errors(e, image, first_out), errors);
    fetch_some(&fetch);
}

// Points the job at a tile of an image.
static void gradient_aim(const struct packed_convolution *packed, int image, int block, int first_out, int32_t corrections[GRADIENT_CHANNELS],
                         struct gradient_job *job)
{
    const struct packed_map *a = &packed->activations, *e = &packed->errors;
    job->pixels = gradient_pixels(a, image, block);
    job->quads = gradient_errors(e, image, first_out) + first_out % BLOCK_CHANNELS * 4;
    job->in_scales = a->plane_scales + ((size_t)image * (size_t)a->blocks + (size_t)block) * BLOCK_CHANNELS;
    job->out_scales = e->plane_scales + (size_t)image * (size_t)e->blocks * BLOCK_CHANNELS + (size_t)first_out;
    if (a->zero_point) zero_point_sums(packed, job->quads, corrections);
}

static void store_gradient(const struct gradient_work *work, int block, int first_out, const float *totals)
{
    const struct convolution_shape *s = &work->packed->shape;
    int window = s->kernel_height * s->kernel_width, outputs = minimum(s->out_channels - first_out, GRADIENT_CHANNELS);
    int inputs = minimum(s->in_channels - block * BLOCK_CHANNELS, BLOCK_CHANNELS);
    for (int c = 0; c < outputs; c++) {
        float *to = work->gradient + ((size_t)(first_out + c) * (size_t)s->in_channels + (size_t)(block * BLOCK_CHANNELS)) * (size_t)window;
        for (int k = 0; k < window; k++) {
            const float *from = totals + (k * GRADIENT_CHANNELS + c) * BLOCK_CHANNELS;
            for (int i = 0; i < inputs; i++) to[i * window + k] += from[i] * work->factor;
        }
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

// A tile is a block of input channels x GRADIENT_CHANNELS output channels. A task takes neighbouring tiles of one block of input
// channels, so that what it reads of an image serves all of them.
static void gradient_task(void *context, int task, int thread)
{
    struct gradient_work *work = context;
    struct packed_convolution *packed = work->packed;
    const struct convolution_shape *s = &packed->shape;
    const struct packed_map *a = &packed->activations, *e = &packed->errors;
    int parts = (packed->gradient_tiles + work->tiles - 1) / work->tiles, block = task / parts, first = task % parts * work->tiles, end = minimum(first + work->tiles, packed->gradient_tiles);
    int window = s->kernel_height * s->kernel_width;
    size_t size = (size_t)window * GRADIENT_CHANNELS * BLOCK_CHANNELS;
    float *totals = packed_scratch_of(packed, thread).totals;
    int64_t *wide = packed_scratch_of(packed, thread).sums;
    int32_t corrections[GRADIENT_CHANNELS];
    struct gradient_job job = {.taps = window, .row_taps = s->kernel_width, .tap_offsets = packed->gradient_offsets, .height = e->height,
                               .width = e->width, .row_quads = e->row_quads, .pixel_bytes = (size_t)s->stride * BLOCK_CHANNELS,
                               .row_bytes = (size_t)s->stride * a->row_bytes, .largest_input = largest_byte(a),
                               .largest_error = (int)mls_largest_integer(&e->format), .corrections = a->zero_point ? corrections : NULL,
                               .image_pixels = a->image_bytes, .image_quads = (size_t)e->blocks * e->quads_block,
                               .image_in_scales = (size_t)a->blocks * BLOCK_CHANNELS, .image_out_scales = (size_t)e->blocks * BLOCK_CHANNELS};
    memset(totals, 0, (size_t)(end - first) * size * sizeof *totals);
    if (wide) memset(wide, 0, (size_t)(end - first) * size * sizeof *wide);
    for (int image = 0; image < work->images; image += job.images) {
        job.images = minimum(gradient_images(packed), work->images - image);
        if (image + job.images < work->images) gradient_fetch(packed, image + job.images, block, first * GRADIENT_CHANNELS, end * GRADIENT_CHANNELS);
        for (int tile = first; tile < end; tile++) {
            gradient_aim(packed, image, block, tile * GRADIENT_CHANNELS, corrections, &job);
            if (wide)
                packed->request.kernels->gradient_images_sums(&job, wide + (size_t)(tile - first) * size);
            else
                packed->request.kernels->gradient_images(&job, totals + (size_t)(tile - first) * size);
        }
    }
    for (int tile = first; tile < end; tile++, totals += size) {
        if (wide) totals_of_one_group(packed, block, tile * GRADIENT_CHANNELS, wide + (size_t)(tile - first) * size, totals, window);
        store_gradient(work, block, tile * GRADIENT_CHANNELS, totals);
    }
}

void packed_weight_gradient(struct packed_convolution *packed, struct thread_pool *pool, int images, float *gradient)
{
    const struct mls_format *formats = packed->request.formats;
    struct gradient_work work = {.packed = packed, .images = images, .gradient = gradient};
    work.factor = tensor_factor(packed->activations.tensor_scale, &formats[MLS_ACTIVATION], packed->errors.tensor_scale,
                                &formats[MLS_ERROR]);
    int blocks = packed->activations.blocks;
    if (packed->depthwise) {
        thread_pool_run(pool, blocks, depthwise_gradient_task, &work);
        return;
    }
    // Tiles together as long as every thread has two tasks.
    work.tiles = blocks * packed->gradient_tiles / (2 * thread_pool_size(pool));
    work.tiles = work.tiles < 1 ? 1 : minimum(minimum(work.tiles, packed->gradient_tiles), GRADIENT_TILES);
    int parts = (packed->gradient_tiles + work.tiles - 1) / work.tiles;
    thread_pool_run(pool, blocks * parts, gradient_task, &work);
}
