// The kernels for AVX2 with FMA (Haswell, Zen and later).
//
// Forward and input error: a lane is an output channel, a product takes 4 input channels of one pixel (broadcast). Weight gradient:
// gradient_avx2.c.
#include "kernels/depthwise.h"
#include "kernels/fetch.h"
#include "kernels/functions_avx2.h"

#if defined(__GNUC__) && !defined(__clang__)
// These passes make gcc 12 copy accumulators at each turn of the inner loops, or need more registers than there are.
#pragma GCC optimize("no-tree-pre", "no-tree-reassoc")
#endif

#include "kernels/products_avx2.h"

static bool supported_avx2(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

// ---------------------------------------------------------------------------------------------
// Forward and input error

// How many products of bytes add up in 16 bits before they are widened. ANY: none, bytes are widened first, exact for all bytes.
// ONE: 2, those of one instruction. THREE: 6, those of three taps. MANY: those of all taps and as many quads as the bytes' size allows.
enum width { WIDTH_ANY, WIDTH_ONE, WIDTH_THREE, WIDTH_MANY };

#define TILE_PIXELS 4 // 8 sums, 4 vectors of weights and what is between them fill the 16 registers

// The products of one tap, all weights.
INLINE void add_tap(const uint8_t *pixel, size_t step, const int8_t *weights, __m256i sum[TILE_PIXELS][2], const int PIXELS)
{
    __m256i first = load_256(weights), second = load_256(weights + 32);
    const __m256i even[2] = {even_signed(first), even_signed(second)}, odd[2] = {odd_signed(first), odd_signed(second)};
#pragma GCC unroll 4
    for (int p = 0; p < PIXELS; p++) {
        __m256i bytes = broadcast_4(pixel + (size_t)p * step), a = even_unsigned(bytes);
        add_products(&sum[p][0], a, even[0]);
        add_products(&sum[p][1], a, even[1]);
        __asm__("" : "+x"(sum[p][0]), "+x"(sum[p][1])); // both before what follows: else the products need one register too many
        a = odd_unsigned(bytes);
        add_products(&sum[p][0], a, odd[0]);
        add_products(&sum[p][1], a, odd[1]);
    }
}

// The products of TAPS taps, small weights.
INLINE void add_small_taps(const uint8_t *input, size_t step, const int32_t *offsets, const int8_t *weights,
                           __m256i sum[TILE_PIXELS][2], const int PIXELS, const int TAPS)
{
    const uint8_t *from[3];
#pragma GCC unroll 3
    for (int k = 0; k < TAPS; k++) from[k] = input + offsets[k];
#pragma GCC unroll 4
    for (int p = 0; p < PIXELS; p++) {
        __m256i a[3];
#pragma GCC unroll 3
        for (int k = 0; k < TAPS; k++) a[k] = broadcast_4(from[k] + (size_t)p * step);
#pragma GCC unroll 2
        for (int h = 0; h < 2; h++) {
            __m256i products = _mm256_maddubs_epi16(a[0], load_256(weights + 32 * h));
#pragma GCC unroll 3
            for (int k = 1; k < TAPS; k++)
                products = _mm256_add_epi16(products, _mm256_maddubs_epi16(a[k], load_256(weights + 64 * k + 32 * h)));
            add_products(&sum[p][h], products, _mm256_set1_epi16(1));
        }
        FORGET_LOADS;
    }
}

// The same in sums of 16 bits.
INLINE void add_tap_16(const uint8_t *pixel, size_t step, const int8_t *weights, __m256i sum[TILE_PIXELS][2], const int PIXELS)
{
    __m256i first = load_256(weights), second = load_256(weights + 32), a[TILE_PIXELS];
#pragma GCC unroll 4
    for (int p = 0; p < PIXELS; p++) a[p] = broadcast_4(pixel + (size_t)p * step);
#pragma GCC unroll 4
    for (int p = 0; p < PIXELS; p++) sum[p][0] = _mm256_add_epi16(sum[p][0], _mm256_maddubs_epi16(a[p], first));
#pragma GCC unroll 4
    for (int p = 0; p < PIXELS; p++) sum[p][1] = _mm256_add_epi16(sum[p][1], _mm256_maddubs_epi16(a[p], second));
#pragma GCC unroll 4
    for (int p = 0; p < PIXELS; p++) __asm__("" : "+x"(sum[p][0]), "+x"(sum[p][1]));
}

INLINE void store_output(const struct convolve_job *job, float *to, __m256 total)
{
    __m256 value = _mm256_mul_ps(total, _mm256_set1_ps(job->factor));
    __builtin_prefetch(to + job->ahead, 1);
    if (job->accumulate) value = _mm256_add_ps(_mm256_loadu_ps(to), value);
    _mm256_storeu_ps(to, value);
}

// P of one group for PIXELS x 16 outputs, sums of 32 bits; returns the weights that follow.
INLINE const int8_t *sum_group(const struct convolve_job *job, int group, const uint8_t *input, const int8_t *weights, struct lanes start,
                               __m256i sum[TILE_PIXELS][2], const int PIXELS, const enum width WIDTH)
{
#pragma GCC unroll 4
    for (int p = 0; p < PIXELS; p++) {
        sum[p][0] = start.half[0];
        sum[p][1] = start.half[1];
    }
    for (int quad = job->quad_first[group]; quad <= job->quad_last[group]; quad++) {
        const uint8_t *from = input + job->quad_offsets[quad];
        int tap = 0;
        for (; WIDTH == WIDTH_THREE && tap + 3 <= job->taps; tap += 3, weights += 3 * 64)
            add_small_taps(from, job->pixel_bytes, job->tap_offsets + tap, weights, sum, PIXELS, 3);
        for (; tap < job->taps; tap++, weights += 64) {
            if (WIDTH == WIDTH_ANY)
                add_tap(from + job->tap_offsets[tap], job->pixel_bytes, weights, sum, PIXELS);
            else
                add_small_taps(from, job->pixel_bytes, job->tap_offsets + tap, weights, sum, PIXELS, 1);
        }
    }
    return weights;
}

// Adds the sums of 16 bits to those of 32 bits, and begins anew.
INLINE void widen(__m256i sum[TILE_PIXELS][2], __m256i wide[TILE_PIXELS][2], const int PIXELS)
{
#pragma GCC unroll 4
    for (int p = 0; p < PIXELS; p++)
#pragma GCC unroll 2
        for (int h = 0; h < 2; h++) {
            add_products(&wide[p][h], sum[p][h], _mm256_set1_epi16(1));
            sum[p][h] = _mm256_setzero_si256();
        }
}

// The same by sums of 16 bits, each over at most `most` quads. Those of 32 bits are in memory.
INLINE const int8_t *sum_group_16(const struct convolve_job *job, int group, const uint8_t *input, const int8_t *weights, struct lanes start,
                                  __m256i wide[TILE_PIXELS][2], const int PIXELS, int most)
{
    __m256i sum[TILE_PIXELS][2];
    const int32_t *offsets = job->tap_offsets;
    const size_t step = job->pixel_bytes;
    const int taps = job->taps, last = job->quad_last[group];
#pragma GCC unroll 4
    for (int p = 0; p < PIXELS; p++) {
        sum[p][0] = sum[p][1] = _mm256_setzero_si256();
        wide[p][0] = start.half[0];
        wide[p][1] = start.half[1];
    }
    for (int quad = job->quad_first[group]; quad <= last;) {
        int end = last + 1 - quad < most ? last + 1 : quad + most;
        for (; quad < end; quad++) {
            const uint8_t *pixel = input + job->quad_offsets[quad];
            int tap = 0;
            for (; tap + 3 <= taps; tap += 3)
#pragma GCC unroll 3
                for (int k = 0; k < 3; k++, weights += 64) add_tap_16(pixel + offsets[tap + k], step, weights, sum, PIXELS);
            for (; tap < taps; tap++, weights += 64) add_tap_16(pixel + offsets[tap], step, weights, sum, PIXELS);
        }
        widen(sum, wide, PIXELS);
    }
    return weights;
}

// PIXELS x 16 outputs of a block. The fp32 totals are in memory (first cache), so that all registers are left to the
// integer sums.
INLINE void convolve_tile(const struct convolve_job *job, int block, const uint8_t *input, float *output, int most, const int PIXELS,
                          const enum width WIDTH)
{
    const int8_t *weights = job->weights[block];
    __m256 total[TILE_PIXELS][2];
    for (int p = 0; p < PIXELS; p++) total[p][0] = total[p][1] = _mm256_setzero_ps();
    for (int group = 0; group < job->groups; group++) {
        __m256i sum[TILE_PIXELS][2];
        struct lanes start = lanes_load(job->starts[block] + group * BLOCK_CHANNELS);
        if (WIDTH == WIDTH_MANY)
            weights = sum_group_16(job, group, input, weights, start, sum, PIXELS, most);
        else
            weights = sum_group(job, group, input, weights, start, sum, PIXELS, WIDTH);
        const float *scales = job->scales[block] + group * BLOCK_CHANNELS;
#pragma GCC unroll 4
        for (int p = 0; p < PIXELS; p++)
#pragma GCC unroll 2
            for (int h = 0; h < 2; h++)
                total[p][h] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum[p][h]), _mm256_loadu_ps(scales + 8 * h), total[p][h]);
    }
    for (int p = 0; p < PIXELS; p++)
        for (int h = 0; h < 2; h++) store_output(job, output + (size_t)p * job->output_step + 8 * h, total[p][h]);
}

typedef void (*convolve_function)(const struct convolve_job *job, int block, const uint8_t *input, float *output, int most);

// convolve_PIXELSx1_WIDTH
#define TILE(pixels, name, width)                                                                                            \
    static void __attribute__((noinline)) convolve_##pixels##x1_##name##_avx2(const struct convolve_job *job, int block,     \
                                                                              const uint8_t *input, float *output, int most)  \
    {                                                                                                                        \
        convolve_tile(job, block, input, output, most, pixels, width);                                                       \
    }
#define TILES(name, width) TILE(1, name, width) TILE(2, name, width) TILE(3, name, width) TILE(4, name, width)
TILES(any, WIDTH_ANY)
TILES(one, WIDTH_ONE)
TILES(three, WIDTH_THREE)
TILES(many, WIDTH_MANY)
#undef TILE

#define ROW(name) {convolve_1x1_##name##_avx2, convolve_2x1_##name##_avx2, convolve_3x1_##name##_avx2, convolve_4x1_##name##_avx2}
static const convolve_function tiles[][TILE_PIXELS] = {
    [WIDTH_ANY] = ROW(any), [WIDTH_ONE] = ROW(one), [WIDTH_THREE] = ROW(three), [WIDTH_MANY] = ROW(many)};

// Where a group is a plane and three taps, widening them in registers is less work than sums of 16 bits that begin and end with it.
static enum width width_of(const struct convolve_job *job, int depth)
{
    if (depth >= job->taps && !(job->planar && job->taps == 3)) return WIDTH_MANY;
    return depth >= 3 ? WIDTH_THREE : depth >= 1 ? WIDTH_ONE : WIDTH_ANY;
}

static void convolve_row_avx2(const struct convolve_job *job, const uint8_t *input, int pixels, float *const outputs[2])
{
    int depth = depth_of(job->largest_input, job->largest_weight), most = job->taps ? depth / job->taps : 1; // no taps: nothing is read
    const convolve_function *functions = tiles[width_of(job, depth)];
    for (int block = 0; block < job->blocks; block++)
        for (int x = 0; x < pixels; x += TILE_PIXELS) {
            int count = pixels - x < TILE_PIXELS ? pixels - x : TILE_PIXELS;
            fetch_some(job->fetch, count);
            functions[count - 1](job, block, input + (size_t)x * job->pixel_bytes, outputs[block] + (size_t)x * job->output_step, most);
        }
}

// ---------------------------------------------------------------------------------------------
// Peaks

#define TWELVE(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11)

// Of small bytes, added in 16 bits.
static double dot_product_rounds_avx2(long rounds)
{
    __m256i a = _mm256_set1_epi32((int)rounds), b = _mm256_set1_epi32((int)rounds + 1);
#define BEGIN(i) __m256i sum##i = a;
#define ADD(i)                                                                                                      \
    {                                                                                                               \
        __m256i products;                                                                                           \
        __asm__ volatile("vpmaddubsw %2, %3, %1\n\tvpaddw %1, %0, %0" : "+x"(sum##i), "=&x"(products) : "x"(a), "x"(b)); \
    }
    TWELVE(BEGIN)
    for (long round = 0; round < rounds; round++) {
        TWELVE(ADD)
    }
#undef BEGIN
#undef ADD
    return 12.0 * 32 * (double)rounds;
}

static double multiply_add_rounds_avx2(long rounds)
{
    __m256 a = _mm256_set1_ps((float)rounds), b = _mm256_set1_ps(0.5f);
#define BEGIN(i) __m256 sum##i = a;
#define ADD(i) __asm__ volatile("vfmadd231ps %1, %2, %0" : "+x"(sum##i) : "x"(a), "x"(b));
    TWELVE(BEGIN)
    for (long round = 0; round < rounds; round++) {
        TWELVE(ADD)
    }
#undef BEGIN
#undef ADD
    return 12.0 * 8 * (double)rounds;
}

const struct kernel_set kernels_avx2 = {
    .name = "avx2",
    .help = "AVX2 and FMA, multiply-adds of bytes where they are small, else of 16 bits",
    .supported = supported_avx2,
    .quantize_block = quantize_block_avx2,
    .quantize_run = quantize_run_avx2,
    .convolve_row = convolve_row_avx2,
    .winograd_bits = 16,
    .winograd_input = winograd_input_avx2,
    .winograd_rows = winograd_rows_avx2,
    .squares_blocks = 1,
    .squares_weights = squares_weights_avx2,
    .squares_input = squares_input_avx2,
    .convolve_squares = convolve_squares_avx2,
    .squares_pixels = squares_pixels_avx2,
    .squares_errors = squares_errors_avx2,
    .gradient_squares = gradient_squares_avx2,
    .gradient_images = gradient_images_avx2,
    .gradient_images_sums = gradient_images_sums_avx2,
    .add_image_products = add_image_products_avx2,
    .depthwise_row = depthwise_row_plain,
    .depthwise_gradient = depthwise_gradient_plain,
    .direct_row = direct_row_avx2,
    .direct_gradient = direct_gradient_avx2,
    .dot_product_rounds = dot_product_rounds_avx2,
    .multiply_add_rounds = multiply_add_rounds_avx2,
};
