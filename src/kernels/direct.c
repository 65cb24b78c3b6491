#include "kernels/direct.h"

#include <string.h>

#include "base/memory.h"
#include "kernels/depthwise.h"

#define GRADIENT_CHUNKS 8  // parts of a batch whose weight gradients are summed apart, whatever the number of threads
#define MANY_BLOCKS 8      // of outputs: threads share these in the weight gradient, and nothing is summed apart
#define IMAGES_TOGETHER 12 // of maps whose rows are too short for a kernel
#define SHORT_ROW 8
#define NEAR_FLOATS 16384  // of a block of input and errors, which the weight gradient reads again and again from a near cache

// Images with their halos: blocked, or planar with the channels apart. Of small maps several images at once, pixel by pixel side
// by side: they are for a kernel what neighbouring pixels are, and the weights are read once for all of them.
struct padded {
    int channels, blocks, height, width;
    int top, left;
    size_t padded_width, plane; // pixels
    bool planar;
    int together;               // images
    size_t size;                // floats
};

// A set of outputs that share their window (packed_internal.h, struct phase). Output (j, i) is pixel (first_y + j * step,
// first_x + i * step) and reads the padded map from pixel (j * stride, i * stride).
struct phase {
    int first_y, first_x, step, rows, columns, stride;
    int terms;
    size_t *offsets; // [terms]
    int *codes;      // [terms]: index of the weight of output 0
    float *weights;  // [output block][term][16]
};

struct direct_convolution {
    struct direct_request request;
    bool depthwise; // a block of outputs reads one block of the input
    int together;   // images
    struct padded input, errors;
    struct phase forward, *backward;
    int backward_phases;
    int chunks;       // of the weight gradient
    float *partial;   // [chunks][output block][forward.terms][16]
    float *scratch;   // per thread: the padded input, then the padded errors
    int threads;
    size_t memory;
};

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
    if (request->planar_input || is_depthwise(s) || s->out_width > SHORT_ROW) return 1;
    return s->images < IMAGES_TOGETHER ? s->images : IMAGES_TOGETHER;
}

// Floats from a pixel to the one on its right. An odd number of lines of the cache, so that the pixels of one image spread over it.
static size_t pixel_step(const struct padded *p)
{
    return p->planar ? 1 : (size_t)(p->together | 1) * BLOCK_CHANNELS;
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

// Where a channel of pixel (y, x) of the first image of the padded map is; the next image is BLOCK_CHANNELS further.
static size_t padded_at(const struct padded *p, int channel, int y, int x)
{
    size_t pixel = (size_t)y * p->padded_width + (size_t)x, lane = (size_t)channel % BLOCK_CHANNELS;
    if (p->planar) return (size_t)channel * p->plane + pixel;
    return ((size_t)(channel / BLOCK_CHANNELS) * p->plane + pixel) * pixel_step(p) + lane;
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

// ---------------------------------------------------------------------------------------------
// Copies with a halo

static size_t scratch_floats(const struct direct_convolution *direct)
{
    return (direct->input.size + direct->errors.size + 31) / 16 * 16;
}

static bool prepare_scratch(struct direct_convolution *direct, struct thread_pool *pool, struct error *error)
{
    if (direct->threads == thread_pool_size(pool)) return true;
    memory_release(direct->scratch);
    direct->threads = thread_pool_size(pool);
    direct->scratch = memory_allocate((size_t)direct->threads * scratch_floats(direct), sizeof(float), error);
    return direct->scratch != NULL;
}

// From first to end - 1.
struct range {
    int first, end;
};

static void fill_planar(const struct padded *map, const struct source *source, int image, float *to)
{
    size_t width = (size_t)map->width;
    const float *from = source->x + (size_t)image * (size_t)map->channels * (size_t)map->height * width;
    for (int c = 0; c < map->channels; c++)
        for (int y = 0; y < map->height; y++, from += width) memcpy(to + padded_at(map, c, map->top + y, map->left), from, width * sizeof(float));
}

// A row of one image between those of others.
static void write_apart(const struct padded *map, struct source row, float *to)
{
    float pixels[SHORT_ROW * BLOCK_CHANNELS];
    for (int left = map->width; left > 0; left -= SHORT_ROW) {
        int count = left < SHORT_ROW ? left : SHORT_ROW;
        source_write(&row, (size_t)count, pixels, false);
        for (int i = 0; i < count; i++, to += pixel_step(map)) memcpy(to, pixels + i * BLOCK_CHANNELS, BLOCK_CHANNELS * sizeof(float));
        row.x += SHORT_ROW * BLOCK_CHANNELS;
        if (row.kind == SOURCE_ERROR) row.delta += SHORT_ROW * BLOCK_CHANNELS;
    }
}

// Blocks of images into the padded buffer, whose halo is zero from the start.
static const float *fill(const struct padded *map, const struct source *source, struct range images, struct range blocks, float *to)
{
    size_t pixels = (size_t)map->height * (size_t)map->width, width = (size_t)map->width;
    if (map->planar) {
        fill_planar(map, source, images.first, to);
        return to;
    }
    for (int image = images.first; image < images.end; image++)
        for (int block = blocks.first; block < blocks.end; block++)
            for (int y = 0; y < map->height; y++) {
                struct source row = source_of_block(source, image, block, map->blocks, pixels);
                float *at = to + padded_at(map, block * BLOCK_CHANNELS, map->top + y, map->left) + (image - images.first) * BLOCK_CHANNELS;
                row.x += (size_t)y * width * BLOCK_CHANNELS;
                if (row.kind == SOURCE_ERROR) row.delta += (size_t)y * width * BLOCK_CHANNELS;
                if (map->together > 1)
                    write_apart(map, row, at);
                else
                    source_write(&row, width, at, false);
            }
    return to;
}

struct work {
    struct direct_convolution *direct;
    const struct source *input, *errors;
    float *output;
    bool accumulate;
    struct image_done done;
    int images, tasks;
};

static const float *fill_input(const struct work *work, struct range images, int thread)
{
    const struct padded *map = &work->direct->input;
    float *scratch = work->direct->scratch + (size_t)thread * scratch_floats(work->direct);
    return fill(map, work->input, images, (struct range){0, map->blocks}, scratch);
}

static const float *fill_errors(const struct work *work, struct range images, struct range blocks, int thread)
{
    const struct direct_convolution *direct = work->direct;
    float *scratch = direct->scratch + (size_t)thread * scratch_floats(direct) + (direct->input.size + 15) / 16 * 16;
    return fill(&direct->errors, work->errors, images, blocks, scratch);
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

static struct range images_of_task(const struct work *work, int task)
{
    return (struct range){(int)((long)work->images * task / work->tasks), (int)((long)work->images * (task + 1) / work->tasks)};
}

// As many tasks for each thread, and no more images in one than may be together.
static void run_images(struct work *work, struct thread_pool *pool, thread_task function)
{
    int threads = thread_pool_size(pool), together = work->direct->together, tasks = (work->images + together - 1) / together;
    work->tasks = together > 1 ? (tasks + threads - 1) / threads * threads : tasks;
    if (work->tasks > work->images) work->tasks = work->images;
    thread_pool_run(pool, work->tasks, function, work);
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
    convolve_phase(work, &direct->forward, &direct->input, fill_input(work, images, thread), to, images);
    all_done(work, images);
}

static void backward_task(void *context, int task, int thread)
{
    struct work *work = context;
    const struct direct_convolution *direct = work->direct;
    const struct convolution_shape *s = &direct->request.shape;
    struct range images = images_of_task(work, task);
    struct output_map to = {direct->input.blocks, s->in_height, s->in_width};
    const float *padded = fill_errors(work, images, (struct range){0, direct->errors.blocks}, thread);
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

// ---------------------------------------------------------------------------------------------
// Weight gradient

static float *partial_of(const struct direct_convolution *direct, int chunk, int block)
{
    size_t terms = (size_t)direct->forward.terms * BLOCK_CHANNELS;
    return direct->partial + ((size_t)chunk * (size_t)direct->errors.blocks + (size_t)block) * terms;
}

static struct direct_gradient_job gradient_job(const struct direct_convolution *direct)
{
    const struct convolution_shape *s = &direct->request.shape;
    const struct padded *in = &direct->input, *out = &direct->errors;
    return (struct direct_gradient_job){.terms = direct->forward.terms, .offsets = direct->forward.offsets, .height = out->height,
                                        .width = out->width, .pixel_step = (size_t)s->stride * pixel_step(in),
                                        .row_step = (size_t)s->stride * in->padded_width * pixel_step(in),
                                        .error_pixel_step = pixel_step(out), .error_row_step = out->padded_width * pixel_step(out)};
}

// Some of the images that are in the buffers, from `first` on.
static void gradient_images(const struct direct_convolution *direct, struct direct_gradient_job *job, const float *input, const float *errors,
                            int first, int chunk, struct range blocks)
{
    const struct padded *in = &direct->input, *out = &direct->errors;
    for (int block = blocks.first; block < blocks.end; block++) {
        job->errors = errors + padded_at(out, block * BLOCK_CHANNELS, out->top, out->left) + first * BLOCK_CHANNELS;
        job->input = direct->depthwise ? input + padded_at(in, block * BLOCK_CHANNELS, 0, 0) : input + first * BLOCK_CHANNELS;
        (direct->depthwise ? depthwise_direct_gradient : direct->request.kernels->direct_gradient)(job, partial_of(direct, chunk, block));
    }
}

// How many images a kernel reads: all, so that the totals are loaded and stored once for them, or one.
static int gradient_together(const struct direct_convolution *direct)
{
    size_t floats = (direct->input.plane + direct->errors.plane) * BLOCK_CHANNELS * (size_t)direct->together;
    return floats > NEAR_FLOATS ? 1 : direct->together;
}

// Images of one chunk, in order, for some blocks of outputs.
static void gradient_part(const struct work *work, int chunk, struct range images, struct range blocks, int thread)
{
    const struct direct_convolution *direct = work->direct;
    struct direct_gradient_job job = gradient_job(direct);
    size_t totals = (size_t)(blocks.end - blocks.first) * (size_t)job.terms * BLOCK_CHANNELS;
    memset(partial_of(direct, chunk, blocks.first), 0, totals * sizeof(float));
    const int together = gradient_together(direct);
    for (struct range now = images; now.first < images.end; now.first = now.end) {
        now.end = images.end - now.first < direct->together ? images.end : now.first + direct->together;
        const float *errors = fill_errors(work, now, blocks, thread), *input = fill_input(work, now, thread);
        for (int first = 0, count = now.end - now.first; first < count; first += job.images) {
            job.images = count - first < together ? count - first : together;
            gradient_images(direct, &job, input, errors, first, chunk, blocks);
        }
    }
}

static void gradient_task(void *context, int task, int thread)
{
    const struct work *work = context;
    const int blocks = work->direct->errors.blocks;
    if (work->direct->chunks > 1)
        gradient_part(work, task, images_of_task(work, task), (struct range){0, blocks}, thread);
    else
        gradient_part(work, 0, (struct range){0, work->images}, (struct range){blocks * task / work->tasks, blocks * (task + 1) / work->tasks},
                      thread);
}

static void sum_task(void *context, int block, int thread)
{
    (void)thread;
    const struct work *work = context;
    const struct direct_convolution *direct = work->direct;
    const struct convolution_shape *s = &direct->request.shape;
    size_t output_stride = (size_t)(s->in_channels / s->groups) * (size_t)(s->kernel_height * s->kernel_width);
    for (int chunk = 0; chunk < direct->chunks; chunk++)
        for (int i = 0, o = block * BLOCK_CHANNELS; i < BLOCK_CHANNELS && o < s->out_channels; i++, o++) {
            const float *from = partial_of(direct, chunk, block) + i;
            for (int t = 0; t < direct->forward.terms; t++)
                work->output[(size_t)o * output_stride + (size_t)direct->forward.codes[t]] += from[t * BLOCK_CHANNELS];
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
