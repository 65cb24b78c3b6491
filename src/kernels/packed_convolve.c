// Packed convolutions: forward and input error on packed operands.
#include "base/vector.h"
#include "kernels/fetch_image.h"
#include "kernels/packed_internal.h"

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

static bool computes_products(const struct convolve_work *work)
{
    return work->packed->gradient_by_image && work->map == &work->packed->errors;
}

// Turns of the work on some images.
static size_t fetch_turns(const struct convolve_work *work, int images)
{
    const struct direction *d = work->direction;
    const size_t products = computes_products(work) ? gradient_turns(work->packed, images) : 0;
    const int sets = divide_up(d->squares.rows * d->squares.columns * images, SQUARES_OF_SET);
    const size_t pixels = (size_t)images * (size_t)d->output_height * (size_t)d->output_width;
    const size_t of_block = sets ? (size_t)(sets * d->groups * SQUARE_INPUTS) : pixels;
    return products + (work->output ? (size_t)d->output_blocks * of_block : 0);
}

// What to fetch during the images of a task, for their end and for as many others.
static struct fetch fetch_plan(const struct convolve_work *work, int first, int end)
{
    const struct packed_map *map = work->map, *a = &work->packed->activations;
    const int next = minimum(end - first, work->images - end);
    struct fetch fetch = {.count = 0};
    fetch_add_done(&fetch, &work->done, first, end - first);
    if (next > 0) {
        fetch_add_source(&fetch, &work->quantization->input->source, end, next,
                         (size_t)map->blocks * BLOCK_CHANNELS * (size_t)map->height * (size_t)map->width);
        if (computes_products(work)) fetch_add(&fetch, a->pixels + (size_t)end * a->image_bytes, a->image_bytes * (size_t)next, 0, 1);
    }
    fetch_spread(&fetch, fetch_turns(work, end - first), MOST_OF_IMAGE);
    return fetch;
}

// ---------------------------------------------------------------------------------------------
// The convolutions

// Output 0 of an image and block.
static float *output_of(const struct convolve_work *work, int image, int block)
{
    const struct direction *d = work->direction;
    size_t plane = (size_t)d->output_height * (size_t)d->output_width * BLOCK_CHANNELS;
    return work->output + ((size_t)image * (size_t)d->output_blocks + (size_t)block) * plane;
}

// Two blocks of outputs at once where they reduce over the same channels.
static int blocks_at_once(const struct direction *d, int block)
{
    if (block + 1 == d->output_blocks) return 1;
    return d->block_first[block] == d->block_first[block + 1] && d->block_groups[block] == d->block_groups[block + 1] ? 2 : 1;
}

static struct convolve_job job_of(const struct convolve_work *work, int block, struct fetch *fetch)
{
    const struct direction *d = work->direction;
    const int first = d->block_first[block];
    return (struct convolve_job){.groups = d->block_groups[block], .blocks = blocks_at_once(d, block),
                                 .quad_first = d->quad_first + first, .quad_last = d->quad_last + first, .quad_offsets = d->quad_offsets,
                                 .factor = work->factor, .accumulate = work->accumulate, .planar = d->planar && d->total_quads == d->groups,
                                 .fetch = fetch,
                                 .pixel_bytes = (size_t)d->stride * (d->planar ? 1 : BLOCK_CHANNELS), .largest_input = largest_byte(work->map),
                                 .largest_weight = (int)mls_largest_integer(&work->packed->request.formats[MLS_WEIGHT])};
}

// Points the job at one or two output blocks of a phase.
static void aim(const struct convolve_work *work, const struct phase *phase, int block, struct convolve_job *job)
{
    job->taps = phase->taps;
    job->run = phase->run;
    job->tap_offsets = phase->tap_offsets;
    job->output_step = (size_t)phase->step * BLOCK_CHANNELS;
    job->ahead = (size_t)work->direction->output_width * job->output_step; // the row below
    for (int b = 0; b < job->blocks; b++) {
        job->weights[b] = phase->weights + (size_t)(block + b) * phase->weights_block;
        job->starts[b] = phase->starts + (size_t)(block + b) * (size_t)work->direction->groups * BLOCK_CHANNELS;
    }
}

// From row `row` of a phase, column 0, to output 0, in floats.
static size_t output_row(const struct direction *d, const struct phase *phase, int row)
{
    return ((size_t)(phase->first_y + row * phase->step) * (size_t)d->output_width + (size_t)phase->first_x) * BLOCK_CHANNELS;
}

// All outputs of one phase of one image, for one or two output blocks from `block`. bytes: those of the image.
static void convolve_rows(const struct convolve_work *work, const struct phase *phase, const struct convolve_job *job, int image,
                          const uint8_t *bytes, int block)
{
    const struct direction *d = work->direction;
    // From one row of the map to the next.
    size_t row_bytes = d->planar ? (size_t)work->map->padded_width : work->map->row_bytes;
    for (int row = 0; row < phase->rows && phase->columns > 0; row++) {
        float *out = output_of(work, image, block) + output_row(d, phase, row);
        float *outputs[2] = {out, out + (size_t)d->output_height * (size_t)d->output_width * BLOCK_CHANNELS};
        work->packed->request.kernels->convolve_row(job, bytes + (size_t)(row * d->stride) * row_bytes, phase->columns, outputs);
    }
}

// The same of several images. bytes: from those of the first one on.
static void convolve_together(const struct convolve_work *work, const struct phase *phase, const struct convolve_job *job, int first, int end,
                              const uint8_t *bytes, int block)
{
    const struct direction *d = work->direction;
    const struct packed_map *map = work->map;
    struct convolve_pixel pixels[LEAST_TOGETHER * TOGETHER_PIXELS / 2]; // no map has more than half as many outputs
    float *outputs[2] = {output_of(work, first, block), output_of(work, first, block + 1)};
    int count = 0;
    for (int image = first; image < end; image++)
        for (int row = 0; row < phase->rows; row++) {
            size_t input = (size_t)(image - first) * map->image_bytes + (size_t)(row * d->stride) * map->row_bytes;
            size_t output = (size_t)(output_of(work, image, block) - outputs[0]) + output_row(d, phase, row);
            int scales = (image - first) * 2 * job->groups * BLOCK_CHANNELS;
            for (int column = 0; column < phase->columns; column++, input += job->pixel_bytes, output += job->output_step)
                pixels[count++] = (struct convolve_pixel){(int32_t)input, (int32_t)output, scales};
        }
    work->packed->request.kernels->convolve_pixels(job, bytes, pixels, count, outputs);
}

// Sg_1 * Sg_2 of the blocks of a job from `block`, [blocks][groups][16].
VECTORIZED static void set_scales(const struct convolve_work *work, int image, int block, int blocks, float *scales)
{
    const struct direction *d = work->direction;
    const float *plane_scales = work->map->plane_scales + (size_t)image * (size_t)work->map->blocks * BLOCK_CHANNELS;
    const int *first = d->group_first + d->block_first[block];
    for (int b = 0; b < blocks; b++) {
        const float *weights = d->weight_scales + (size_t)(block + b) * (size_t)d->groups * BLOCK_CHANNELS;
        for (int group = 0; group < d->block_groups[block]; group++, scales += BLOCK_CHANNELS)
            vector_store(scales, plane_scales[first[group]] * vector_load(weights + group * BLOCK_CHANNELS));
    }
}

static void convolve_images(const struct convolve_work *work, int first, int end, const uint8_t *bytes, float *scales, struct fetch *fetch)
{
    const struct direction *d = work->direction;
    for (int block = 0, next; block < d->output_blocks; block = next) {
        struct convolve_job job = job_of(work, block, fetch);
        const size_t of_block = (size_t)job.groups * BLOCK_CHANNELS;
        next = block + job.blocks;
        for (int image = first; image < end; image++) set_scales(work, image, block, job.blocks, scales + 2 * of_block * (size_t)(image - first));
        for (int b = 0; b < job.blocks; b++) job.scales[b] = scales + of_block * (size_t)b;
        for (int i = 0; i < d->phase_count; i++) {
            aim(work, &d->phases[i], block, &job);
            if (d->together > 1)
                convolve_together(work, &d->phases[i], &job, first, end, bytes, block);
            else
                convolve_rows(work, &d->phases[i], &job, first, bytes, block);
        }
    }
}

// Pairs of output rows `pair` to `end` - 1 of one image and block, from their transformed rows.
static void convolve_pairs(const struct convolve_work *work, int image, int block, int pair, int end, const struct packed_scratch *scratch,
                           struct fetch *fetch)
{
    const struct direction *d = work->direction;
    const struct winograd *winograd = &d->winograd;
    size_t row = (size_t)d->output_width * BLOCK_CHANNELS;
    const int first = d->block_first[block];
    struct winograd_job job = {.groups = d->block_groups[block], .pixels = d->output_width, .planar = d->planar,
                               .quad_first = d->quad_first + first, .quad_last = d->quad_last + first,
                               .quad_offsets = winograd->quad_offsets, .rows = scratch->rows,
                               .pitch = winograd->pitch, .weights = winograd->weights + (size_t)block * winograd_weights_block(d),
                               .chunk = winograd->chunk, .starts = winograd->starts + (size_t)block * winograd_starts_block(d),
                               .scales = scratch->scales, .factor = work->factor, .accumulate = work->accumulate, .fetch = fetch, .ahead = 2 * row};
    for (; pair < end; pair++, job.rows += (size_t)winograd->lines * 4 * winograd->pitch) {
        float *out = output_of(work, image, block) + 2 * (size_t)pair * row, *outputs[2] = {out, out + row};
        work->packed->request.kernels->winograd_rows(&job, outputs);
    }
}

// One image in bands of pairs of rows, so that what is transformed stays in the first cache for all blocks.
static void convolve_winograd(const struct convolve_work *work, int image, const uint8_t *bytes, const struct packed_scratch *scratch,
                              struct fetch *fetch)
{
    const struct direction *d = work->direction;
    int pairs = d->output_height / 2;
    for (int pair = 0, end; pair < pairs; pair = end) {
        end = minimum(pair + d->winograd.band, pairs);
        winograd_transform(work->packed, work->map, d, bytes, pair, end - pair, scratch->rows);
        for (int block = 0; block < d->output_blocks; block++) {
            set_scales(work, image, block, 1, scratch->scales);
            convolve_pairs(work, image, block, pair, end, scratch, fetch);
        }
    }
}

// All blocks of outputs of some sets of squares, whose inputs are transformed. image, end: theirs.
static void convolve_sets(const struct convolve_work *work, int first, int image, int end, const struct square *squares, int sets,
                          const struct packed_scratch *scratch, struct fetch *fetch)
{
    const struct direction *d = work->direction;
    const size_t of_image = 2 * (size_t)d->groups * BLOCK_CHANNELS;
    float *totals = (float *)(scratch->rows + squares_input_numbers(d) * sizeof(int16_t));
    struct squares_job job = {.sets = sets, .quad_offsets = d->squares.quad_offsets, .squares = squares, .input = (const int16_t *)scratch->rows,
                              .set_step = (size_t)work->map->blocks * SET_NUMBERS, .scales = scratch->scales,
                              .totals = totals, .group_weights = (int16_t *)(totals + squares_total_numbers(d)),
                              .from_the_bottom = from_the_bottom(d), .factor = work->factor / 64,
                              .accumulate = work->accumulate, .output_row = (size_t)d->output_width * BLOCK_CHANNELS, .fetch = fetch};
    for (int block = 0; block < d->output_blocks; block++) {
        for (int n = image; n < end; n++) set_scales(work, n, block, 1, scratch->scales + of_image * (size_t)(n - first));
        job.groups = d->block_groups[block];
        job.quad_first = d->quad_first + d->block_first[block];
        job.quad_last = d->quad_last + d->block_first[block];
        job.weights = d->phases->weights + (size_t)block * d->phases->weights_block;
        if (d->squares.weights) job.transformed = d->squares.weights + (size_t)block * d->squares.weights_block;
        work->packed->request.kernels->convolve_squares(&job, output_of(work, first, block));
    }
}

// The images of a task, as many squares at a time as the second cache holds transformed.
static void convolve_squares(const struct convolve_work *work, int first, int end, const uint8_t *bytes, const struct packed_scratch *scratch,
                             struct fetch *fetch)
{
    const struct direction *d = work->direction;
    const int of_image = d->squares.rows * d->squares.columns, all = (end - first) * of_image;
    struct square squares[SQUARES_SETS * SQUARES_OF_SET];
    for (int at = 0, count; at < all; at += count) {
        count = minimum(d->squares.sets * SQUARES_OF_SET, all - at);
        const int sets = divide_up(count, SQUARES_OF_SET);
        squares_list(d, work->map, at, count, sets, squares);
        squares_transform(work->packed, work->map, d, bytes, squares, sets, (int16_t *)scratch->rows);
        convolve_sets(work, first, first + at / of_image, first + (at + count - 1) / of_image + 1, squares, sets, scratch, fetch);
    }
}

static void convolve_task(void *context, int task, int thread)
{
    struct convolve_work *work = context;
    const struct direction *d = work->direction;
    const struct packed_map *map = work->map;
    const struct packed_scratch scratch = packed_scratch_of(work->packed, thread);
    int first = task * d->together, end = minimum(first + d->together, work->images);
    const int place = thread * d->together; // of the first image among those at work
    for (int image = first; image < end; image++) map_quantization_image(work->quantization, image, place + image - first);
    struct fetch fetch = fetch_plan(work, first, end);
    for (int image = first; computes_products(work) && image < end; image++)
        gradient_image_products(work->packed, image, place + image - first, &scratch, &fetch);
    if (!work->output) return;
    const uint8_t *bytes = d->planar ? map->planes : map->pixels;
    bytes += (size_t)(d->planar || map->passing ? place : first) * map->image_bytes;
    if (work->packed->depthwise)
        depthwise_convolve_image(work->packed, d, work->map, first, bytes, work->factor, work->output, work->accumulate);
    else if (d->squares.rows)
        convolve_squares(work, first, end, bytes, &scratch, &fetch);
    else if (d->winograd.weights)
        convolve_winograd(work, first, bytes, &scratch, &fetch);
    else
        convolve_images(work, first, end, bytes, scratch.scales, &fetch);
    for (int image = first; work->done.function && image < end; image++) work->done.function(work->done.context, image);
}

static bool convolve(struct convolve_work *work, struct thread_pool *pool, int images, struct error *error)
{
    struct packed_convolution *packed = work->packed;
    const struct packed_map *map = work->map;
    if (!packed_meet_pool(packed, pool, error)) return false;
    if (!map_quantization_begin(work->quantization, pool, images, error)) return false;
    const struct mls_format *weights = &packed->request.formats[MLS_WEIGHT];
    work->factor = tensor_factor(packed->weight_tensor_scale, weights, map->tensor_scale, &map->format);
    work->images = images;
    thread_pool_run(pool, (images + work->direction->together - 1) / work->direction->together, convolve_task, work);
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
