// Quantization for AVX-512 (with BW, VL, CD and DQ). A lane is a channel.
#include "kernels/functions_avx512.h"
#include "kernels/vectors_avx512.h"

// I = ((Y' with its `dropped` low bits cleared) >> shift), dropped = max(floor(log2 Y), low) - mantissa: the same number as
// in struct quantizer's formula, whose clamps at `high` and at 65535 change nothing that `largest` does not cut off as well.
//
// Small formats with one bit of mantissa, rounded to nearest: I changes only at numbers of two bits of mantissa, so it is read from a table
// by the exponent and these bits of |x| * 2^16 / (St * Sg) + 1/2, exact there (the half is the rounding to Y, whose ties cannot change
// which side of such a number it falls on).
struct quantizer_vectors {
    __m512i log_offset;     // 31 - mantissa
    __m512i fewest_dropped; // low - mantissa
    __m512i largest;
    __m128i shift;          // low - mantissa
    __m512i tables[2];      // small: I by the low 5 bits of the index
    __m512i first;          // small: the index below which I is 0
};

#define SMALL_SHIFT 21 // bits of a float behind two of the mantissa

static bool is_small(const struct quantizer *q)
{
    return q->mantissa == 1 && q->low >= 13;
}

INLINE struct quantizer_vectors quantizer_load(const struct quantizer *q)
{
    return (struct quantizer_vectors){.log_offset = _mm512_set1_epi32(31 - q->mantissa), .fewest_dropped = _mm512_set1_epi32(q->low - q->mantissa),
                                      .largest = _mm512_set1_epi32(q->largest), .shift = _mm_cvtsi32_si128(q->low - q->mantissa)};
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

// The tables, from the numbers themselves.
INLINE void load_small(const struct quantizer *q, struct quantizer_vectors *v)
{
    const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15), low_bits = _mm512_set1_epi32(31);
    v->first = _mm512_set1_epi32((127 + q->low - 2) * 4 - 1); // half of the smallest step is 2^(low - 2)
    for (int half = 0; half < 2; half++) {
        __m512i at = _mm512_add_epi32(lanes, _mm512_set1_epi32(16 * half)); // the index after `first` that has these low bits
        __m512i index = _mm512_add_epi32(v->first, _mm512_and_si512(_mm512_sub_epi32(at, v->first), low_bits));
        __m512 y = _mm512_castsi512_ps(_mm512_slli_epi32(index, SMALL_SHIFT));
        v->tables[half] = quantize_16(v, y, _mm512_set1_ps(1), _mm512_setzero_si512(), false, true);
    }
}

// 16 elements, none negative, of a small format.
INLINE __m512i quantize_small_16(const struct quantizer_vectors *q, __m512 x, __m512 reciprocal)
{
    __m512 y = _mm512_add_ps(_mm512_mul_ps(x, reciprocal), _mm512_set1_ps(0.5f));
    __m512i index = _mm512_max_epi32(_mm512_srli_epi32(_mm512_castps_si512(y), SMALL_SHIFT), q->first);
    return _mm512_permutex2var_epi32(q->tables[0], index, q->tables[1]);
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
    bool stochastic, positive, small;
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
        __m512 value = (__m512)source_value(&v->source, (size_t)(position + i), variant.kind, variant.activation, true);
        codes[i] = variant.small ? quantize_small_16(&v->q, value, v->reciprocal)
                                 : quantize_16(&v->q, value, v->reciprocal, random[i], variant.stochastic, variant.positive);
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
    const bool one_row = x + 16 <= job->width;
    const size_t second = (size_t)((position + 8) / job->width * job->plane_pitch + (position + 8) % job->width);
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        const __m128i lanes[4] = {_mm512_castsi512_si128(rows[i]), _mm512_extracti32x4_epi32(rows[i], 1), _mm512_extracti32x4_epi32(rows[i], 2),
                                  _mm512_extracti32x4_epi32(rows[i], 3)};
#pragma GCC unroll 4
        for (int k = 0; k < 4; k++) {
            size_t plane = (size_t)(4 * k + i) * job->plane_bytes;
            if (one_row) {
                _mm_storeu_si128((void *)(to + plane), lanes[k]);
            } else {
                _mm_storel_epi64((void *)(to + plane), lanes[k]);
                _mm_storel_epi64((void *)(job->planes + second + plane), _mm_unpackhi_epi64(lanes[k], lanes[k]));
            }
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
    if (variant.small) load_small(&job->quantizer, &v.q);
    if (job->width % 4 == 0)
        quantize_whole_quads(job, &v, variant);
    else
        quantize_rows(job, &v, variant);
}

static void quantize_small_avx512(const struct quantize_job *job)
{
#define BODY(kind, activation) quantize_source(job, (struct variant){false, true, true, kind, activation})
    SOURCE_DISPATCH(&job->source, BODY);
#undef BODY
}

static void quantize_positive_avx512(const struct quantize_job *job)
{
#define BODY(kind, activation) quantize_source(job, (struct variant){false, true, false, kind, activation})
    SOURCE_DISPATCH(&job->source, BODY);
#undef BODY
}

static void quantize_nearest_avx512(const struct quantize_job *job)
{
#define BODY(kind, activation) quantize_source(job, (struct variant){false, false, false, kind, activation})
    SOURCE_DISPATCH(&job->source, BODY);
#undef BODY
}

static void quantize_stochastic_avx512(const struct quantize_job *job)
{
#define BODY(kind, activation) quantize_source(job, (struct variant){true, false, false, kind, activation})
    SOURCE_DISPATCH(&job->source, BODY);
#undef BODY
}

// Whether 2^16 / (St * Sg) is a finite number, as it is for all but the smallest scales.
static bool scaled_is_finite(const struct quantize_job *job)
{
    __mmask16 large = _mm512_cmp_ps_mask(_mm512_loadu_ps(job->reciprocals), _mm512_set1_ps(0x1p111f), _CMP_GE_OQ);
    return large == 0;
}

void quantize_block_avx512(const struct quantize_job *job)
{
    if (!scaled_is_finite(job))
        kernels_scalar.quantize_block(job);
    else if (job->quantizer.stochastic)
        quantize_stochastic_avx512(job);
    else if (job->zero_point == 0 && !job->quads && is_small(&job->quantizer))
        quantize_small_avx512(job);
    else if (job->zero_point == 0 && !job->quads)
        quantize_positive_avx512(job);
    else
        quantize_nearest_avx512(job);
}

void quantize_run_avx512(const struct quantizer *quantizer, const float *x, int count, float reciprocal,
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
