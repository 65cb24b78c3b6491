// The kernels in plain C: what every other set must equal bit for bit, and what runs where no other fits.
#include "kernels/kernels.h"

#include <math.h>

static bool supported_scalar(void)
{
    return true;
}

// Steps 5 to 8 of mls-format.md section 3 with Q = 16.
static int quantize_scalar(const struct quantizer *q, float x, float reciprocal, uint32_t random)
{
    float scaled = rintf(fabsf(x) * reciprocal * 65536.0f);
    uint32_t y = scaled < 65535.0f ? (uint32_t)scaled : 65535u;
    int l = y ? 31 - __builtin_clz(y) : -1;
    l = l < q->low ? q->low : l > q->high ? q->high : l;
    int dropped = l - q->mantissa;
    y += q->stochastic ? random & ((1u << dropped) - 1) : 1u << (dropped - 1);
    int integer = (int)((y >> dropped) << (l - q->low));
    if (integer > q->largest) integer = q->largest;
    return x < 0 ? -integer : integer;
}

static void quantize_channel(const struct quantize_job *job, int channel)
{
    const float *x = job->x + (size_t)channel * job->plane;
    for (int row = 0; row < job->height; row++) {
        for (int column = 0; column < job->width; column++) {
            int position = row * job->width + column, integer = 0;
            if (channel < job->channels) {
                uint32_t random =
                    job->quantizer.stochastic ? mls_random_bits(job->keys[channel], (uint32_t)position, 16) : 0;
                integer = quantize_scalar(&job->quantizer, x[position], job->reciprocals[channel], random);
            }
            uint8_t byte = (uint8_t)(integer + job->zero_point);
            if (job->pixels)
                job->pixels[(size_t)row * job->row_bytes + (size_t)column * BLOCK_CHANNELS + (size_t)channel] = byte;
            if (job->planes)
                job->planes[(size_t)channel * job->plane_bytes + (size_t)(row * job->plane_pitch + column)] = byte;
            if (job->rows)
                job->rows[(size_t)channel * job->rows_plane + (size_t)row * (size_t)job->row_pitch + (size_t)column] =
                    (int8_t)integer;
        }
    }
}

static void quantize_block_scalar(const struct quantize_job *job)
{
    for (int channel = 0; channel < BLOCK_CHANNELS; channel++) quantize_channel(job, channel);
}

static void quantize_run_scalar(const struct quantizer *quantizer, const float *x, int count, float reciprocal,
                                int8_t *codes)
{
    for (int i = 0; i < count; i++) codes[i] = (int8_t)quantize_scalar(quantizer, x[i], reciprocal, 0);
}

static void convolve_pixel(const struct convolve_job *job, int block, const uint8_t *input, float output[BLOCK_CHANNELS])
{
    const int8_t *weights = job->weights[block];
    for (int i = 0; i < BLOCK_CHANNELS; i++) output[i] = 0;
    for (int group = 0; group < job->groups; group++) {
        int32_t sum[BLOCK_CHANNELS];
        for (int i = 0; i < BLOCK_CHANNELS; i++) sum[i] = -job->corrections[block][group * BLOCK_CHANNELS + i];
        for (int quad = job->quad_first[group]; quad <= job->quad_last[group]; quad++) {
            const uint8_t *pixel = input + job->quad_offsets[quad];
            for (int tap = 0; tap < job->taps; tap++, weights += 64)
                for (int i = 0; i < BLOCK_CHANNELS; i++)
                    for (int c = 0; c < 4; c++) sum[i] += pixel[job->tap_offsets[tap] + c] * weights[4 * i + c];
        }
        for (int i = 0; i < BLOCK_CHANNELS; i++)
            output[i] = fmaf((float)sum[i], job->scales[block][group * BLOCK_CHANNELS + i], output[i]);
    }
}

static void convolve_row_scalar(const struct convolve_job *job, const uint8_t *input, int pixels, float *const outputs[2])
{
    for (int block = 0; block < job->blocks; block++)
        for (int pixel = 0; pixel < pixels; pixel++)
            convolve_pixel(job, block, input + (size_t)pixel * job->pixel_bytes,
                           outputs[block] + (size_t)pixel * BLOCK_CHANNELS);
}

static void gradient_pixel(const uint8_t *activations, int error, int32_t sums[BLOCK_CHANNELS])
{
    for (int i = 0; i < BLOCK_CHANNELS; i++) sums[i] += activations[i] * error;
}

static void gradient_image_scalar(const struct gradient_job *job, int32_t *sums)
{
    for (int i = 0; i < job->taps * GRADIENT_CHANNELS * BLOCK_CHANNELS; i++) sums[i] = 0;
    for (int tap = 0; tap < job->taps; tap++)
        for (int channel = 0; channel < job->out_channels; channel++)
            for (int y = 0; y < job->height; y++)
                for (int x = 0; x < job->width; x++)
                    gradient_pixel(job->pixels + job->tap_offsets[tap] + (size_t)y * job->row_bytes +
                                       (size_t)x * job->pixel_bytes,
                                   job->rows[(size_t)channel * job->rows_plane + (size_t)(y * job->row_pitch + x)],
                                   sums + (tap * GRADIENT_CHANNELS + channel) * BLOCK_CHANNELS);
}

static void add_gradient_scalar(int taps, const int32_t *sums, const int32_t *corrections, const float *in_scales,
                                const float *out_scales, float *totals)
{
    for (int row = 0; row < taps * GRADIENT_CHANNELS; row++)
        for (int i = 0; i < BLOCK_CHANNELS; i++, sums++, totals++) {
            int channel = row % GRADIENT_CHANNELS;
            *totals = fmaf((float)(*sums - corrections[channel]), in_scales[i] * out_scales[channel], *totals);
        }
}

static void store_strip_scalar(const float *strip, int pixels, int channels, float factor, float *out, size_t plane,
                               bool accumulate)
{
    for (int channel = 0; channel < channels; channel++)
        for (int pixel = 0; pixel < pixels; pixel++) {
            float value = strip[pixel * BLOCK_CHANNELS + channel] * factor;
            float *to = out + (size_t)channel * plane + pixel;
            *to = accumulate ? *to + value : value;
        }
}

static double dot_product_rounds_scalar(long rounds)
{
    int32_t sum[8] = {0};
    for (long round = 0; round < rounds; round++)
        for (int i = 0; i < 8; i++) {
            sum[i] += (int32_t)(uint8_t)round * (int8_t)(round + 1);
            __asm__ volatile("" : "+r"(sum[i]));
        }
    return 8.0 * (double)rounds;
}

static double multiply_add_rounds_scalar(long rounds)
{
    volatile float factor = 0.5f;
    float sum[8] = {0}, f = factor;
    for (long round = 0; round < rounds; round++)
        for (int i = 0; i < 8; i++) sum[i] = sum[i] * f + 1.0f;
    for (int i = 0; i < 8; i++) factor = sum[i];
    return 8.0 * (double)rounds;
}

const struct kernel_set kernels_scalar = {
    .name = "scalar",
    .help = "plain C, any processor: the reference of the other sets",
    .supported = supported_scalar,
    .quantize_block = quantize_block_scalar,
    .quantize_run = quantize_run_scalar,
    .convolve_row = convolve_row_scalar,
    .gradient_image = gradient_image_scalar,
    .add_gradient = add_gradient_scalar,
    .store_strip = store_strip_scalar,
    .dot_product_rounds = dot_product_rounds_scalar,
    .multiply_add_rounds = multiply_add_rounds_scalar,
};
