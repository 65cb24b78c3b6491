#include "kernels/depthwise.h"

#define PIXELS 4 // that are computed together, so that their sums need not wait for each other
#define TAPS 3   // of a weight gradient together

// ---------------------------------------------------------------------------------------------
// MLS integers. Products of two I are exact in 16 bits, and so is the sum of two of them, or of more where the format is smaller
// (`run`); sums of those go on in 32 bits. Half a block at a time: every instruction set has conversions for that length.

typedef uint8_t half_byte __attribute__((vector_size(HALF_LANES)));

VECTOR_INLINE half_short load_integers(const uint8_t *from, int zero_point)
{
    half_byte bytes;
    memcpy(&bytes, from, sizeof bytes);
    return __builtin_convertvector(bytes, half_short) - (int16_t)zero_point;
}

VECTOR_INLINE half_short load_codes(const int16_t *from)
{
    half_short v;
    memcpy(&v, from, sizeof v);
    return v;
}

VECTOR_INLINE void store_outputs(const struct depthwise_job *job, half_int sum, int half, float *output)
{
    half_float value = (__builtin_convertvector(sum, half_float) * half_load(job->scales + half)) * job->factor;
    if (job->accumulate) value = half_load(output + half) + value;
    memcpy(output + half, &value, sizeof value);
}

VECTOR_INLINE void convolve_pixels(const struct depthwise_job *job, const uint8_t *input, float *output, int half, const int pixels)
{
    half_int sums[PIXELS] = {{0}};
    for (int tap = 0, end; tap < job->taps; tap = end) {
        end = tap + job->run < job->taps ? tap + job->run : job->taps;
        half_short parts[PIXELS] = {{0}};
        for (int t = tap; t < end; t++) {
            half_short codes = load_codes(job->tap_codes + t * BLOCK_CHANNELS + half);
            const uint8_t *from = input + job->tap_offsets[t] + half;
#pragma GCC unroll 4
            for (int p = 0; p < pixels; p++) parts[p] += load_integers(from + (size_t)p * job->pixel_bytes, job->zero_point) * codes;
        }
#pragma GCC unroll 4
        for (int p = 0; p < pixels; p++) sums[p] += __builtin_convertvector(parts[p], half_int);
    }
#pragma GCC unroll 4
    for (int p = 0; p < pixels; p++) store_outputs(job, sums[p], half, output + (size_t)p * job->output_step);
}

VECTORIZED void depthwise_row_plain(const struct depthwise_job *job, const uint8_t *input, int pixels, float *output)
{
    for (int half = 0; half < BLOCK_CHANNELS; half += HALF_LANES) {
        int p = 0;
        for (; p + PIXELS <= pixels; p += PIXELS)
            convolve_pixels(job, input + (size_t)p * job->pixel_bytes, output + (size_t)p * job->output_step, half, PIXELS);
        for (; p < pixels; p++) convolve_pixels(job, input + (size_t)p * job->pixel_bytes, output + (size_t)p * job->output_step, half, 1);
    }
}

// One row of errors with `taps` window positions.
VECTOR_INLINE void gradient_row(const struct depthwise_gradient_job *job, const uint8_t *const inputs[TAPS], const uint8_t *errors,
                                const int taps, half_int sums[TAPS])
{
    for (int x = 0, end; x < job->width; x = end) {
        end = x + job->run < job->width ? x + job->run : job->width;
        half_short parts[TAPS] = {{0}};
        for (int p = x; p < end; p++) {
            half_short e = load_integers(errors + (size_t)p * BLOCK_CHANNELS, 128);
#pragma GCC unroll 3
            for (int t = 0; t < taps; t++) parts[t] += load_integers(inputs[t] + (size_t)p * job->pixel_bytes, job->input_zero_point) * e;
        }
#pragma GCC unroll 3
        for (int t = 0; t < taps; t++) sums[t] += __builtin_convertvector(parts[t], half_int);
    }
}

VECTOR_INLINE void gradient_taps(const struct depthwise_gradient_job *job, int first, int half, const int taps, int32_t *out)
{
    half_int sums[TAPS] = {{0}};
    const uint8_t *inputs[TAPS];
    for (int y = 0; y < job->height; y++) {
        for (int t = 0; t < taps; t++) inputs[t] = job->inputs + job->tap_offsets[first + t] + (size_t)y * job->row_bytes + half;
        gradient_row(job, inputs, job->errors + (size_t)y * job->error_row_bytes + half, taps, sums);
    }
    for (int t = 0; t < taps; t++) memcpy(out + (first + t) * BLOCK_CHANNELS + half, &sums[t], sizeof sums[t]);
}

VECTORIZED void depthwise_gradient_plain(const struct depthwise_gradient_job *job, int32_t *sums)
{
    for (int half = 0; half < BLOCK_CHANNELS; half += HALF_LANES) {
        int tap = 0;
        for (; tap + TAPS <= job->taps; tap += TAPS) gradient_taps(job, tap, half, TAPS, sums);
        for (; tap < job->taps; tap++) gradient_taps(job, tap, half, 1, sums);
    }
}

// ---------------------------------------------------------------------------------------------
// fp32

VECTOR_INLINE void convolve_float_pixels(const struct direct_job *job, const float *input, float *output, const int pixels)
{
    vector_float sums[PIXELS] = {{0}};
    for (int t = 0; t < job->terms; t++) {
        vector_float weights = vector_load(job->weights[0] + (size_t)t * BLOCK_CHANNELS);
        const float *from = input + job->offsets[t];
#pragma GCC unroll 4
        for (int p = 0; p < pixels; p++) sums[p] += vector_load(from + (size_t)p * job->pixel_step) * weights;
    }
#pragma GCC unroll 4
    for (int p = 0; p < pixels; p++) {
        float *to = output + (size_t)p * job->output_step;
        vector_store(to, job->accumulate ? vector_load(to) + sums[p] : sums[p]);
    }
}

VECTORIZED void depthwise_direct_row(const struct direct_job *job, const float *input, int pixels, float *const outputs[2])
{
    float *output = outputs[0];
    int p = 0;
    for (; p + PIXELS <= pixels; p += PIXELS, input += PIXELS * job->pixel_step, output += PIXELS * job->output_step)
        convolve_float_pixels(job, input, output, PIXELS);
    for (; p < pixels; p++, input += job->pixel_step, output += job->output_step) convolve_float_pixels(job, input, output, 1);
}

VECTOR_INLINE void gradient_float_terms(const struct direct_gradient_job *job, int first, const int terms, float *totals)
{
    vector_float sums[TAPS];
    const float *inputs[TAPS];
#pragma GCC unroll 3
    for (int t = 0; t < terms; t++) sums[t] = vector_load(totals + (size_t)(first + t) * BLOCK_CHANNELS);
    for (int y = 0; y < job->height; y++) {
        const float *errors = job->errors + (size_t)y * job->error_row_step;
        for (int t = 0; t < terms; t++) inputs[t] = job->input + job->offsets[first + t] + (size_t)y * job->row_step;
        for (int x = 0; x < job->width; x++) {
            vector_float e = vector_load(errors + (size_t)x * BLOCK_CHANNELS);
#pragma GCC unroll 3
            for (int t = 0; t < terms; t++) sums[t] += vector_load(inputs[t] + (size_t)x * job->pixel_step) * e;
        }
    }
#pragma GCC unroll 3
    for (int t = 0; t < terms; t++) vector_store(totals + (size_t)(first + t) * BLOCK_CHANNELS, sums[t]);
}

VECTORIZED void depthwise_direct_gradient(const struct direct_gradient_job *job, float *totals)
{
    int term = 0;
    for (; term + TAPS <= job->terms; term += TAPS) gradient_float_terms(job, term, TAPS, totals);
    for (; term < job->terms; term++) gradient_float_terms(job, term, 1, totals);
}
