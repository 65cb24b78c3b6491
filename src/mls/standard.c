#include "mls/standard.h"

#include <math.h>
#include <stdatomic.h>
#include <string.h>

#include "mls/elements.h"

static const struct standard_element elements[] = {
    {MLS_FAMILY_MICROSCALING, "mxfp4", 2, 1, 1, 0, 2, 6},
    {MLS_FAMILY_MICROSCALING, "mxfp6_e2m3", 2, 3, 3, 0, 2, 7.5f},
    {MLS_FAMILY_MICROSCALING, "mxfp6_e3m2", 3, 2, 2, -2, 4, 28},
    {MLS_FAMILY_MICROSCALING, "mxfp8_e4m3", 4, 3, 3, -6, 8, 448},
    {MLS_FAMILY_MICROSCALING, "mxfp8_e5m2", 5, 2, 2, -14, 15, 57344},
    {MLS_FAMILY_MICROSCALING, "mxint8", 0, 7, 6, 0, 0, 127.0f / 64},
    {MLS_FAMILY_FP8, "fp8_e4m3", 4, 3, 3, -6, 8, 448},
    {MLS_FAMILY_FP8, "fp8_e5m2", 5, 2, 2, -14, 15, 57344},
};
enum { ELEMENTS = sizeof elements / sizeof elements[0] };

const struct standard_element *standard_element_at(int index)
{
    return index >= 0 && index < ELEMENTS ? &elements[index] : NULL;
}

const struct standard_element *standard_element_of(const struct mls_format *format)
{
    for (int i = 0; i < ELEMENTS; i++)
        if (elements[i].family == format->family && elements[i].exponent == format->exponent && elements[i].mantissa == format->mantissa)
            return &elements[i];
    return NULL;
}

int standard_code(const struct standard_element *element, float value)
{
    int steps = (int)ldexpf(fabsf(value), element->fraction - element->emin), exponent = 0; // of the subnormals
    if (element->exponent == 0) return (value < 0 ? -steps : steps) & 0xff;
    if (fabsf(value) >= ldexpf(1, element->emin)) {
        exponent = ilogbf(value) - element->emin;
        steps = (int)ldexpf(fabsf(value), element->fraction - ilogbf(value));
    }
    return !!signbit(value) << (element->exponent + element->mantissa) | ((exponent << element->mantissa) + steps);
}

int standard_blocks(enum mls_operand operand, const int dims[4], int convolution_groups)
{
    return mls_block_count(dims[1], operand == MLS_WEIGHT ? 1 : convolution_groups, MICROSCALING_BLOCK);
}

enum { MOST_PIXELS = 256 };

VECTORIZED static void round_to_nearest(const struct standard_element *e, const float *x, const float *inverses, float *out, int count)
{
    const struct standard_rounding r = standard_rounding_of(e);
    for (int i = 0; i < count; i++) out[i] = round_standard(&r, x[i], inverses[i], false, 0);
}

VECTORIZED static void round_stochastically(const struct standard_element *e, const float *x, const float *inverses, float *out, int count,
                                            struct mls_plane_keys keys, uint32_t position)
{
    const struct standard_rounding r = standard_rounding_of(e);
    for (int i = 0; i < count; i++) out[i] = round_standard(&r, x[i], inverses[i], true, mls_random_hash(keys, position + (uint32_t)i));
}

// ---------------------------------------------------------------------------------------------
// A tensor

struct work {
    const struct standard_element *element;
    bool stochastic;
    const int *dims;
    size_t plane;
    int parts, blocks; // of dims[1]: convolution groups, blocks
    uint64_t tensor_key;
    const float *x;
    float tensor_scale; // FP8
    const struct standard_result *result;
    atomic_int_least32_t largest; // FP8: magnitude_bits of the tensor
    atomic_bool failed;
};

// `count` pixels of a channel from `pixel` on.
static void quantize_pixels(const struct work *w, int i, int channel, size_t pixel, int count, const float *scales, const float *inverses)
{
    uint64_t number = (uint64_t)i * (uint64_t)w->dims[1] + (uint64_t)channel;
    size_t at = (size_t)number * w->plane + pixel;
    float rounded[MOST_PIXELS];
    if (w->stochastic)
        round_stochastically(w->element, w->x + at, inverses, rounded, count, mls_plane_keys_of(w->tensor_key, number), (uint32_t)pixel);
    else
        round_to_nearest(w->element, w->x + at, inverses, rounded, count);
    if (w->result->elements) memcpy(w->result->elements + at, rounded, (size_t)count * sizeof(float));
    for (int p = 0; w->result->values && p < count; p++) w->result->values[at + (size_t)p] = rounded[p] * scales[p];
}

// max |x| of each pixel over the channels, as magnitude_bits.
VECTORIZED static void find_maxima(const float *x, size_t plane, int channels, int count, int32_t *maxima)
{
    memset(maxima, 0, (size_t)count * sizeof *maxima);
    for (int c = 0; c < channels; c++)
        for (int p = 0; p < count; p++) {
            int32_t bits = magnitude_bits(x[(size_t)c * plane + (size_t)p]);
            maxima[p] = bits > maxima[p] ? bits : maxima[p];
        }
}

static void quantize_block(struct work *w, int i, int block, int first, int channels, size_t pixel, int count)
{
    int32_t maxima[MOST_PIXELS];
    float scales[MOST_PIXELS], inverses[MOST_PIXELS];
    find_maxima(w->x + ((size_t)i * (size_t)w->dims[1] + (size_t)first) * w->plane + pixel, w->plane, channels, count, maxima);
    for (int p = 0; p < count; p++) {
        if (maxima[p] >= NOT_FINITE) w->failed = true;
        int e = microscaling_exponent(w->element->emax, maxima[p]);
        scales[p] = power_of_two(e);
        inverses[p] = power_of_two(-e);
    }
    if (w->failed) return;
    size_t number = (size_t)i * (size_t)w->blocks + (size_t)block;
    if (w->result->scales) memcpy(w->result->scales + number * w->plane + pixel, scales, (size_t)count * sizeof(float));
    for (int c = first; c < first + channels; c++) quantize_pixels(w, i, c, pixel, count, scales, inverses);
}

static void microscaling_task(void *context, int i, int thread)
{
    (void)thread;
    struct work *w = context;
    int part = w->dims[1] / w->parts;
    for (int block = 0; block < w->blocks && !w->failed; block++) {
        int per_part = w->blocks / w->parts, inside = block % per_part * MICROSCALING_BLOCK;
        int channels = part - inside < MICROSCALING_BLOCK ? part - inside : MICROSCALING_BLOCK;
        for (size_t pixel = 0; pixel < w->plane; pixel += MOST_PIXELS) {
            size_t left = w->plane - pixel;
            quantize_block(w, i, block, block / per_part * part + inside, channels, pixel, left < MOST_PIXELS ? (int)left : MOST_PIXELS);
        }
    }
}

static void fp8_task(void *context, int i, int thread)
{
    (void)thread;
    const struct work *w = context;
    float scales[MOST_PIXELS], inverses[MOST_PIXELS];
    for (int p = 0; p < MOST_PIXELS; p++) {
        scales[p] = w->tensor_scale;
        inverses[p] = w->tensor_scale > 0 ? 1 / w->tensor_scale : 0;
    }
    for (int c = 0; c < w->dims[1]; c++)
        for (size_t pixel = 0; pixel < w->plane; pixel += MOST_PIXELS) {
            size_t left = w->plane - pixel;
            quantize_pixels(w, i, c, pixel, left < MOST_PIXELS ? (int)left : MOST_PIXELS, scales, inverses);
        }
}

static void largest_task(void *context, int i, int thread)
{
    (void)thread;
    struct work *w = context;
    size_t count = (size_t)w->dims[1] * w->plane;
    int32_t largest = magnitude_bits(largest_magnitude(w->x + (size_t)i * count, count)), found = w->largest;
    while (largest > found && !atomic_compare_exchange_weak(&w->largest, &found, largest)) {}
}

static void find_tensor_scale(struct work *w)
{
    float maximum = float_of((uint32_t)w->largest);
    w->failed = w->largest >= NOT_FINITE;
    w->tensor_scale = fp8_tensor_scale(w->element, maximum);
    if (w->result->scales) w->result->scales[0] = w->tensor_scale;
}

static void run(struct thread_pool *pool, thread_task task, struct work *w)
{
    if (pool) thread_pool_run(pool, w->dims[0], task, w);
    for (int i = 0; !pool && i < w->dims[0]; i++) task(w, i, 0);
}

bool standard_quantize(const struct mls_format *format, enum mls_operand operand, const float *x, const int dims[4],
                       int convolution_groups, uint64_t tensor_key, struct thread_pool *pool, const struct standard_result *result,
                       struct error *error)
{
    struct work w = {.element = standard_element_of(format), .stochastic = format->rounding == MLS_STOCHASTIC, .dims = dims,
                     .plane = (size_t)dims[2] * (size_t)dims[3], .parts = operand == MLS_WEIGHT ? 1 : convolution_groups,
                     .blocks = standard_blocks(operand, dims, convolution_groups), .tensor_key = tensor_key, .x = x, .result = result};
    if (!w.element) return error_set(error, "not a format of mls/standard.h");
    if (format->family == MLS_FAMILY_FP8) {
        run(pool, largest_task, &w);
        find_tensor_scale(&w);
        if (!w.failed) run(pool, fp8_task, &w);
    } else {
        run(pool, microscaling_task, &w);
    }
    return !w.failed || mls_report_not_finite(x, dims, error);
}
