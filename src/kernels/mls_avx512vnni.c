// The kernels for AVX-512 with VNNI and VBMI (Ice Lake, Zen 4 and later).
//
// Forward and input error: a lane is an output channel, a dot product takes 4 input channels of one pixel
// (broadcast) and 4 x 16 weights. Weight gradient: a lane is an input channel, a dot product takes 4 pixels.
#include "kernels/kernels.h"

#if defined(__GNUC__) && !defined(__clang__)
// This pass makes gcc 12 copy every accumulator at each turn of the inner loops.
#pragma GCC optimize("no-tree-pre")
#endif

#include <immintrin.h>

static bool supported_avx512vnni(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512cd") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vbmi") &&
           __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("fma");
}

#define INLINE static inline __attribute__((always_inline))

// ---------------------------------------------------------------------------------------------
// Quantization

struct quantizer_vectors {
    __m512i low, high, largest, mantissa;
    bool stochastic;
};

INLINE struct quantizer_vectors quantizer_load(const struct quantizer *q)
{
    return (struct quantizer_vectors){_mm512_set1_epi32(q->low), _mm512_set1_epi32(q->high),
                                      _mm512_set1_epi32(q->largest), _mm512_set1_epi32(q->mantissa), q->stochastic};
}

// 16 elements -> I as int32. random: 16 bits a lane.
INLINE __m512i quantize_16(const struct quantizer_vectors *q, __m512 x, __m512 reciprocal, __m512i random,
                           bool stochastic)
{
    const __m512i one = _mm512_set1_epi32(1);
    __m512 scaled = _mm512_mul_ps(_mm512_mul_ps(_mm512_abs_ps(x), reciprocal), _mm512_set1_ps(65536.0f));
    __m512i y = _mm512_cvtps_epi32(_mm512_min_ps(scaled, _mm512_set1_ps(65535.0f)));
    __m512i l = _mm512_sub_epi32(_mm512_set1_epi32(31), _mm512_lzcnt_epi32(y));
    l = _mm512_min_epi32(_mm512_max_epi32(l, q->low), q->high);
    __m512i dropped = _mm512_sub_epi32(l, q->mantissa);
    __m512i power = _mm512_sllv_epi32(one, dropped);
    if (stochastic)
        y = _mm512_add_epi32(y, _mm512_and_epi32(random, _mm512_sub_epi32(power, one)));
    else
        y = _mm512_add_epi32(y, _mm512_srli_epi32(power, 1));
    __m512i integer = _mm512_sllv_epi32(_mm512_srlv_epi32(y, dropped), _mm512_sub_epi32(l, q->low));
    integer = _mm512_min_epi32(integer, q->largest);
    __mmask16 negative = _mm512_movepi32_mask(_mm512_castps_si512(x));
    return _mm512_mask_sub_epi32(integer, negative, _mm512_setzero_si512(), integer);
}

// mls_random_hash of 16 positions.
INLINE __m512i hash_16(struct mls_plane_keys keys, int block)
{
    const __m512i lanes = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    __m512i counter = _mm512_add_epi32(lanes, _mm512_set1_epi32(16 * block));
    __m512i h = _mm512_add_epi32(_mm512_mullo_epi32(counter, _mm512_set1_epi32((int)0x9e3779b9u)),
                                 _mm512_set1_epi32((int)keys.first));
    h = _mm512_mullo_epi32(_mm512_xor_si512(h, _mm512_srli_epi32(h, 16)), _mm512_set1_epi32((int)0x21f0aaadu));
    h = _mm512_add_epi32(h, _mm512_set1_epi32((int)keys.second));
    h = _mm512_mullo_epi32(_mm512_xor_si512(h, _mm512_srli_epi32(h, 15)), _mm512_set1_epi32((int)0x735a2d97u));
    return _mm512_xor_si512(h, _mm512_srli_epi32(h, 15));
}

// 16 x 16 bytes, row c = channel, column = pixel -> row = pixel, column = channel.
INLINE void transpose_bytes(const __m128i in[16], __m128i out[16])
{
    __m128i a[16], b[16];
    for (int i = 0; i < 8; i++) {
        a[2 * i] = _mm_unpacklo_epi8(in[i], in[i + 8]);
        a[2 * i + 1] = _mm_unpackhi_epi8(in[i], in[i + 8]);
    }
    for (int i = 0; i < 8; i++) {
        b[2 * i] = _mm_unpacklo_epi8(a[i], a[i + 8]);
        b[2 * i + 1] = _mm_unpackhi_epi8(a[i], a[i + 8]);
    }
    for (int i = 0; i < 8; i++) {
        a[2 * i] = _mm_unpacklo_epi8(b[i], b[i + 8]);
        a[2 * i + 1] = _mm_unpackhi_epi8(b[i], b[i + 8]);
    }
    for (int i = 0; i < 8; i++) {
        out[2 * i] = _mm_unpacklo_epi8(a[i], a[i + 8]);
        out[2 * i + 1] = _mm_unpackhi_epi8(a[i], a[i + 8]);
    }
}

// Bytes first .. first + count - 1 of a plane of `width` columns, into rows that are `pitch` apart.
INLINE void store_plane(uint8_t *plane, int pitch, int width, int first, int count, __m128i codes)
{
    int row = first / width, column = first % width;
    if (column + count <= width || pitch == width) {
        _mm_mask_storeu_epi8(plane + (size_t)row * (size_t)pitch + (size_t)column, (__mmask16)((1u << count) - 1), codes);
        return;
    }
    uint8_t bytes[16];
    _mm_storeu_si128((__m128i *)bytes, codes);
    for (int i = 0; i < count;) {
        int piece = width - column < count - i ? width - column : count - i;
        __builtin_memcpy(plane + (size_t)row * (size_t)pitch + (size_t)column, bytes + i, (size_t)piece);
        i += piece;
        column = 0;
        row++;
    }
}

// All channels of the block, as planes of I (rows) and of I + zero point (planes).
INLINE void store_planes(const struct quantize_job *job, int first, int count, const __m128i codes[16])
{
    const __m128i zero_point = _mm_set1_epi8((char)job->zero_point);
    for (int c = 0; job->rows && c < BLOCK_CHANNELS; c++)
        store_plane((uint8_t *)job->rows + (size_t)c * job->rows_plane, job->row_pitch, job->width, first, count, codes[c]);
    for (int c = 0; job->planes && c < BLOCK_CHANNELS; c++)
        store_plane(job->planes + (size_t)c * job->plane_bytes, job->plane_pitch, job->width, first, count,
                    _mm_xor_si128(codes[c], zero_point));
}

INLINE void store_pixels(const struct quantize_job *job, int first, int count, const __m128i codes[16])
{
    const __m128i zero_point = _mm_set1_epi8((char)job->zero_point);
    __m128i pixels[16];
    transpose_bytes(codes, pixels);
    int row = first / job->width, column = first % job->width;
    uint8_t *to = job->pixels + (size_t)row * job->row_bytes;
    if (count == 16 && column + 16 <= job->width) {
        for (int i = 0; i < 16; i++)
            _mm_storeu_si128((__m128i *)(to + (size_t)(column + i) * 16), _mm_xor_si128(pixels[i], zero_point));
        return;
    }
    for (int i = 0; i < count; i++) {
        _mm_storeu_si128((__m128i *)(to + (size_t)column * 16), _mm_xor_si128(pixels[i], zero_point));
        if (++column == job->width) column = 0, to += job->row_bytes;
    }
}

// 32 pixels (two halves) of all channels of the block, so that one hash serves both halves.
INLINE void quantize_32(const struct quantize_job *job, const struct quantizer_vectors *q, int first, int left,
                        bool stochastic)
{
    int counts[2] = {left < 16 ? left : 16, left < 16 ? 0 : left < 32 ? left - 16 : 16};
    __mmask16 masks[2] = {(__mmask16)((1u << counts[0]) - 1), (__mmask16)((1u << counts[1]) - 1)};
    __m128i codes[2][16];
    for (int c = 0; c < BLOCK_CHANNELS; c++) {
        if (c >= job->channels) {
            codes[0][c] = codes[1][c] = _mm_setzero_si128();
            continue;
        }
        const float *x = job->x + (size_t)c * job->plane + first;
        __m512 reciprocal = _mm512_set1_ps(job->reciprocals[c]);
        __m512i hash = stochastic ? hash_16(job->keys[c], first / 32) : _mm512_setzero_si512();
        __m512 low = _mm512_maskz_loadu_ps(masks[0], x), high = _mm512_maskz_loadu_ps(masks[1], x + 16);
        __m512i random = _mm512_and_si512(hash, _mm512_set1_epi32(0xffff));
        codes[0][c] = _mm512_cvtepi32_epi8(quantize_16(q, low, reciprocal, random, stochastic));
        codes[1][c] = _mm512_cvtepi32_epi8(quantize_16(q, high, reciprocal, _mm512_srli_epi32(hash, 16), stochastic));
    }
    for (int half = 0; half < 2 && counts[half] > 0; half++) {
        if (job->pixels) store_pixels(job, first + 16 * half, counts[half], codes[half]);
        store_planes(job, first + 16 * half, counts[half], codes[half]);
    }
}

static void quantize_block_avx512vnni(const struct quantize_job *job)
{
    struct quantizer_vectors q = quantizer_load(&job->quantizer);
    int count = job->height * job->width;
    if (job->quantizer.stochastic)
        for (int first = 0; first < count; first += 32) quantize_32(job, &q, first, count - first, true);
    else
        for (int first = 0; first < count; first += 32) quantize_32(job, &q, first, count - first, false);
}

static void quantize_run_avx512vnni(const struct quantizer *quantizer, const float *x, int count, float reciprocal,
                                    int8_t *codes)
{
    struct quantizer_vectors q = quantizer_load(quantizer);
    __m512 r = _mm512_set1_ps(reciprocal);
    for (int i = 0; i < count; i += 16) {
        int left = count - i < 16 ? count - i : 16;
        __mmask16 mask = (__mmask16)((1u << left) - 1);
        __m512i integers = quantize_16(&q, _mm512_maskz_loadu_ps(mask, x + i), r, _mm512_setzero_si512(), false);
        _mm512_mask_cvtepi32_storeu_epi8(codes + i, mask, integers);
    }
}

// ---------------------------------------------------------------------------------------------
// Forward and input error

// PIXELS x BLOCKS x 16 outputs; all three are constants in every call. The fp32 totals stay in registers where groups are
// short (KEEP), otherwise in `outputs` (first cache), so that all registers are left to the integer sums.
INLINE void convolve_tile(const struct convolve_job *job, const uint8_t *input, int first, float *const outputs[2],
                          const int PIXELS, const int BLOCKS, const bool KEEP)
{
    const int8_t *weights0 = job->weights[0], *weights1 = job->weights[1];
    const size_t step = job->pixel_bytes;
    const uint8_t *start = input + (size_t)first * step;
    float *to[2] = {outputs[0] + (size_t)first * BLOCK_CHANNELS, BLOCKS > 1 ? outputs[1] + (size_t)first * BLOCK_CHANNELS : NULL};
    const __m512i zero = _mm512_setzero_si512();
    __m512 total[16][2];
#pragma GCC unroll 16
    for (int p = 0; p < PIXELS; p++) total[p][0] = total[p][1] = _mm512_setzero_ps();
    for (int group = 0; group < job->groups; group++) {
        __m512i sum[16][2];
#pragma GCC unroll 2
        for (int b = 0; b < BLOCKS; b++) {
            __m512i correction = _mm512_loadu_si512(job->corrections[b] + group * BLOCK_CHANNELS);
#pragma GCC unroll 16
            for (int p = 0; p < PIXELS; p++) sum[p][b] = _mm512_sub_epi32(zero, correction);
        }
        for (int quad = job->quad_first[group]; quad <= job->quad_last[group]; quad++) {
            const uint8_t *base = start + job->quad_offsets[quad];
            for (int tap = 0; tap < job->taps; tap++) {
                const uint8_t *pixel = base + job->tap_offsets[tap];
                __m512i w0 = _mm512_loadu_si512(weights0), w1 = zero;
                weights0 += 64;
                if (BLOCKS > 1) {
                    w1 = _mm512_loadu_si512(weights1);
                    weights1 += 64;
                }
#pragma GCC unroll 16
                for (int p = 0; p < PIXELS; p++) {
                    int32_t four;
                    __builtin_memcpy(&four, pixel + (size_t)p * step, 4);
                    __m512i a = _mm512_set1_epi32(four);
                    sum[p][0] = _mm512_dpbusd_epi32(sum[p][0], a, w0);
                    if (BLOCKS > 1) sum[p][1] = _mm512_dpbusd_epi32(sum[p][1], a, w1);
                }
            }
        }
#pragma GCC unroll 2
        for (int b = 0; b < BLOCKS; b++) {
            __m512 scale = _mm512_loadu_ps(job->scales[b] + group * BLOCK_CHANNELS);
#pragma GCC unroll 16
            for (int p = 0; p < PIXELS; p++) {
                if (!KEEP) total[p][b] = group ? _mm512_loadu_ps(to[b] + p * BLOCK_CHANNELS) : _mm512_setzero_ps();
                total[p][b] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[p][b]), scale, total[p][b]);
                if (!KEEP) _mm512_storeu_ps(to[b] + p * BLOCK_CHANNELS, total[p][b]);
            }
        }
    }
    for (int b = 0; KEEP && b < BLOCKS; b++)
#pragma GCC unroll 16
        for (int p = 0; p < PIXELS; p++) _mm512_storeu_ps(to[b] + p * BLOCK_CHANNELS, total[p][b]);
}

#define TILE(name, pixels, blocks, keep)                                                                           \
    static void __attribute__((noinline)) convolve_##name##_avx512vnni(const struct convolve_job *job,              \
                                                                       const uint8_t *input, int first,             \
                                                                       float *const outputs[2])                     \
    {                                                                                                              \
        convolve_tile(job, input, first, outputs, pixels, blocks, keep);                                           \
    }
TILE(1x1, 1, 1, false) TILE(2x1, 2, 1, false) TILE(4x1, 4, 1, false) TILE(8x1, 8, 1, false) TILE(16x1, 16, 1, false)
TILE(1x2, 1, 2, false) TILE(2x2, 2, 2, false) TILE(4x2, 4, 2, false) TILE(6x2, 6, 2, false) TILE(8x2, 8, 2, false)
// Short groups: totals in registers, so half as many sums.
TILE(short_8x1, 8, 1, true) TILE(short_4x2, 4, 2, true)

static void convolve_row_avx512vnni(const struct convolve_job *job, const uint8_t *input, int pixels,
                                    float *const outputs[2])
{
    int x = 0;
    bool is_short = job->taps <= 4 && job->quad_first[0] == job->quad_last[0];
    if (job->blocks == 2) {
        for (; is_short && x + 4 <= pixels; x += 4) convolve_short_4x2_avx512vnni(job, input, x, outputs);
        for (; x + 8 <= pixels; x += 8) convolve_8x2_avx512vnni(job, input, x, outputs);
        for (; x + 6 <= pixels; x += 6) convolve_6x2_avx512vnni(job, input, x, outputs);
        for (; x + 4 <= pixels; x += 4) convolve_4x2_avx512vnni(job, input, x, outputs);
        for (; x + 2 <= pixels; x += 2) convolve_2x2_avx512vnni(job, input, x, outputs);
        for (; x < pixels; x++) convolve_1x2_avx512vnni(job, input, x, outputs);
        return;
    }
    for (; is_short && x + 8 <= pixels; x += 8) convolve_short_8x1_avx512vnni(job, input, x, outputs);
    for (; x + 16 <= pixels; x += 16) convolve_16x1_avx512vnni(job, input, x, outputs);
    for (; x + 8 <= pixels; x += 8) convolve_8x1_avx512vnni(job, input, x, outputs);
    for (; x + 4 <= pixels; x += 4) convolve_4x1_avx512vnni(job, input, x, outputs);
    for (; x + 2 <= pixels; x += 2) convolve_2x1_avx512vnni(job, input, x, outputs);
    for (; x < pixels; x++) convolve_1x1_avx512vnni(job, input, x, outputs);
}

// ---------------------------------------------------------------------------------------------
// Weight gradient

// 4 pixels x 16 channels, pixel_bytes apart -> 16 channels x 4 pixels.
INLINE __m512i load_pixels(const uint8_t *from, size_t pixel_bytes, __m512i order)
{
    __m512i pixels;
    if (pixel_bytes == BLOCK_CHANNELS) {
        pixels = _mm512_loadu_si512(from);
    } else {
        pixels = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i *)from));
        pixels = _mm512_inserti32x4(pixels, _mm_loadu_si128((const __m128i *)(from + pixel_bytes)), 1);
        pixels = _mm512_inserti32x4(pixels, _mm_loadu_si128((const __m128i *)(from + 2 * pixel_bytes)), 2);
        pixels = _mm512_inserti32x4(pixels, _mm_loadu_si128((const __m128i *)(from + 3 * pixel_bytes)), 3);
    }
    return _mm512_permutexvar_epi8(order, pixels);
}

INLINE void gradient_tile(const struct gradient_job *job, int32_t *sums, const int TAPS, const int CHANNELS,
                          const size_t pixel_bytes)
{
    uint8_t order_bytes[64];
    for (int i = 0; i < 64; i++) order_bytes[i] = (uint8_t)(i % 4 * 16 + i / 4);
    const __m512i order = _mm512_loadu_si512(order_bytes);
    __m512i sum[GRADIENT_TAPS][GRADIENT_CHANNELS];
    for (int t = 0; t < TAPS; t++)
        for (int c = 0; c < CHANNELS; c++) sum[t][c] = _mm512_setzero_si512();
    for (int y = 0; y < job->height; y++) {
        const uint8_t *pixels = job->pixels + (size_t)y * job->row_bytes;
        const int8_t *errors = job->rows + (size_t)y * (size_t)job->row_pitch;
        for (int x = 0; x < job->width; x += 4) {
            __m512i a[GRADIENT_TAPS];
            for (int t = 0; t < TAPS; t++)
                a[t] = load_pixels(pixels + job->tap_offsets[t] + (size_t)x * pixel_bytes, pixel_bytes, order);
#pragma GCC unroll 8
            for (int c = 0; c < CHANNELS; c++) {
                int32_t four;
                __builtin_memcpy(&four, errors + (size_t)c * job->rows_plane + x, 4);
                __m512i e = _mm512_set1_epi32(four);
                for (int t = 0; t < TAPS; t++) sum[t][c] = _mm512_dpbusd_epi32(sum[t][c], a[t], e);
            }
        }
    }
    for (int t = 0; t < TAPS; t++)
        for (int c = 0; c < CHANNELS; c++)
            _mm512_storeu_si512(sums + (t * GRADIENT_CHANNELS + c) * BLOCK_CHANNELS, sum[t][c]);
}

static void gradient_image_avx512vnni(const struct gradient_job *job, int32_t *sums)
{
    // The rows of channels that do not exist are there and hold zeros, so the tile is always whole.
    if (job->taps == 3 && job->pixel_bytes == BLOCK_CHANNELS)
        gradient_tile(job, sums, 3, GRADIENT_CHANNELS, BLOCK_CHANNELS);
    else if (job->taps == 3)
        gradient_tile(job, sums, 3, GRADIENT_CHANNELS, job->pixel_bytes);
    else if (job->taps == 2)
        gradient_tile(job, sums, 2, GRADIENT_CHANNELS, job->pixel_bytes);
    else
        gradient_tile(job, sums, 1, GRADIENT_CHANNELS, job->pixel_bytes);
}

static void add_gradient_avx512vnni(int taps, const int32_t *sums, const int32_t *corrections, const float *in_scales,
                                    const float *out_scales, float *totals)
{
    __m512 in = _mm512_loadu_ps(in_scales);
    for (int row = 0; row < taps * GRADIENT_CHANNELS; row++, sums += BLOCK_CHANNELS, totals += BLOCK_CHANNELS) {
        int channel = row % GRADIENT_CHANNELS;
        __m512i sum = _mm512_sub_epi32(_mm512_loadu_si512(sums), _mm512_set1_epi32(corrections[channel]));
        __m512 scale = _mm512_mul_ps(in, _mm512_set1_ps(out_scales[channel]));
        _mm512_storeu_ps(totals, _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), scale, _mm512_loadu_ps(totals)));
    }
}

// ---------------------------------------------------------------------------------------------
// Strips

// r[i] lane j <-> r[j] lane i.
INLINE void transpose_floats(__m512 r[16])
{
    __m512 t[16];
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        r[i] = _mm512_shuffle_ps(t[i], t[i + 2], 0x44);
        r[i + 1] = _mm512_shuffle_ps(t[i], t[i + 2], 0xee);
        r[i + 2] = _mm512_shuffle_ps(t[i + 1], t[i + 3], 0x44);
        r[i + 3] = _mm512_shuffle_ps(t[i + 1], t[i + 3], 0xee);
    }
    for (int i = 0; i < 4; i++) {
        t[i] = _mm512_shuffle_f32x4(r[i], r[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_f32x4(r[i], r[i + 4], 0xdd);
        t[i + 8] = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0x88);
        t[i + 12] = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0xdd);
    }
    for (int i = 0; i < 4; i++) {
        r[i] = _mm512_shuffle_f32x4(t[i], t[i + 8], 0x88);
        r[i + 8] = _mm512_shuffle_f32x4(t[i], t[i + 8], 0xdd);
        r[i + 4] = _mm512_shuffle_f32x4(t[i + 4], t[i + 12], 0x88);
        r[i + 12] = _mm512_shuffle_f32x4(t[i + 4], t[i + 12], 0xdd);
    }
}

static void store_strip_avx512vnni(const float *strip, int pixels, int channels, float factor, float *out, size_t plane,
                                   bool accumulate)
{
    __m512 scale = _mm512_set1_ps(factor);
    for (int first = 0; first < pixels; first += 16) {
        int left = pixels - first < 16 ? pixels - first : 16;
        __mmask16 mask = (__mmask16)((1u << left) - 1);
        __m512 r[16];
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++)
            r[i] = i < left ? _mm512_loadu_ps(strip + (size_t)(first + i) * BLOCK_CHANNELS) : _mm512_setzero_ps();
        transpose_floats(r);
#pragma GCC unroll 16
        for (int c = 0; c < 16; c++) {
            if (c >= channels) break;
            float *to = out + (size_t)c * plane + first;
            __m512 value = _mm512_mul_ps(r[c], scale);
            if (accumulate) value = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, to), value);
            _mm512_mask_storeu_ps(to, mask, value);
        }
    }
}

// ---------------------------------------------------------------------------------------------
// Peaks

static double dot_product_rounds_avx512vnni(long rounds)
{
    __m512i sum[16], a = _mm512_set1_epi32((int)rounds), b = _mm512_set1_epi32((int)rounds + 1);
    for (int i = 0; i < 16; i++) sum[i] = _mm512_set1_epi32(i);
    for (long round = 0; round < rounds; round++)
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++) {
            sum[i] = _mm512_dpbusd_epi32(sum[i], a, b);
            __asm__ volatile("" : "+v"(sum[i]));
        }
    return 16.0 * 64 * (double)rounds;
}

static double multiply_add_rounds_avx512vnni(long rounds)
{
    __m512 sum[16], a = _mm512_set1_ps((float)rounds), b = _mm512_set1_ps(0.5f);
    for (int i = 0; i < 16; i++) sum[i] = _mm512_set1_ps((float)i);
    for (long round = 0; round < rounds; round++)
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++) {
            sum[i] = _mm512_fmadd_ps(a, b, sum[i]);
            __asm__ volatile("" : "+v"(sum[i]));
        }
    return 16.0 * 16 * (double)rounds;
}

const struct kernel_set kernels_avx512vnni = {
    .name = "avx512vnni",
    .help = "AVX-512 with the 8-bit dot product (VNNI) and VBMI",
    .supported = supported_avx512vnni,
    .quantize_block = quantize_block_avx512vnni,
    .quantize_run = quantize_run_avx512vnni,
    .convolve_row = convolve_row_avx512vnni,
    .gradient_image = gradient_image_avx512vnni,
    .add_gradient = add_gradient_avx512vnni,
    .store_strip = store_strip_avx512vnni,
    .dot_product_rounds = dot_product_rounds_avx512vnni,
    .multiply_add_rounds = multiply_add_rounds_avx512vnni,
};
