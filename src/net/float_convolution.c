#include "net/float_convolution.h"

#include <cblas.h>
#include <string.h>

#include "base/vector.h"

#define MOST_CHUNKS 8 // parts of a batch whose weight gradients are summed apart, whatever the number of threads

struct work {
    const struct float_convolution *c;
    const float *weights, *input, *errors;
    float *output;
    bool accumulate;
    int chunks;
};

static size_t window_rows(const struct convolution_shape *s)
{
    return (size_t)(s->in_channels / s->groups) * (size_t)s->kernel_height * (size_t)s->kernel_width;
}

static size_t weight_count(const struct convolution_shape *s)
{
    return (size_t)s->out_channels * window_rows(s);
}

static int chunk_count(const struct convolution_shape *s)
{
    return weight_count(s) > ((size_t)1 << 21) ? 2 : MOST_CHUNKS;
}

static bool is_pointwise(const struct convolution_shape *s)
{
    return s->kernel_height == 1 && s->kernel_width == 1 && s->stride == 1 && s->padding == 0;
}

size_t float_convolution_scratch(const struct convolution_shape *s)
{
    return window_rows(s) * (size_t)s->out_height * (size_t)s->out_width * sizeof(float);
}

size_t float_convolution_partial(const struct convolution_shape *s)
{
    return (size_t)chunk_count(s) * weight_count(s);
}

// The output columns whose input column x * stride + kx - padding exists: *first to *end - 1.
static void valid_range(const struct convolution_shape *s, int kx, int *first, int *end)
{
    int before = s->padding - kx, after = s->in_width - 1 + s->padding - kx;
    *first = before > 0 ? (before + s->stride - 1) / s->stride : 0;
    *end = after < 0 ? 0 : after / s->stride + 1;
    if (*end > s->out_width) *end = s->out_width;
    if (*first > *end) *first = *end;
}

// columns[i, ky, kx][y, x] = input[i][y * stride + ky - padding][x * stride + kx - padding], 0 outside.
static void row_to_columns(const struct convolution_shape *s, const float *row, int kx, float *columns)
{
    int first, end;
    valid_range(s, kx, &first, &end);
    for (int x = 0; x < first; x++) columns[x] = 0;
    for (int x = end; x < s->out_width; x++) columns[x] = 0;
    row += kx - s->padding;
    if (s->stride == 1)
        memcpy(columns + first, row + first, (size_t)(end - first) * sizeof(float));
    else
        for (int x = first; x < end; x++) columns[x] = row[x * s->stride];
}

static void image_to_columns(const struct convolution_shape *s, const float *input, float *columns)
{
    for (int i = 0; i < s->in_channels / s->groups; i++)
        for (int ky = 0; ky < s->kernel_height; ky++)
            for (int kx = 0; kx < s->kernel_width; kx++)
                for (int y = 0; y < s->out_height; y++, columns += s->out_width) {
                    int r = y * s->stride + ky - s->padding;
                    if (r < 0 || r >= s->in_height)
                        memset(columns, 0, (size_t)s->out_width * sizeof(float));
                    else
                        row_to_columns(s, input + ((size_t)i * (size_t)s->in_height + (size_t)r) * (size_t)s->in_width, kx, columns);
                }
}

VECTORIZED static void add_row(float *restrict to, const float *restrict from, int count)
{
    for (int i = 0; i < count; i++) to[i] += from[i];
}

static void columns_to_row(const struct convolution_shape *s, const float *columns, int kx, float *row)
{
    int first, end;
    valid_range(s, kx, &first, &end);
    row += kx - s->padding;
    if (s->stride == 1)
        add_row(row + first, columns + first, end - first);
    else
        for (int x = first; x < end; x++) row[x * s->stride] += columns[x];
}

// The reverse: input_error += the columns' values.
static void columns_to_image(const struct convolution_shape *s, const float *columns, float *input_error)
{
    for (int i = 0; i < s->in_channels / s->groups; i++)
        for (int ky = 0; ky < s->kernel_height; ky++)
            for (int kx = 0; kx < s->kernel_width; kx++)
                for (int y = 0; y < s->out_height; y++, columns += s->out_width) {
                    int r = y * s->stride + ky - s->padding;
                    if (r < 0 || r >= s->in_height) continue;
                    columns_to_row(s, columns, kx, input_error + ((size_t)i * (size_t)s->in_height + (size_t)r) * (size_t)s->in_width);
                }
}

struct sizes { // of one convolution group of one image
    int outputs, rows, pixels;
    size_t input, output, weights;
};

static struct sizes sizes_of(const struct convolution_shape *s)
{
    struct sizes z = {s->out_channels / s->groups, (int)window_rows(s), s->out_height * s->out_width, 0, 0, 0};
    z.input = (size_t)(s->in_channels / s->groups) * (size_t)s->in_height * (size_t)s->in_width;
    z.output = (size_t)z.outputs * (size_t)z.pixels;
    z.weights = (size_t)z.outputs * (size_t)z.rows;
    return z;
}

static float *scratch_of(const struct float_convolution *c, int thread)
{
    return (float *)(void *)(c->scratch + (size_t)thread * c->scratch_bytes);
}

static const float *columns_of(const struct float_convolution *c, const float *input, int thread)
{
    if (is_pointwise(&c->shape)) return input;
    float *columns = scratch_of(c, thread);
    image_to_columns(&c->shape, input, columns);
    return columns;
}

static void forward_task(void *context, int image, int thread)
{
    const struct work *work = context;
    const struct convolution_shape *s = &work->c->shape;
    struct sizes z = sizes_of(s);
    for (int group = 0; group < s->groups; group++) {
        size_t part = (size_t)image * (size_t)s->groups + (size_t)group;
        const float *columns = columns_of(work->c, work->input + part * z.input, thread);
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, z.outputs, z.pixels, z.rows, 1,
                    work->weights + (size_t)group * z.weights, z.rows, columns, z.pixels, 0,
                    work->output + part * z.output, z.pixels);
    }
}

void float_convolve_forward(const struct float_convolution *c, const float *weights, const float *input, float *output)
{
    struct work work = {.c = c, .weights = weights, .input = input, .output = output};
    thread_pool_run(c->pool, c->shape.images, forward_task, &work);
}

static void input_error_task(void *context, int image, int thread)
{
    const struct work *work = context;
    const struct convolution_shape *s = &work->c->shape;
    struct sizes z = sizes_of(s);
    bool direct = is_pointwise(s);
    for (int group = 0; group < s->groups; group++) {
        size_t part = (size_t)image * (size_t)s->groups + (size_t)group;
        float *to = work->output + part * z.input, *columns = direct ? to : scratch_of(work->c, thread);
        cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, z.rows, z.pixels, z.outputs, 1,
                    work->weights + (size_t)group * z.weights, z.rows, work->errors + part * z.output, z.pixels,
                    direct && work->accumulate ? 1 : 0, columns, z.pixels);
        if (direct) continue;
        if (!work->accumulate) memset(to, 0, z.input * sizeof(float));
        columns_to_image(s, columns, to);
    }
}

void float_convolve_input_error(const struct float_convolution *c, const float *weights, const float *errors,
                                float *input_error, bool accumulate)
{
    struct work work = {.c = c, .weights = weights, .errors = errors, .output = input_error, .accumulate = accumulate};
    thread_pool_run(c->pool, c->shape.images, input_error_task, &work);
}

// Images of one chunk, in order.
static void gradient_task(void *context, int chunk, int thread)
{
    const struct work *work = context;
    const struct convolution_shape *s = &work->c->shape;
    struct sizes z = sizes_of(s);
    float *partial = work->c->partial + (size_t)chunk * weight_count(s);
    memset(partial, 0, weight_count(s) * sizeof(float));
    int first = (int)((long)s->images * chunk / work->chunks), end = (int)((long)s->images * (chunk + 1) / work->chunks);
    for (int image = first; image < end; image++)
        for (int group = 0; group < s->groups; group++) {
            size_t part = (size_t)image * (size_t)s->groups + (size_t)group;
            const float *columns = columns_of(work->c, work->input + part * z.input, thread);
            cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, z.outputs, z.rows, z.pixels, 1,
                        work->errors + part * z.output, z.pixels, columns, z.pixels, 1,
                        partial + (size_t)group * z.weights, z.rows);
        }
}

void float_convolve_weight_gradient(const struct float_convolution *c, const float *input, const float *errors,
                                    float *gradient)
{
    struct work work = {.c = c, .input = input, .errors = errors, .chunks = chunk_count(&c->shape)};
    thread_pool_run(c->pool, work.chunks, gradient_task, &work);
    size_t count = weight_count(&c->shape);
    for (int chunk = 0; chunk < work.chunks; chunk++)
        for (size_t i = 0; i < count; i++) gradient[i] += c->partial[(size_t)chunk * count + i];
}
