#include "net/batch_normalization.h"

#include <math.h>

#include "base/memory.h"
#include "base/vector.h"
#include "net/network.h"

#define EPSILON 1e-5f
#define MOMENTUM 0.1f

bool batch_normalization_create(struct batch_normalization *norm, struct layer *layer, int channels, int plane,
                                struct diagnostics *diagnostics)
{
    const int dims[1] = {channels};
    size_t count = (size_t)channels, images = (size_t)layer->network->max_images;
    *norm = (struct batch_normalization){.channels = channels, .plane = plane};
    norm->scale = layer_add_parameter(layer, "batchnorm.scale", 1, dims, true, false, diagnostics);
    norm->bias = layer_add_parameter(layer, "batchnorm.bias", 1, dims, true, false, diagnostics);
    norm->running_mean = layer_add_parameter(layer, "batchnorm.running_mean", 1, dims, false, false, diagnostics);
    norm->running_variance = layer_add_parameter(layer, "batchnorm.running_variance", 1, dims, false, false, diagnostics);
    norm->mean = layer_allocate(layer, count, sizeof(float), diagnostics);
    norm->inverse_deviation = layer_allocate(layer, count, sizeof(float), diagnostics);
    norm->multiplier = layer_allocate(layer, count, sizeof(float), diagnostics);
    norm->offset = layer_allocate(layer, count, sizeof(float), diagnostics);
    norm->partial_sums = layer_allocate(layer, images * count, 2 * sizeof(float), diagnostics);
    norm->coefficients = layer_allocate(layer, count, 3 * sizeof(float), diagnostics);
    if (!norm->scale || !norm->bias || !norm->running_mean || !norm->running_variance || !norm->mean ||
        !norm->inverse_deviation || !norm->multiplier || !norm->offset || !norm->partial_sums || !norm->coefficients)
        return false;
    for (int c = 0; c < channels; c++) norm->scale->value[c] = norm->running_variance->value[c] = 1;
    return true;
}

void batch_normalization_destroy(struct batch_normalization *norm)
{
    memory_release(norm->mean);
    memory_release(norm->inverse_deviation);
    memory_release(norm->multiplier);
    memory_release(norm->offset);
    memory_release(norm->partial_sums);
    memory_release(norm->coefficients);
}

// ---------------------------------------------------------------------------------------------
// Loops over one plane. The activation is a constant in every call, so each is compiled without a branch.

static bool is_piecewise_linear(enum activation activation)
{
    return activation == ACTIVATION_LINEAR || activation == ACTIVATION_RELU || activation == ACTIVATION_LEAKY ||
           activation == ACTIVATION_RELU6;
}

VECTOR_INLINE vector_float activate(enum activation activation, vector_float z)
{
    vector_int positive = z > 0;
    if (activation == ACTIVATION_LEAKY) return vector_where(positive, z) + vector_where(~positive, z * 0.1f);
    if (activation == ACTIVATION_LINEAR) return z;
    vector_float y = vector_where(~(z <= 0), z); // keeps a NaN
    if (activation == ACTIVATION_RELU6) {
        vector_int over = y > 6;
        y = vector_where(~over, y) + vector_where(over, vector_set(6));
    }
    return y;
}

// delta * activation'(z)
VECTOR_INLINE vector_float activation_error(enum activation activation, vector_float z, vector_float delta)
{
    vector_int positive = z > 0;
    if (activation == ACTIVATION_RELU) return vector_where(positive, delta);
    if (activation == ACTIVATION_RELU6) return vector_where(positive & (z < 6), delta);
    if (activation == ACTIVATION_LEAKY) return vector_where(positive, delta) + vector_where(~positive, delta * 0.1f);
    return delta;
}

// y = activation(m * x + o) over `count` values; returns max |y|.
VECTOR_INLINE float affine_plane(enum activation activation, const float *x, float *y, int count, float m, float o)
{
    vector_int maximum = {0};
    int i = 0;
    for (; i + VECTOR_LANES <= count; i += VECTOR_LANES) {
        vector_float v = activate(activation, vector_load(x + i) * m + o);
        vector_store(y + i, v);
        maximum = vector_maximum(maximum, v);
    }
    if (i < count) {
        vector_float v = activate(activation, vector_load_part(x + i, (size_t)(count - i)) * m + o);
        float tail[VECTOR_LANES] = {0};
        vector_store_part(tail, v, (size_t)(count - i));
        vector_store_part(y + i, v, (size_t)(count - i));
        maximum = vector_maximum(maximum, vector_load(tail));
    }
    return vector_maximum_of_lanes(maximum);
}

VECTORIZED static float normalize_plane(enum activation activation, const float *x, float *y, int count, float m, float o)
{
    switch (activation) {
    case ACTIVATION_RELU: return affine_plane(ACTIVATION_RELU, x, y, count, m, o);
    case ACTIVATION_RELU6: return affine_plane(ACTIVATION_RELU6, x, y, count, m, o);
    case ACTIVATION_LEAKY: return affine_plane(ACTIVATION_LEAKY, x, y, count, m, o);
    default: return affine_plane(ACTIVATION_LINEAR, x, y, count, m, o);
    }
}

VECTORIZED static float maximum_of_plane(const float *x, int count)
{
    vector_int maximum = {0};
    int i = 0;
    for (; i + VECTOR_LANES <= count; i += VECTOR_LANES) maximum = vector_maximum(maximum, vector_load(x + i));
    if (i < count) maximum = vector_maximum(maximum, vector_load_part(x + i, (size_t)(count - i)));
    return vector_maximum_of_lanes(maximum);
}

// sums = {sum x, sum x^2} over a plane.
VECTORIZED static void sum_plane(const float *x, int count, float sums[2])
{
    vector_float sum = {0}, square = {0};
    int i = 0;
    for (; i + VECTOR_LANES <= count; i += VECTOR_LANES) {
        vector_float v = vector_load(x + i);
        sum += v;
        square += v * v;
    }
    if (i < count) {
        vector_float v = vector_load_part(x + i, (size_t)(count - i));
        sum += v;
        square += v * v;
    }
    sums[0] = vector_sum(sum);
    sums[1] = vector_sum(square);
}

// sums = {sum d, sum d * (x - mean)} with d = delta * activation'(m * x + o).
VECTOR_INLINE void sum_error_plane(enum activation activation, const float *x, const float *delta, int count, float m,
                                   float o, float mean, float sums[2])
{
    vector_float sum = {0}, product = {0};
    int i = 0;
    for (; i < count; i += VECTOR_LANES) {
        size_t left = (size_t)(count - i);
        vector_float v = left >= VECTOR_LANES ? vector_load(x + i) : vector_load_part(x + i, left);
        vector_float d = left >= VECTOR_LANES ? vector_load(delta + i) : vector_load_part(delta + i, left);
        d = activation_error(activation, v * m + o, d);
        sum += d;
        product += d * (v - mean);
    }
    sums[0] = vector_sum(sum);
    sums[1] = vector_sum(product);
}

VECTORIZED static void sum_errors(enum activation activation, const float *x, const float *delta, int count, float m,
                                  float o, float mean, float sums[2])
{
    switch (activation) {
    case ACTIVATION_RELU: sum_error_plane(ACTIVATION_RELU, x, delta, count, m, o, mean, sums); break;
    case ACTIVATION_RELU6: sum_error_plane(ACTIVATION_RELU6, x, delta, count, m, o, mean, sums); break;
    case ACTIVATION_LEAKY: sum_error_plane(ACTIVATION_LEAKY, x, delta, count, m, o, mean, sums); break;
    default: sum_error_plane(ACTIVATION_LINEAR, x, delta, count, m, o, mean, sums); break;
    }
}

// out (+)= c[0] * d + (c[1] * x + c[2]); returns the maximum of what was computed.
VECTOR_INLINE float error_plane(enum activation activation, const float *x, const float *delta, int count, float m,
                                float o, const float c[3], float *out, bool accumulate)
{
    vector_int maximum = {0};
    for (int i = 0; i < count; i += VECTOR_LANES) {
        size_t left = (size_t)(count - i);
        bool whole = left >= VECTOR_LANES;
        vector_float v = whole ? vector_load(x + i) : vector_load_part(x + i, left);
        vector_float d = whole ? vector_load(delta + i) : vector_load_part(delta + i, left);
        d = activation_error(activation, v * m + o, d);
        vector_float e = d * c[0] + (v * c[1] + c[2]);
        if (accumulate) e += whole ? vector_load(out + i) : vector_load_part(out + i, left);
        if (whole) {
            vector_store(out + i, e);
        } else {
            vector_store_part(out + i, e, left);
            e = vector_load_part(out + i, left);
        }
        maximum = vector_maximum(maximum, e);
    }
    return vector_maximum_of_lanes(maximum);
}

VECTORIZED static float write_errors(enum activation activation, const float *x, const float *delta, int count, float m,
                                     float o, const float c[3], float *out, bool accumulate)
{
    switch (activation) {
    case ACTIVATION_RELU: return error_plane(ACTIVATION_RELU, x, delta, count, m, o, c, out, accumulate);
    case ACTIVATION_RELU6: return error_plane(ACTIVATION_RELU6, x, delta, count, m, o, c, out, accumulate);
    case ACTIVATION_LEAKY: return error_plane(ACTIVATION_LEAKY, x, delta, count, m, o, c, out, accumulate);
    default: return error_plane(ACTIVATION_LINEAR, x, delta, count, m, o, c, out, accumulate);
    }
}

// ---------------------------------------------------------------------------------------------
// Forward

struct forward_work {
    struct batch_normalization *norm;
    enum activation activation;
    const float *x;
    float *y, *maximum;
};

void batch_normalization_sum_image(struct batch_normalization *norm, int image, const float *x)
{
    float *sums = norm->partial_sums + (size_t)image * (size_t)norm->channels * 2;
    for (int c = 0; c < norm->channels; c++) sum_plane(x + (size_t)c * (size_t)norm->plane, norm->plane, sums + 2 * c);
}

static void sum_task(void *context, int image, int thread)
{
    (void)thread;
    struct forward_work *work = context;
    size_t size = (size_t)work->norm->channels * (size_t)work->norm->plane;
    batch_normalization_sum_image(work->norm, image, work->x + (size_t)image * size);
}

static void normalize_task(void *context, int image, int thread)
{
    (void)thread;
    struct forward_work *work = context;
    struct batch_normalization *norm = work->norm;
    bool simple = is_piecewise_linear(work->activation);
    for (int c = 0; c < norm->channels; c++) {
        size_t plane = (size_t)image * (size_t)norm->channels + (size_t)c, start = plane * (size_t)norm->plane;
        enum activation first = simple ? work->activation : ACTIVATION_LINEAR;
        float maximum = normalize_plane(first, work->x + start, work->y + start, norm->plane, norm->multiplier[c],
                                        norm->offset[c]);
        if (!simple) {
            activation_apply(work->activation, work->y + start, (size_t)norm->plane);
            maximum = maximum_of_plane(work->y + start, norm->plane);
        }
        if (work->maximum) work->maximum[plane] = maximum;
    }
}

// Batch statistics from the sums of the images, in image order, and the running averages.
static bool batch_statistics(struct batch_normalization *norm, int images, struct error *error)
{
    double count = (double)images * norm->plane;
    for (int c = 0; c < norm->channels; c++) {
        double sum = 0, square = 0;
        for (int n = 0; n < images; n++) {
            const float *sums = norm->partial_sums + ((size_t)n * (size_t)norm->channels + (size_t)c) * 2;
            sum += (double)sums[0];
            square += (double)sums[1];
        }
        double mean = sum / count, variance = square / count - mean * mean;
        if (!isfinite(mean) || !isfinite(variance))
            return error_set(error, "batch normalization, channel %d: mean %g, variance %g: the activations are not finite",
                             c, mean, variance);
        if (variance < 0) variance = 0;
        norm->mean[c] = (float)mean;
        norm->inverse_deviation[c] = (float)(1 / sqrt(variance + (double)EPSILON));
        float unbiased = (float)(count > 1 ? variance * count / (count - 1) : variance);
        norm->running_mean->value[c] += MOMENTUM * ((float)mean - norm->running_mean->value[c]);
        norm->running_variance->value[c] += MOMENTUM * (unbiased - norm->running_variance->value[c]);
    }
    return true;
}

static void running_statistics(struct batch_normalization *norm)
{
    for (int c = 0; c < norm->channels; c++) {
        norm->mean[c] = norm->running_mean->value[c];
        norm->inverse_deviation[c] = (float)(1 / sqrt((double)norm->running_variance->value[c] + (double)EPSILON));
    }
}

bool batch_normalization_forward(struct batch_normalization *norm, const struct pass *pass, const float *x,
                                 bool sums_known, enum activation activation, float *y, float *maximum,
                                 struct error *error)
{
    struct forward_work work = {norm, activation, x, y, maximum};
    if (pass->training) {
        if (!sums_known) thread_pool_run(pass->pool, pass->images, sum_task, &work);
        if (!batch_statistics(norm, pass->images, error)) return false;
    } else {
        running_statistics(norm);
    }
    for (int c = 0; c < norm->channels; c++) {
        norm->multiplier[c] = norm->scale->value[c] * norm->inverse_deviation[c];
        norm->offset[c] = norm->bias->value[c] - norm->mean[c] * norm->multiplier[c];
    }
    thread_pool_run(pass->pool, pass->images, normalize_task, &work);
    return true;
}

// ---------------------------------------------------------------------------------------------
// Backward

struct backward_work {
    struct batch_normalization *norm;
    enum activation activation;
    const float *x, *y;
    float *delta, *input_delta, *maximum;
    bool accumulate;
};

static void sum_errors_task(void *context, int image, int thread)
{
    (void)thread;
    struct backward_work *work = context;
    struct batch_normalization *norm = work->norm;
    bool simple = is_piecewise_linear(work->activation);
    for (int c = 0; c < norm->channels; c++) {
        size_t plane = (size_t)image * (size_t)norm->channels + (size_t)c, start = plane * (size_t)norm->plane;
        if (!simple) activation_gradient(work->activation, work->y + start, work->delta + start, (size_t)norm->plane);
        sum_errors(simple ? work->activation : ACTIVATION_LINEAR, work->x + start, work->delta + start, norm->plane,
                   norm->multiplier[c], norm->offset[c], norm->mean[c], norm->partial_sums + 2 * plane);
    }
}

static void write_errors_task(void *context, int image, int thread)
{
    (void)thread;
    struct backward_work *work = context;
    struct batch_normalization *norm = work->norm;
    enum activation activation = is_piecewise_linear(work->activation) ? work->activation : ACTIVATION_LINEAR;
    for (int c = 0; c < norm->channels; c++) {
        size_t plane = (size_t)image * (size_t)norm->channels + (size_t)c, start = plane * (size_t)norm->plane;
        float maximum = write_errors(activation, work->x + start, work->delta + start, norm->plane, norm->multiplier[c],
                                     norm->offset[c], norm->coefficients + 3 * c, work->input_delta + start,
                                     work->accumulate);
        if (work->maximum) work->maximum[plane] = maximum;
    }
}

// Parameter gradients, and dL/dx = c0 * d + c1 * x + c2 from
//   dL/dx = scale * r * (d - sum(d) / M - (x - mean) * r^2 * sum(d * (x - mean)) / M),  r = inverse deviation.
static bool error_coefficients(struct batch_normalization *norm, int images, struct error *error)
{
    double count = (double)images * norm->plane;
    for (int c = 0; c < norm->channels; c++) {
        double sum = 0, product = 0;
        for (int n = 0; n < images; n++) {
            const float *sums = norm->partial_sums + ((size_t)n * (size_t)norm->channels + (size_t)c) * 2;
            sum += (double)sums[0];
            product += (double)sums[1];
        }
        if (!isfinite(sum) || !isfinite(product))
            return error_set(error, "batch normalization, channel %d: the errors are not finite", c);
        double r = (double)norm->inverse_deviation[c], c0 = (double)norm->scale->value[c] * r;
        double c1 = -c0 * r * r * product / count;
        norm->bias->gradient[c] += (float)sum;
        norm->scale->gradient[c] += (float)(product * r);
        norm->coefficients[3 * c] = (float)c0;
        norm->coefficients[3 * c + 1] = (float)c1;
        norm->coefficients[3 * c + 2] = (float)(-c0 * sum / count - c1 * (double)norm->mean[c]);
    }
    return true;
}

bool batch_normalization_backward(struct batch_normalization *norm, const struct pass *pass, const float *x,
                                  const float *y, enum activation activation, float *delta, float *input_delta,
                                  bool accumulate, float *maximum, struct error *error)
{
    struct backward_work work = {norm, activation, x, y, delta, input_delta, maximum, accumulate};
    thread_pool_run(pass->pool, pass->images, sum_errors_task, &work);
    if (!error_coefficients(norm, pass->images, error)) return false;
    if (input_delta) thread_pool_run(pass->pool, pass->images, write_errors_task, &work);
    return true;
}
