// The kernels in plain C: what every other set must equal bit for bit, and what runs where no other fits.
#include "kernels/depthwise.h"
#include "kernels/squares.h"
#include "kernels/kernels.h"

#include <math.h>
#include <string.h>

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

// Element [pixel][channel] of the source.
static float value_of(const struct source *source, size_t pixel, int channel)
{
    float lanes[BLOCK_CHANNELS];
    struct source_vectors vectors = source_open(source, source->kind);
    vector_store(lanes, source_value(&vectors, pixel, source->kind, source->activation, false));
    return lanes[channel];
}

static void quantize_channel(const struct quantize_job *job, int channel)
{
    struct mls_plane_keys keys = {job->first_keys[channel], job->second_keys[channel]};
    for (int row = 0; row < job->height; row++) {
        for (int column = 0; column < job->width; column++) {
            int position = row * job->width + column;
            uint32_t random = job->quantizer.stochastic ? mls_random_bits(keys, (uint32_t)position, 16) : 0;
            float x = value_of(&job->source, (size_t)position, channel);
            int integer = quantize_scalar(&job->quantizer, x, job->reciprocals[channel], random);
            uint8_t byte = (uint8_t)(integer + job->zero_point);
            if (job->pixels) job->pixels[(size_t)row * job->row_bytes + (size_t)(column * BLOCK_CHANNELS + channel)] = byte;
            if (job->planes) job->planes[(size_t)channel * job->plane_bytes + (size_t)(row * job->plane_pitch + column)] = byte;
            if (job->quads) job->quads[(row * job->row_quads + column / 4) * 64 + channel * 4 + column % 4] = (int8_t)integer;
        }
        for (int column = job->width; job->quads && column < 4 * job->row_quads; column++)
            job->quads[(row * job->row_quads + column / 4) * 64 + channel * 4 + column % 4] = 0;
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

static void convolve_pixel(const struct convolve_job *job, int block, const uint8_t *input, float *output)
{
    const int8_t *weights = job->weights[block];
    float total[BLOCK_CHANNELS] = {0};
    for (int group = 0; group < job->groups; group++) {
        int32_t sum[BLOCK_CHANNELS];
        for (int i = 0; i < BLOCK_CHANNELS; i++) sum[i] = job->starts[block][group * BLOCK_CHANNELS + i];
        for (int quad = job->quad_first[group]; quad <= job->quad_last[group]; quad++) {
            const uint8_t *pixel = input + job->quad_offsets[quad];
            for (int tap = 0; tap < job->taps; tap++, weights += 64)
                for (int i = 0; i < BLOCK_CHANNELS; i++)
                    for (int c = 0; c < 4; c++) sum[i] += pixel[job->tap_offsets[tap] + c] * weights[4 * i + c];
        }
        for (int i = 0; i < BLOCK_CHANNELS; i++)
            total[i] = fmaf((float)sum[i], job->scales[block][group * BLOCK_CHANNELS + i], total[i]);
    }
    for (int i = 0; i < BLOCK_CHANNELS; i++) {
        float value = total[i] * job->factor;
        output[i] = job->accumulate ? output[i] + value : value;
    }
}

static void convolve_row_scalar(const struct convolve_job *job, const uint8_t *input, int pixels, float *const outputs[2])
{
    for (int block = 0; block < job->blocks; block++)
        for (int pixel = 0; pixel < pixels; pixel++)
            convolve_pixel(job, block, input + (size_t)pixel * job->pixel_bytes, outputs[block] + (size_t)pixel * job->output_step);
}

static void convolve_pixels_scalar(const struct convolve_job *job, const uint8_t *input, const struct convolve_pixel *pixels, int count,
                                   float *const outputs[2])
{
    for (int i = 0; i < count; i++) {
        struct convolve_job one = *job;
        for (int block = 0; block < job->blocks; block++) {
            one.scales[block] = job->scales[block] + pixels[i].scales;
            convolve_pixel(&one, block, input + pixels[i].input, outputs[block] + pixels[i].output);
        }
    }
}

// The sums of transformed row k of a group, one pixel.
static void winograd_products(const struct winograd_job *job, int group, int k, int pixel, const int8_t *weights, int32_t sums[BLOCK_CHANNELS])
{
    const int columns = job->planar ? 1 : WINOGRAD_COLUMNS;
    const size_t step = job->planar ? 1 : BLOCK_CHANNELS;
    for (int quad = job->quad_first[group]; quad <= job->quad_last[group]; quad++, weights += 4 * columns * 64)
        for (int column = 0; column < columns; column++) {
            const uint8_t *four = job->rows + job->quad_offsets[quad] + (size_t)k * job->pitch + (size_t)(pixel + column) * step;
            for (int i = 0; i < BLOCK_CHANNELS; i++)
                for (int c = 0; c < 4; c++) sums[i] += four[c] * weights[(k * columns + column) * 64 + 4 * i + c];
        }
}

static void winograd_pixel(const struct winograd_job *job, int pixel, float totals[2][BLOCK_CHANNELS])
{
    const int8_t *weights = job->weights;
    const int half = job->planar ? 2 : 1; // whether g0 and g2 are twofold, or what the others add up to is halved, which is even
    for (int group = 0; group < job->groups; group++) {
        int32_t middle[2][BLOCK_CHANNELS], sums[2][BLOCK_CHANNELS];
        memcpy(middle, job->starts + group * 2 * BLOCK_CHANNELS, sizeof middle);
        for (int m = 0; m < 2; m++) winograd_products(job, group, 1 + m, pixel, weights, middle[m]);
        for (int i = 0; i < BLOCK_CHANNELS; i++) {
            sums[0][i] = (middle[0][i] + middle[1][i]) / half;
            sums[1][i] = (middle[0][i] - middle[1][i]) / half;
        }
        for (int row = 0; row < 2; row++) {
            winograd_products(job, group, 3 * row, pixel, weights, sums[row]);
            for (int i = 0; i < BLOCK_CHANNELS; i++)
                totals[row][i] = fmaf((float)(half * sums[row][i]), job->scales[group * BLOCK_CHANNELS + i], totals[row][i]);
        }
        weights += (job->quad_last[group] - job->quad_first[group] + 1) * 4 * (job->planar ? 1 : WINOGRAD_COLUMNS) * 64;
    }
}

static void winograd_input_scalar(const struct winograd_input_job *job)
{
    uint8_t *to = job->rows;
    for (int pair = 0; pair < job->pairs; pair++)
        for (int line = 0; line < job->lines; line++, to += 4 * job->pitch) {
            const uint8_t *d[4];
            for (int k = 0; k < 4; k++) d[k] = job->input + (size_t)line * job->line_bytes + (size_t)(2 * pair + k) * job->row_bytes;
            for (size_t x = 0; x < job->pitch; x++) { // the zero points cancel modulo 256, twice 128 as well
                to[x] = (uint8_t)(d[0][x] - d[2][x] + WINOGRAD_OFFSET);
                to[job->pitch + x] = (uint8_t)(d[1][x] + d[2][x] + WINOGRAD_OFFSET);
                to[2 * job->pitch + x] = (uint8_t)(d[2][x] - d[1][x] + WINOGRAD_OFFSET);
                to[3 * job->pitch + x] = (uint8_t)(d[3][x] - d[1][x] + WINOGRAD_OFFSET);
            }
        }
}

static void winograd_rows_scalar(const struct winograd_job *job, float *const outputs[2])
{
    for (int pixel = 0; pixel < job->pixels; pixel++) {
        float totals[2][BLOCK_CHANNELS] = {{0}};
        winograd_pixel(job, pixel, totals);
        for (int row = 0; row < 2; row++)
            for (int i = 0; i < BLOCK_CHANNELS; i++) {
                float *to = outputs[row] + (size_t)pixel * BLOCK_CHANNELS + i, value = totals[row][i] * 0.5f * job->factor;
                *to = job->accumulate ? *to + value : value;
            }
    }
}

// P of one tap and output channel, for 16 input channels.
static void gradient_sums(const struct gradient_job *job, int tap, int channel, int32_t sums[BLOCK_CHANNELS])
{
    for (int i = 0; i < BLOCK_CHANNELS; i++) sums[i] = job->corrections ? -job->corrections[channel] : 0;
    for (int y = 0; y < job->height; y++)
        for (int x = 0; x < job->width; x++) {
            const uint8_t *pixel = job->pixels + job->tap_offsets[tap] + (size_t)y * job->row_bytes + (size_t)x * job->pixel_bytes;
            int error = job->quads[(y * job->row_quads + x / 4) * 64 + channel * 4 + x % 4];
            for (int i = 0; i < BLOCK_CHANNELS; i++) sums[i] += pixel[i] * error;
        }
}

static void gradient_image_scalar(const struct gradient_job *job, float *totals)
{
    for (int row = 0; row < job->taps * GRADIENT_CHANNELS; row++) {
        int channel = row % GRADIENT_CHANNELS;
        int32_t sums[BLOCK_CHANNELS];
        gradient_sums(job, row / GRADIENT_CHANNELS, channel, sums);
        for (int i = 0; i < BLOCK_CHANNELS; i++, totals++)
            *totals = fmaf((float)sums[i], job->in_scales[i] * job->out_scales[channel], *totals);
    }
}

static void gradient_image_sums_scalar(const struct gradient_job *job, int64_t *sums)
{
    for (int row = 0; row < job->taps * GRADIENT_CHANNELS; row++) {
        int32_t part[BLOCK_CHANNELS];
        gradient_sums(job, row / GRADIENT_CHANNELS, row % GRADIENT_CHANNELS, part);
        for (int i = 0; i < BLOCK_CHANNELS; i++) *sums++ += part[i];
    }
}

static void winograd_errors_scalar(const struct winograd_errors_job *job)
{
    const int row = job->row_quads * 64;
    for (int i = 0; i < 4 * BLOCK_CHANNELS; i++) job->starts[i] = 0;
    for (int i = 0; i < job->pairs * row; i++) {
        const int at = i / row * 2 * row + i % row, e0 = job->quads[at], e1 = job->quads[at + row], mixed[4] = {e0, e0 + e1, e0 - e1, e1};
        job->mixed[at] = (int8_t)mixed[1];
        job->mixed[at + row] = (int8_t)mixed[2];
        for (int k = 0; k < 4; k++) job->starts[k * BLOCK_CHANNELS + i % 64 / 4] -= WINOGRAD_OFFSET * mixed[k];
    }
}

// M of transformed row k, window column `column` and an output channel.
static void winograd_gradient_sums(const struct winograd_gradient_job *job, int k, int column, int channel, int32_t sums[BLOCK_CHANNELS])
{
    const int8_t *errors = (k == 0 || k == 3 ? job->quads : job->mixed) + (k >= 2 ? job->row_quads * 64 : 0);
    for (int i = 0; i < BLOCK_CHANNELS; i++) sums[i] = job->starts[k * BLOCK_CHANNELS + channel];
    for (int pair = 0; pair < job->pairs; pair++, errors += 2 * job->row_quads * 64)
        for (int x = 0; x < 4 * job->row_quads; x++) {
            const uint8_t *pixel = job->rows + (size_t)(4 * pair + k) * job->pitch + (size_t)(x + column) * BLOCK_CHANNELS;
            for (int i = 0; i < BLOCK_CHANNELS; i++) sums[i] += pixel[i] * errors[x / 4 * 64 + channel * 4 + x % 4];
        }
}

static void winograd_gradient_image_scalar(const struct winograd_gradient_job *job, float *totals)
{
    for (int column = 0; column < 3; column++)
        for (int channel = 0; channel < GRADIENT_CHANNELS; channel++) {
            int32_t m[4][BLOCK_CHANNELS];
            for (int k = 0; k < 4; k++) winograd_gradient_sums(job, k, column, channel, m[k]);
            for (int i = 0; i < BLOCK_CHANNELS; i++) {
                const int32_t half = (m[1][i] + m[2][i]) / 2, rows[3] = {m[0][i] + half, (m[1][i] - m[2][i]) / 2, m[3][i] + half};
                for (int row = 0; row < 3; row++) {
                    float *to = totals + ((3 * row + column) * GRADIENT_CHANNELS + channel) * BLOCK_CHANNELS + i;
                    *to = fmaf((float)rows[row], job->in_scales[i] * job->out_scales[channel], *to);
                }
            }
        }
}

static void winograd_gradient_scalar(const struct winograd_gradient_job *job, float *totals)
{
    struct winograd_gradient_job one = *job;
    for (int n = 0; n < job->images; n++, winograd_next_image(&one)) winograd_gradient_image_scalar(&one, totals);
}

static void gradient_images_scalar(const struct gradient_job *job, float *totals)
{
    struct gradient_job one = *job;
    for (int n = 0; n < job->images; n++, gradient_next_image(&one)) gradient_image_scalar(&one, totals);
}

static void raster_pixels_scalar(const struct raster_pixels_job *job)
{
    for (int p = 0; p < 4 * job->quads; p++)
        for (int i = 0; i < BLOCK_CHANNELS; i++) job->raster[p / 4 * 64 + 4 * i + p % 4] = job->pixels[job->offsets[p] + (size_t)i];
}

static void gradient_raster_image_scalar(const struct raster_job *job, float *totals)
{
    for (int tap = 0; tap < 3 * job->rows; tap++) {
        const uint8_t *pixels = job->pixels + (size_t)(tap / 3) * job->row_bytes + (size_t)(tap % 3) * job->column_bytes;
        for (int channel = 0; channel < GRADIENT_CHANNELS; channel++)
            for (int i = 0; i < BLOCK_CHANNELS; i++, totals++) {
                int32_t sum = job->corrections ? -job->corrections[channel] : 0;
                for (int p = 0; p < 4 * job->quads; p++) sum += pixels[p / 4 * 64 + 4 * i + p % 4] * job->errors[p / 4 * 64 + 4 * channel + p % 4];
                *totals = fmaf((float)sum, job->in_scales[i] * job->out_scales[channel], *totals);
            }
    }
}

static void gradient_raster_scalar(const struct raster_job *job, float *totals)
{
    struct raster_job one = *job;
    for (int n = 0; n < job->images; n++, raster_next_image(&one)) gradient_raster_image_scalar(&one, totals);
}

static void add_image_products_scalar(const struct products_job *job, float *totals)
{
    for (int n = 0; n < job->images; n++) {
        const float *products = job->products + (size_t)n * job->image_products, *in_scales = job->in_scales + (size_t)n * job->image_in_scales;
        const float *out_scales = job->out_scales + (size_t)n * job->image_out_scales;
        for (int i = 0; i < job->taps * GRADIENT_CHANNELS * BLOCK_CHANNELS; i++) {
            const float scale = in_scales[i % BLOCK_CHANNELS] * out_scales[i / BLOCK_CHANNELS % GRADIENT_CHANNELS];
            totals[i] = fmaf(products[i], scale, totals[i]);
        }
    }
}

static void gradient_images_sums_scalar(const struct gradient_job *job, int64_t *sums)
{
    struct gradient_job one = *job;
    for (int n = 0; n < job->images; n++, gradient_next_image(&one)) gradient_image_sums_scalar(&one, sums);
}

static void direct_row_scalar(const struct direct_job *job, const float *input, int pixels, float *const outputs[2])
{
    for (int block = 0; block < job->blocks; block++)
        for (int pixel = 0; pixel < pixels; pixel++)
            for (int i = 0; i < BLOCK_CHANNELS; i++) {
                const float *from = input + (size_t)pixel * job->pixel_step;
                float *to = outputs[block] + (size_t)pixel * job->output_step + i, total = 0;
                for (int t = 0; t < job->terms; t++)
                    total = fmaf(from[job->offsets[t]], job->weights[block][t * BLOCK_CHANNELS + i], total);
                *to = job->accumulate ? *to + total : total;
            }
}

static void direct_gradient_pixel_scalar(const struct direct_gradient_job *job, const float *input, const float *errors, float *totals)
{
    for (int t = 0; t < job->terms; t++)
        for (int i = 0; i < BLOCK_CHANNELS; i++)
            totals[t * BLOCK_CHANNELS + i] = fmaf(input[job->offsets[t]], errors[i], totals[t * BLOCK_CHANNELS + i]);
}

static void direct_gradient_scalar(const struct direct_gradient_job *job, float *totals)
{
    for (int n = 0; n < job->images; n++)
        for (int y = 0; y < job->height; y++)
            for (int x = 0; x < job->width; x++)
                direct_gradient_pixel_scalar(job, job->input + n * BLOCK_CHANNELS + (size_t)y * job->row_step + (size_t)x * job->pixel_step,
                                             job->errors + n * BLOCK_CHANNELS + (size_t)y * job->error_row_step + (size_t)x * job->error_pixel_step,
                                             totals);
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
    .convolve_pixels = convolve_pixels_scalar,
    .winograd_bits = 32,
    .winograd_planar = true,
    .winograd_input = winograd_input_scalar,
    .winograd_rows = winograd_rows_scalar,
    .winograd_errors = winograd_errors_scalar,
    .winograd_gradient = winograd_gradient_scalar,
    .squares_blocks = 1,
    .squares_weights = squares_weights_plain,
    .squares_input = squares_input_plain,
    .convolve_squares = convolve_squares_plain,
    .gradient_images = gradient_images_scalar,
    .gradient_images_sums = gradient_images_sums_scalar,
    .squares_pixels = squares_pixels_plain,
    .squares_errors = squares_errors_plain,
    .gradient_squares = gradient_squares_plain,
    .raster_pixels = raster_pixels_scalar,
    .gradient_raster = gradient_raster_scalar,
    .add_image_products = add_image_products_scalar,
    .depthwise_row = depthwise_row_plain,
    .depthwise_gradient = depthwise_gradient_plain,
    .direct_row = direct_row_scalar,
    .direct_gradient = direct_gradient_scalar,
    .dot_product_rounds = dot_product_rounds_scalar,
    .multiply_add_rounds = multiply_add_rounds_scalar,
};
