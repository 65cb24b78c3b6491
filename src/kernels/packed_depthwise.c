// Packed convolutions where every channel is a convolution group of its own. Scale groups do not cross convolution groups, so each
// channel has its own pair of them (or one that all share), and an output is one P: section 4 of mls-format.md with a single G.
// Maps, their quantization and the windows are those of the other packed convolutions.
#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "kernels/depthwise.h"
#include "kernels/packed_internal.h"

static void *take(struct packed_convolution *packed, size_t count, size_t size, struct error *error)
{
    packed->memory += count * size;
    return memory_allocate(count, size, error);
}

bool depthwise_finish_phase(struct packed_convolution *packed, const struct direction *direction, struct phase *phase, struct error *error)
{
    size_t taps = (size_t)phase->taps;
    phase->tap_codes = take(packed, (size_t)direction->output_blocks * taps * BLOCK_CHANNELS, sizeof(int16_t), error);
    phase->quad_taps = take(packed, taps + 1, sizeof(int), error);
    if (!phase->tap_codes || !phase->quad_taps) return false;
    for (int tap = 0; tap < phase->taps; tap++) {
        bool goes_on = phase->quads > 0 && tap - phase->quad_taps[phase->quads - 1] < 4 &&
                       phase->tap_offsets[tap] == phase->tap_offsets[tap - 1] + BLOCK_CHANNELS;
        if (!goes_on) phase->quad_taps[phase->quads++] = tap;
    }
    phase->quad_taps[phase->quads] = phase->taps;
    return true;
}

// Sums of as many products of I from two operands fit 16 bits.
static int products_of_16_bits(const struct mls_format *a, const struct mls_format *b)
{
    return INT16_MAX / (int)(mls_largest_integer(a) * mls_largest_integer(b));
}

// ---------------------------------------------------------------------------------------------
// Weights

static void quantize_channel(struct packed_convolution *packed, const float *weights, int channel, const struct quantizer *quantizer,
                             uint64_t tensor_key)
{
    int window = packed->shape.kernel_height * packed->shape.kernel_width;
    float scale = packed->weight_tensor_scale * packed->weight_scales[mls_group_index(&packed->weight_grouping, channel, 0)];
    float reciprocal = packed->weight_tensor_scale > 0 ? 1.0f / scale : 0;
    int8_t *codes = packed->weight_codes + (size_t)channel * (size_t)window;
    weights += (size_t)channel * (size_t)window;
    if (!quantizer->stochastic) {
        packed->request.kernels->quantize_run(quantizer, weights, window, reciprocal, codes);
        return;
    }
    const struct mls_format *format = &packed->request.formats[MLS_WEIGHT];
    struct mls_plane_keys keys = mls_plane_keys_of(tensor_key, (uint64_t)channel);
    for (int k = 0; k < window; k++)
        codes[k] = (int8_t)mls_quantize_element(format, weights[k], reciprocal, mls_random_bits(keys, (uint32_t)k, 16));
}

// The codes of one block in the order of the taps of a phase.
static void pack_block(const struct packed_convolution *packed, const struct phase *phase, int block, int zero_point)
{
    int window = packed->shape.kernel_height * packed->shape.kernel_width;
    int16_t *codes = phase->tap_codes + (size_t)block * (size_t)phase->taps * BLOCK_CHANNELS;
    int8_t *quads = phase->weights + (size_t)block * phase->weights_block;
    int32_t *starts = phase->starts + block * BLOCK_CHANNELS;
    for (int i = 0; i < BLOCK_CHANNELS; i++) starts[i] = 0;
    for (int quad = 0; quad < phase->quads; quad++)
        for (int tap = phase->quad_taps[quad]; tap < phase->quad_taps[quad + 1]; tap++)
            for (int i = 0; i < BLOCK_CHANNELS; i++) {
                int channel = block * BLOCK_CHANNELS + i;
                bool exists = channel < packed->shape.out_channels;
                int8_t code = exists ? packed->weight_codes[channel * window + phase->tap_weights[tap][0]] : 0;
                codes[tap * BLOCK_CHANNELS + i] = code;
                quads[(quad * BLOCK_CHANNELS + i) * 4 + tap - phase->quad_taps[quad]] = code;
                starts[i] -= zero_point * code;
            }
}

static void pack_direction(const struct packed_convolution *packed, const struct direction *d, int zero_point)
{
    for (int i = 0; i < d->phase_count; i++)
        for (int block = 0; block < d->output_blocks; block++) pack_block(packed, &d->phases[i], block, zero_point);
    for (int c = 0; c < d->output_blocks * BLOCK_CHANNELS; c++)
        d->weight_scales[c] = c < d->outputs ? packed->weight_scales[mls_group_index(&packed->weight_grouping, c, 0)] : 1;
}

bool depthwise_quantize_weights(struct packed_convolution *packed, const float *weights, const struct quantizer *quantizer,
                                uint64_t tensor_key, struct error *error)
{
    const struct convolution_shape *s = &packed->shape;
    const struct mls_format *format = &packed->request.formats[MLS_WEIGHT];
    const struct mls_grouping *grouping = &packed->weight_grouping;
    int window = s->kernel_height * s->kernel_width, groups = grouping->blocks[0] * grouping->blocks[1];
    memset(packed->weight_maxima, 0, (size_t)groups * sizeof(float));
    for (int c = 0; c < s->out_channels; c++) {
        float *largest = &packed->weight_maxima[mls_group_index(grouping, c, 0)];
        for (int k = 0; k < window; k++) {
            float magnitude = fabsf(weights[c * window + k]);
            if (!(magnitude <= *largest) && !isnan(*largest)) *largest = magnitude;
        }
    }
    if (!mls_scales(format, packed->weight_maxima, groups, &packed->weight_tensor_scale, packed->weight_scales))
        return error_set(error, "the weights to quantize: not a finite number");
    for (int c = 0; c < s->out_channels; c++) quantize_channel(packed, weights, c, quantizer, tensor_key);
    pack_direction(packed, &packed->forward, packed->activations.zero_point);
    if (packed->request.for_training) pack_direction(packed, &packed->backward, packed->errors.zero_point);
    return true;
}

// ---------------------------------------------------------------------------------------------
// Forward and input error

static void convolve_phase(const struct packed_convolution *packed, const struct direction *d, const struct phase *phase,
                           const struct packed_map *map, struct depthwise_job *job, int block, const uint8_t *input, float *output)
{
    job->taps = phase->taps;
    job->quads = phase->quads;
    job->quad_taps = phase->quad_taps;
    job->tap_offsets = phase->tap_offsets;
    job->tap_codes = phase->tap_codes + (size_t)block * (size_t)phase->taps * BLOCK_CHANNELS;
    job->quad_codes = phase->weights + (size_t)block * phase->weights_block;
    job->starts = phase->starts + block * BLOCK_CHANNELS;
    job->output_step = (size_t)phase->step * BLOCK_CHANNELS;
    for (int row = 0; row < phase->rows && phase->columns > 0; row++) {
        size_t pixel = (size_t)(phase->first_y + row * phase->step) * (size_t)d->output_width + (size_t)phase->first_x;
        packed->request.kernels->depthwise_row(job, input + (size_t)(row * d->stride) * map->row_bytes, phase->columns,
                                               output + pixel * BLOCK_CHANNELS);
    }
}

void depthwise_convolve_image(const struct packed_convolution *packed, const struct direction *direction, const struct packed_map *map,
                              int image, const uint8_t *bytes, float factor, float *output, bool accumulate)
{
    size_t plane = (size_t)direction->output_height * (size_t)direction->output_width * BLOCK_CHANNELS;
    float scales[BLOCK_CHANNELS];
    struct depthwise_job job = {.zero_point = map->zero_point, .pixel_bytes = (size_t)direction->stride * BLOCK_CHANNELS, .scales = scales,
                                .run = products_of_16_bits(&packed->request.formats[MLS_WEIGHT], &map->format), .factor = factor,
                                .accumulate = accumulate};
    for (int block = 0; block < map->blocks; block++) {
        size_t number = (size_t)image * (size_t)map->blocks + (size_t)block;
        for (int i = 0; i < BLOCK_CHANNELS; i++)
            scales[i] = map->plane_scales[number * BLOCK_CHANNELS + (size_t)i] * direction->weight_scales[block * BLOCK_CHANNELS + i];
        for (int k = 0; k < direction->phase_count; k++)
            convolve_phase(packed, direction, &direction->phases[k], map, &job, block, bytes + (size_t)block * map->block_bytes,
                           output + number * plane);
    }
}

// ---------------------------------------------------------------------------------------------
// Weight gradient

// Where all images share their scales P runs over all of them, in `wide`.
static void add_image(const struct packed_convolution *packed, const int32_t *sums, int image, int block, int window, float *totals,
                      int64_t *wide)
{
    const struct packed_map *a = &packed->activations, *e = &packed->errors;
    size_t lane = ((size_t)image * (size_t)a->blocks + (size_t)block) * BLOCK_CHANNELS;
    for (int k = 0; k < window * BLOCK_CHANNELS; k++) {
        size_t channel = lane + (size_t)(k % BLOCK_CHANNELS);
        if (wide)
            wide[k] += sums[k];
        else
            totals[k] = fmaf((float)sums[k], a->plane_scales[channel] * e->plane_scales[channel], totals[k]);
    }
}

static void store_gradient(const struct gradient_work *work, int block, const float *totals)
{
    const struct convolution_shape *s = &work->packed->shape;
    int window = s->kernel_height * s->kernel_width;
    for (int i = 0; i < BLOCK_CHANNELS && block * BLOCK_CHANNELS + i < s->out_channels; i++)
        for (int k = 0; k < window; k++)
            work->gradient[(block * BLOCK_CHANNELS + i) * window + k] += totals[k * BLOCK_CHANNELS + i] * work->factor;
}

void depthwise_gradient_task(void *context, int block, int thread)
{
    const struct gradient_work *work = context;
    struct packed_convolution *packed = work->packed;
    const struct convolution_shape *s = &packed->shape;
    const struct packed_map *a = &packed->activations, *e = &packed->errors;
    int window = s->kernel_height * s->kernel_width;
    size_t count = (size_t)window * BLOCK_CHANNELS; // the scratch has room for more
    float *totals = packed_scratch_of(packed, thread).totals;
    int32_t *sums = (int32_t *)(void *)(totals + count);
    int64_t *wide = packed_scratch_of(packed, thread).sums;
    struct depthwise_gradient_job job = {.taps = window, .tap_offsets = packed->gradient_offsets, .height = e->height, .width = e->width,
                                         .pixel_bytes = (size_t)s->stride * BLOCK_CHANNELS, .row_bytes = (size_t)s->stride * a->row_bytes,
                                         .input_zero_point = a->zero_point, .error_row_bytes = e->row_bytes,
                                         .run = products_of_16_bits(&a->format, &e->format)};
    memset(totals, 0, count * sizeof *totals);
    if (wide) memset(wide, 0, count * sizeof *wide);
    for (int image = 0; image < work->images; image++) {
        size_t number = (size_t)image * (size_t)a->blocks + (size_t)block;
        job.inputs = a->pixels + number * a->block_bytes;
        job.errors = e->pixels + number * e->block_bytes + (size_t)e->top * e->row_bytes + (size_t)e->left * BLOCK_CHANNELS;
        packed->request.kernels->depthwise_gradient(&job, sums);
        add_image(packed, sums, image, block, window, totals, wide);
    }
    for (size_t k = 0; wide && k < count; k++) {
        size_t lane = (size_t)block * BLOCK_CHANNELS + k % BLOCK_CHANNELS;
        totals[k] = fmaf((float)wide[k], a->plane_scales[lane] * e->plane_scales[lane], 0.0f);
    }
    store_gradient(work, block, totals);
}
