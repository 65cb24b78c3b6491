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
