// Quantization for AVX2. Two vectors hold the 16 channels of a block.
#include "kernels/functions_avx2.h"
#include "kernels/vectors_avx2.h"

struct quantizer_vectors {
    __m256i low, high, largest, mantissa;
};

INLINE struct quantizer_vectors quantizer_load(const struct quantizer *q)
{
    return (struct quantizer_vectors){_mm256_set1_epi32(q->low), _mm256_set1_epi32(q->high),
                                      _mm256_set1_epi32(q->largest), _mm256_set1_epi32(q->mantissa)};
}

// floor(log2 y) from the exponent of y as a float, exact for 0 < y < 2^24; far below every q->low for y = 0.
INLINE __m256i floor_log2(__m256i y)
{
    __m256i bits = _mm256_castps_si256(_mm256_cvtepi32_ps(y));
    return _mm256_sub_epi32(_mm256_srli_epi32(bits, 23), _mm256_set1_epi32(127));
}

// 8 elements -> I as int32. random: 16 bits a lane.
INLINE __m256i quantize_8(const struct quantizer_vectors *q, __m256 x, __m256 reciprocal, __m256i random, bool stochastic)
{
    const __m256i one = _mm256_set1_epi32(1);
    __m256 magnitude = _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x);
    __m256 scaled = _mm256_mul_ps(_mm256_mul_ps(magnitude, reciprocal), _mm256_set1_ps(65536.0f));
    __m256i y = _mm256_cvtps_epi32(_mm256_min_ps(scaled, _mm256_set1_ps(65535.0f)));
    __m256i l = _mm256_min_epi32(_mm256_max_epi32(floor_log2(y), q->low), q->high);
    __m256i dropped = _mm256_sub_epi32(l, q->mantissa);
    __m256i power = _mm256_sllv_epi32(one, dropped);
    if (stochastic)
        y = _mm256_add_epi32(y, _mm256_and_si256(random, _mm256_sub_epi32(power, one)));
    else
        y = _mm256_add_epi32(y, _mm256_srli_epi32(power, 1));
    __m256i integer = _mm256_sllv_epi32(_mm256_srlv_epi32(y, dropped), _mm256_sub_epi32(l, q->low));
    integer = _mm256_min_epi32(integer, q->largest);
    return _mm256_sign_epi32(integer, _mm256_castps_si256(x)); // x = 0 gives 0, as I is 0 there
}

// mls_random_hash of one position for the keys of 8 channels.
INLINE __m256i hash_8(__m256i first, __m256i second, uint32_t counter)
{
    __m256i h = _mm256_add_epi32(_mm256_set1_epi32((int)(counter * 0x9e3779b9u)), first);
    h = _mm256_mullo_epi32(_mm256_xor_si256(h, _mm256_srli_epi32(h, 16)), _mm256_set1_epi32((int)0x21f0aaadu));
    h = _mm256_add_epi32(h, second);
    h = _mm256_mullo_epi32(_mm256_xor_si256(h, _mm256_srli_epi32(h, 15)), _mm256_set1_epi32((int)0x735a2d97u));
    return _mm256_xor_si256(h, _mm256_srli_epi32(h, 15));
}

INLINE struct lanes hash_16(const struct lanes *first, const struct lanes *second, uint32_t counter)
{
    return (struct lanes){{hash_8(first->half[0], second->half[0], counter), hash_8(first->half[1], second->half[1], counter)}};
}

INLINE struct lanes low_bits(struct lanes hash)
{
    const __m256i low = _mm256_set1_epi32(0xffff);
    return (struct lanes){{_mm256_and_si256(hash.half[0], low), _mm256_and_si256(hash.half[1], low)}};
}

INLINE struct lanes high_bits(struct lanes hash)
{
    return (struct lanes){{_mm256_srli_epi32(hash.half[0], 16), _mm256_srli_epi32(hash.half[1], 16)}};
}

// source_value (source.h) of 8 channels, with this instruction set's own comparisons: gcc takes those of longer vectors apart.
INLINE __m256 piecewise_value_8(enum piecewise activation, __m256 z)
{
    const __m256 zero = _mm256_setzero_ps(), six = _mm256_set1_ps(6);
    if (activation == PIECEWISE_LINEAR) return z;
    if (activation == PIECEWISE_LEAKY) {
        __m256 positive = _mm256_cmp_ps(z, zero, _CMP_GT_OQ);
        return _mm256_add_ps(_mm256_and_ps(positive, z), _mm256_andnot_ps(positive, _mm256_mul_ps(z, _mm256_set1_ps(0.1f))));
    }
    __m256 y = _mm256_and_ps(_mm256_cmp_ps(z, zero, _CMP_NLE_UQ), z);
    if (activation == PIECEWISE_RELU6) y = _mm256_blendv_ps(y, six, _mm256_cmp_ps(y, six, _CMP_GT_OQ));
    return y;
}

INLINE __m256 piecewise_error_8(enum piecewise activation, __m256 z, __m256 delta)
{
    if (activation == PIECEWISE_LINEAR) return delta;
    __m256 positive = _mm256_cmp_ps(z, _mm256_setzero_ps(), _CMP_GT_OQ);
    if (activation == PIECEWISE_RELU6) positive = _mm256_and_ps(positive, _mm256_cmp_ps(z, _mm256_set1_ps(6), _CMP_LT_OQ));
    __m256 kept = _mm256_and_ps(positive, delta);
    if (activation != PIECEWISE_LEAKY) return kept;
    return _mm256_add_ps(kept, _mm256_andnot_ps(positive, _mm256_mul_ps(delta, _mm256_set1_ps(0.1f))));
}

INLINE __m256 source_value_8(const struct source *s, int pixel, int half, enum source_kind kind, enum piecewise activation)
{
    size_t at = (size_t)pixel * BLOCK_CHANNELS + (size_t)half * 8;
    __m256 x = _mm256_loadu_ps(s->x + at);
    if (kind == SOURCE_PLAIN) return x;
    __m256 z = _mm256_add_ps(_mm256_mul_ps(x, _mm256_loadu_ps(s->multiplier + 8 * half)), _mm256_loadu_ps(s->offset + 8 * half));
    if (kind == SOURCE_NORMALIZED) return piecewise_value_8(activation, z);
    __m256 d = piecewise_error_8(activation, z, _mm256_loadu_ps(s->delta + at));
    __m256 affine = _mm256_add_ps(_mm256_mul_ps(x, _mm256_loadu_ps(s->coefficients[1] + 8 * half)), _mm256_loadu_ps(s->coefficients[2] + 8 * half));
    return _mm256_add_ps(_mm256_mul_ps(d, _mm256_loadu_ps(s->coefficients[0] + 8 * half)), affine);
}

struct quantize_vectors {
    struct quantizer_vectors q;
    const struct source *source;
    struct lanes reciprocal; // floats
    struct lanes first, second;
    __m256i zero_point;
};

INLINE struct lanes quantize_pixel(const struct quantize_vectors *v, int position, struct lanes random, bool stochastic,
                                   enum source_kind kind, enum piecewise activation)
{
    struct lanes integers;
#pragma GCC unroll 2
    for (int h = 0; h < 2; h++)
        integers.half[h] = quantize_8(&v->q, source_value_8(v->source, position, h, kind, activation),
                                      _mm256_castsi256_ps(v->reciprocal.half[h]), random.half[h], stochastic);
    return integers;
}

// bytes: 128-bit lane k, dword j = channels 4 k .. 4 k + 3 of pixel j.
INLINE void store_pixels(uint8_t *to, struct lanes bytes, __m256i zero_point, int count)
{
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    struct lanes pixels = {{_mm256_unpacklo_epi32(bytes.half[0], bytes.half[1]), _mm256_unpackhi_epi32(bytes.half[0], bytes.half[1])}};
    for (int h = 0; h < 2; h++)
        pixels.half[h] = _mm256_xor_si256(_mm256_permutevar8x32_epi32(pixels.half[h], order), zero_point);
    if (count == 4)
        __builtin_memcpy(to, &pixels, 4 * BLOCK_CHANNELS);
    else
        __builtin_memcpy(to, &pixels, (size_t)count * BLOCK_CHANNELS);
}

// Up to 4 neighbouring pixels of one row, from raster position `position`, row y, column x. random: 16 bits a lane.
INLINE void quantize_quad(const struct quantize_job *job, const struct quantize_vectors *v, int position, int y, int x, int count,
                          const struct lanes random[4], bool stochastic, enum source_kind kind, enum piecewise activation)
{
    struct lanes codes[4], bytes, quad;
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        codes[i] = (struct lanes){{_mm256_setzero_si256(), _mm256_setzero_si256()}};
        if (i < count) codes[i] = quantize_pixel(v, position + i, random[i], stochastic, kind, activation);
    }
    // 128-bit lane k, dword j: channels 4 k .. 4 k + 3 of pixel j.
#pragma GCC unroll 2
    for (int h = 0; h < 2; h++)
        bytes.half[h] = _mm256_packs_epi16(_mm256_packs_epi32(codes[0].half[h], codes[1].half[h]),
                                           _mm256_packs_epi32(codes[2].half[h], codes[3].half[h]));
    if (job->pixels)
        store_pixels(job->pixels + (size_t)y * job->row_bytes + (size_t)x * BLOCK_CHANNELS, bytes, v->zero_point, count);
    if (!job->quads && !job->planes) return;
    const __m256i order = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
#pragma GCC unroll 2
    for (int h = 0; h < 2; h++) quad.half[h] = _mm256_shuffle_epi8(bytes.half[h], order); // [16 channels][4 pixels]
    if (job->quads) __builtin_memcpy(job->quads + (size_t)(y * job->row_quads + x / 4) * 64, &quad, 64);
    if (!job->planes) return;
    uint8_t planar[64];
    for (int h = 0; h < 2; h++) _mm256_storeu_si256((__m256i *)planar + h, _mm256_xor_si256(quad.half[h], v->zero_point));
    uint8_t *to = job->planes + (size_t)(y * job->plane_pitch + x);
    for (int c = 0; c < BLOCK_CHANNELS; c++) __builtin_memcpy(to + (size_t)c * job->plane_bytes, planar + 4 * c, (size_t)count);
}

// Rows of whole quads: one hash serves the pixels `position` and `position` + 16.
INLINE void quantize_whole_quads(const struct quantize_job *job, const struct quantize_vectors *v, bool stochastic,
                                 enum source_kind kind, enum piecewise activation)
{
    int total = job->height * job->width;
    struct cursor near = {0, 0}, far = {0, 0};
    cursor_advance(&far, 16, job->width);
    for (int start = 0; start < total; start += 32) {
        for (int j = 0; j < 16 && start + j < total; j += 4) {
            struct lanes near_bits[4] = {0}, far_bits[4] = {0};
#pragma GCC unroll 4
            for (int i = 0; i < 4 && stochastic; i++) {
                struct lanes hash = hash_16(&v->first, &v->second, (uint32_t)(start / 2 + j + i));
                near_bits[i] = low_bits(hash);
                far_bits[i] = high_bits(hash);
            }
            quantize_quad(job, v, start + j, near.y, near.x, 4, near_bits, stochastic, kind, activation);
            cursor_advance(&near, 4, job->width);
            if (start + j + 16 >= total) continue;
            quantize_quad(job, v, start + j + 16, far.y, far.x, 4, far_bits, stochastic, kind, activation);
            cursor_advance(&far, 4, job->width);
        }
        cursor_advance(&near, 16, job->width);
        cursor_advance(&far, 16, job->width);
    }
}

// Any width.
INLINE void quantize_rows(const struct quantize_job *job, const struct quantize_vectors *v, bool stochastic, enum source_kind kind,
                          enum piecewise activation)
{
    for (int y = 0; y < job->height; y++)
        for (int x = 0; x < job->width; x += 4) {
            int count = job->width - x < 4 ? job->width - x : 4, position = y * job->width + x;
            struct lanes bits[4] = {0};
            for (int i = 0; i < 4 && stochastic; i++) {
                int p = position + i;
                struct lanes hash = hash_16(&v->first, &v->second, (uint32_t)(p / 32 * 16 + p % 16));
                bits[i] = p / 16 % 2 ? high_bits(hash) : low_bits(hash);
            }
            quantize_quad(job, v, position, y, x, count, bits, stochastic, kind, activation);
        }
}

INLINE void quantize_source(const struct quantize_job *job, bool stochastic, enum source_kind kind, enum piecewise activation)
{
    struct quantize_vectors v = {.q = quantizer_load(&job->quantizer), .source = &job->source,
                                 .reciprocal = lanes_load(job->reciprocals), .first = lanes_load(job->first_keys),
                                 .second = lanes_load(job->second_keys), .zero_point = _mm256_set1_epi8((char)job->zero_point)};
    if (job->width % 4 == 0)
        quantize_whole_quads(job, &v, stochastic, kind, activation);
    else
        quantize_rows(job, &v, stochastic, kind, activation);
}

static void quantize_nearest_avx2(const struct quantize_job *job)
{
#define BODY(kind, activation) quantize_source(job, false, kind, activation)
    SOURCE_DISPATCH(&job->source, BODY);
#undef BODY
}

static void quantize_stochastic_avx2(const struct quantize_job *job)
{
#define BODY(kind, activation) quantize_source(job, true, kind, activation)
    SOURCE_DISPATCH(&job->source, BODY);
#undef BODY
}

void quantize_block_avx2(const struct quantize_job *job)
{
    if (job->quantizer.stochastic)
        quantize_stochastic_avx2(job);
    else
        quantize_nearest_avx2(job);
}

void quantize_run_avx2(const struct quantizer *quantizer, const float *x, int count, float reciprocal, int8_t *codes)
{
    struct quantizer_vectors q = quantizer_load(quantizer);
    __m256 r = _mm256_set1_ps(reciprocal);
    for (int i = 0; i < count; i += 8) {
        size_t left = count - i < 8 ? (size_t)(count - i) : 8;
        float part[8] = {0};
        __builtin_memcpy(part, x + i, left * sizeof(float));
        __m256i integers = quantize_8(&q, _mm256_loadu_ps(part), r, _mm256_setzero_si256(), false);
        __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(integers), _mm256_extracti128_si256(integers, 1));
        __m128i bytes = _mm_packs_epi16(words, words);
        __builtin_memcpy(codes + i, &bytes, left);
    }
}
