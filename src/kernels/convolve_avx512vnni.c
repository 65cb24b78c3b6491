// The kernels for AVX-512 with VNNI and VBMI (Ice Lake, Zen 4 and later).
//
// Forward and input error: a lane is an output channel, a dot product takes 4 input channels of one pixel
// (broadcast) and 4 x 16 weights. Weight gradient: gradient_avx512vnni.c.
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
    .squares_blocks = 2,
    .squares_weights = squares_weights_avx512vnni,
    .squares_input = squares_input_avx512vnni,
    .convolve_squares = convolve_squares_avx512vnni,
    .gradient_images = gradient_images_avx512vnni,
    .gradient_images_sums = gradient_images_sums_avx512vnni,
    .squares_pixels = squares_pixels_avx512vnni,
    .squares_errors = squares_errors_avx512vnni,
    .gradient_squares = gradient_squares_avx512vnni,
    .raster_pixels = raster_pixels_avx512vnni,
    .gradient_raster = gradient_raster_avx512vnni,
    .add_image_products = add_image_products_avx512vnni,
    .depthwise_row = depthwise_row_avx512vnni,
    .depthwise_gradient = depthwise_gradient_avx512vnni,
    .direct_row = direct_row_avx512,
    .direct_gradient = direct_gradient_avx512,
    .dot_product_rounds = dot_product_rounds_avx512vnni,
    .multiply_add_rounds = multiply_add_rounds_avx512vnni,
};
