#include "mls/convolution.h"

#include <string.h>

static bool check(const char *name, int value, int low, int high, struct error *error)
{
    if (value >= low && value <= high) return true;
    return error_set(error, "%s is %d: expected %d to %d", name, value, low, high);
}

bool convolution_shape_complete(struct convolution_shape *s, struct error *error)
{
    const int most = 1 << 20;
    bool good = check("the number of images", s->images, 1, most, error) &&
                check("the number of input channels", s->in_channels, 1, most, error) &&
                check("the input height", s->in_height, 1, most, error) &&
                check("the input width", s->in_width, 1, most, error) &&
                check("the number of output channels", s->out_channels, 1, most, error) &&
                check("the kernel height", s->kernel_height, 1, 1024, error) &&
                check("the kernel width", s->kernel_width, 1, 1024, error) &&
                check("the stride", s->stride, 1, 1024, error) && check("the padding", s->padding, 0, 1024, error) &&
                check("the number of convolution groups", s->groups, 1, s->in_channels, error);
    if (!good) return false;
    if (s->in_channels % s->groups || s->out_channels % s->groups)
        return error_set(error, "%d input and %d output channels are not divisible by groups=%d", s->in_channels,
                         s->out_channels, s->groups);
    int height = s->in_height + 2 * s->padding - s->kernel_height, width = s->in_width + 2 * s->padding - s->kernel_width;
    if (height < 0 || width < 0)
        return error_set(error, "a window of %dx%d does not fit an input of %dx%d with padding %d", s->kernel_height,
                         s->kernel_width, s->in_height, s->in_width, s->padding);
    s->out_height = height / s->stride + 1;
    s->out_width = width / s->stride + 1;
    return true;
}

double convolution_multiply_adds(const struct convolution_shape *s)
{
    return (double)s->images * s->out_channels * s->out_height * s->out_width * (s->in_channels / s->groups) *
           s->kernel_height * s->kernel_width;
}

// ---------------------------------------------------------------------------------------------
// Integer path. Indexes: n image, o output channel, i input channel (absolute), w input channel within the
// convolution group (as in the weights), y and x output pixel, r and c input pixel, ky and kx window.

static size_t at(const int dims[4], int a, int b, int c, int d)
{
    return (((size_t)a * (size_t)dims[1] + (size_t)b) * (size_t)dims[2] + (size_t)c) * (size_t)dims[3] + (size_t)d;
}

static float scale_at(const struct mls_tensor *tensor, int i, int j)
{
    return tensor->group_scales[mls_group_index(&tensor->grouping, i, j)];
}

// Each convolution is written once, with counts that may be NULL; inlined with NULL nothing of the counting is left.
#define COUNTABLE static inline __attribute__((always_inline))

COUNTABLE void count_product(struct mls_counts *counts)
{
    if (!counts) return;
    counts->element_multiply++;
    counts->element_accumulate++;
}

// total + sum * the scales of a pair of groups.
COUNTABLE float add_group(int64_t sum, float scale1, float scale2, float total, struct mls_counts *counts)
{
    if (counts) {
        counts->group_scale++;
        counts->group_accumulate++;
    }
    return fmaf((float)sum, scale1 * scale2, total);
}

COUNTABLE float scale_tensor(float total, float factor, struct mls_counts *counts)
{
    if (counts) counts->tensor_scale++;
    return total * factor;
}

static float tensor_factor(const struct mls_tensor *a, const struct mls_tensor *b)
{
    return ldexpf(a->tensor_scale, -mls_fraction_bits(&a->format)) * ldexpf(b->tensor_scale, -mls_fraction_bits(&b->format));
}

// Along one axis: whether tap k of output `from` lies inside the picture.
static bool inside(int output, int k, int stride, int padding, int input)
{
    int at = output * stride + k - padding;
    return at >= 0 && at < input;
}

// Whether output y, tap k or input r, along one axis, has any product at all. The group pairs of results without one are not
// added up: each would add 0 to 0.
static bool output_has_products(int y, int kernel, int stride, int padding, int input)
{
    for (int k = 0; k < kernel; k++)
        if (inside(y, k, stride, padding, input)) return true;
    return false;
}

static bool tap_has_products(int k, int outputs, int stride, int padding, int input)
{
    for (int y = 0; y < outputs; y++)
        if (inside(y, k, stride, padding, input)) return true;
    return false;
}

static bool input_has_products(int r, int kernel, int outputs, int stride, int padding)
{
    for (int k = 0; k < kernel; k++) {
        int at = r + padding - k;
        if (at >= 0 && at % stride == 0 && at / stride < outputs) return true;
    }
    return false;
}

// Sum over the window of one input channel, for output pixel (y, x).
COUNTABLE int64_t window_sum(const struct convolution_shape *s, const struct mls_tensor *weights,
                          const struct mls_tensor *activations, int n, int o, int w, int i, int y, int x, struct mls_counts *counts)
{
    int64_t sum = 0;
    for (int ky = 0; ky < s->kernel_height; ky++) {
        int r = y * s->stride + ky - s->padding;
        if (r < 0 || r >= s->in_height) continue;
        for (int kx = 0; kx < s->kernel_width; kx++) {
            int c = x * s->stride + kx - s->padding;
            if (c < 0 || c >= s->in_width) continue;
            count_product(counts);
            sum += (int64_t)weights->integers[at(weights->dims, o, w, ky, kx)] *
                   activations->integers[at(activations->dims, n, i, r, c)];
        }
    }
    return sum;
}

COUNTABLE void convolve_forward(const struct convolution_shape *s, const struct mls_tensor *weights,
                  const struct mls_tensor *activations, float *output, struct mls_counts *counts)
{
    int per_group = s->in_channels / s->groups, outputs = s->out_channels / s->groups;
    float factor = tensor_factor(weights, activations);
    for (int n = 0; n < s->images; n++)
        for (int o = 0; o < s->out_channels; o++)
            for (int y = 0; y < s->out_height; y++)
                for (int x = 0; x < s->out_width; x++) {
                    bool reached = output_has_products(y, s->kernel_height, s->stride, s->padding, s->in_height) &&
                                   output_has_products(x, s->kernel_width, s->stride, s->padding, s->in_width);
                    float total = 0;
                    int64_t sum = 0;
                    for (int w = 0; reached && w < per_group; w++) {
                        int i = o / outputs * per_group + w;
                        sum += window_sum(s, weights, activations, n, o, w, i, y, x, counts);
                        bool last = w + 1 == per_group ||
                                    mls_group_index(&weights->grouping, o, w + 1) != mls_group_index(&weights->grouping, o, w) ||
                                    mls_group_index(&activations->grouping, n, i + 1) != mls_group_index(&activations->grouping, n, i);
                        if (!last) continue;
                        total = add_group(sum, scale_at(weights, o, w), scale_at(activations, n, i), total, counts);
                        sum = 0;
                    }
                    *output++ = scale_tensor(total, factor, counts);
                }
}

void mls_convolution_forward(const struct convolution_shape *s, const struct mls_tensor *weights,
                             const struct mls_tensor *activations, float *output)
{
    convolve_forward(s, weights, activations, output, NULL);
}

void mls_convolution_forward_counted(const struct convolution_shape *s, const struct mls_tensor *weights,
                                     const struct mls_tensor *activations, float *output, struct mls_counts *counts)
{
    convolve_forward(s, weights, activations, output, counts);
}

// Sum over the window of one output channel, for input pixel (r, c).
COUNTABLE int64_t transposed_window_sum(const struct convolution_shape *s, const struct mls_tensor *weights,
                                     const struct mls_tensor *errors, int n, int o, int w, int r, int c, struct mls_counts *counts)
{
    int64_t sum = 0;
    for (int ky = 0; ky < s->kernel_height; ky++) {
        int y = r + s->padding - ky;
        if (y < 0 || y % s->stride || y / s->stride >= s->out_height) continue;
        for (int kx = 0; kx < s->kernel_width; kx++) {
            int x = c + s->padding - kx;
            if (x < 0 || x % s->stride || x / s->stride >= s->out_width) continue;
            count_product(counts);
            sum += (int64_t)weights->integers[at(weights->dims, o, w, ky, kx)] *
                   errors->integers[at(errors->dims, n, o, y / s->stride, x / s->stride)];
        }
    }
    return sum;
}

COUNTABLE void convolve_input_error(const struct convolution_shape *s, const struct mls_tensor *weights,
                  const struct mls_tensor *errors, float *input_error, struct mls_counts *counts)
{
    int per_group = s->in_channels / s->groups, outputs = s->out_channels / s->groups;
    float factor = tensor_factor(weights, errors);
    for (int n = 0; n < s->images; n++)
        for (int i = 0; i < s->in_channels; i++)
            for (int r = 0; r < s->in_height; r++)
                for (int c = 0; c < s->in_width; c++) {
                    int w = i % per_group, first = i / per_group * outputs;
                    bool reached = input_has_products(r, s->kernel_height, s->out_height, s->stride, s->padding) &&
                                   input_has_products(c, s->kernel_width, s->out_width, s->stride, s->padding);
                    float total = 0;
                    int64_t sum = 0;
                    for (int o = first; reached && o < first + outputs; o++) {
                        sum += transposed_window_sum(s, weights, errors, n, o, w, r, c, counts);
                        bool last = o + 1 == first + outputs ||
                                    mls_group_index(&weights->grouping, o + 1, w) != mls_group_index(&weights->grouping, o, w) ||
                                    mls_group_index(&errors->grouping, n, o + 1) != mls_group_index(&errors->grouping, n, o);
                        if (!last) continue;
                        total = add_group(sum, scale_at(weights, o, w), scale_at(errors, n, o), total, counts);
                        sum = 0;
                    }
                    *input_error++ = scale_tensor(total, factor, counts);
                }
}

void mls_convolution_input_error(const struct convolution_shape *s, const struct mls_tensor *weights,
                             const struct mls_tensor *errors, float *input_error)
{
    convolve_input_error(s, weights, errors, input_error, NULL);
}

void mls_convolution_input_error_counted(const struct convolution_shape *s, const struct mls_tensor *weights,
                                     const struct mls_tensor *errors, float *input_error, struct mls_counts *counts)
{
    convolve_input_error(s, weights, errors, input_error, counts);
}

// Sum over the pixels of one image, for one weight.
COUNTABLE int64_t pixel_sum(const struct convolution_shape *s, const struct mls_tensor *activations,
                         const struct mls_tensor *errors, int n, int o, int i, int ky, int kx, struct mls_counts *counts)
{
    int64_t sum = 0;
    for (int y = 0; y < s->out_height; y++) {
        int r = y * s->stride + ky - s->padding;
        if (r < 0 || r >= s->in_height) continue;
        for (int x = 0; x < s->out_width; x++) {
            int c = x * s->stride + kx - s->padding;
            if (c < 0 || c >= s->in_width) continue;
            count_product(counts);
            sum += (int64_t)activations->integers[at(activations->dims, n, i, r, c)] *
                   errors->integers[at(errors->dims, n, o, y, x)];
        }
    }
    return sum;
}

COUNTABLE void convolve_weight_gradient(const struct convolution_shape *s, const struct mls_tensor *activations,
                  const struct mls_tensor *errors, float *gradient, struct mls_counts *counts)
{
    int per_group = s->in_channels / s->groups, outputs = s->out_channels / s->groups;
    bool one_group = activations->grouping.blocks[0] == 1 && errors->grouping.blocks[0] == 1;
    float factor = tensor_factor(activations, errors);
    for (int o = 0; o < s->out_channels; o++)
        for (int w = 0; w < per_group; w++)
            for (int ky = 0; ky < s->kernel_height; ky++)
                for (int kx = 0; kx < s->kernel_width; kx++) {
                    int i = o / outputs * per_group + w;
                    bool reached = tap_has_products(ky, s->out_height, s->stride, s->padding, s->in_height) &&
                                   tap_has_products(kx, s->out_width, s->stride, s->padding, s->in_width);
                    float total = 0;
                    int64_t sum = 0;
                    for (int n = 0; reached && n < s->images; n++) {
                        sum += pixel_sum(s, activations, errors, n, o, i, ky, kx, counts);
                        if (one_group && n + 1 < s->images) continue;
                        total = add_group(sum, scale_at(activations, n, i), scale_at(errors, n, o), total, counts);
                        sum = 0;
                    }
                    *gradient++ = scale_tensor(total, factor, counts);
                }
}

void mls_convolution_weight_gradient(const struct convolution_shape *s, const struct mls_tensor *activations,
                             const struct mls_tensor *errors, float *gradient)
{
    convolve_weight_gradient(s, activations, errors, gradient, NULL);
}

void mls_convolution_weight_gradient_counted(const struct convolution_shape *s, const struct mls_tensor *activations,
                                     const struct mls_tensor *errors, float *gradient, struct mls_counts *counts)
{
    convolve_weight_gradient(s, activations, errors, gradient, counts);
}

// ---------------------------------------------------------------------------------------------
// fp32

// Calls body(o, i, w, n, y, x, ky, kx, r, c) for every product of the convolution, in loops of this order.
#define FOR_EACH_PRODUCT(s)                                                                                        \
    for (int n = 0; n < (s)->images; n++)                                                                          \
        for (int o = 0; o < (s)->out_channels; o++)                                                                \
            for (int w = 0, i = o / ((s)->out_channels / (s)->groups) * ((s)->in_channels / (s)->groups);          \
                 w < (s)->in_channels / (s)->groups; w++, i++)                                                     \
                for (int y = 0; y < (s)->out_height; y++)                                                          \
                    for (int x = 0; x < (s)->out_width; x++)                                                       \
                        for (int ky = 0, r = y * (s)->stride - (s)->padding; ky < (s)->kernel_height; ky++, r++)   \
                            for (int kx = 0, c = x * (s)->stride - (s)->padding; kx < (s)->kernel_width; kx++, c++) \
                                if (r >= 0 && r < (s)->in_height && c >= 0 && c < (s)->in_width)

struct float_dims {
    int input[4], weights[4], output[4];
};

static struct float_dims float_dims_of(const struct convolution_shape *s)
{
    return (struct float_dims){{s->images, s->in_channels, s->in_height, s->in_width},
                               {s->out_channels, s->in_channels / s->groups, s->kernel_height, s->kernel_width},
                               {s->images, s->out_channels, s->out_height, s->out_width}};
}

static void clear(float *values, const int dims[4])
{
    memset(values, 0, (size_t)dims[0] * (size_t)dims[1] * (size_t)dims[2] * (size_t)dims[3] * sizeof(float));
}

void float_convolution_forward(const struct convolution_shape *s, const float *weights, const float *activations,
                               float *output)
{
    struct float_dims d = float_dims_of(s);
    clear(output, d.output);
    FOR_EACH_PRODUCT(s) output[at(d.output, n, o, y, x)] += weights[at(d.weights, o, w, ky, kx)] * activations[at(d.input, n, i, r, c)];
}

void float_convolution_input_error(const struct convolution_shape *s, const float *weights, const float *errors,
                                   float *input_error)
{
    struct float_dims d = float_dims_of(s);
    clear(input_error, d.input);
    FOR_EACH_PRODUCT(s) input_error[at(d.input, n, i, r, c)] += weights[at(d.weights, o, w, ky, kx)] * errors[at(d.output, n, o, y, x)];
}

void float_convolution_weight_gradient(const struct convolution_shape *s, const float *activations,
                                       const float *errors, float *gradient)
{
    struct float_dims d = float_dims_of(s);
    clear(gradient, d.weights);
    FOR_EACH_PRODUCT(s) gradient[at(d.weights, o, w, ky, kx)] += activations[at(d.input, n, i, r, c)] * errors[at(d.output, n, o, y, x)];
}
