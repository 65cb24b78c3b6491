// The kernels for AVX-512 with VNNI and VBMI (Ice Lake, Zen 4 and later).
//
// Forward and input error: a lane is an output channel, a dot product takes 4 input channels of one pixel
// (broadcast) and 4 x 16 weights. Weight gradient: a lane is an input channel, a dot product takes 4 pixels.
#include "kernels/fetch.h"
#include "kernels/functions_avx512.h"
#include "kernels/vectors_avx512.h"

static bool supported_avx512vnni(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512cd") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vbmi") &&
           __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("fma");
}

// ---------------------------------------------------------------------------------------------
// Forward and input error

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
                    store_outputs(to[b] + (size_t)p * job->output_step, total[p][b], job->factor, job->accumulate, job->ahead);
                else if (!KEEP)
                    _mm512_storeu_ps(stored + (2 * p + b) * BLOCK_CHANNELS, total[p][b]);
            }
        }
    }
    for (int b = 0; KEEP && b < BLOCKS; b++)
#pragma GCC unroll 16
        for (int p = 0; p < PIXELS; p++) store_outputs(to[b] + (size_t)p * job->output_step, total[p][b], job->factor, job->accumulate, job->ahead);
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
    const size_t *offsets = job->quad_offsets + job->quad_first[0];
    for (int k = 0; k < TAPS; k++) rows[k] = input + (size_t)first * step + job->tap_offsets[k];
    __m512 total[16][2];
#pragma GCC unroll 16
    for (int p = 0; p < PIXELS; p++) total[p][0] = total[p][1] = _mm512_setzero_ps();
    for (int group = 0; group < job->groups; group++) {
        const size_t offset = offsets[group];
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
        for (int p = 0; p < PIXELS; p++) store_outputs(outputs[b] + (size_t)(first + p) * job->output_step, total[p][b], job->factor, job->accumulate, job->ahead);
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
    for (; !sevens && x + whole <= pixels; x += whole) {
        fetch_some(job->fetch, whole * job->blocks);
        functions[0](job, input, x, outputs);
    }
    for (; x + 7 <= pixels; x += 7) {
        fetch_some(job->fetch, 7 * job->blocks);
        functions[1](job, input, x, outputs);
    }
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
    if (job->planar && job->taps >= 1 && job->taps <= 3)
        x = convolve_planar_avx512vnni(job, input, pixels, outputs);
    else if (job->taps <= 9 && job->quad_first[0] == job->quad_last[0] && job->groups > 1) {
        const struct tile_choice *tile = &short_tiles[run][blocks];
        for (; x + tile->pixels <= pixels; x += tile->pixels) {
            fetch_some(job->fetch, tile->pixels * job->blocks);
            tile->function(job, input, x, outputs, stored);
        }
    }
    while (x < pixels) {
        const struct tile_choice *tile = choose_tile(tiles[run][blocks], pixels - x);
        fetch_some(job->fetch, tile->pixels * job->blocks);
        tile->function(job, input, x, outputs, stored);
        x += tile->pixels;
    }
}

#define SCATTERED 8 // pixels of a tile

// SCATTERED x BLOCKS x 16 outputs of pixels anywhere; where there are less, the last one is computed again and not stored.
INLINE void scattered_tile(const struct convolve_job *job, const uint8_t *input, const struct convolve_pixel *pixels, int count,
                           float *const outputs[2], const int BLOCKS)
{
    const uint8_t *from[SCATTERED];
    const float *scales[SCATTERED];
    float totals[2 * SCATTERED * BLOCK_CHANNELS] __attribute__((aligned(64)));
    const int8_t *weights[2] = {job->weights[0], job->weights[1]};
    for (int p = 0; p < SCATTERED; p++) {
        const struct convolve_pixel *pixel = &pixels[p < count ? p : count - 1];
        from[p] = input + pixel->input;
        scales[p] = job->scales[0] + pixel->scales;
    }
    const size_t second = (size_t)job->groups * BLOCK_CHANNELS; // from the scales of one block to the other's
    for (int group = 0; group < job->groups; group++) {
        __m512i sum[SCATTERED][2];
#pragma GCC unroll 2
        for (int b = 0; b < BLOCKS; b++)
#pragma GCC unroll 8
            for (int p = 0; p < SCATTERED; p++) sum[p][b] = _mm512_loadu_si512(job->starts[b] + group * BLOCK_CHANNELS);
        for (int quad = job->quad_first[group]; quad <= job->quad_last[group]; quad++)
            for (int tap = 0; tap < job->taps; tap++) {
                const size_t offset = job->quad_offsets[quad] + (size_t)job->tap_offsets[tap];
                const __m512i first = _mm512_loadu_si512(weights[0]), other = BLOCKS > 1 ? _mm512_loadu_si512(weights[1]) : first;
#pragma GCC unroll 8
                for (int p = 0; p < SCATTERED; p++) {
                    __m512i a = broadcast_4(from[p] + offset);
                    sum[p][0] = _mm512_dpbusd_epi32(sum[p][0], a, first);
                    if (BLOCKS > 1) sum[p][1] = _mm512_dpbusd_epi32(sum[p][1], a, other);
                }
                weights[0] += 64;
                if (BLOCKS > 1) weights[1] += 64;
            }
#pragma GCC unroll 2
        for (int b = 0; b < BLOCKS; b++)
#pragma GCC unroll 8
            for (int p = 0; p < SCATTERED; p++) {
                float *total = totals + (b * SCATTERED + p) * BLOCK_CHANNELS;
                __m512 scale = _mm512_loadu_ps(scales[p] + (size_t)b * second + group * BLOCK_CHANNELS);
                __m512 before = group ? _mm512_load_ps(total) : _mm512_setzero_ps();
                _mm512_store_ps(total, _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[p][b]), scale, before));
            }
    }
    for (int b = 0; b < BLOCKS; b++)
        for (int p = 0; p < count && p < SCATTERED; p++)
            store_outputs(outputs[b] + pixels[p].output, _mm512_load_ps(totals + (b * SCATTERED + p) * BLOCK_CHANNELS), job->factor, job->accumulate, job->ahead);
}

static void __attribute__((noinline)) convolve_scattered_8x1_avx512vnni(const struct convolve_job *job, const uint8_t *input,
                                                                         const struct convolve_pixel *pixels, int count, float *const outputs[2])
{
    scattered_tile(job, input, pixels, count, outputs, 1);
}

static void __attribute__((noinline)) convolve_scattered_8x2_avx512vnni(const struct convolve_job *job, const uint8_t *input,
                                                                         const struct convolve_pixel *pixels, int count, float *const outputs[2])
{
    scattered_tile(job, input, pixels, count, outputs, 2);
}

static void convolve_pixels_avx512vnni(const struct convolve_job *job, const uint8_t *input, const struct convolve_pixel *pixels, int count,
                                       float *const outputs[2])
{
    for (int i = 0; i < count; i += SCATTERED)
        (job->blocks == 1 ? convolve_scattered_8x1_avx512vnni : convolve_scattered_8x2_avx512vnni)(job, input, pixels + i, count - i, outputs);
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

static void gradient_images_avx512vnni(const struct gradient_job *job, float *totals)
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

static void gradient_images_sums_avx512vnni(const struct gradient_job *job, int64_t *sums)
{
    struct gradient_job one = *job;
    for (int n = 0; n < job->images; n++, gradient_next_image(&one)) gradient_image_sums_avx512vnni(&one, sums);
}

static void raster_pixels_avx512vnni(const struct raster_pixels_job *job)
{
    const __m512i order = order_of_pixels();
    for (int q = 0; q < job->quads; q++) {
        const size_t *at = job->offsets + 4 * q;
        __m512i pixels;
        if (at[3] - at[0] == 3 * BLOCK_CHANNELS) { // side by side
            pixels = _mm512_loadu_si512(job->pixels + at[0]);
        } else {
            pixels = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i *)(job->pixels + at[0])));
            pixels = _mm512_inserti32x4(pixels, _mm_loadu_si128((const __m128i *)(job->pixels + at[1])), 1);
            pixels = _mm512_inserti32x4(pixels, _mm_loadu_si128((const __m128i *)(job->pixels + at[2])), 2);
            pixels = _mm512_inserti32x4(pixels, _mm_loadu_si128((const __m128i *)(job->pixels + at[3])), 3);
        }
        _mm512_storeu_si512(job->raster + 64 * q, _mm512_permutexvar_epi8(order, pixels));
    }
}

#define FEW_QUADS 4
#define FEW_CHANNELS 4

// Maps of so few quads that the pixels of three taps stay in registers beside the totals of some output channels, over all images.
INLINE void raster_few_tile(const struct raster_job *job, int row, int channel, float *totals, const int QUADS)
{
    struct raster_job one = *job;
    __m512 total[3][FEW_CHANNELS];
    totals += (3 * row * GRADIENT_CHANNELS + channel) * BLOCK_CHANNELS;
#pragma GCC unroll 3
    for (int t = 0; t < 3; t++)
#pragma GCC unroll 4
        for (int c = 0; c < FEW_CHANNELS; c++) total[t][c] = _mm512_loadu_ps(totals + (t * GRADIENT_CHANNELS + c) * BLOCK_CHANNELS);
    for (int n = 0; n < job->images; n++, raster_next_image(&one)) {
        const uint8_t *pixels = one.pixels + (size_t)row * one.row_bytes;
        const __m512 in_scales = _mm512_loadu_ps(one.in_scales);
        __m512i a[3][FEW_QUADS];
        if (channel == 0) fetch_some(job->fetch, QUADS);
#pragma GCC unroll 3
        for (int t = 0; t < 3; t++)
#pragma GCC unroll 4
            for (int q = 0; q < QUADS; q++) a[t][q] = _mm512_loadu_si512(pixels + (size_t)t * one.column_bytes + q * 64);
#pragma GCC unroll 4
        for (int c = 0; c < FEW_CHANNELS; c++) {
            const __m512 scale = _mm512_mul_ps(in_scales, _mm512_set1_ps(one.out_scales[channel + c]));
            const __m512i start = one.corrections ? _mm512_set1_epi32(-one.corrections[channel + c]) : _mm512_setzero_si512();
            __m512i sum[3] = {start, start, start};
#pragma GCC unroll 4
            for (int q = 0; q < QUADS; q++) {
                const __m512i e = broadcast_4((const uint8_t *)one.errors + 64 * q + 4 * (channel + c));
#pragma GCC unroll 3
                for (int t = 0; t < 3; t++) sum[t] = _mm512_dpbusd_epi32(sum[t], a[t][q], e);
            }
#pragma GCC unroll 3
            for (int t = 0; t < 3; t++) total[t][c] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[t]), scale, total[t][c]);
        }
    }
#pragma GCC unroll 3
    for (int t = 0; t < 3; t++)
#pragma GCC unroll 4
        for (int c = 0; c < FEW_CHANNELS; c++) _mm512_storeu_ps(totals + (t * GRADIENT_CHANNELS + c) * BLOCK_CHANNELS, total[t][c]);
}

#define FEW_TILE(quads)                                                                                            \
    static void __attribute__((noinline)) raster_few_##quads##_avx512vnni(const struct raster_job *job, int row, int channel, float *totals) \
    {                                                                                                              \
        raster_few_tile(job, row, channel, totals, quads);                                                          \
    }
FEW_TILE(1) FEW_TILE(2) FEW_TILE(3) FEW_TILE(4)

static void raster_few_avx512vnni(const struct raster_job *job, float *totals)
{
    static void (*const tiles[FEW_QUADS])(const struct raster_job *job, int row, int channel, float *totals) = {
        raster_few_1_avx512vnni, raster_few_2_avx512vnni, raster_few_3_avx512vnni, raster_few_4_avx512vnni};
    for (int row = 0; row < job->rows; row++)
        for (int channel = 0; channel < GRADIENT_CHANNELS; channel += FEW_CHANNELS) tiles[job->quads - 1](job, row, channel, totals);
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

static void gradient_raster_avx512vnni(const struct raster_job *job, float *totals)
{
    struct raster_job one = *job;
    float scales[GRADIENT_CHANNELS * BLOCK_CHANNELS];
    if (job->quads <= FEW_QUADS) {
        raster_few_avx512vnni(job, totals);
        return;
    }
    for (int n = 0; n < job->images; n++, raster_next_image(&one)) {
        multiply_scales(one.in_scales, one.out_scales, scales);
        for (int row = 0; row < job->rows; row++) raster_many_avx512vnni(&one, row, scales, totals);
    }
}

static void add_image_products_avx512(const struct products_job *job, float *totals)
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
    .quantize_block = quantize_block_avx512,
    .quantize_run = quantize_run_avx512,
    .convolve_row = convolve_row_avx512vnni,
    .convolve_pixels = convolve_pixels_avx512vnni,
    .winograd_bits = 32,
    .winograd_planar = true,
    .winograd_input = winograd_input_avx512vnni,
    .winograd_rows = winograd_rows_avx512vnni,
    .winograd_errors = winograd_errors_avx512vnni,
    .winograd_gradient = winograd_gradient_avx512vnni,
    .gradient_images = gradient_images_avx512vnni,
    .gradient_images_sums = gradient_images_sums_avx512vnni,
    .raster_pixels = raster_pixels_avx512vnni,
    .gradient_raster = gradient_raster_avx512vnni,
    .add_image_products = add_image_products_avx512,
    .depthwise_row = depthwise_row_avx512vnni,
    .depthwise_gradient = depthwise_gradient_avx512vnni,
    .direct_row = direct_row_avx512,
    .direct_gradient = direct_gradient_avx512,
    .dot_product_rounds = dot_product_rounds_avx512vnni,
    .multiply_add_rounds = multiply_add_rounds_avx512vnni,
};
