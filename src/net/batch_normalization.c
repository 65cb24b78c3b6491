#include "net/batch_normalization.h"

#include <math.h>

#include "base/memory.h"
#include "net/network.h"

#define EPSILON 1e-5f
#define DEVIATION_EPSILON 1e-6
#define MOMENTUM 0.1f

bool batch_normalization_create(struct batch_normalization *norm, struct layer *layer, int channels, int plane,
                                struct diagnostics *diagnostics)
{
    const int dims[1] = {channels};
    *norm = (struct batch_normalization){.network = layer->network, .channels = channels, .blocks = blocked_count(channels), .plane = plane};
    norm->scale = layer_add_parameter(layer, "batchnorm.scale", 1, dims, true, false, diagnostics);
    norm->bias = layer_add_parameter(layer, "batchnorm.bias", 1, dims, true, false, diagnostics);
    norm->running_mean = layer_add_parameter(layer, "batchnorm.running_mean", 1, dims, false, false, diagnostics);
    norm->running_variance = layer_add_parameter(layer, "batchnorm.running_variance", 1, dims, false, false, diagnostics);
    float **by_channel[] = {&norm->mean, &norm->inverse_deviation, &norm->multiplier, &norm->offset, &norm->coefficients[0],
                            &norm->coefficients[1], &norm->coefficients[2]};
    bool good = norm->scale && norm->bias && norm->running_mean && norm->running_variance;
    for (size_t i = 0; i < sizeof by_channel / sizeof by_channel[0]; i++)
        good = (*by_channel[i] = layer_allocate(layer, blocked_channels(channels), sizeof(float), diagnostics)) != NULL && good;
    size_t pairs = (size_t)layer->network->max_images * blocked_channels(channels);
    norm->sums = layer_allocate(layer, pairs, 2 * sizeof(float), diagnostics);
    norm->extremes = layer_allocate(layer, pairs, 2 * sizeof(float), diagnostics);
    norm->largest_errors = layer_allocate(layer, pairs, sizeof(float), diagnostics);
    for (int c = 0; good && c < channels; c++) norm->scale->value[c] = norm->running_variance->value[c] = 1;
    return good && norm->sums && norm->extremes && norm->largest_errors;
}

void batch_normalization_destroy(struct batch_normalization *norm)
{
    memory_release(norm->mean);
    memory_release(norm->inverse_deviation);
    memory_release(norm->multiplier);
    memory_release(norm->offset);
    for (int k = 0; k < 3; k++) memory_release(norm->coefficients[k]);
    memory_release(norm->sums);
    memory_release(norm->extremes);
    memory_release(norm->largest_errors);
}

// Start of a block in a map, and of its pair of vectors in `sums` and `extremes`.
static size_t block_at(const struct batch_normalization *norm, int image, int block)
{
    return ((size_t)image * (size_t)norm->blocks + (size_t)block) * (size_t)norm->plane * BLOCK_CHANNELS;
}

static float *pair_at(const struct batch_normalization *norm, float *pairs, int image, int block)
{
    return pairs + ((size_t)image * (size_t)norm->blocks + (size_t)block) * 2 * BLOCK_CHANNELS;
}

// Both sums of the channels of a block, over the images in their order: totals[2][16].
VECTORIZED static void total_block(const struct batch_normalization *norm, int images, int block, double totals[2 * BLOCK_CHANNELS])
{
    for (int i = 0; i < 2 * BLOCK_CHANNELS; i++) totals[i] = 0;
    for (int n = 0; n < images; n++) {
        const float *sums = pair_at(norm, norm->sums, n, block);
        for (int i = 0; i < 2 * BLOCK_CHANNELS; i++) totals[i] += (double)sums[i];
    }
}

// ---------------------------------------------------------------------------------------------
// Forward

// sum_lanes_LANES(x, pixels, sums, extremes): LANES channels of a block, in vectors of that length: 16 where the processor has
// them, otherwise 8, of which a comparison is one instruction with AVX2 (base/vector.h). Four partial results in turn over the
// pixels, so that they need not wait for each other.
#define SUM_LANES(LANES)                                                                                           \
    typedef float float_##LANES __attribute__((vector_size(4 * LANES)));                                           \
    typedef int32_t int_##LANES __attribute__((vector_size(4 * LANES)));                                           \
    struct moments_##LANES {                                                                                       \
        float_##LANES sum, square, largest, smallest;                                                              \
    };                                                                                                             \
    VECTOR_INLINE float_##LANES select_##LANES(int_##LANES mask, float_##LANES a, float_##LANES b)                 \
    {                                                                                                              \
        return (float_##LANES)(((int_##LANES)a & mask) | ((int_##LANES)b & ~mask));                                \
    }                                                                                                              \
    VECTOR_INLINE void add_extremes_##LANES(struct moments_##LANES *m, float_##LANES large, float_##LANES small)   \
    {                                                                                                              \
        m->largest = select_##LANES(large > m->largest, large, m->largest);                                        \
        m->smallest = select_##LANES(small < m->smallest, small, m->smallest);                                     \
    }                                                                                                              \
    VECTOR_INLINE void add_moment_##LANES(struct moments_##LANES *m, const float *x)                               \
    {                                                                                                              \
        float_##LANES v;                                                                                           \
        memcpy(&v, x, sizeof v);                                                                                   \
        m->sum += v;                                                                                               \
        m->square += v * v;                                                                                        \
        add_extremes_##LANES(m, v, v);                                                                             \
    }                                                                                                              \
    VECTOR_INLINE void sum_lanes_##LANES(const float *x, int pixels, float *sums, float *extremes)                 \
    {                                                                                                              \
        struct moments_##LANES m[4] = {0};                                                                         \
        for (int k = 0; k < 4; k++) {                                                                              \
            memcpy(&m[k].largest, x, sizeof m[k].largest);                                                         \
            m[k].smallest = m[k].largest;                                                                          \
        }                                                                                                          \
        int p = 0;                                                                                                 \
        for (; p + 4 <= pixels; p += 4)                                                                            \
            for (int k = 0; k < 4; k++) add_moment_##LANES(&m[k], x + (size_t)(p + k) * BLOCK_CHANNELS);           \
        for (; p < pixels; p++) add_moment_##LANES(&m[0], x + (size_t)p * BLOCK_CHANNELS);                         \
        for (int k = 1; k < 4; k++) add_extremes_##LANES(&m[0], m[k].largest, m[k].smallest);                      \
        float_##LANES sum = (m[0].sum + m[1].sum) + (m[2].sum + m[3].sum);                                         \
        float_##LANES square = (m[0].square + m[1].square) + (m[2].square + m[3].square);                          \
        memcpy(sums, &sum, sizeof sum);                                                                            \
        memcpy(sums + BLOCK_CHANNELS, &square, sizeof square);                                                     \
        memcpy(extremes, &m[0].largest, sizeof sum);                                                               \
        memcpy(extremes + BLOCK_CHANNELS, &m[0].smallest, sizeof sum);                                             \
    }
SUM_LANES(16)
SUM_LANES(8)

VECTOR_INLINE void sum_block_body(const float *x, int pixels, float *sums, float *extremes, const bool native)
{
    if (native) {
        sum_lanes_16(x, pixels, sums, extremes);
        return;
    }
    for (int half = 0; half < BLOCK_CHANNELS; half += 8) sum_lanes_8(x + half, pixels, sums + half, extremes + half);
}
VECTORIZED_VERSIONS(static, sum_block, (const float *x, int pixels, float *sums, float *extremes), x, pixels, sums, extremes)

void batch_normalization_sum_image(struct batch_normalization *norm, const float *x, int image)
{
    for (int block = 0; block < norm->blocks; block++)
        sum_block(x + block_at(norm, image, block), norm->plane, pair_at(norm, norm->sums, image, block),
                  pair_at(norm, norm->extremes, image, block));
}

// Batch statistics and the running averages.
static void batch_statistics(struct batch_normalization *norm, int channel, double count, double sum, double square)
{
    double mean = sum / count, variance = square / count - mean * mean;
    if (variance < 0) variance = 0;
    norm->mean[channel] = (float)mean;
    norm->inverse_deviation[channel] = (float)(1 / sqrt(variance + (double)EPSILON));
    float unbiased = (float)(count > 1 ? variance * count / (count - 1) : variance);
    norm->running_mean->value[channel] += MOMENTUM * ((float)mean - norm->running_mean->value[channel]);
    norm->running_variance->value[channel] += MOMENTUM * (unbiased - norm->running_variance->value[channel]);
}

// Of evaluation.
static double running_inverse_deviation(const struct batch_normalization *norm, double variance)
{
    if (norm->network->batch_norm_epsilon == BATCH_NORM_EPSILON_DEVIATION) return 1 / (sqrt(variance) + DEVIATION_EPSILON);
    return 1 / sqrt(variance + (double)EPSILON);
}

static void set_affine(struct batch_normalization *norm, int channel)
{
    norm->multiplier[channel] = norm->scale->value[channel] * norm->inverse_deviation[channel];
    norm->offset[channel] = norm->bias->value[channel] - norm->mean[channel] * norm->multiplier[channel];
}

void batch_normalization_use_running(struct batch_normalization *norm)
{
    for (int c = 0; c < norm->channels; c++) {
        norm->mean[c] = norm->running_mean->value[c];
        norm->inverse_deviation[c] = (float)running_inverse_deviation(norm, (double)norm->running_variance->value[c]);
        set_affine(norm, c);
    }
}

bool batch_normalization_statistics(struct batch_normalization *norm, const struct pass *pass, struct error *error)
{
    double totals[2 * BLOCK_CHANNELS];
    if (!pass->training) batch_normalization_use_running(norm);
    for (int c = 0; c < norm->channels; c++) {
        if (c % BLOCK_CHANNELS == 0) total_block(norm, pass->images, c / BLOCK_CHANNELS, totals);
        double sum = totals[c % BLOCK_CHANNELS], square = totals[BLOCK_CHANNELS + c % BLOCK_CHANNELS];
        if (!isfinite(sum) || !isfinite(square))
            return error_set(error, "batch normalization, channel %d: sums %g and %g: the activations are not finite", c, sum, square);
        if (!pass->training) continue;
        batch_statistics(norm, c, (double)pass->images * norm->plane, sum, square);
        set_affine(norm, c);
    }
    return true;
}

// y is monotone in x, also after rounding, so |y| is largest at one of the extremes of x.
VECTORIZED void batch_normalization_maxima(const struct batch_normalization *norm, int images, enum piecewise activation, float *maximum)
{
    for (int n = 0; n < images; n++)
        for (int block = 0; block < norm->blocks; block++, maximum += BLOCK_CHANNELS) {
            const float *extremes = pair_at(norm, norm->extremes, n, block);
            vector_float m = vector_load(norm->multiplier + block * BLOCK_CHANNELS), o = vector_load(norm->offset + block * BLOCK_CHANNELS);
            vector_int largest = {0};
            for (int k = 0; k < 2; k++)
                largest = vector_maximum(largest, piecewise_value(activation, vector_load(extremes + k * BLOCK_CHANNELS) * m + o, false), false);
            vector_store(maximum, (vector_float)largest);
        }
}

struct source batch_normalization_source(const struct batch_normalization *norm, const float *x, enum piecewise activation)
{
    return (struct source){.kind = SOURCE_NORMALIZED, .activation = activation, .x = x, .multiplier = norm->multiplier, .offset = norm->offset};
}

struct work {
    struct batch_normalization *norm;
    enum activation activation;
    enum piecewise piecewise; // of the activation, or linear
    const float *x, *y;
    float *delta, *out;
    float *maximum;
    bool accumulate;
};

static void sum_task(void *context, int image, int thread)
{
    (void)thread;
    struct work *work = context;
    batch_normalization_sum_image(work->norm, work->x, image);
}

static void write_task(void *context, int image, int thread)
{
    (void)thread;
    struct work *work = context;
    struct batch_normalization *norm = work->norm;
    struct source map = batch_normalization_source(norm, work->x, work->piecewise);
    for (int block = 0; block < norm->blocks; block++) {
        struct source source = source_of_block(&map, image, block, norm->blocks, (size_t)norm->plane);
        float *y = work->out + block_at(norm, image, block);
        source_write(&source, (size_t)norm->plane, y, false);
        if (work->activation == ACTIVATION_LINEAR) continue;
        activation_apply(work->activation, y, (size_t)norm->plane * BLOCK_CHANNELS);
        if (work->maximum)
            source_maxima(&(struct source){.kind = SOURCE_PLAIN, .x = y}, (size_t)norm->plane,
                          work->maximum + ((size_t)image * (size_t)norm->blocks + (size_t)block) * BLOCK_CHANNELS);
    }
}

bool batch_normalization_forward(struct batch_normalization *norm, const struct pass *pass, const float *x, bool sums_known,
                                 enum activation activation, float *y, float *maximum, struct error *error)
{
    struct work work = {.norm = norm, .activation = activation, .x = x, .out = y, .maximum = maximum};
    bool simple = activation_piecewise(activation, &work.piecewise);
    if (simple) work.activation = ACTIVATION_LINEAR; // done on the way
    if (!sums_known) thread_pool_run(pass->pool, pass->images, sum_task, &work);
    if (!batch_normalization_statistics(norm, pass, error)) return false;
    if (simple && maximum) batch_normalization_maxima(norm, pass->images, work.piecewise, maximum);
    thread_pool_run(pass->pool, pass->images, write_task, &work);
    return true;
}

// ---------------------------------------------------------------------------------------------
// Backward

struct error_sums {
    vector_float sum, product;
    vector_int largest;
};

VECTOR_INLINE void add_error(struct error_sums *sums, const struct source_vectors *s, vector_float mean, int pixel, vector_float d,
                             enum piecewise activation, const bool native)
{
    vector_float x = vector_load(s->x + (size_t)pixel * BLOCK_CHANNELS);
    if (activation != PIECEWISE_LINEAR) d = piecewise_error(activation, x * s->multiplier + s->offset, d, native);
    sums->sum += d;
    sums->product += d * (x - mean);
    sums->largest = vector_maximum(sums->largest, d, native);
}

// The next pixel's error; where there are gates it passes them, in memory too.
VECTOR_INLINE vector_float gated_error(float *delta, int pixel, vector_bits *gates, const bool GATED)
{
    vector_float d = vector_load(delta + (size_t)pixel * BLOCK_CHANNELS);
    if (!GATED) return d;
    d = vector_where((vector_int)*gates >> 31, d);
    *gates <<= 1;
    vector_store(delta + (size_t)pixel * BLOCK_CHANNELS, d);
    return d;
}

// sums = {sum d, sum d * (x - mean)} with d = delta * activation'(m * x + o); largest = max |d|. Even and odd pixels apart.
VECTOR_INLINE void sum_errors(const struct source *source, float *delta, const int32_t *gates, const float *mean, int pixels, float *sums,
                              float *largest, enum piecewise activation, const bool GATED, const bool native)
{
    struct source_vectors s = source_open(source, SOURCE_NORMALIZED);
    vector_float middle = vector_load(mean);
    struct error_sums even = {{0}, {0}, {0}}, odd = {{0}, {0}, {0}};
    vector_bits open = {0};
    for (int first = 0; first < pixels; first += GATE_PIXELS) {
        int p = first, end = first + GATE_PIXELS < pixels ? first + GATE_PIXELS : pixels;
        if (GATED) memcpy(&open, gates + (size_t)(first / GATE_PIXELS) * BLOCK_CHANNELS, sizeof open);
        for (; p + 2 <= end; p += 2) {
            add_error(&even, &s, middle, p, gated_error(delta, p, &open, GATED), activation, native);
            add_error(&odd, &s, middle, p + 1, gated_error(delta, p + 1, &open, GATED), activation, native);
        }
        if (p < end) add_error(&even, &s, middle, p, gated_error(delta, p, &open, GATED), activation, native);
    }
    vector_store(largest, (vector_float)vector_maximum(even.largest, (vector_float)odd.largest, native));
    vector_store(sums, even.sum + odd.sum);
    vector_store(sums + BLOCK_CHANNELS, even.product + odd.product);
}

VECTOR_INLINE void sum_error_block_body(const struct source *source, float *delta, const int32_t *gates, const float *mean, int pixels, float *sums,
                                        float *largest, const bool native)
{
    if (gates && source->activation == PIECEWISE_LINEAR)
        sum_errors(source, delta, gates, mean, pixels, sums, largest, PIECEWISE_LINEAR, true, native);
    else if (gates)
        sum_errors(source, delta, gates, mean, pixels, sums, largest, source->activation, true, native);
    else if (source->activation == PIECEWISE_LINEAR)
        sum_errors(source, delta, NULL, mean, pixels, sums, largest, PIECEWISE_LINEAR, false, native);
    else if (source->activation == PIECEWISE_RELU)
        sum_errors(source, delta, NULL, mean, pixels, sums, largest, PIECEWISE_RELU, false, native);
    else
        sum_errors(source, delta, NULL, mean, pixels, sums, largest, source->activation, false, native);
}
VECTORIZED_VERSIONS(static, sum_error_block, (const struct source *source, float *delta, const int32_t *gates, const float *mean, int pixels, float *sums,
                    float *largest), source, delta, gates, mean, pixels, sums, largest)

void batch_normalization_sum_error_image(struct batch_normalization *norm, const float *x, float *delta, const int32_t *gates,
                                         enum piecewise activation, int image)
{
    struct source map = batch_normalization_error_source(norm, x, delta, activation);
    for (int block = 0; block < norm->blocks; block++) {
        struct source source = source_of_block(&map, image, block, norm->blocks, (size_t)norm->plane);
        sum_error_block(&source, delta + block_at(norm, image, block), gates ? gates + (size_t)block * gate_words((size_t)norm->plane) : NULL,
                        norm->mean + block * BLOCK_CHANNELS, norm->plane, pair_at(norm, norm->sums, image, block),
                        norm->largest_errors + (image * norm->blocks + block) * BLOCK_CHANNELS);
    }
}

// dL/dx = c0 * d + c1 * x + c2 from
//   dL/dx = scale * r * (d - sum(d) / M - (x - mean) * r^2 * sum(d * (x - mean)) / M),  r = inverse deviation.
bool batch_normalization_error_statistics(struct batch_normalization *norm, int images, struct error *error)
{
    double count = (double)images * norm->plane, totals[2 * BLOCK_CHANNELS];
    for (int c = 0; c < norm->channels; c++) {
        if (c % BLOCK_CHANNELS == 0) total_block(norm, images, c / BLOCK_CHANNELS, totals);
        double sum = totals[c % BLOCK_CHANNELS], product = totals[BLOCK_CHANNELS + c % BLOCK_CHANNELS];
        if (!isfinite(sum) || !isfinite(product))
            return error_set(error, "batch normalization, channel %d: the errors are not finite", c);
        double r = (double)norm->inverse_deviation[c], c0 = (double)norm->scale->value[c] * r;
        double c1 = -c0 * r * r * product / count;
        norm->bias->gradient[c] += (float)sum;
        norm->scale->gradient[c] += (float)(product * r);
        norm->coefficients[0][c] = (float)c0;
        norm->coefficients[1][c] = (float)c1;
        norm->coefficients[2][c] = (float)(-c0 * sum / count - c1 * (double)norm->mean[c]);
    }
    return true;
}

// |c0 d + (c1 x + c2)| <= |c0| max |d| + |c1 x + c2|, which is largest at an extreme of x; and a little more, for the
// rounding of the sum and of what cancels in it.
VECTORIZED void batch_normalization_error_bounds(const struct batch_normalization *norm, int images, float *bounds)
{
    const vector_int magnitude = (vector_int){0} + 0x7fffffff;
    for (int n = 0; n < images; n++)
        for (int block = 0; block < norm->blocks; block++, bounds += BLOCK_CHANNELS) {
            const float *extremes = pair_at(norm, norm->extremes, n, block);
            size_t lane = (size_t)block * BLOCK_CHANNELS;
            vector_float c1 = vector_load(norm->coefficients[1] + lane), c2 = vector_load(norm->coefficients[2] + lane);
            vector_float high = c1 * vector_load(extremes), low = c1 * vector_load(extremes + BLOCK_CHANNELS);
            vector_int affine = vector_maximum(vector_maximum((vector_int){0}, high + c2, false), low + c2, false);
            vector_int parts = vector_maximum(vector_maximum((vector_int){0}, high, false), low, false);
            vector_float c0 = (vector_float)((vector_int)vector_load(norm->coefficients[0] + lane) & magnitude);
            vector_float d = vector_load(norm->largest_errors + ((size_t)n * (size_t)norm->blocks + (size_t)block) * BLOCK_CHANNELS);
            vector_float rest = (vector_float)parts + (vector_float)((vector_int)c2 & magnitude);
            vector_store(bounds, (c0 * d + (vector_float)affine) * 1.00001f + rest * 1e-6f);
        }
}

struct source batch_normalization_error_source(const struct batch_normalization *norm, const float *x, const float *delta,
                                               enum piecewise activation)
{
    return (struct source){.kind = SOURCE_ERROR, .activation = activation, .x = x, .delta = delta, .multiplier = norm->multiplier,
                           .offset = norm->offset, .coefficients = {norm->coefficients[0], norm->coefficients[1], norm->coefficients[2]}};
}

static void sum_error_task(void *context, int image, int thread)
{
    (void)thread;
    struct work *work = context;
    struct batch_normalization *norm = work->norm;
    size_t start = block_at(norm, image, 0), size = block_at(norm, 1, 0);
    if (work->activation != ACTIVATION_LINEAR) activation_gradient(work->activation, work->y + start, work->delta + start, size);
    batch_normalization_sum_error_image(norm, work->x, work->delta, NULL, work->piecewise, image);
}

static void write_error_task(void *context, int image, int thread)
{
    (void)thread;
    struct work *work = context;
    struct batch_normalization *norm = work->norm;
    struct source map = batch_normalization_error_source(norm, work->x, work->delta, work->piecewise);
    for (int block = 0; block < norm->blocks; block++) {
        struct source source = source_of_block(&map, image, block, norm->blocks, (size_t)norm->plane);
        source_write(&source, (size_t)norm->plane, work->out + block_at(norm, image, block), work->accumulate);
    }
}

bool batch_normalization_backward(struct batch_normalization *norm, const struct pass *pass, const float *x, const float *y,
                                  enum activation activation, float *delta, float *input_delta, bool accumulate,
                                  struct error *error)
{
    struct work work = {.norm = norm, .activation = activation, .x = x, .y = y, .delta = delta, .out = input_delta, .accumulate = accumulate};
    if (activation_piecewise(activation, &work.piecewise)) work.activation = ACTIVATION_LINEAR; // done on the way
    thread_pool_run(pass->pool, pass->images, sum_error_task, &work);
    if (!batch_normalization_error_statistics(norm, pass->images, error)) return false;
    if (input_delta) thread_pool_run(pass->pool, pass->images, write_error_task, &work);
    return true;
}
