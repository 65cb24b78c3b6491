// The kernels for AVX-512 with VNNI and VBMI (Ice Lake, Zen 4 and later).
//
// Forward and input error: a lane is an output channel, a dot product takes 4 input channels of one pixel
// (broadcast) and 4 x 16 weights. Weight gradient: a lane is an input channel, a dot product takes 4 pixels.
#include "kernels/direct_avx512.h"
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

// I = ((Y' with its `dropped` low bits cleared) >> shift), dropped = max(floor(log2 Y), low) - mantissa: the same number as
// in struct quantizer's formula, whose clamps at `high` and at 65535 change nothing that `largest` does not cut off as well.
struct quantizer_vectors {
    __m512i log_offset;     // 31 - mantissa
    __m512i fewest_dropped; // low - mantissa
    __m512i largest;
    __m128i shift;          // low - mantissa
};

INLINE struct quantizer_vectors quantizer_load(const struct quantizer *q)
{
    return (struct quantizer_vectors){_mm512_set1_epi32(31 - q->mantissa), _mm512_set1_epi32(q->low - q->mantissa),
                                      _mm512_set1_epi32(q->largest), _mm_cvtsi32_si128(q->low - q->mantissa)};
}

// 16 elements -> I as int32. reciprocal: 2^16 / (St * Sg). random: at least 15 bits a lane. POSITIVE: no element is negative.
INLINE __m512i quantize_16(const struct quantizer_vectors *q, __m512 x, __m512 reciprocal, __m512i random, const bool STOCHASTIC,
                           const bool POSITIVE)
{
    __m512i y = _mm512_cvtps_epi32(_mm512_mul_ps(POSITIVE ? x : _mm512_abs_ps(x), reciprocal));
    __m512i dropped = _mm512_max_epi32(_mm512_sub_epi32(q->log_offset, _mm512_lzcnt_epi32(y)), q->fewest_dropped);
    __m512i kept = _mm512_sllv_epi32(_mm512_set1_epi32(-1), dropped);
    if (STOCHASTIC)
        y = _mm512_add_epi32(y, _mm512_andnot_si512(kept, random));
    else
        y = _mm512_add_epi32(y, _mm512_srli_epi32(_mm512_sub_epi32(_mm512_setzero_si512(), kept), 1));
    __m512i integer = _mm512_min_epi32(_mm512_srl_epi32(_mm512_and_si512(y, kept), q->shift), q->largest);
    if (POSITIVE) return integer;
    __mmask16 negative = _mm512_movepi32_mask(_mm512_castps_si512(x));
    return _mm512_mask_sub_epi32(integer, negative, _mm512_setzero_si512(), integer);
}

// mls_random_hash of one position for the keys of 16 channels.
INLINE __m512i hash_16(__m512i first, __m512i second, uint32_t counter)
{
    __m512i h = _mm512_add_epi32(_mm512_set1_epi32((int)(counter * 0x9e3779b9u)), first);
    h = _mm512_mullo_epi32(_mm512_xor_si512(h, _mm512_srli_epi32(h, 16)), _mm512_set1_epi32((int)0x21f0aaadu));
    h = _mm512_add_epi32(h, second);
    h = _mm512_mullo_epi32(_mm512_xor_si512(h, _mm512_srli_epi32(h, 15)), _mm512_set1_epi32((int)0x735a2d97u));
    return _mm512_xor_si512(h, _mm512_srli_epi32(h, 15));
}

struct quantize_vectors {
    struct quantizer_vectors q;
    struct source_vectors source;
    __m512 reciprocal;
    __m512i first, second, zero_point;
};

// What is known of a job when the code is compiled.
struct variant {
    bool stochastic, positive;
    enum source_kind kind;
    enum piecewise activation;
};

// Up to 4 neighbouring pixels of one row, from raster position `position`, row y, column x. random: in the low 16 bits.
// Returns I + zero point as [16 channels][4 pixels].
INLINE __m512i quantize_quad(const struct quantize_job *job, const struct quantize_vectors *v, int position, int y, int x, int count,
                          const __m512i random[4], const struct variant variant)
{
    __m512i codes[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        if (i >= count) {
            codes[i] = _mm512_setzero_si512();
            continue;
        }
        __m512 value = (__m512)source_value(&v->source, (size_t)(position + i), variant.kind, variant.activation);
        codes[i] = quantize_16(&v->q, value, v->reciprocal, random[i], variant.stochastic, variant.positive);
    }
    // 128-bit lane k, dword j: channels 4 k .. 4 k + 3 of pixel j.
    __m512i bytes = _mm512_packs_epi16(_mm512_packs_epi32(codes[0], codes[1]), _mm512_packs_epi32(codes[2], codes[3]));
    __mmask64 all = count == 4 ? ~(__mmask64)0 : ((__mmask64)1 << (16 * count)) - 1;
    if (job->pixels) {
        const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
        __m512i pixels = _mm512_xor_si512(_mm512_permutexvar_epi32(order, bytes), v->zero_point);
        uint8_t *to = job->pixels + (size_t)y * job->row_bytes + (size_t)x * BLOCK_CHANNELS;
        _mm512_mask_storeu_epi8(to, all, pixels);
    }
    const __m128i lane = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    __m512i quad = _mm512_shuffle_epi8(bytes, _mm512_broadcast_i32x4(lane));
    if (job->quads) _mm512_storeu_si512(job->quads + (size_t)(y * job->row_quads + x / 4) * 64, quad);
    return _mm512_xor_si512(quad, v->zero_point);
}

// Up to 4 pixels of all channels into planes.
INLINE void store_quad(const struct quantize_job *job, __m512i quad, int y, int x, int count)
{
    uint8_t planar[64];
    _mm512_storeu_si512(planar, quad);
    uint8_t *to = job->planes + (size_t)(y * job->plane_pitch + x);
    for (int c = 0; c < BLOCK_CHANNELS; c++) __builtin_memcpy(to + (size_t)c * job->plane_bytes, planar + 4 * c, (size_t)count);
}

// 16 neighbouring pixels of one row, or two rows of 8.
INLINE void store_quads(const struct quantize_job *job, const __m512i quads[4], int position)
{
    __m512i a = _mm512_unpacklo_epi32(quads[0], quads[1]), b = _mm512_unpackhi_epi32(quads[0], quads[1]);
    __m512i c = _mm512_unpacklo_epi32(quads[2], quads[3]), d = _mm512_unpackhi_epi32(quads[2], quads[3]);
    // 128-bit lane k of rows[i]: the 16 pixels of channel 4 k + i.
    __m512i rows[4] = {_mm512_unpacklo_epi64(a, c), _mm512_unpackhi_epi64(a, c), _mm512_unpacklo_epi64(b, d), _mm512_unpackhi_epi64(b, d)};
    int y = position / job->width, x = position % job->width;
    uint8_t *to = job->planes + (size_t)(y * job->plane_pitch + x);
    bool one_row = x + 16 <= job->width;
    uint8_t *second = one_row ? to + 8 : job->planes + (size_t)((position + 8) / job->width * job->plane_pitch + (position + 8) % job->width);
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        const __m128i lanes[4] = {_mm512_castsi512_si128(rows[i]), _mm512_extracti32x4_epi32(rows[i], 1), _mm512_extracti32x4_epi32(rows[i], 2),
                                  _mm512_extracti32x4_epi32(rows[i], 3)};
#pragma GCC unroll 4
        for (int k = 0; k < 4; k++) {
            size_t plane = (size_t)(4 * k + i) * job->plane_bytes;
            const int64_t halves[2] = {_mm_cvtsi128_si64(lanes[k]), _mm_extract_epi64(lanes[k], 1)};
            __builtin_memcpy(to + plane, &halves[0], 8);
            __builtin_memcpy(second + plane, &halves[1], 8);
        }
    }
}

struct cursor {
    int y, x;
};

INLINE void cursor_advance(struct cursor *c, int columns, int width)
{
    for (c->x += columns; c->x >= width; c->x -= width) c->y++;
}

// The planes of up to 16 pixels from `position`, quad by quad.
INLINE void store_planes(const struct quantize_job *job, const __m512i quads[4], int position, int total)
{
    if (job->width % 8 == 0 && position + 16 <= total) {
        store_quads(job, quads, position);
        return;
    }
    for (int k = 0; k < 4 && position + 4 * k < total; k++)
        store_quad(job, quads[k], (position + 4 * k) / job->width, (position + 4 * k) % job->width, 4);
}

// Rows of whole quads: one hash serves the pixels `position` and `position` + 16.
INLINE void quantize_whole_quads(const struct quantize_job *job, const struct quantize_vectors *v, const struct variant variant)
{
    int total = job->height * job->width;
    struct cursor near = {0, 0}, far = {0, 0};
    cursor_advance(&far, 16, job->width);
    for (int start = 0; start < total; start += 32) {
        __m512i near_quads[4], far_quads[4];
#pragma GCC unroll 4
        for (int k = 0; k < 4; k++) {
            int position = start + 4 * k;
            if (position >= total) break;
            __m512i near_bits[4], far_bits[4];
#pragma GCC unroll 4
            for (int i = 0; i < 4; i++) {
                near_bits[i] = variant.stochastic ? hash_16(v->first, v->second, (uint32_t)(start / 2 + 4 * k + i)) : _mm512_setzero_si512();
                far_bits[i] = _mm512_srli_epi32(near_bits[i], 16);
            }
            near_quads[k] = quantize_quad(job, v, position, near.y, near.x, 4, near_bits, variant);
            cursor_advance(&near, 4, job->width);
            if (position + 16 >= total) continue;
            far_quads[k] = quantize_quad(job, v, position + 16, far.y, far.x, 4, far_bits, variant);
            cursor_advance(&far, 4, job->width);
        }
        cursor_advance(&near, 16, job->width);
        cursor_advance(&far, 16, job->width);
        if (job->planes) store_planes(job, near_quads, start, total);
        if (job->planes && start + 16 < total) store_planes(job, far_quads, start + 16, total);
    }
}

// Any width.
INLINE void quantize_rows(const struct quantize_job *job, const struct quantize_vectors *v, const struct variant variant)
{
    for (int y = 0; y < job->height; y++)
        for (int x = 0; x < job->width; x += 4) {
            int count = job->width - x < 4 ? job->width - x : 4, position = y * job->width + x;
            __m512i bits[4];
            for (int i = 0; i < 4; i++) {
                int p = position + i;
                bits[i] = variant.stochastic ? hash_16(v->first, v->second, (uint32_t)(p / 32 * 16 + p % 16)) : _mm512_setzero_si512();
                if (p / 16 % 2) bits[i] = _mm512_srli_epi32(bits[i], 16);
            }
            __m512i quad = quantize_quad(job, v, position, y, x, count, bits, variant);
            if (job->planes) store_quad(job, quad, y, x, count);
        }
}

INLINE void quantize_source(const struct quantize_job *job, const struct variant variant)
{
    struct quantize_vectors v = {.q = quantizer_load(&job->quantizer), .source = source_open(&job->source, variant.kind),
                                 .reciprocal = _mm512_mul_ps(_mm512_loadu_ps(job->reciprocals), _mm512_set1_ps(65536.0f)),
                                 .first = _mm512_loadu_si512(job->first_keys), .second = _mm512_loadu_si512(job->second_keys),
                                 .zero_point = _mm512_set1_epi8((char)job->zero_point)};
    if (job->width % 4 == 0)
        quantize_whole_quads(job, &v, variant);
    else
        quantize_rows(job, &v, variant);
}

static void quantize_positive_avx512vnni(const struct quantize_job *job)
{
#define BODY(kind, activation) quantize_source(job, (struct variant){false, true, kind, activation})
    SOURCE_DISPATCH(&job->source, BODY);
#undef BODY
}

static void quantize_nearest_avx512vnni(const struct quantize_job *job)
{
#define BODY(kind, activation) quantize_source(job, (struct variant){false, false, kind, activation})
    SOURCE_DISPATCH(&job->source, BODY);
#undef BODY
}

static void quantize_stochastic_avx512vnni(const struct quantize_job *job)
{
#define BODY(kind, activation) quantize_source(job, (struct variant){true, false, kind, activation})
    SOURCE_DISPATCH(&job->source, BODY);
#undef BODY
}

// Whether 2^16 / (St * Sg) is a finite number, as it is for all but the smallest scales.
static bool scaled_is_finite(const struct quantize_job *job)
{
    __mmask16 large = _mm512_cmp_ps_mask(_mm512_loadu_ps(job->reciprocals), _mm512_set1_ps(0x1p111f), _CMP_GE_OQ);
    return large == 0;
}

static void quantize_block_avx512vnni(const struct quantize_job *job)
{
    if (!scaled_is_finite(job))
        kernels_scalar.quantize_block(job);
    else if (job->quantizer.stochastic)
        quantize_stochastic_avx512vnni(job);
    else if (job->zero_point == 0 && !job->quads)
        quantize_positive_avx512vnni(job);
    else
        quantize_nearest_avx512vnni(job);
}

static void quantize_run_avx512vnni(const struct quantizer *quantizer, const float *x, int count, float reciprocal,
                                    int8_t *codes)
{
    if (reciprocal >= 0x1p111f) { // see scaled_is_finite
        kernels_scalar.quantize_run(quantizer, x, count, reciprocal, codes);
        return;
    }
    struct quantizer_vectors q = quantizer_load(quantizer);
    __m512 r = _mm512_set1_ps(reciprocal * 65536.0f);
    for (int i = 0; i < count; i += 16) {
        int left = count - i < 16 ? count - i : 16;
        __mmask16 mask = (__mmask16)((1u << left) - 1);
        __m512i integers = quantize_16(&q, _mm512_maskz_loadu_ps(mask, x + i), r, _mm512_setzero_si512(), false, false);
        _mm_mask_storeu_epi8(codes + i, mask, _mm512_cvtepi32_epi8(integers));
    }
}

// ---------------------------------------------------------------------------------------------
// Forward and input error

INLINE __m512i broadcast_4(const uint8_t *from)
{
    int32_t four;
    __builtin_memcpy(&four, from, 4);
    return _mm512_set1_epi32(four);
}

// Adds the products of RUN neighbouring taps: with 3, one broadcast pixel serves three outputs.
INLINE void add_taps(const uint8_t *pixel, size_t step, const int8_t *const weights[2], __m512i sum[16][2], const int PIXELS,
                     const int BLOCKS, const int RUN)
{
    __m512i w[3][2];
#pragma GCC unroll 3
    for (int k = 0; k < RUN; k++) {
        w[k][0] = _mm512_loadu_si512(weights[0] + 64 * k);
        if (BLOCKS > 1) w[k][1] = _mm512_loadu_si512(weights[1] + 64 * k);
    }
#pragma GCC unroll 18
    for (int i = 0; i < PIXELS + RUN - 1; i++) {
        __m512i a = broadcast_4(pixel + (size_t)i * step);
#pragma GCC unroll 3
        for (int k = 0; k < RUN; k++) {
            if (i - k < 0 || i - k >= PIXELS) continue;
            sum[i - k][0] = _mm512_dpbusd_epi32(sum[i - k][0], a, w[k][0]);
            if (BLOCKS > 1) sum[i - k][1] = _mm512_dpbusd_epi32(sum[i - k][1], a, w[k][1]);
        }
    }
}

INLINE void store_output(const struct convolve_job *job, float *to, __m512 total)
{
    __m512 value = _mm512_mul_ps(total, _mm512_set1_ps(job->factor));
    if (job->accumulate) value = _mm512_add_ps(_mm512_loadu_ps(to), value);
    _mm512_storeu_ps(to, value);
}

// PIXELS x BLOCKS x 16 outputs; all but the first four are constants in every call. The fp32 totals stay in registers where
// groups are short (KEEP), otherwise in `stored` (first cache), so that all registers are left to the integer sums.
INLINE void convolve_tile(const struct convolve_job *job, const uint8_t *input, int first, float *const outputs[2], float *stored,
                          const int PIXELS, const int BLOCKS, const int RUN, const bool KEEP)
{
    const int8_t *weights[2] = {job->weights[0], job->weights[1]};
    const size_t step = RUN == 3 ? BLOCK_CHANNELS : job->pixel_bytes;
    const uint8_t *start = input + (size_t)first * step;
    float *to[2] = {outputs[0] + (size_t)first * job->output_step, BLOCKS > 1 ? outputs[1] + (size_t)first * job->output_step : NULL};
    __m512 total[16][2];
#pragma GCC unroll 16
    for (int p = 0; p < PIXELS; p++) total[p][0] = total[p][1] = _mm512_setzero_ps();
    for (int group = 0; group < job->groups; group++) {
        __m512i sum[16][2];
#pragma GCC unroll 2
        for (int b = 0; b < BLOCKS; b++) {
            __m512i begin = _mm512_loadu_si512(job->starts[b] + group * BLOCK_CHANNELS);
#pragma GCC unroll 16
            for (int p = 0; p < PIXELS; p++) sum[p][b] = begin;
        }
        for (int quad = job->quad_first[group]; quad <= job->quad_last[group]; quad++) {
            const uint8_t *base = start + job->quad_offsets[quad];
            for (int tap = 0; tap < job->taps; tap += RUN) {
                add_taps(base + job->tap_offsets[tap], step, weights, sum, PIXELS, BLOCKS, RUN);
                weights[0] += 64 * RUN;
                if (BLOCKS > 1) weights[1] += 64 * RUN;
            }
        }
        bool last = group + 1 == job->groups;
#pragma GCC unroll 2
        for (int b = 0; b < BLOCKS; b++) {
            __m512 scale = _mm512_loadu_ps(job->scales[b] + group * BLOCK_CHANNELS);
#pragma GCC unroll 16
            for (int p = 0; p < PIXELS; p++) {
                if (!KEEP) total[p][b] = group ? _mm512_loadu_ps(stored + (2 * p + b) * BLOCK_CHANNELS) : _mm512_setzero_ps();
                total[p][b] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[p][b]), scale, total[p][b]);
                if (!KEEP && last)
                    store_output(job, to[b] + (size_t)p * job->output_step, total[p][b]);
                else if (!KEEP)
                    _mm512_storeu_ps(stored + (2 * p + b) * BLOCK_CHANNELS, total[p][b]);
            }
        }
    }
    for (int b = 0; KEEP && b < BLOCKS; b++)
#pragma GCC unroll 16
        for (int p = 0; p < PIXELS; p++) store_output(job, to[b] + (size_t)p * job->output_step, total[p][b]);
}

typedef void (*convolve_function)(const struct convolve_job *job, const uint8_t *input, int first, float *const outputs[2], float *stored);

// convolve_PIXELSxBLOCKS_runRUN
#define TILE(prefix, pixels, blocks, run, keep)                                                                    \
    static void __attribute__((noinline)) convolve_##prefix##pixels##x##blocks##_run##run##_avx512vnni(             \
        const struct convolve_job *job, const uint8_t *input, int first, float *const outputs[2], float *stored)    \
    {                                                                                                              \
        convolve_tile(job, input, first, outputs, stored, pixels, blocks, run, keep);                                      \
    }
#define TILES(run)                                                                                                 \
    TILE(, 16, 1, run, false) TILE(, 14, 1, run, false) TILE(, 8, 1, run, false) TILE(, 7, 1, run, false)           \
    TILE(, 4, 1, run, false) TILE(, 2, 1, run, false) TILE(, 1, 1, run, false) TILE(, 8, 2, run, false)             \
    TILE(, 7, 2, run, false) TILE(, 4, 2, run, false) TILE(, 2, 2, run, false) TILE(, 1, 2, run, false)             \
    TILE(short_, 8, 1, run, true) TILE(short_, 4, 2, run, true)
TILES(1)
TILES(3)

// Groups of one channel in planes, up to three taps (a window of 3 rows): all that a group needs is in registers at once.
INLINE void planar_tile(const struct convolve_job *job, const uint8_t *input, int first, float *const outputs[2], const int PIXELS,
                        const int BLOCKS, const int TAPS, const size_t step)
{
    const uint8_t *rows[3];
    for (int k = 0; k < TAPS; k++) rows[k] = input + (size_t)first * step + job->tap_offsets[k];
    __m512 total[16][2];
#pragma GCC unroll 16
    for (int p = 0; p < PIXELS; p++) total[p][0] = total[p][1] = _mm512_setzero_ps();
    for (int group = 0; group < job->groups; group++) {
        const size_t offset = job->quad_offsets[group];
        __m512i w[3][2], begin[2];
        __m512 scale[2];
#pragma GCC unroll 2
        for (int b = 0; b < BLOCKS; b++) {
            begin[b] = _mm512_loadu_si512(job->starts[b] + group * BLOCK_CHANNELS);
            scale[b] = _mm512_loadu_ps(job->scales[b] + group * BLOCK_CHANNELS);
#pragma GCC unroll 3
            for (int k = 0; k < TAPS; k++) w[k][b] = _mm512_loadu_si512(job->weights[b] + (TAPS * group + k) * 64);
        }
#pragma GCC unroll 16
        for (int p = 0; p < PIXELS; p++) {
            __m512i sum[2] = {begin[0], BLOCKS > 1 ? begin[1] : begin[0]};
#pragma GCC unroll 3
            for (int k = 0; k < TAPS; k++) {
                __m512i a = broadcast_4(rows[k] + offset + (size_t)p * step);
                sum[0] = _mm512_dpbusd_epi32(sum[0], a, w[k][0]);
                if (BLOCKS > 1) sum[1] = _mm512_dpbusd_epi32(sum[1], a, w[k][1]);
            }
            total[p][0] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[0]), scale[0], total[p][0]);
            if (BLOCKS > 1) total[p][1] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[1]), scale[1], total[p][1]);
        }
    }
#pragma GCC unroll 2
    for (int b = 0; b < BLOCKS; b++)
#pragma GCC unroll 16
        for (int p = 0; p < PIXELS; p++) store_output(job, outputs[b] + (size_t)(first + p) * job->output_step, total[p][b]);
}

// convolve_planar_PIXELSxBLOCKS_TAPS
#define PLANAR_TILE(pixels, blocks, taps)                                                                          \
    static void __attribute__((noinline)) convolve_planar_##pixels##x##blocks##_##taps##_avx512vnni(                \
        const struct convolve_job *job, const uint8_t *input, int first, float *const outputs[2])                   \
    {                                                                                                              \
        if (job->pixel_bytes == 1)                                                                                 \
            planar_tile(job, input, first, outputs, pixels, blocks, taps, 1);                                      \
        else                                                                                                       \
            planar_tile(job, input, first, outputs, pixels, blocks, taps, job->pixel_bytes);                       \
    }
#define PLANAR_TILES(taps) PLANAR_TILE(16, 1, taps) PLANAR_TILE(7, 1, taps) PLANAR_TILE(8, 2, taps) PLANAR_TILE(7, 2, taps)
PLANAR_TILES(1) PLANAR_TILES(2) PLANAR_TILES(3)

typedef void (*planar_function)(const struct convolve_job *job, const uint8_t *input, int first, float *const outputs[2]);
#define PLANAR_ROW(taps)                                                                                           \
    {{convolve_planar_16x1_##taps##_avx512vnni, convolve_planar_7x1_##taps##_avx512vnni},                          \
     {convolve_planar_8x2_##taps##_avx512vnni, convolve_planar_7x2_##taps##_avx512vnni}}
static const planar_function planar_tiles[3][2][2] = {PLANAR_ROW(1), PLANAR_ROW(2), PLANAR_ROW(3)}; // [taps - 1][blocks - 1][width 7]

// As many of the row's outputs as fill whole tiles; returns how many.
static int convolve_planar_avx512vnni(const struct convolve_job *job, const uint8_t *input, int pixels, float *const outputs[2])
{
    const planar_function *functions = planar_tiles[job->taps - 1][job->blocks - 1];
    int x = 0, whole = job->blocks == 1 ? 16 : 8;
    bool sevens = pixels % whole != 0 && pixels % 7 == 0;
    for (; !sevens && x + whole <= pixels; x += whole) functions[0](job, input, x, outputs);
    for (; x + 7 <= pixels; x += 7) functions[1](job, input, x, outputs);
    return x;
}

struct tile_choice {
    int pixels;
    convolve_function function;
};

#define CHOICE(pixels, blocks, run) {pixels, convolve_##pixels##x##blocks##_run##run##_avx512vnni}
#define CHOICES_1(run) {CHOICE(16, 1, run), CHOICE(14, 1, run), CHOICE(8, 1, run), CHOICE(7, 1, run), CHOICE(4, 1, run), CHOICE(2, 1, run), CHOICE(1, 1, run), {0, NULL}}
#define CHOICES_2(run) {CHOICE(8, 2, run), CHOICE(7, 2, run), CHOICE(4, 2, run), CHOICE(2, 2, run), CHOICE(1, 2, run), {0, NULL}}
static const struct tile_choice tiles[2][2][8] = { // [run == 3][blocks - 1], by falling size
    {CHOICES_1(1), CHOICES_2(1)},
    {CHOICES_1(3), CHOICES_2(3)},
};
static const struct tile_choice short_tiles[2][2] = {
    {{8, convolve_short_8x1_run1_avx512vnni}, {4, convolve_short_4x2_run1_avx512vnni}},
    {{8, convolve_short_8x1_run3_avx512vnni}, {4, convolve_short_4x2_run3_avx512vnni}},
};

// The first tile that leaves nothing over, else the largest that fits.
static const struct tile_choice *choose_tile(const struct tile_choice *choices, int pixels)
{
    const struct tile_choice *fits = NULL;
    for (; choices->function; choices++) {
        if (choices->pixels > pixels) continue;
        if (!fits) fits = choices;
        if (choices->pixels >= 7 && pixels % choices->pixels == 0) return choices;
    }
    return fits;
}

static void convolve_row_avx512vnni(const struct convolve_job *job, const uint8_t *input, int pixels,
                                    float *const outputs[2])
{
    float stored[2 * 16 * BLOCK_CHANNELS] __attribute__((aligned(64)));
    int x = 0, run = job->run == 3, blocks = job->blocks - 1;
    if (job->planar && job->taps <= 3)
        x = convolve_planar_avx512vnni(job, input, pixels, outputs);
    else if (job->taps <= 9 && job->quad_first[0] == job->quad_last[0] && job->groups > 1) {
        const struct tile_choice *tile = &short_tiles[run][blocks];
        for (; x + tile->pixels <= pixels; x += tile->pixels) tile->function(job, input, x, outputs, stored);
    }
    while (x < pixels) {
        const struct tile_choice *tile = choose_tile(tiles[run][blocks], pixels - x);
        tile->function(job, input, x, outputs, stored);
        x += tile->pixels;
    }
}

// ---------------------------------------------------------------------------------------------
// Weight gradient

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
        pixels = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i *)from));
        pixels = _mm512_inserti32x4(pixels, _mm_loadu_si128((const __m128i *)(from + pixel_bytes)), 1);
        pixels = _mm512_inserti32x4(pixels, _mm_loadu_si128((const __m128i *)(from + 2 * pixel_bytes)), 2);
        pixels = _mm512_inserti32x4(pixels, _mm_loadu_si128((const __m128i *)(from + 3 * pixel_bytes)), 3);
    }
    return _mm512_permutexvar_epi8(order, pixels);
}

// sum[tap][channel] = P of 16 input channels, all constants but the job. Errors of channels that do not exist are zeros.
INLINE void gradient_sums(const struct gradient_job *job, __m512i sum[GRADIENT_TAPS][GRADIENT_CHANNELS], const int TAPS,
                          const size_t pixel_bytes)
{
    uint8_t order_bytes[64];
    for (int i = 0; i < 64; i++) order_bytes[i] = (uint8_t)(i % 4 * 16 + i / 4);
    const __m512i order = _mm512_loadu_si512(order_bytes);
#pragma GCC unroll 8
    for (int c = 0; c < GRADIENT_CHANNELS; c++) {
        __m512i begin = _mm512_set1_epi32(-job->corrections[c]);
#pragma GCC unroll 3
        for (int t = 0; t < TAPS; t++) sum[t][c] = begin;
    }
    const int8_t *errors = job->quads;
    for (int y = 0; y < job->height; y++) {
        const uint8_t *pixels = job->pixels + (size_t)y * job->row_bytes;
        for (int x = 0; x < job->row_quads; x++, errors += 64, pixels += 4 * pixel_bytes) {
            __m512i a[GRADIENT_TAPS];
#pragma GCC unroll 3
            for (int t = 0; t < TAPS; t++) a[t] = load_pixels(pixels + job->tap_offsets[t], pixel_bytes, order);
#pragma GCC unroll 8
            for (int c = 0; c < GRADIENT_CHANNELS; c++) {
                __m512i e = broadcast_4((const uint8_t *)errors + 4 * c);
#pragma GCC unroll 3
                for (int t = 0; t < TAPS; t++) sum[t][c] = _mm512_dpbusd_epi32(sum[t][c], a[t], e);
            }
        }
    }
}

INLINE void add_to_totals(const struct gradient_job *job, __m512i sum[GRADIENT_TAPS][GRADIENT_CHANNELS], float *totals, const int TAPS)
{
    __m512 in = _mm512_loadu_ps(job->in_scales);
#pragma GCC unroll 8
    for (int c = 0; c < GRADIENT_CHANNELS; c++) {
        __m512 scale = _mm512_mul_ps(in, _mm512_set1_ps(job->out_scales[c]));
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

static void gradient_image_avx512vnni(const struct gradient_job *job, float *totals)
{
    __m512i sum[GRADIENT_TAPS][GRADIENT_CHANNELS];
    if (job->taps == 3 && job->pixel_bytes == BLOCK_CHANNELS) {
        gradient_sums(job, sum, 3, BLOCK_CHANNELS);
        add_to_totals(job, sum, totals, 3);
    } else if (job->taps == 3 && job->pixel_bytes == 2 * BLOCK_CHANNELS) {
        gradient_sums(job, sum, 3, 2 * BLOCK_CHANNELS);
        add_to_totals(job, sum, totals, 3);
    } else if (job->taps == 3) {
        gradient_sums(job, sum, 3, job->pixel_bytes);
        add_to_totals(job, sum, totals, 3);
    } else if (job->taps == 2) {
        gradient_sums(job, sum, 2, job->pixel_bytes);
        add_to_totals(job, sum, totals, 2);
    } else {
        gradient_sums(job, sum, 1, job->pixel_bytes);
        add_to_totals(job, sum, totals, 1);
    }
}

static void gradient_image_sums_avx512vnni(const struct gradient_job *job, int64_t *sums)
{
    __m512i sum[GRADIENT_TAPS][GRADIENT_CHANNELS];
    if (job->taps == 3) {
        gradient_sums(job, sum, 3, job->pixel_bytes);
        add_to_sums(sum, sums, 3);
    } else if (job->taps == 2) {
        gradient_sums(job, sum, 2, job->pixel_bytes);
        add_to_sums(sum, sums, 2);
    } else {
        gradient_sums(job, sum, 1, job->pixel_bytes);
        add_to_sums(sum, sums, 1);
    }
}

// ---------------------------------------------------------------------------------------------
// Peaks

#define TWELVE(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11)

static double dot_product_rounds_avx512vnni(long rounds)
{
    __m512i a = _mm512_set1_epi32((int)rounds), b = _mm512_set1_epi32((int)rounds + 1);
#define BEGIN(i) __m512i sum##i = a;
#define ADD(i) __asm__ volatile("vpdpbusd %1, %2, %0" : "+v"(sum##i) : "v"(a), "v"(b));
    TWELVE(BEGIN)
    for (long round = 0; round < rounds; round++) {
        TWELVE(ADD)
    }
#undef BEGIN
#undef ADD
    return 12.0 * 64 * (double)rounds;
}

static double multiply_add_rounds_avx512vnni(long rounds)
{
    __m512 a = _mm512_set1_ps((float)rounds), b = _mm512_set1_ps(0.5f);
#define BEGIN(i) __m512 sum##i = a;
#define ADD(i) __asm__ volatile("vfmadd231ps %1, %2, %0" : "+v"(sum##i) : "v"(a), "v"(b));
    TWELVE(BEGIN)
    for (long round = 0; round < rounds; round++) {
        TWELVE(ADD)
    }
#undef BEGIN
#undef ADD
    return 12.0 * 16 * (double)rounds;
}

const struct kernel_set kernels_avx512vnni = {
    .name = "avx512vnni",
    .help = "AVX-512 with the 8-bit dot product (VNNI) and VBMI",
    .supported = supported_avx512vnni,
    .quantize_block = quantize_block_avx512vnni,
    .quantize_run = quantize_run_avx512vnni,
    .convolve_row = convolve_row_avx512vnni,
    .gradient_image = gradient_image_avx512vnni,
    .gradient_image_sums = gradient_image_sums_avx512vnni,
    .direct_row = direct_row_avx512,
    .direct_gradient = direct_gradient_avx512,
    .dot_product_rounds = dot_product_rounds_avx512vnni,
    .multiply_add_rounds = multiply_add_rounds_avx512vnni,
};
