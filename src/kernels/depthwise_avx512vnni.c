// Depthwise convolutions for AVX-512 with VNNI and VBMI. A lane is a channel; a dot product takes 4 pixels of it, which lie side by
// side after one permutation of 4 pixels x 16 channels.
#include "kernels/functions_avx512.h"
#include "kernels/vectors_avx512.h"

#define PIXELS 4    // outputs computed together
#define MOST_TAPS 9 // of a weight gradient together

// Four pixels, `step` bytes apart.
INLINE __m512i load_pixels(const uint8_t *from, size_t step, const bool neighbours)
{
    if (neighbours) return _mm512_loadu_si512(from);
    __m512i v = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i *)from));
    v = _mm512_inserti32x4(v, _mm_loadu_si128((const __m128i *)(from + step)), 1);
    v = _mm512_inserti32x4(v, _mm_loadu_si128((const __m128i *)(from + 2 * step)), 2);
    return _mm512_inserti32x4(v, _mm_loadu_si128((const __m128i *)(from + 3 * step)), 3);
}

INLINE void add_quad(const struct depthwise_job *job, int quad, const uint8_t *input, __m512i sums[PIXELS], const int COUNT)
{
    const __m512i order = order_of_pixels();
    __m512i codes = _mm512_loadu_si512(job->quad_codes + 64 * quad);
    const uint8_t *from = input + job->tap_offsets[job->quad_taps[quad]];
#pragma GCC unroll 4
    for (int p = 0; p < COUNT; p++) {
        __m512i pixels = _mm512_loadu_si512(from + (size_t)p * job->pixel_bytes);
        sums[p] = _mm512_dpbusd_epi32(sums[p], _mm512_permutexvar_epi8(order, pixels), codes);
    }
}

// QUADS: their number, or 0: any.
INLINE void convolve_pixels(const struct depthwise_job *job, const uint8_t *input, float *output, const int COUNT, const int QUADS)
{
    __m512i sums[PIXELS];
#pragma GCC unroll 4
    for (int p = 0; p < COUNT; p++) sums[p] = _mm512_loadu_si512(job->starts);
#pragma GCC unroll 3
    for (int q = 0; q < QUADS; q++) add_quad(job, q, input, sums, COUNT);
    for (int q = QUADS; QUADS == 0 && q < job->quads; q++) add_quad(job, q, input, sums, COUNT);
    __m512 scales = _mm512_loadu_ps(job->scales), factor = _mm512_set1_ps(job->factor);
#pragma GCC unroll 4
    for (int p = 0; p < COUNT; p++) {
        float *to = output + (size_t)p * job->output_step;
        __m512 value = _mm512_mul_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(sums[p]), scales), factor);
        _mm512_storeu_ps(to, job->accumulate ? _mm512_add_ps(_mm512_loadu_ps(to), value) : value);
    }
}

INLINE void convolve_row(const struct depthwise_job *job, const uint8_t *input, int pixels, float *output, const int QUADS)
{
    int p = 0;
    for (; p + PIXELS <= pixels; p += PIXELS, input += PIXELS * job->pixel_bytes, output += PIXELS * job->output_step)
        convolve_pixels(job, input, output, PIXELS, QUADS);
    for (; p < pixels; p++, input += job->pixel_bytes, output += job->output_step) convolve_pixels(job, input, output, 1, QUADS);
}

void depthwise_row_avx512vnni(const struct depthwise_job *job, const uint8_t *input, int pixels, float *output)
{
    if (job->quads == 1)
        convolve_row(job, input, pixels, output, 1);
    else if (job->quads == 2)
        convolve_row(job, input, pixels, output, 2);
    else if (job->quads == 3)
        convolve_row(job, input, pixels, output, 3);
    else
        convolve_row(job, input, pixels, output, 0);
}

// `errors`: I of four pixels, [16][4].
INLINE __m512i add_products(const struct depthwise_gradient_job *job, const uint8_t *input, __m512i errors, const bool NEIGHBOURS,
                            __m512i sum)
{
    __m512i pixels = load_pixels(input, job->pixel_bytes, NEIGHBOURS);
    return _mm512_dpbusd_epi32(sum, _mm512_permutexvar_epi8(order_of_pixels(), pixels), errors);
}

// TAPS: `taps`, or 0: any. The last quad of a row reads what lies behind it in the map; the errors there count as 0.
INLINE void gradient_taps(const struct depthwise_gradient_job *job, int first, int taps, const int TAPS, const bool NEIGHBOURS,
                          int32_t *out)
{
    const __m512i order = order_of_pixels();
    __m512i sums[MOST_TAPS], error_sum = _mm512_setzero_si512();
#pragma GCC unroll 9
    for (int t = 0; t < MOST_TAPS; t++) sums[t] = _mm512_setzero_si512();
    for (int y = 0; y < job->height; y++) {
        const uint8_t *inputs = job->inputs + (size_t)y * job->row_bytes, *errors = job->errors + (size_t)y * job->error_row_bytes;
        for (int x = 0; x < job->width; x += 4) {
            int count = job->width - x < 4 ? job->width - x : 4;
            __mmask64 inside = count == 4 ? ~(__mmask64)0 : ((__mmask64)1 << (16 * count)) - 1;
            __m512i e = _mm512_maskz_loadu_epi8(inside, errors + (size_t)x * BLOCK_CHANNELS);
            e = _mm512_permutexvar_epi8(order, _mm512_maskz_sub_epi8(inside, e, _mm512_set1_epi8((char)128)));
            error_sum = _mm512_dpbusd_epi32(error_sum, _mm512_set1_epi8(1), e);
            const uint8_t *input = inputs + (size_t)x * job->pixel_bytes;
            const size_t *offsets = job->tap_offsets + first;
#pragma GCC unroll 9
            for (int t = 0; t < TAPS; t++) sums[t] = add_products(job, input + offsets[t], e, NEIGHBOURS, sums[t]);
            for (int t = 0; TAPS == 0 && t < taps; t++) sums[t] = add_products(job, input + offsets[t], e, NEIGHBOURS, sums[t]);
        }
    }
    __m512i correction = _mm512_mullo_epi32(error_sum, _mm512_set1_epi32(job->input_zero_point));
    for (int t = 0; t < taps; t++) _mm512_storeu_si512(out + (first + t) * BLOCK_CHANNELS, _mm512_sub_epi32(sums[t], correction));
}

void depthwise_gradient_avx512vnni(const struct depthwise_gradient_job *job, int32_t *sums)
{
    bool neighbours = job->pixel_bytes == BLOCK_CHANNELS;
    for (int tap = 0; tap < job->taps; tap += MOST_TAPS) {
        int taps = job->taps - tap < MOST_TAPS ? job->taps - tap : MOST_TAPS;
        if (taps == 9 && neighbours)
            gradient_taps(job, tap, taps, 9, true, sums);
        else if (taps == 9)
            gradient_taps(job, tap, taps, 9, false, sums);
        else
            gradient_taps(job, tap, taps, 0, false, sums);
    }
}
