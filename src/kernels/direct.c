#include "kernels/direct.h"

#include <string.h>

#include "base/memory.h"

#define GRADIENT_CHUNKS 8 // parts of a batch whose weight gradients are summed apart, whatever the number of threads

// One image with its halo: blocked, or planar with the channels apart.
struct padded {
    int channels, blocks, height, width;
    int top, left;
    size_t padded_width, plane; // pixels
    bool planar;
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
    struct padded input, errors;
    struct phase forward, *backward;
    int backward_phases;
    float *partial;   // [GRADIENT_CHUNKS][output block][forward.terms][16]
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
    return shape->groups == 1 && shape->padding < shape->kernel_height && shape->padding < shape->kernel_width;
}

static struct padded padded_of(int channels, int height, int width, const int halo[4], bool planar)
{
    struct padded p = {.channels = channels, .blocks = blocked_count(channels), .height = height, .width = width, .top = halo[0],
                       .left = halo[1], .planar = planar};
    p.padded_width = (size_t)(halo[1] + width + halo[3]);
    p.plane = p.padded_width * (size_t)(halo[0] + height + halo[2]);
    p.size = (planar ? (size_t)channels : blocked_channels(channels)) * p.plane;
    return p;
}

// Where a channel of pixel (y, x) of the padded map is.
static size_t padded_at(const struct padded *p, int channel, int y, int x)
{
    size_t pixel = (size_t)y * p->padded_width + (size_t)x;
    return p->planar ? (size_t)channel * p->plane + pixel : blocked_at(p->plane, channel, pixel);
}

static bool allocate_phase(struct direct_convolution *direct, struct phase *phase, int most_terms, int output_blocks, struct error *error)
{
    size_t terms = (size_t)most_terms;
    phase->offsets = take(direct, terms, sizeof *phase->offsets, error);
    phase->codes = take(direct, terms, sizeof *phase->codes, error);
    phase->weights = take(direct, terms * (size_t)output_blocks * BLOCK_CHANNELS, sizeof(float), error);
    return phase->offsets && phase->codes && phase->weights;
}

// The terms of window position (ky, kx), read from pixel (y, x): one for each reduced channel, in blocks.
static void add_terms(struct phase *phase, const struct padded *map, int y, int x, int position, int reduced_stride)
{
    for (int c = 0; c < map->channels; c++) {
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
    if (!allocate_phase(direct, phase, window * s->in_channels, blocked_count(s->out_channels), error)) return false;
    for (int ky = 0; ky < s->kernel_height; ky++)
        for (int kx = 0; kx < s->kernel_width; kx++) add_terms(phase, &direct->input, ky, kx, ky * s->kernel_width + kx, window);
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
    if (!allocate_phase(direct, phase, window * s->out_channels, blocked_count(s->in_channels), error)) return false;
    // Window position k = remainder + stride * t reads error row base + j - t for the j-th row of the phase.
    int remainder_y = (first_y + s->padding) % stride, base_y = (first_y + s->padding) / stride;
    int remainder_x = (first_x + s->padding) % stride, base_x = (first_x + s->padding) / stride;
    for (int ky = remainder_y, y = map->top + base_y; ky < s->kernel_height; ky += stride, y--)
        for (int kx = remainder_x, x = map->left + base_x; kx < s->kernel_width; kx += stride, x--)
            add_terms(phase, map, y, x, ky * s->kernel_width + kx, s->in_channels * window);
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
    direct->input = padded_of(s->in_channels, s->in_height, s->in_width, input_halo, direct->request.planar_input);
    int after_y = (s->in_height - 1 + s->padding) / s->stride - (s->out_height - 1);
    int after_x = (s->in_width - 1 + s->padding) / s->stride - (s->out_width - 1);
    const int error_halo[4] = {(s->kernel_height - 1) / s->stride, (s->kernel_width - 1) / s->stride, after_y > 0 ? after_y : 0,
                               after_x > 0 ? after_x : 0};
    direct->errors = padded_of(s->out_channels, s->out_height, s->out_width, error_halo, false);
    if (!create_forward(direct, error)) return false;
    if (!direct->request.for_training) return true;
    size_t partial = (size_t)direct->forward.terms * blocked_channels(s->out_channels);
    return create_backward(direct, error) && (direct->partial = take(direct, GRADIENT_CHUNKS * partial, sizeof(float), error)) != NULL;
}

struct direct_convolution *direct_create(const struct direct_request *request, struct error *error)
{
    struct direct_convolution *direct = memory_allocate(1, sizeof *direct, error);
    if (!direct) return NULL;
    direct->request = *request;
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

// One image into the padded buffer, whose halo is zero from the start.
static const float *fill(const struct padded *map, const struct source *source, int image, float *to)
{
    size_t pixels = (size_t)map->height * (size_t)map->width, width = (size_t)map->width;
    if (map->planar) {
        const float *from = source->x + (size_t)image * (size_t)map->channels * pixels;
        for (int c = 0; c < map->channels; c++)
            for (int y = 0; y < map->height; y++, from += width)
                memcpy(to + padded_at(map, c, map->top + y, map->left), from, width * sizeof(float));
        return to;
    }
    for (int block = 0; block < map->blocks; block++)
        for (int y = 0; y < map->height; y++) {
            struct source row = source_of_block(source, image, block, map->blocks, pixels);
            row.x += (size_t)y * width * BLOCK_CHANNELS;
            if (row.kind == SOURCE_ERROR) row.delta += (size_t)y * width * BLOCK_CHANNELS;
            source_write(&row, width, to + padded_at(map, block * BLOCK_CHANNELS, map->top + y, map->left), false);
        }
    return to;
}

struct work {
    struct direct_convolution *direct;
    const struct source *input, *errors;
    const float *weights;
    float *output;
    bool forward, accumulate;
    struct image_done done;
    int images;
};

static const float *fill_input(const struct work *work, int image, int thread)
{
    float *scratch = work->direct->scratch + (size_t)thread * scratch_floats(work->direct);
    return fill(&work->direct->input, work->input, image, scratch);
}

static const float *fill_errors(const struct work *work, int image, int thread)
{
    const struct direct_convolution *direct = work->direct;
    float *scratch = direct->scratch + (size_t)thread * scratch_floats(direct) + (direct->input.size + 15) / 16 * 16;
    return fill(&direct->errors, work->errors, image, scratch);
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

static void convolve_phase(const struct work *work, const struct phase *phase, const struct padded *map, const float *padded,
                           int outputs, int height, int width, int image)
{
    size_t plane = (size_t)height * (size_t)width * BLOCK_CHANNELS, terms = (size_t)phase->terms * BLOCK_CHANNELS;
    int blocks = blocked_count(outputs);
    struct direct_job job = {.terms = phase->terms, .offsets = phase->offsets, .accumulate = work->accumulate,
                             .pixel_step = (size_t)phase->stride * (map->planar ? 1 : BLOCK_CHANNELS),
                             .output_step = (size_t)phase->step * BLOCK_CHANNELS};
    for (int block = 0; block < blocks; block += 2) {
        float *output = work->output + ((size_t)image * (size_t)blocks + (size_t)block) * plane;
        job.blocks = block + 1 < blocks ? 2 : 1;
        for (int b = 0; b < job.blocks; b++) job.weights[b] = phase->weights + (size_t)(block + b) * terms;
        for (int row = 0; row < phase->rows && phase->columns > 0; row++) {
            size_t pixel = (size_t)(phase->first_y + row * phase->step) * (size_t)width + (size_t)phase->first_x;
            float *outputs_of[2] = {output + pixel * BLOCK_CHANNELS, output + pixel * BLOCK_CHANNELS + plane};
            // The next row, for writing.
            size_t next = (size_t)(phase->step * width) * BLOCK_CHANNELS;
            for (int b = 0; row + 1 < phase->rows && b < job.blocks; b++)
                for (int i = 0; i < phase->columns; i++) __builtin_prefetch(outputs_of[b] + next + (size_t)i * job.output_step, 1);
            work->direct->request.kernels->direct_row(&job, padded + padded_at(map, 0, row * phase->stride, 0), phase->columns, outputs_of);
        }
    }
}

static void forward_task(void *context, int image, int thread)
{
    struct work *work = context;
    const struct direct_convolution *direct = work->direct;
    const struct convolution_shape *s = &direct->request.shape;
    convolve_phase(work, &direct->forward, &direct->input, fill_input(work, image, thread), s->out_channels, s->out_height, s->out_width, image);
    if (work->done.function) work->done.function(work->done.context, image);
}

static void backward_task(void *context, int image, int thread)
{
    struct work *work = context;
    const struct direct_convolution *direct = work->direct;
    const struct convolution_shape *s = &direct->request.shape;
    const float *padded = fill_errors(work, image, thread);
    for (int i = 0; i < direct->backward_phases; i++)
        convolve_phase(work, &direct->backward[i], &direct->errors, padded, s->in_channels, s->in_height, s->in_width, image);
    if (work->done.function) work->done.function(work->done.context, image);
}

bool direct_forward(struct direct_convolution *direct, struct thread_pool *pool, int images, const float *weights,
                    const struct source *input, float *output, struct image_done done, struct error *error)
{
    const struct convolution_shape *s = &direct->request.shape;
    int window = s->kernel_height * s->kernel_width;
    if (!prepare_scratch(direct, pool, error)) return false;
    pack_weights(&direct->forward, weights, s->out_channels, s->in_channels * window);
    for (int i = 0; i < direct->backward_phases; i++) pack_weights(&direct->backward[i], weights, s->in_channels, window);
    struct work work = {.direct = direct, .input = input, .output = output, .done = done};
    thread_pool_run(pool, images, forward_task, &work);
    return true;
}

void direct_input_error(struct direct_convolution *direct, struct thread_pool *pool, int images, const struct source *errors,
                        float *input_error, bool accumulate, struct image_done done)
{
    struct work work = {.direct = direct, .errors = errors, .output = input_error, .accumulate = accumulate, .done = done};
    thread_pool_run(pool, images, backward_task, &work);
}

// ---------------------------------------------------------------------------------------------
// Weight gradient

static float *partial_of(const struct direct_convolution *direct, int chunk, int block)
{
    size_t terms = (size_t)direct->forward.terms * BLOCK_CHANNELS;
    return direct->partial + ((size_t)chunk * (size_t)direct->errors.blocks + (size_t)block) * terms;
}

// Images of one chunk, in order.
static void gradient_task(void *context, int chunk, int thread)
{
    const struct work *work = context;
    const struct direct_convolution *direct = work->direct;
    const struct convolution_shape *s = &direct->request.shape;
    const struct padded *in = &direct->input, *out = &direct->errors;
    size_t step = in->planar ? 1 : BLOCK_CHANNELS;
    struct direct_gradient_job job = {.terms = direct->forward.terms, .offsets = direct->forward.offsets, .height = out->height,
                                      .width = out->width, .pixel_step = (size_t)s->stride * step,
                                      .row_step = (size_t)s->stride * in->padded_width * step,
                                      .error_row_step = out->padded_width * BLOCK_CHANNELS};
    memset(partial_of(direct, chunk, 0), 0, (size_t)out->blocks * (size_t)job.terms * BLOCK_CHANNELS * sizeof(float));
    int first = (int)((long)work->images * chunk / GRADIENT_CHUNKS), end = (int)((long)work->images * (chunk + 1) / GRADIENT_CHUNKS);
    for (int image = first; image < end; image++) {
        const float *errors = fill_errors(work, image, thread);
        job.input = fill_input(work, image, thread);
        for (int block = 0; block < out->blocks; block++) {
            job.errors = errors + padded_at(out, block * BLOCK_CHANNELS, out->top, out->left);
            direct->request.kernels->direct_gradient(&job, partial_of(direct, chunk, block));
        }
    }
}

void direct_weight_gradient(struct direct_convolution *direct, struct thread_pool *pool, int images, const struct source *input,
                            const struct source *errors, float *gradient)
{
    const struct convolution_shape *s = &direct->request.shape;
    struct work work = {.direct = direct, .input = input, .errors = errors, .images = images};
    thread_pool_run(pool, GRADIENT_CHUNKS, gradient_task, &work);
    size_t output_stride = (size_t)s->in_channels * (size_t)(s->kernel_height * s->kernel_width);
    for (int chunk = 0; chunk < GRADIENT_CHUNKS; chunk++)
        for (int o = 0; o < s->out_channels; o++) {
            const float *from = partial_of(direct, chunk, o / BLOCK_CHANNELS) + o % BLOCK_CHANNELS;
            for (int t = 0; t < direct->forward.terms; t++)
                gradient[(size_t)o * output_stride + (size_t)direct->forward.codes[t]] += from[t * BLOCK_CHANNELS];
        }
}
