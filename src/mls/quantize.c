#include "mls/quantize.h"

#include <string.h>

#include "base/memory.h"

uint32_t mls_random_bits(struct mls_plane_keys keys, uint32_t position, int quantizer_bits)
{
    if (quantizer_bits > 16) return mls_random_hash(keys, position) >> 8;
    uint32_t hash = mls_random_hash(keys, position / 32 * 16 + position % 16);
    return position / 16 % 2 ? hash >> 16 : hash & 0xffff;
}

float mls_tensor_scale(const struct mls_format *format, float largest)
{
    if (largest < 0x1p-60f) return 0;
    if (format->family != MLS_FAMILY_BLOCK_FLOAT) return largest;
    uint32_t bits;
    memcpy(&bits, &largest, sizeof bits);
    bits = (bits + 0x7fffff) & 0xff800000;
    if (bits > 0x7f000000) bits = 0x7f000000;
    memcpy(&largest, &bits, sizeof largest);
    return largest;
}

float mls_group_scale(const struct mls_format *format, float f)
{
    if (f >= 1) return 1;
    int last = (1 << format->scale_exponent) - 1;
    if (last > 63) last = 63;
    float smallest;
    uint32_t bits = (uint32_t)(127 - last) << 23, dropped = format->scale_mantissa ? 0x3fffff : 0x7fffff;
    memcpy(&smallest, &bits, sizeof smallest); // 2^-last; there are so many groups that ldexpf is felt
    if (!(f > smallest)) return smallest;
    // Up to the next number of scale_mantissa fraction bits; a carry out of the fraction goes to the exponent.
    memcpy(&bits, &f, sizeof bits);
    bits = (bits + dropped) & ~dropped;
    memcpy(&f, &bits, sizeof f);
    return f;
}

bool mls_scales(const struct mls_format *format, const float *maxima, int count, float *tensor_scale,
                float *group_scales)
{
    float largest = 0;
    for (int i = 0; i < count; i++) {
        if (!isfinite(maxima[i])) return false;
        if (maxima[i] > largest) largest = maxima[i];
    }
    *tensor_scale = mls_tensor_scale(format, largest);
    for (int i = 0; i < count; i++)
        group_scales[i] = mls_group_scale(format, *tensor_scale > 0 ? maxima[i] / *tensor_scale : 0);
    return true;
}

int32_t mls_quantize_element(const struct mls_format *format, float x, float reciprocal, uint32_t random)
{
    int bits = mls_quantizer_bits(format);
    float scaled = rintf((fabsf(x) * reciprocal) * ldexpf(1.0f, bits));
    uint32_t limit = ((uint32_t)1 << bits) - 1;
    uint32_t y = scaled < (float)limit ? (uint32_t)scaled : limit;
    int e = 0, dropped = bits - format->mantissa; // Ex = 0: fixed point
    int lowest = format->exponent ? 1 - (1 << format->exponent) : 0;
    if (format->exponent) {
        e = (y ? 31 - __builtin_clz(y) : -1) - bits;
        e = e < lowest ? lowest : e > -1 ? -1 : e;
        dropped = bits + e - format->mantissa;
    }
    if (dropped > 0)
        y += format->rounding == MLS_STOCHASTIC ? random & (((uint32_t)1 << dropped) - 1) : (uint32_t)1 << (dropped - 1);
    int32_t integer = (int32_t)(y >> dropped) << (e - lowest), largest = mls_largest_integer(format);
    if (integer > largest) integer = largest;
    return x < 0 ? -integer : integer;
}

static size_t group_count(const struct mls_tensor *tensor)
{
    return (size_t)tensor->grouping.blocks[0] * (size_t)tensor->grouping.blocks[1];
}

// Counting is left out of the compiled code where counts is NULL.
#define COUNTABLE static inline __attribute__((always_inline))

// Step 1, into maxima[groups]. Compared as numbers; a NaN is kept so that mls_scales finds it.
COUNTABLE void find_maxima(const struct mls_tensor *tensor, const float *x, float *maxima, struct mls_counts *counts)
{
    const int *dims = tensor->dims;
    size_t plane = (size_t)dims[2] * (size_t)dims[3];
    for (int i = 0; i < dims[0]; i++)
        for (int j = 0; j < dims[1]; j++) {
            const float *from = x + ((size_t)i * (size_t)dims[1] + (size_t)j) * plane;
            float *group = &maxima[mls_group_index(&tensor->grouping, i, j)];
            for (size_t p = 0; p < plane; p++) {
                if (!(fabsf(from[p]) <= *group) && !isnan(*group)) *group = fabsf(from[p]);
                if (counts) counts->maximum++;
            }
        }
}

// Steps 2 to 5: the maxima become the reciprocals 1 / (St * Sg).
COUNTABLE bool find_scales(struct mls_tensor *tensor, float *maxima, struct mls_counts *counts)
{
    if (!mls_scales(&tensor->format, maxima, (int)group_count(tensor), &tensor->tensor_scale, tensor->group_scales)) return false;
    for (size_t g = 0; g < group_count(tensor); g++) {
        maxima[g] = 1.0f / (tensor->tensor_scale * tensor->group_scales[g]);
        if (!counts) continue;
        counts->maximum++;
        counts->division += 2;
    }
    return true;
}

bool mls_report_not_finite(const float *x, const int d[4], struct error *error)
{
    for (size_t i = 0; i < (size_t)d[0] * (size_t)d[1] * (size_t)d[2] * (size_t)d[3]; i++)
        if (!isfinite(x[i])) {
            size_t w = i % (size_t)d[3], h = i / (size_t)d[3] % (size_t)d[2];
            size_t c = i / ((size_t)d[3] * (size_t)d[2]) % (size_t)d[1], n = i / ((size_t)d[3] * (size_t)d[2] * (size_t)d[1]);
            return error_set(error, "cannot quantize: element [%zu, %zu, %zu, %zu] is %g, not a finite number", n, c, h, w, (double)x[i]);
        }
    return false;
}

COUNTABLE void quantize_plane(struct mls_tensor *tensor, const float *x, int i, int j, float reciprocal, uint64_t tensor_key,
                              struct mls_counts *counts)
{
    uint64_t number = (uint64_t)i * (uint64_t)tensor->dims[1] + (uint64_t)j;
    size_t plane = (size_t)tensor->dims[2] * (size_t)tensor->dims[3], start = (size_t)number * plane;
    struct mls_plane_keys keys = mls_plane_keys_of(tensor_key, number);
    int bits = mls_quantizer_bits(&tensor->format);
    bool stochastic = tensor->format.rounding == MLS_STOCHASTIC;
    for (size_t p = 0; p < plane; p++) {
        uint32_t random = stochastic ? mls_random_bits(keys, (uint32_t)p, bits) : 0;
        tensor->integers[start + p] = mls_quantize_element(&tensor->format, x[start + p], reciprocal, random);
        if (!counts) continue;
        counts->scaling++;
        counts->rounding++;
        counts->random_bits += stochastic ? (uint64_t)bits : 0;
    }
}

COUNTABLE bool quantize(const struct mls_format *format, enum mls_operand operand, const float *x, const int dims[4],
                        int convolution_groups, uint64_t tensor_key, struct mls_tensor *out, struct mls_counts *counts, struct error *error)
{
    if (!mls_has_integers(format)) return error_set(error, "a format of mls/standard.h has no MLS integers");
    *out = (struct mls_tensor){.format = *format,
                               .grouping = mls_grouping_of(format, operand, dims[0], dims[1], convolution_groups)};
    memcpy(out->dims, dims, sizeof out->dims);
    size_t count = (size_t)dims[0] * (size_t)dims[1] * (size_t)dims[2] * (size_t)dims[3];
    float *maxima = memory_allocate(group_count(out), sizeof(float), error);
    out->group_scales = memory_allocate(group_count(out), sizeof(float), error);
    out->integers = memory_allocate(count, sizeof(int32_t), error);
    bool good = maxima && out->group_scales && out->integers;
    if (good) {
        find_maxima(out, x, maxima, counts);
        good = find_scales(out, maxima, counts);
        if (!good) mls_report_not_finite(x, dims, error);
    }
    for (int i = 0; good && out->tensor_scale > 0 && i < dims[0]; i++)
        for (int j = 0; j < dims[1]; j++) quantize_plane(out, x, i, j, maxima[mls_group_index(&out->grouping, i, j)], tensor_key, counts);
    memory_release(maxima);
    if (!good) mls_tensor_release(out);
    return good;
}

bool mls_quantize(const struct mls_format *format, enum mls_operand operand, const float *x, const int dims[4],
                  int convolution_groups, uint64_t tensor_key, struct mls_tensor *out, struct error *error)
{
    return quantize(format, operand, x, dims, convolution_groups, tensor_key, out, NULL, error);
}

bool mls_quantize_counted(const struct mls_format *format, enum mls_operand operand, const float *x, const int dims[4],
                          int convolution_groups, uint64_t tensor_key, struct mls_tensor *out, struct mls_counts *counts,
                          struct error *error)
{
    return quantize(format, operand, x, dims, convolution_groups, tensor_key, out, counts, error);
}

void mls_tensor_release(struct mls_tensor *tensor)
{
    memory_release(tensor->group_scales);
    memory_release(tensor->integers);
    tensor->group_scales = NULL;
    tensor->integers = NULL;
}

void mls_dequantize(const struct mls_tensor *tensor, float *values)
{
    const float unit = ldexpf(1.0f, -mls_fraction_bits(&tensor->format));
    size_t plane = (size_t)tensor->dims[2] * (size_t)tensor->dims[3];
    for (int i = 0; i < tensor->dims[0]; i++)
        for (int j = 0; j < tensor->dims[1]; j++) {
            size_t start = ((size_t)i * (size_t)tensor->dims[1] + (size_t)j) * plane;
            float scale = tensor->tensor_scale * tensor->group_scales[mls_group_index(&tensor->grouping, i, j)];
            for (size_t p = 0; p < plane; p++)
                values[start + p] = scale * ((float)tensor->integers[start + p] * unit);
        }
}
