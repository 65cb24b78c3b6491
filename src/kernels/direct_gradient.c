// The weight gradient of fp32 convolutions.
#include <string.h>

#include "base/integers.h"
#include "kernels/depthwise.h"
#include "kernels/direct_internal.h"

#define BAND_PIXELS 128
#define NEAR_FLOATS 16384  // of a block of input and errors, which the weight gradient reads again and again from a near cache

static float *partial_of(const struct direct_convolution *direct, int chunk, int block)
{
    size_t terms = (size_t)direct->forward.most_terms * BLOCK_CHANNELS;
    return direct->partial + ((size_t)chunk * (size_t)direct->errors.blocks + (size_t)block) * terms;
}

static struct direct_gradient_job gradient_job(const struct direct_convolution *direct)
{
    const struct convolution_shape *s = &direct->request.shape;
    const struct padded *in = &direct->input, *out = &direct->errors;
    return (struct direct_gradient_job){.height = out->height, .width = out->width, .pixel_step = (size_t)s->stride * pixel_step(in),
                                        .row_step = (size_t)s->stride * in->padded_width * pixel_step(in),
                                        .error_pixel_step = pixel_step(out), .error_row_step = out->padded_width * pixel_step(out)};
}

// Of a map whose images are not side by side, how many rows are taken at a time: so that they stay in the first cache for all terms.
static int band_rows(const struct direct_convolution *direct)
{
    const int rows = BAND_PIXELS / direct->errors.width;
    return direct->together > 1 ? direct->errors.height : rows < 1 ? 1 : rows;
}

static void gradient_bands(const struct direct_convolution *direct, struct direct_gradient_job job, float *totals)
{
    const int rows = band_rows(direct);
    for (int left = job.height; left > 0; left -= rows) {
        job.height = left < rows ? left : rows;
        (direct->depthwise ? depthwise_direct_gradient : direct->request.kernels->direct_gradient)(&job, totals);
        job.input += (size_t)rows * job.row_step;
        job.errors += (size_t)rows * job.error_row_step;
    }
}

// Some of the images that are in the buffers, from `first` on.
static void gradient_images(const struct direct_convolution *direct, struct direct_gradient_job *job, const float *input, const float *errors,
                            int first, int chunk, struct range blocks)
{
    const struct padded *in = &direct->input, *out = &direct->errors;
    for (int block = blocks.first; block < blocks.end; block++) {
        const struct range terms = direct->forward.block_terms[block];
        job->terms = terms.end - terms.first;
        job->offsets = direct->forward.offsets + terms.first;
        job->errors = errors + padded_at(out, block * BLOCK_CHANNELS, out->top, out->left) + first * BLOCK_CHANNELS;
        job->input = direct->depthwise ? input + padded_at(in, block * BLOCK_CHANNELS, 0, 0) : input + first * BLOCK_CHANNELS;
        gradient_bands(direct, *job, partial_of(direct, chunk, block));
    }
}

// How many images a kernel reads: all, so that the totals are loaded and stored once for them, or one.
static int gradient_together(const struct direct_convolution *direct)
{
    size_t floats = (direct->input.plane + direct->errors.plane) * BLOCK_CHANNELS * (size_t)direct->together;
    return floats > NEAR_FLOATS ? 1 : direct->together;
}

// What is read for the images that come next.
static struct fetch plan_fetch(const struct work *work, int next, int end, struct range blocks)
{
    const struct direct_convolution *direct = work->direct;
    const struct padded *in = &direct->input, *out = &direct->errors;
    struct fetch fetch = {.count = 0};
    const int channels = in->planar ? in->channels : in->blocks * BLOCK_CHANNELS;
    const size_t pixels = (size_t)out->height * (size_t)out->width;
    if (direct->together > 1 || next >= end) return fetch;
    fetch_add_source(&fetch, work->input, next, 1, (size_t)channels * (size_t)in->height * (size_t)in->width);
    fetch_add_source(&fetch, work->errors, next, 1, (size_t)out->blocks * BLOCK_CHANNELS * pixels);
    const size_t bands = (size_t)ceil_of(out->height, band_rows(direct));
    fetch_spread(&fetch, (size_t)(blocks.end - blocks.first) * (size_t)direct->forward.most_terms * bands, MOST_OF_IMAGE);
    return fetch;
}

// Images of one chunk, in order, for some blocks of outputs.
static void gradient_part(const struct work *work, int chunk, struct range images, struct range blocks, int thread)
{
    const struct direct_convolution *direct = work->direct;
    struct direct_gradient_job job = gradient_job(direct);
    size_t totals = (size_t)(blocks.end - blocks.first) * (size_t)direct->forward.most_terms * BLOCK_CHANNELS;
    memset(partial_of(direct, chunk, blocks.first), 0, totals * sizeof(float));
    const int together = gradient_together(direct);
    for (struct range now = images; now.first < images.end; now.first = now.end) {
        now.end = images.end - now.first < direct->together ? images.end : now.first + direct->together;
        const float *errors = direct_fill_errors(work, now, blocks, thread), *input = direct_fill_input(work, now, thread);
        struct fetch fetch = plan_fetch(work, now.end, images.end, blocks);
        job.fetch = &fetch;
        for (int first = 0, count = now.end - now.first; first < count; first += job.images) {
            job.images = count - first < together ? count - first : together;
            gradient_images(direct, &job, input, errors, first, chunk, blocks);
        }
    }
}

static struct range part_of(int count, int part, int parts)
{
    return (struct range){(int)((long)count * part / parts), (int)((long)count * (part + 1) / parts)};
}

static void gradient_task(void *context, int task, int thread)
{
    const struct work *work = context;
    const int blocks = work->direct->errors.blocks;
    if (work->direct->chunks > 1)
        gradient_part(work, task, part_of(work->images, task, work->tasks), (struct range){0, blocks}, thread);
    else
        gradient_part(work, 0, (struct range){0, work->images}, part_of(blocks, task, work->tasks), thread);
}

static void sum_task(void *context, int block, int thread)
{
    (void)thread;
    const struct work *work = context;
    const struct direct_convolution *direct = work->direct;
    const struct phase *forward = &direct->forward;
    const struct range terms = forward->block_terms[block];
    for (int chunk = 0; chunk < direct->chunks; chunk++)
        for (int i = 0, o = block * BLOCK_CHANNELS; i < BLOCK_CHANNELS; i++, o++) {
            const float *from = partial_of(direct, chunk, block) + i;
            for (int t = terms.first; t < terms.end; t++, from += BLOCK_CHANNELS)
                if (range_has(forward->outputs[t], o))
                    work->output[(size_t)o * (size_t)forward->output_stride + (size_t)forward->codes[t]] += *from;
        }
}

void direct_weight_gradient(struct direct_convolution *direct, struct thread_pool *pool, int images, const struct source *input,
                            const struct source *errors, float *gradient)
{
    int blocks = direct->errors.blocks, threads = thread_pool_size(pool);
    struct work work = {.direct = direct, .input = input, .errors = errors, .output = gradient, .images = images, .tasks = direct->chunks};
    if (direct->chunks == 1) work.tasks = threads < blocks ? threads : blocks;
    thread_pool_run(pool, work.tasks, gradient_task, &work);
    thread_pool_run(pool, blocks, sum_task, &work);
}
