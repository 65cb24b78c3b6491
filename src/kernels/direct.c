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

bool direct_supports(const struct convolution_shape *shape)
{
    return (shape->groups == 1 || is_depthwise(shape)) && shape->padding < shape->kernel_height && shape->padding < shape->kernel_width;
}

static int images_together(const struct direct_request *request)
{
    const struct convolution_shape *s = &request->shape;
    size_t weights = (size_t)s->out_channels * (size_t)s->in_channels * (size_t)(s->kernel_height * s->kernel_width);
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

static bool allocate_phase(struct direct_convolution *direct, struct phase *phase, int most_terms, int output_blocks, struct error *error)
{
    size_t terms = (size_t)most_terms;
    phase->offsets = take(direct, terms, sizeof *phase->offsets, error);
    phase->codes = take(direct, terms, sizeof *phase->codes, error);
    phase->weights = take(direct, terms * (size_t)output_blocks * BLOCK_CHANNELS, sizeof(float), error);
    return phase->offsets && phase->codes && phase->weights;
}

// The terms of window position (ky, kx), read from pixel (y, x): one for each reduced channel, in blocks. A depthwise convolution
// has one of vectors, which is named by its first channel and taken from the output's block.
static void add_terms(const struct direct_convolution *direct, struct phase *phase, const struct padded *map, int y, int x, int position,
                      int reduced_stride)
{
    for (int c = 0; c < (direct->depthwise ? 1 : map->channels); c++) {
        phase->offsets[phase->terms] = padded_at(map, c, y, x);
        phase->codes[phase->terms++] = c * reduced_stride + position;
    }
}

static bool create_forward(struct direct_convolution *direct, struct error *error)
{
    const struct convolution_shape *s = &direct->request.shape;
    int window = s->kernel_height * s->kernel_width;
    struct phase *phase = &direct->forward;
    *phase = (struct phase){.step = 1, .rows = s->out_height, .columns = s->out_width, .stride = s->stride};
    if (!allocate_phase(direct, phase, window * (s->in_channels / s->groups), blocked_count(s->out_channels), error)) return false;
    for (int ky = 0; ky < s->kernel_height; ky++)
        for (int kx = 0; kx < s->kernel_width; kx++) add_terms(direct, phase, &direct->input, ky, kx, ky * s->kernel_width + kx, window);
    return true;
}

static bool fill_backward(struct direct_convolution *direct, struct phase *phase, int first_y, int first_x, struct error *error)
{
    const struct convolution_shape *s = &direct->request.shape;
    const struct padded *map = &direct->errors;
    int stride = s->stride, window = s->kernel_height * s->kernel_width;
    *phase = (struct phase){.first_y = first_y, .first_x = first_x, .step = stride, .stride = 1};
    if (first_y < s->in_height) phase->rows = (s->in_height - first_y + stride - 1) / stride;
    if (first_x < s->in_width) phase->columns = (s->in_width - first_x + stride - 1) / stride;
    if (!allocate_phase(direct, phase, window * (s->out_channels / s->groups), blocked_count(s->in_channels), error)) return false;
    // Window position k = remainder + stride * t reads error row base + j - t for the j-th row of the phase.
    int remainder_y = (first_y + s->padding) % stride, base_y = (first_y + s->padding) / stride;
    int remainder_x = (first_x + s->padding) % stride, base_x = (first_x + s->padding) / stride;
    for (int ky = remainder_y, y = map->top + base_y; ky < s->kernel_height; ky += stride, y--)
        for (int kx = remainder_x, x = map->left + base_x; kx < s->kernel_width; kx += stride, x--)
            add_terms(direct, phase, map, y, x, ky * s->kernel_width + kx, s->in_channels * window);
    return true;
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
        if (!fill_backward(direct, &direct->backward[i], i / stride, i % stride, error)) return false;
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
    size_t partial = (size_t)direct->chunks * (size_t)direct->forward.terms * blocked_channels(s->out_channels);
    return create_backward(direct, error) && (direct->partial = take(direct, partial, sizeof(float), error)) != NULL;
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
    memory_release(phase->offsets);
    memory_release(phase->codes);
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

static void pack_weights(const struct phase *phase, const float *weights, int outputs, int output_stride)
{
    for (int block = 0; block < blocked_count(outputs); block++)
        for (int t = 0; t < phase->terms; t++)
            for (int i = 0; i < BLOCK_CHANNELS; i++) {
                int output = block * BLOCK_CHANNELS + i;
                phase->weights[(block * phase->terms + t) * BLOCK_CHANNELS + i] =
                    output < outputs ? weights[(size_t)output * (size_t)output_stride + (size_t)phase->codes[t]] : 0;
            }
}

// Of the map that a phase writes, [images][blocks][height][width][16].
struct output_map {
    int blocks, height, width;
};

// A row of a phase of one image.
static void convolve_row(const struct direct_convolution *direct, const struct direct_job *job, const struct phase *phase, const float *input,
                         int width, bool is_last, float *const outputs[2])
{
    // The next row, for writing.
    size_t next = (size_t)(phase->step * width) * BLOCK_CHANNELS;
    for (int b = 0; !is_last && b < job->blocks; b++)
        for (int i = 0; i < phase->columns; i++) __builtin_prefetch(outputs[b] + next + (size_t)i * job->output_step, 1);
    (direct->depthwise ? depthwise_direct_row : direct->request.kernels->direct_row)(job, input, phase->columns, outputs);
}

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

static void convolve_phase(const struct work *work, const struct phase *phase, const struct padded *map, const float *padded,
                           struct output_map to, struct range images)
{
    size_t plane = (size_t)to.height * (size_t)to.width * BLOCK_CHANNELS, terms = (size_t)phase->terms * BLOCK_CHANNELS;
    const struct direct_convolution *direct = work->direct;
    const bool side_by_side = direct->together > 1;
    const int blocks_at_once = direct->depthwise ? 1 : 2;
    struct direct_job job = {.terms = phase->terms, .offsets = phase->offsets, .accumulate = work->accumulate,
                             .pixel_step = side_by_side ? BLOCK_CHANNELS : (size_t)phase->stride * pixel_step(map),
                             .output_step = side_by_side ? (size_t)to.blocks * plane : (size_t)phase->step * BLOCK_CHANNELS};
    for (int block = 0; block < to.blocks; block += blocks_at_once) {
        const float *input = direct->depthwise ? padded + padded_at(map, block * BLOCK_CHANNELS, 0, 0) : padded;
        float *output = work->output + ((size_t)images.first * (size_t)to.blocks + (size_t)block) * plane;
        job.blocks = block + blocks_at_once <= to.blocks ? blocks_at_once : 1;
        for (int b = 0; b < job.blocks; b++) job.weights[b] = phase->weights + (size_t)(block + b) * terms;
        for (int row = 0; row < phase->rows && phase->columns > 0; row++) {
            size_t pixel = (size_t)(phase->first_y + row * phase->step) * (size_t)to.width + (size_t)phase->first_x;
            float *const outputs_of[2] = {output + pixel * BLOCK_CHANNELS, output + pixel * BLOCK_CHANNELS + plane};
            const float *from = input + padded_at(map, 0, row * phase->stride, 0);
            if (side_by_side)
                convolve_images(direct, &job, phase, from, pixel_step(map), images.end - images.first, outputs_of);
            else
                convolve_row(direct, &job, phase, from, to.width, row + 1 == phase->rows, outputs_of);
        }
    }
}

static int ceil_of(int count, int each)
{
    return (count + each - 1) / each;
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

static void forward_task(void *context, int task, int thread)
{
    struct work *work = context;
    const struct direct_convolution *direct = work->direct;
    const struct convolution_shape *s = &direct->request.shape;
    struct range images = images_of_task(work, task);
    struct output_map to = {direct->errors.blocks, s->out_height, s->out_width};
    convolve_phase(work, &direct->forward, &direct->input, direct_fill_input(work, images, thread), to, images);
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
    for (int i = 0; i < direct->backward_phases; i++) convolve_phase(work, &direct->backward[i], &direct->errors, padded, to, images);
    all_done(work, images);
}

bool direct_forward(struct direct_convolution *direct, struct thread_pool *pool, int images, const float *weights,
                    const struct source *input, float *output, struct image_done done, struct error *error)
{
    const struct convolution_shape *s = &direct->request.shape;
    int window = s->kernel_height * s->kernel_width;
    if (!prepare_scratch(direct, pool, error)) return false;
    pack_weights(&direct->forward, weights, s->out_channels, s->in_channels / s->groups * window);
    for (int i = 0; i < direct->backward_phases; i++) pack_weights(&direct->backward[i], weights, s->in_channels, window);
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
