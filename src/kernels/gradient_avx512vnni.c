// The weight gradient for AVX-512 with VNNI and VBMI: a lane is an input channel, a dot product takes 4 pixels.
#include "kernels/fetch.h"
#include "kernels/functions_avx512.h"
#include "kernels/vectors_avx512.h"

// The 16 channels of 4 pixels anywhere.
INLINE __m512i join_pixels(const uint8_t *from, size_t first, size_t second, size_t third, size_t fourth)
{
    __m512i pixels = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i *)(from + first)));
    pixels = _mm512_inserti32x4(pixels, _mm_loadu_si128((const __m128i *)(from + second)), 1);
    pixels = _mm512_inserti32x4(pixels, _mm_loadu_si128((const __m128i *)(from + third)), 2);
    return _mm512_inserti32x4(pixels, _mm_loadu_si128((const __m128i *)(from + fourth)), 3);
}

// 4 pixels x 16 channels, pixel_bytes apart -> 16 channels x 4 pixels.
INLINE __m512i load_pixels(const uint8_t *from, size_t pixel_bytes, __m512i order)
{
    __m512i pixels;
    if (pixel_bytes == BLOCK_CHANNELS) {
        pixels = _mm512_loadu_si512(from);
    } else if (pixel_bytes == 2 * BLOCK_CHANNELS) { // every other one of 8 pixels
        const __m512i even = _mm512_setr_epi64(0, 1, 4, 5, 8, 9, 12, 13);
        pixels = _mm512_permutex2var_epi64(_mm512_loadu_si512(from), even, _mm512_loadu_si512(from + 64));
    } else {
        pixels = join_pixels(from, 0, pixel_bytes, 2 * pixel_bytes, 3 * pixel_bytes);
    }
    return _mm512_permutexvar_epi8(order, pixels);
}

// sum[tap][channel] = P of 16 input channels for TAPS taps; all constants but the job and the offsets. Errors of channels that
// do not exist are zeros.
INLINE void gradient_sums(const struct gradient_job *job, const size_t *offsets, __m512i sum[GRADIENT_TAPS][GRADIENT_CHANNELS],
                          const int TAPS, const size_t pixel_bytes)
{
    const __m512i order = order_of_pixels();
#pragma GCC unroll 8
    for (int c = 0; c < GRADIENT_CHANNELS; c++) {
        __m512i begin = job->corrections ? _mm512_set1_epi32(-job->corrections[c]) : _mm512_setzero_si512();
#pragma GCC unroll 3
        for (int t = 0; t < TAPS; t++) sum[t][c] = begin;
    }
    const int8_t *errors = job->quads;
    for (int y = 0; y < job->height; y++) {
        const uint8_t *pixels = job->pixels + (size_t)y * job->row_bytes;
        fetch_some(job->fetch, job->row_quads);
        for (int x = 0; x < job->row_quads; x++, errors += 64, pixels += 4 * pixel_bytes) {
            __m512i a[GRADIENT_TAPS];
#pragma GCC unroll 3
            for (int t = 0; t < TAPS; t++) a[t] = load_pixels(pixels + offsets[t], pixel_bytes, order);
#pragma GCC unroll 8
            for (int c = 0; c < GRADIENT_CHANNELS; c++) {
                __m512i e = broadcast_4((const uint8_t *)errors + 4 * c);
#pragma GCC unroll 3
                for (int t = 0; t < TAPS; t++) sum[t][c] = _mm512_dpbusd_epi32(sum[t][c], a[t], e);
            }
        }
    }
}

// scales: Sg_1 * Sg_2, [8][16].
INLINE void add_to_totals(__m512i sum[GRADIENT_TAPS][GRADIENT_CHANNELS], const float *scales, float *totals, const int TAPS)
{
#pragma GCC unroll 8
    for (int c = 0; c < GRADIENT_CHANNELS; c++) {
        __m512 scale = _mm512_loadu_ps(scales + c * BLOCK_CHANNELS);
#pragma GCC unroll 3
        for (int t = 0; t < TAPS; t++) {
            float *to = totals + (t * GRADIENT_CHANNELS + c) * BLOCK_CHANNELS;
            _mm512_storeu_ps(to, _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[t][c]), scale, _mm512_loadu_ps(to)));
        }
    }
}

INLINE void add_to_sums(__m512i sum[GRADIENT_TAPS][GRADIENT_CHANNELS], int64_t *sums, const int TAPS)
{
#pragma GCC unroll 8
    for (int c = 0; c < GRADIENT_CHANNELS; c++)
#pragma GCC unroll 3
        for (int t = 0; t < TAPS; t++) {
            int64_t *to = sums + (t * GRADIENT_CHANNELS + c) * BLOCK_CHANNELS;
            __m512i low = _mm512_cvtepi32_epi64(_mm512_castsi512_si256(sum[t][c]));
            __m512i high = _mm512_cvtepi32_epi64(_mm512_extracti64x4_epi64(sum[t][c], 1));
            _mm512_storeu_si512(to, _mm512_add_epi64(_mm512_loadu_si512(to), low));
            _mm512_storeu_si512(to + 8, _mm512_add_epi64(_mm512_loadu_si512(to + 8), high));
        }
}

INLINE void gradient_tile(const struct gradient_job *job, int tap, const float *scales, float *totals, const int TAPS, const size_t pixel_bytes)
{
    __m512i sum[GRADIENT_TAPS][GRADIENT_CHANNELS];
    gradient_sums(job, job->tap_offsets + tap, sum, TAPS, pixel_bytes);
    add_to_totals(sum, scales, totals + tap * GRADIENT_CHANNELS * BLOCK_CHANNELS, TAPS);
}

// scales[8][16] = Sg_1 * Sg_2
INLINE void multiply_scales(const float *in_scales, const float *out_scales, float *scales)
{
    const __m512 in = _mm512_loadu_ps(in_scales);
    for (int c = 0; c < GRADIENT_CHANNELS; c++)
        _mm512_storeu_ps(scales + c * BLOCK_CHANNELS, _mm512_mul_ps(in, _mm512_set1_ps(out_scales[c])));
}

static void gradient_image_avx512vnni(const struct gradient_job *job, float *totals)
{
    float scales[GRADIENT_CHANNELS * BLOCK_CHANNELS];
    multiply_scales(job->in_scales, job->out_scales, scales);
    for (int tap = 0, count; tap < job->taps; tap += count) {
        count = gradient_tile_taps(job, tap);
        if (count == 3 && job->pixel_bytes == BLOCK_CHANNELS)
            gradient_tile(job, tap, scales, totals, 3, BLOCK_CHANNELS);
        else if (count == 3 && job->pixel_bytes == 2 * BLOCK_CHANNELS)
            gradient_tile(job, tap, scales, totals, 3, 2 * BLOCK_CHANNELS);
        else if (count == 3)
            gradient_tile(job, tap, scales, totals, 3, job->pixel_bytes);
        else if (count == 2)
            gradient_tile(job, tap, scales, totals, 2, job->pixel_bytes);
        else
            gradient_tile(job, tap, scales, totals, 1, job->pixel_bytes);
    }
}

void gradient_images_avx512vnni(const struct gradient_job *job, float *totals)
{
    struct gradient_job one = *job;
    for (int n = 0; n < job->images; n++, gradient_next_image(&one)) gradient_image_avx512vnni(&one, totals);
}

static void gradient_image_sums_avx512vnni(const struct gradient_job *job, int64_t *sums)
{
    __m512i sum[GRADIENT_TAPS][GRADIENT_CHANNELS];
    for (int tap = 0, count; tap < job->taps; tap += count) {
        const size_t *offsets = job->tap_offsets + tap;
        int64_t *to = sums + tap * GRADIENT_CHANNELS * BLOCK_CHANNELS;
        count = gradient_tile_taps(job, tap);
        if (count == 3) {
            gradient_sums(job, offsets, sum, 3, job->pixel_bytes);
            add_to_sums(sum, to, 3);
        } else if (count == 2) {
            gradient_sums(job, offsets, sum, 2, job->pixel_bytes);
            add_to_sums(sum, to, 2);
        } else {
            gradient_sums(job, offsets, sum, 1, job->pixel_bytes);
            add_to_sums(sum, to, 1);
        }
    }
}

void gradient_images_sums_avx512vnni(const struct gradient_job *job, int64_t *sums)
{
    struct gradient_job one = *job;
    for (int n = 0; n < job->images; n++, gradient_next_image(&one)) gradient_image_sums_avx512vnni(&one, sums);
}

void raster_pixels_avx512vnni(const struct raster_pixels_job *job)
{
    const __m512i order = order_of_pixels();
    for (int q = 0; q < job->quads; q++) {
        const size_t *at = job->offsets + 4 * q;
        const bool side_by_side = at[1] - at[0] == BLOCK_CHANNELS && at[2] - at[1] == BLOCK_CHANNELS && at[3] - at[2] == BLOCK_CHANNELS;
        const __m512i pixels = side_by_side ? _mm512_loadu_si512(job->pixels + at[0]) : join_pixels(job->pixels, at[0], at[1], at[2], at[3]);
        _mm512_storeu_si512(job->raster + 64 * q, _mm512_permutexvar_epi8(order, pixels));
    }
}

#define FEW_QUADS 4
#define FEW_IMAGES 32
#define SCALES_OF_IMAGE (GRADIENT_CHANNELS * BLOCK_CHANNELS)

// Maps of so few quads that the pixels of three taps stay in registers beside the totals of some output channels, over all images.
// scales: Sg_1 * Sg_2, [images][8][16]; read with one quad alone, where the products of three rows would be as many as a third of all others.
INLINE void raster_few_tile(const struct raster_job *job, const float *scales, int row, int channel, float *totals, const int QUADS,
                            const int CHANNELS)
{
    const uint8_t *pixels = job->pixels + (size_t)row * job->row_bytes;
    const int8_t *errors = job->errors + 4 * channel;
    const int32_t *corrections = job->corrections;
    __m512 total[3][GRADIENT_CHANNELS];
    totals += (3 * row * GRADIENT_CHANNELS + channel) * BLOCK_CHANNELS;
    scales += channel * BLOCK_CHANNELS;
    const float *in_scales = job->in_scales, *out_scales = job->out_scales + channel;
#pragma GCC unroll 3
    for (int t = 0; t < 3; t++)
#pragma GCC unroll 8
        for (int c = 0; c < CHANNELS; c++) total[t][c] = _mm512_loadu_ps(totals + (t * GRADIENT_CHANNELS + c) * BLOCK_CHANNELS);
    for (int n = 0; n < job->images; n++, pixels += job->image_pixels, errors += job->image_errors, scales += SCALES_OF_IMAGE) {
        __m512i a[3][FEW_QUADS];
        if (channel == 0) fetch_some(job->fetch, QUADS);
#pragma GCC unroll 3
        for (int t = 0; t < 3; t++)
#pragma GCC unroll 4
            for (int q = 0; q < QUADS; q++) a[t][q] = _mm512_loadu_si512(pixels + (size_t)t * job->column_bytes + q * 64);
#pragma GCC unroll 8
        for (int c = 0; c < CHANNELS; c++) {
            const __m512 scale = QUADS == 1 ? _mm512_loadu_ps(scales + c * BLOCK_CHANNELS)
                                            : _mm512_mul_ps(_mm512_loadu_ps(in_scales), _mm512_set1_ps(out_scales[c]));
            const __m512i start = corrections ? _mm512_set1_epi32(-corrections[channel + c]) : _mm512_setzero_si512();
            __m512i sum[3] = {start, start, start};
#pragma GCC unroll 4
            for (int q = 0; q < QUADS; q++) {
                const __m512i e = broadcast_4((const uint8_t *)errors + 64 * q + 4 * c);
#pragma GCC unroll 3
                for (int t = 0; t < 3; t++) sum[t] = _mm512_dpbusd_epi32(sum[t], a[t][q], e);
            }
#pragma GCC unroll 3
            for (int t = 0; t < 3; t++) total[t][c] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[t]), scale, total[t][c]);
        }
        in_scales += job->image_in_scales;
        out_scales += job->image_out_scales;
        if (corrections) corrections += job->image_corrections;
    }
#pragma GCC unroll 3
    for (int t = 0; t < 3; t++)
#pragma GCC unroll 8
        for (int c = 0; c < CHANNELS; c++) _mm512_storeu_ps(totals + (t * GRADIENT_CHANNELS + c) * BLOCK_CHANNELS, total[t][c]);
}

// raster_few_QUADSxCHANNELS
#define FEW_TILE(quads, channels)                                                                                  \
    static void __attribute__((noinline)) raster_few_##quads##x##channels##_avx512vnni(                             \
        const struct raster_job *job, const float *scales, int row, int channel, float *totals)                     \
    {                                                                                                              \
        raster_few_tile(job, scales, row, channel, totals, quads, channels);                                        \
    }
FEW_TILE(1, 8) FEW_TILE(2, 4) FEW_TILE(3, 4) FEW_TILE(4, 4)

// Up to FEW_IMAGES images.
static void raster_few_avx512vnni(const struct raster_job *job, float *totals)
{
    static void (*const tiles[FEW_QUADS])(const struct raster_job *, const float *, int, int, float *) = {
        raster_few_1x8_avx512vnni, raster_few_2x4_avx512vnni, raster_few_3x4_avx512vnni, raster_few_4x4_avx512vnni};
    const int channels = job->quads == 1 ? 8 : 4;
    float scales[FEW_IMAGES * SCALES_OF_IMAGE];
    for (int n = 0; job->quads == 1 && n < job->images; n++)
        multiply_scales(job->in_scales + (size_t)n * job->image_in_scales, job->out_scales + (size_t)n * job->image_out_scales,
                        scales + n * SCALES_OF_IMAGE);
    for (int row = 0; row < job->rows; row++)
        for (int channel = 0; channel < GRADIENT_CHANNELS; channel += channels) tiles[job->quads - 1](job, scales, row, channel, totals);
}

// A row of the window, of one image.
static void __attribute__((noinline)) raster_many_avx512vnni(const struct raster_job *job, int row, const float *scales, float *totals)
{
    __m512i sum[GRADIENT_TAPS][GRADIENT_CHANNELS];
    const size_t column_bytes = job->column_bytes;
    const uint8_t *pixels = job->pixels + (size_t)row * job->row_bytes;
    const int8_t *errors = job->errors;
    fetch_some(job->fetch, job->quads);
#pragma GCC unroll 8
    for (int c = 0; c < GRADIENT_CHANNELS; c++)
        sum[0][c] = sum[1][c] = sum[2][c] = job->corrections ? _mm512_set1_epi32(-job->corrections[c]) : _mm512_setzero_si512();
    for (int q = 0; q < job->quads; q++, pixels += 64, errors += 64) {
        __m512i a[GRADIENT_TAPS];
#pragma GCC unroll 3
        for (int t = 0; t < 3; t++) a[t] = _mm512_loadu_si512(pixels + (size_t)t * column_bytes);
#pragma GCC unroll 8
        for (int c = 0; c < GRADIENT_CHANNELS; c++) {
            const __m512i e = broadcast_4((const uint8_t *)errors + 4 * c);
#pragma GCC unroll 3
            for (int t = 0; t < 3; t++) sum[t][c] = _mm512_dpbusd_epi32(sum[t][c], a[t], e);
        }
    }
    add_to_totals(sum, scales, totals + 3 * row * GRADIENT_CHANNELS * BLOCK_CHANNELS, 3);
}

void gradient_raster_avx512vnni(const struct raster_job *job, float *totals)
{
    struct raster_job one = *job;
    float scales[GRADIENT_CHANNELS * BLOCK_CHANNELS];
    for (int first = 0; job->quads <= FEW_QUADS && first < job->images; first += one.images) {
        one.images = job->images - first < FEW_IMAGES ? job->images - first : FEW_IMAGES;
        raster_few_avx512vnni(&one, totals);
        for (int n = 0; n < one.images; n++) raster_next_image(&one);
    }
    for (int n = 0; job->quads > FEW_QUADS && n < job->images; n++, raster_next_image(&one)) {
        multiply_scales(one.in_scales, one.out_scales, scales);
        for (int row = 0; row < job->rows; row++) raster_many_avx512vnni(&one, row, scales, totals);
    }
}

void add_image_products_avx512vnni(const struct products_job *job, float *totals)
{
    for (int n = 0; n < job->images; n++) {
        const float *products = job->products + (size_t)n * job->image_products, *out_scales = job->out_scales + (size_t)n * job->image_out_scales;
        const __m512 in_scales = _mm512_loadu_ps(job->in_scales + (size_t)n * job->image_in_scales);
        __m512 scales[GRADIENT_CHANNELS];
#pragma GCC unroll 8
        for (int c = 0; c < GRADIENT_CHANNELS; c++) scales[c] = _mm512_mul_ps(in_scales, _mm512_set1_ps(out_scales[c]));
        for (int tap = 0; tap < job->taps; tap++)
#pragma GCC unroll 8
            for (int c = 0; c < GRADIENT_CHANNELS; c++) {
                const int at = (tap * GRADIENT_CHANNELS + c) * BLOCK_CHANNELS;
                __builtin_prefetch(products + 2 * job->image_products + at);
                _mm512_storeu_ps(totals + at, _mm512_fmadd_ps(_mm512_loadu_ps(products + at), scales[c], _mm512_loadu_ps(totals + at)));
            }
    }
}
