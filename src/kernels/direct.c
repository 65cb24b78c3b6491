#include <stdint.h>

#include "base/integers.h"
#include "base/memory.h"
#include "kernels/depthwise.h"
#include "kernels/direct_internal.h"

#define GRADIENT_CHUNKS 8  // parts of a batch whose weight gradients are summed apart, whatever the number of threads
#define MANY_BLOCKS 8      // of outputs: threads share these in the weight gradient, and nothing is summed apart
#define IMAGES_TOGETHER 12 // of maps whose rows are too short for a kernel
#define SHORTEST_ROW 4     // of outputs: too short in any case
#define SHORT_ROW 8        // too short where there are FAR_WEIGHTS, which do not stay in the near cache from image to image
#define FAR_WEIGHTS ((size_t)1 << 16)

static void *take(struct direct_convolution *direct, size_t count, size_t size, struct error *error)
{
    direct->memory += count * size;
    return memory_allocate(count, size, error);
}

// ---------------------------------------------------------------------------------------------
// Building

static int images_together(const struct direct_request *request)
{
    const struct convolution_shape *s = &request->shape;
    size_t weights = (size_t)s->out_channels * (size_t)(s->in_channels / s->groups) * (size_t)(s->kernel_height * s->kernel_width);
    bool pays = s->out_width <= SHORTEST_ROW || (s->out_width <= SHORT_ROW && weights >= FAR_WEIGHTS);
    if (request->planar_input || is_depthwise(s) || s->in_width > 2 * SHORT_ROW || !pays) return 1;
    return s->images < IMAGES_TOGETHER ? s->images : IMAGES_TOGETHER;
}

static struct padded padded_of(int channels, int height, int width, const int halo[4], bool planar, int together)
{
    struct padded p = {.channels = channels, .blocks = blocked_count(channels), .height = height, .width = width, .top = halo[0],
                       .left = halo[1], .planar = planar, .together = together};
    p.padded_width = (size_t)(halo[1] + width + halo[3]);
    p.plane = p.padded_width * (size_t)(halo[0] + height + halo[2]);
    p.size = (planar ? (size_t)channels : (size_t)p.blocks) * p.plane * pixel_step(&p);
    return p;
}

// Outputs made from reduced channels; strides: of the weights, from one of them to the next one.
struct direction {
    const struct padded *reduced_map;
    int outputs, reduced;
    int output_stride, reduced_stride;
};

// The reduced channels of a block of outputs. A depthwise convolution has one of vectors, named by its first channel, for all blocks.
static struct range reduced_of(const struct direct_convolution *direct, const struct direction *d, int block)
{
    const int groups = direct->request.shape.groups, outputs = d->outputs / groups, reduced = d->reduced / groups;
    const int first = block * BLOCK_CHANNELS, last = smaller(first + BLOCK_CHANNELS, d->outputs) - 1;
    return direct->depthwise ? (struct range){0, 1} : (struct range){first / outputs * reduced, (last / outputs + 1) * reduced};
}

static bool same_range(struct range a, struct range b)
{
    return a.first == b.first && a.end == b.end;
}

static bool shares_terms(const struct direct_convolution *direct, const struct direction *d, int block)
{
    return block > 0 && same_range(reduced_of(direct, d, block - 1), reduced_of(direct, d, block));
}

static bool allocate_phase(struct direct_convolution *direct, const struct direction *d, struct phase *phase, struct error *error)
{
    const int window = direct->request.shape.kernel_height * direct->request.shape.kernel_width;
    const size_t blocks = (size_t)blocked_count(d->outputs);
    size_t terms = 0;
    for (int block = 0; block < (int)blocks; block++) {
        struct range reduced = reduced_of(direct, d, block);
        int own = window * (reduced.end - reduced.first);
        if (own > phase->most_terms) phase->most_terms = own;
        if (!shares_terms(direct, d, block)) terms += (size_t)own;
    }
    phase->block_terms = take(direct, blocks, sizeof *phase->block_terms, error);
    phase->offsets = take(direct, terms, sizeof *phase->offsets, error);
    phase->codes = take(direct, terms, sizeof *phase->codes, error);
    phase->outputs = take(direct, terms, sizeof *phase->outputs, error);
    phase->weights = take(direct, blocks * (size_t)phase->most_terms * BLOCK_CHANNELS, sizeof(float), error);
    return phase->block_terms && phase->offsets && phase->codes && phase->outputs && phase->weights;
}

// The terms of window position (ky, kx), read from pixel (y, x).
static void add_terms(const struct direct_convolution *direct, const struct direction *d, struct phase *phase, struct range reduced, int y, int x,
                      int position)
{
    const struct convolution_shape *s = &direct->request.shape;
    const int group_weights = s->in_channels / s->groups * s->kernel_height * s->kernel_width; // of one output of the forward pass
    for (int c = reduced.first; c < reduced.end; c++) {
        int group = c / (d->reduced / s->groups), outputs = d->outputs / s->groups;
        phase->offsets[phase->terms] = padded_at(d->reduced_map, c, y, x);
        phase->codes[phase->terms] = c * d->reduced_stride - group * group_weights + position;
        phase->outputs[phase->terms++] = direct->depthwise ? (struct range){0, d->outputs} : (struct range){group * outputs, (group + 1) * outputs};
    }
}

static void add_forward_terms(const struct direct_convolution *direct, const struct direction *d, struct phase *phase, struct range reduced)
{
    const struct convolution_shape *s = &direct->request.shape;
    for (int ky = 0; ky < s->kernel_height; ky++)
        for (int kx = 0; kx < s->kernel_width; kx++) add_terms(direct, d, phase, reduced, ky, kx, ky * s->kernel_width + kx);
}

// Window position k = remainder + stride * t reads error row base + j - t for the j-th row of the phase.
static void add_backward_terms(const struct direct_convolution *direct, const struct direction *d, struct phase *phase, struct range reduced)
{
    const struct convolution_shape *s = &direct->request.shape;
    const struct padded *map = d->reduced_map;
    const int from_y = phase->first_y + s->padding, from_x = phase->first_x + s->padding, stride = s->stride;
    for (int ky = from_y % stride, y = map->top + from_y / stride; ky < s->kernel_height; ky += stride, y--)
        for (int kx = from_x % stride, x = map->left + from_x / stride; kx < s->kernel_width; kx += stride, x--)
            add_terms(direct, d, phase, reduced, y, x, ky * s->kernel_width + kx);
}

// The phase's place is known; its terms and memory for its weights.
static bool fill_phase(struct direct_convolution *direct, const struct direction *d, struct phase *phase, struct error *error)
{
    if (!allocate_phase(direct, d, phase, error)) return false;
    phase->output_stride = d->output_stride;
    for (int block = 0; block < blocked_count(d->outputs); block++) {
        if (shares_terms(direct, d, block)) {
            phase->block_terms[block] = phase->block_terms[block - 1];
            continue;
        }
        phase->block_terms[block].first = phase->terms;
        (phase == &direct->forward ? add_forward_terms : add_backward_terms)(direct, d, phase, reduced_of(direct, d, block));
        phase->block_terms[block].end = phase->terms;
    }
    return true;
}

static bool create_forward(struct direct_convolution *direct, struct error *error)
{
    const struct convolution_shape *s = &direct->request.shape;
    const int window = s->kernel_height * s->kernel_width;
    const struct direction forward = {&direct->input, s->out_channels, s->in_channels, s->in_channels / s->groups * window, window};
    direct->forward = (struct phase){.step = 1, .rows = s->out_height, .columns = s->out_width, .stride = s->stride};
    return fill_phase(direct, &forward, &direct->forward, error);
}

static bool create_backward_phase(struct direct_convolution *direct, int first_y, int first_x, struct phase *phase, struct error *error)
{
    const struct convolution_shape *s = &direct->request.shape;
    const int window = s->kernel_height * s->kernel_width, stride = s->stride;
    const struct direction backward = {&direct->errors, s->in_channels, s->out_channels, window, s->in_channels / s->groups * window};
    *phase = (struct phase){.first_y = first_y, .first_x = first_x, .step = stride, .stride = 1};
    if (first_y < s->in_height) phase->rows = (s->in_height - first_y + stride - 1) / stride;
    if (first_x < s->in_width) phase->columns = (s->in_width - first_x + stride - 1) / stride;
    return fill_phase(direct, &backward, phase, error);
}

static bool create_backward(struct direct_convolution *direct, struct error *error)
{
    const struct convolution_shape *s = &direct->request.shape;
    int stride = s->stride;
    if (direct->request.planar_input) return true; // the network's input wants no error
    direct->backward_phases = stride * stride;
    direct->backward = take(direct, (size_t)direct->backward_phases, sizeof *direct->backward, error);
    if (!direct->backward) return false;
    for (int i = 0; i < direct->backward_phases; i++)
        if (!create_backward_phase(direct, i / stride, i % stride, &direct->backward[i], error)) return false;
    return true;
}

static bool create_all(struct direct_convolution *direct, struct error *error)
{
    const struct convolution_shape *s = &direct->request.shape;
    const int input_halo[4] = {s->padding, s->padding, s->padding, s->padding};
    direct->input = padded_of(s->in_channels, s->in_height, s->in_width, input_halo, direct->request.planar_input, direct->together);
    int after_y = (s->in_height - 1 + s->padding) / s->stride - (s->out_height - 1);
    int after_x = (s->in_width - 1 + s->padding) / s->stride - (s->out_width - 1);
    const int error_halo[4] = {(s->kernel_height - 1) / s->stride, (s->kernel_width - 1) / s->stride, after_y > 0 ? after_y : 0,
                               after_x > 0 ? after_x : 0};
    direct->errors = padded_of(s->out_channels, s->out_height, s->out_width, error_halo, false, direct->together);
    if (!create_forward(direct, error)) return false;
    if (!direct->request.for_training) return true;
    direct->chunks = direct->errors.blocks >= MANY_BLOCKS ? 1 : GRADIENT_CHUNKS;
    size_t partial = (size_t)direct->chunks * (size_t)direct->forward.most_terms * blocked_channels(s->out_channels);
    return create_backward(direct, error) && (direct->partial = take(direct, partial, sizeof(float), error)) != NULL;
}

bool direct_fits(const struct convolution_shape *s, struct error *error)
{
    const int channels = s->in_channels > s->out_channels ? s->in_channels : s->out_channels;
    const double window = (double)s->kernel_height * s->kernel_width, weights = (double)s->out_channels * (s->in_channels / s->groups) * window;
    if (weights > INT32_MAX) return error_set(error, "%.0f weights: expected at most %d", weights, INT32_MAX);
    return channels * window <= INT32_MAX / BLOCK_CHANNELS ||
           error_set(error, "%d channels with a window of %dx%d: expected a product of at most %d", channels, s->kernel_height, s->kernel_width,
                     INT32_MAX / BLOCK_CHANNELS);
}

struct direct_convolution *direct_create(const struct direct_request *request, struct error *error)
{
    struct direct_convolution *direct = memory_allocate(1, sizeof *direct, error);
    if (!direct) return NULL;
    direct->request = *request;
    direct->depthwise = is_depthwise(&request->shape);
    direct->together = images_together(request);
    if (create_all(direct, error)) return direct;
    direct_destroy(direct);
    return NULL;
}

static void release_phase(struct phase *phase)
{
    memory_release(phase->block_terms);
    memory_release(phase->offsets);
    memory_release(phase->codes);
    memory_release(phase->outputs);
    memory_release(phase->weights);
}

void direct_destroy(struct direct_convolution *direct)
{
    if (!direct) return;
    release_phase(&direct->forward);
    for (int i = 0; direct->backward && i < direct->backward_phases; i++) release_phase(&direct->backward[i]);
    memory_release(direct->backward);
    memory_release(direct->partial);
    memory_release(direct->scratch);
    memory_release(direct);
}

size_t direct_memory(const struct direct_convolution *direct)
{
    return direct->memory;
}

static bool prepare_scratch(struct direct_convolution *direct, struct thread_pool *pool, struct error *error)
{
    if (direct->threads == thread_pool_size(pool)) return true;
    memory_release(direct->scratch);
    direct->threads = thread_pool_size(pool);
    direct->scratch = memory_allocate((size_t)direct->threads * direct_scratch_floats(direct), sizeof(float), error);
    return direct->scratch != NULL;
}

// ---------------------------------------------------------------------------------------------
// Forward and input error

static float *weights_of(const struct phase *phase, int block)
{
    return phase->weights + (size_t)block * (size_t)phase->most_terms * BLOCK_CHANNELS;
}

static void pack_block(const struct phase *phase, const float *weights, int block)
{
    const struct range terms = phase->block_terms[block];
    float *to = weights_of(phase, block);
    for (int t = terms.first; t < terms.end; t++)
        for (int o = block * BLOCK_CHANNELS; o < (block + 1) * BLOCK_CHANNELS; o++) {
            const bool exists = range_has(phase->outputs[t], o);
            *to++ = exists ? weights[(size_t)o * (size_t)phase->output_stride + (size_t)phase->codes[t]] : 0;
        }
}

struct packing {
    const struct direct_convolution *direct;
    const float *weights;
};

// Blocks of the forward pass, then those of each backward phase.
static void pack_task(void *context, int task, int thread)
{
    (void)thread;
    const struct packing *packing = context;
    const struct direct_convolution *direct = packing->direct;
    const int forward_blocks = direct->errors.blocks, backward_blocks = direct->input.blocks;
    if (task < forward_blocks)
        pack_block(&direct->forward, packing->weights, task);
    else
        pack_block(&direct->backward[(task - forward_blocks) / backward_blocks], packing->weights, (task - forward_blocks) % backward_blocks);
}

// Of the map that a phase writes, [images][blocks][height][width][16].
struct output_map {
    int blocks, height, width;
};

// The same of several images: pixel by pixel.
static void convolve_images(const struct direct_convolution *direct, const struct direct_job *job, const struct phase *phase,
                            const float *input, size_t step, int images, float *const outputs[2])
{
    for (int x = 0; x < phase->columns; x++) {
        size_t at = (size_t)(x * phase->step) * BLOCK_CHANNELS;
        float *const outputs_of[2] = {outputs[0] + at, outputs[1] + at};
        direct->request.kernels->direct_row(job, input + (size_t)(x * phase->stride) * step, images, outputs_of);
    }
}

// One block, or two that read the same input.
static void set_blocks(const struct direct_convolution *direct, const struct phase *phase, int block, int blocks, struct direct_job *job)
{
    const struct range terms = phase->block_terms[block];
    job->terms = terms.end - terms.first;
    job->offsets = phase->offsets + terms.first;
    job->blocks = !direct->depthwise && block + 1 < blocks && same_range(terms, phase->block_terms[block + 1]) ? 2 : 1;
    for (int b = 0; b < job->blocks; b++) job->weights[b] = weights_of(phase, block + b);
}

static void convolve_phase(const struct work *work, const struct phase *phase, const struct padded *map, const float *padded,
                           struct output_map to, struct range images, struct fetch *fetch)
{
    size_t plane = (size_t)to.height * (size_t)to.width * BLOCK_CHANNELS;
    const struct direct_convolution *direct = work->direct;
    const bool side_by_side = direct->together > 1;
    struct direct_job job = {.accumulate = work->accumulate, .fetch = fetch,
                             .ahead = side_by_side ? 0 : (size_t)(phase->step * to.width) * BLOCK_CHANNELS,
                             .pixel_step = side_by_side ? BLOCK_CHANNELS : (size_t)phase->stride * pixel_step(map),
                             .output_step = side_by_side ? (size_t)to.blocks * plane : (size_t)phase->step * BLOCK_CHANNELS};
    for (int block = 0; block < to.blocks; block += job.blocks) {
        const float *input = direct->depthwise ? padded + padded_at(map, block * BLOCK_CHANNELS, 0, 0) : padded;
        float *output = work->output + ((size_t)images.first * (size_t)to.blocks + (size_t)block) * plane;
        set_blocks(direct, phase, block, to.blocks, &job);
        for (int row = 0; row < phase->rows && phase->columns > 0; row++) {
            size_t pixel = (size_t)(phase->first_y + row * phase->step) * (size_t)to.width + (size_t)phase->first_x;
            float *const outputs_of[2] = {output + pixel * BLOCK_CHANNELS, output + pixel * BLOCK_CHANNELS + plane};
            const float *from = input + padded_at(map, 0, row * phase->stride, 0);
            if (side_by_side)
                convolve_images(direct, &job, phase, from, pixel_step(map), images.end - images.first, outputs_of);
            else
                (direct->depthwise ? depthwise_direct_row : direct->request.kernels->direct_row)(&job, from, phase->columns, outputs_of);
        }
    }
}

// As many tasks for each thread, and no more images in one than may be together.
static void run_images(struct work *work, struct thread_pool *pool, thread_task function)
{
    int threads = thread_pool_size(pool), tasks = ceil_of(work->images, work->direct->together);
    work->each = work->direct->together > 1 ? ceil_of(work->images, ceil_of(tasks, threads) * threads) : 1;
    thread_pool_run(pool, ceil_of(work->images, work->each), function, work);
}

static struct range images_of_task(const struct work *work, int task)
{
    int first = task * work->each, end = first + work->each;
    return (struct range){first, end < work->images ? end : work->images};
}

static void all_done(const struct work *work, struct range images)
{
    for (int image = images.first; work->done.function && image < images.end; image++) work->done.function(work->done.context, image);
}

// What is read after an image and for the next one; nothing where several are together.
static struct fetch plan_fetch(const struct work *work, const struct padded *map, const struct source *source, struct output_map to,
                               struct range images)
{
    struct fetch fetch = {.count = 0};
    const int channels = map->planar ? map->channels : map->blocks * BLOCK_CHANNELS;
    if (work->direct->together > 1) return fetch;
    fetch_add_done(&fetch, &work->done, images.first, 1);
    if (images.end < work->images) fetch_add_source(&fetch, source, images.end, 1, (size_t)channels * (size_t)map->height * (size_t)map->width);
    fetch_spread(&fetch, (size_t)to.blocks * (size_t)to.height * (size_t)to.width, MOST_OF_IMAGE);
    return fetch;
}

static void forward_task(void *context, int task, int thread)
{
    struct work *work = context;
    const struct direct_convolution *direct = work->direct;
    const struct convolution_shape *s = &direct->request.shape;
    struct range images = images_of_task(work, task);
    struct output_map to = {direct->errors.blocks, s->out_height, s->out_width};
    struct fetch fetch = plan_fetch(work, &direct->input, work->input, to, images);
    convolve_phase(work, &direct->forward, &direct->input, direct_fill_input(work, images, thread), to, images, &fetch);
    all_done(work, images);
}

static void backward_task(void *context, int task, int thread)
{
    struct work *work = context;
    const struct direct_convolution *direct = work->direct;
    const struct convolution_shape *s = &direct->request.shape;
    struct range images = images_of_task(work, task);
    struct output_map to = {direct->input.blocks, s->in_height, s->in_width};
    const float *padded = direct_fill_errors(work, images, (struct range){0, direct->errors.blocks}, thread);
    struct fetch fetch = plan_fetch(work, &direct->errors, work->errors, to, images);
    for (int i = 0; i < direct->backward_phases; i++) convolve_phase(work, &direct->backward[i], &direct->errors, padded, to, images, &fetch);
    all_done(work, images);
}

bool direct_forward(struct direct_convolution *direct, struct thread_pool *pool, int images, const float *weights,
                    const struct source *input, float *output, struct image_done done, struct error *error)
{
    if (!prepare_scratch(direct, pool, error)) return false;
    thread_pool_run(pool, direct->errors.blocks + direct->backward_phases * direct->input.blocks, pack_task,
                    &(struct packing){direct, weights});
    struct work work = {.direct = direct, .input = input, .output = output, .done = done, .images = images};
    run_images(&work, pool, forward_task);
    return true;
}

void direct_input_error(struct direct_convolution *direct, struct thread_pool *pool, int images, const struct source *errors,
                        float *input_error, bool accumulate, struct image_done done)
{
    struct work work = {.direct = direct, .errors = errors, .output = input_error, .accumulate = accumulate, .done = done, .images = images};
    run_images(&work, pool, backward_task);
}
