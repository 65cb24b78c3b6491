// The kernels for AVX2 with FMA (Haswell, Zen and later).
//
// Forward and input error: a lane is an output channel, a product takes 4 input channels of one pixel (broadcast). Weight
// gradient: a lane is an input channel, a product takes 4 pixels. The product of bytes of this instruction set has 16 bits and
// saturates. It is used where the signed bytes are so small that it cannot. Otherwise a 32-bit lane with 4 bytes is taken
// apart into the 16-bit pairs (byte 0, byte 2) and (byte 1, byte 3), which takes shifts but no shuffles.
#include "kernels/functions_avx2.h"

#if defined(__GNUC__) && !defined(__clang__)
// These passes make gcc 12 copy accumulators at each turn of the inner loops, or need more registers than there are.
#pragma GCC optimize("no-tree-pre", "no-tree-reassoc")
#endif

#include "kernels/vectors_avx2.h"

static bool supported_avx2(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

// ---------------------------------------------------------------------------------------------
// Products of unsigned and signed bytes

// How many products of bytes are added at once in a 32-bit lane. ANY: 4, widened to 16 bits first, exact for all bytes.
// ONE and THREE: 1 or 3 times 4, where two halves of 16 bits each add 2 or 6 products: exact only where the bytes are small
// enough, and up to twice as fast.
enum width { WIDTH_ANY = 0, WIDTH_ONE = 1, WIDTH_THREE = 3 };

// The largest sum in 16 bits is 2 * width products of the largest bytes.
static enum width width_of(int largest_unsigned, int largest_signed)
{
    int pair = 2 * largest_unsigned * largest_signed;
    return WIDTH_THREE * pair <= INT16_MAX ? WIDTH_THREE : pair <= INT16_MAX ? WIDTH_ONE : WIDTH_ANY;
}

INLINE __m256i broadcast_4(const void *from)
{
    int32_t four;
    __builtin_memcpy(&four, from, 4);
    return _mm256_set1_epi32(four);
}

// Bytes 0 and 2 of each 32-bit lane as 16 bits; bytes 1 and 3.
INLINE __m256i even_signed(__m256i bytes)
{
    return _mm256_srai_epi16(_mm256_slli_epi16(bytes, 8), 8);
}

INLINE __m256i odd_signed(__m256i bytes)
{
    return _mm256_srai_epi16(bytes, 8);
}

INLINE __m256i even_unsigned(__m256i bytes)
{
    return _mm256_and_si256(bytes, _mm256_set1_epi16(0xff));
}

INLINE __m256i odd_unsigned(__m256i bytes)
{
    return _mm256_srli_epi16(bytes, 8);
}

INLINE void add_products(__m256i *sum, __m256i a, __m256i b)
{
    *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(a, b));
}

// What was loaded before it is loaded again after it: else gcc keeps in registers what an instruction can take from memory,
// and the sums are not in registers.
#define FORGET_LOADS __asm__ volatile("" : : : "memory")

// ---------------------------------------------------------------------------------------------
// Forward and input error

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
INLINE void add_small_taps(const uint8_t *pixel, size_t step, const int32_t *offsets, const int8_t *weights,
                           __m256i sum[TILE_PIXELS][2], const int PIXELS, const int TAPS)
{
    const __m256i ones = _mm256_set1_epi16(1);
    size_t at[3];
#pragma GCC unroll 3
    for (int k = 0; k < TAPS; k++) at[k] = (size_t)(ptrdiff_t)offsets[k];
#pragma GCC unroll 4
    for (int p = 0; p < PIXELS; p++, pixel += step) {
        __m256i a[3];
#pragma GCC unroll 3
        for (int k = 0; k < TAPS; k++) a[k] = broadcast_4(pixel + at[k]);
#pragma GCC unroll 2
        for (int h = 0; h < 2; h++) {
            __m256i products = _mm256_maddubs_epi16(a[0], load_256(weights + 32 * h));
#pragma GCC unroll 3
            for (int k = 1; k < TAPS; k++)
                products = _mm256_add_epi16(products, _mm256_maddubs_epi16(a[k], load_256(weights + 64 * k + 32 * h)));
            add_products(&sum[p][h], products, ones);
        }
        FORGET_LOADS;
    }
}

// The products of all taps of a quad; returns the weights that follow.
INLINE const int8_t *add_quad(const struct convolve_job *job, const uint8_t *pixel, const int8_t *weights,
                              __m256i sum[TILE_PIXELS][2], const int PIXELS, const enum width WIDTH)
{
    const size_t step = job->pixel_bytes;
    int tap = 0;
    for (; WIDTH == WIDTH_THREE && tap + 3 <= job->taps; tap += 3, weights += 3 * 64)
        add_small_taps(pixel, step, job->tap_offsets + tap, weights, sum, PIXELS, 3);
    for (; tap < job->taps; tap++, weights += 64) {
        if (WIDTH == WIDTH_ANY)
            add_tap(pixel + job->tap_offsets[tap], step, weights, sum, PIXELS);
        else
            add_small_taps(pixel, step, job->tap_offsets + tap, weights, sum, PIXELS, 1);
    }
    return weights;
}

INLINE void store_output(const struct convolve_job *job, float *to, __m256 total)
{
    __m256 value = _mm256_mul_ps(total, _mm256_set1_ps(job->factor));
    if (job->accumulate) value = _mm256_add_ps(_mm256_loadu_ps(to), value);
    _mm256_storeu_ps(to, value);
}

// PIXELS x 16 outputs of a block. The fp32 totals are in memory (first cache), so that all registers are left to the
// integer sums.
INLINE void convolve_tile(const struct convolve_job *job, int block, const uint8_t *input, float *output, const int PIXELS,
                          const enum width WIDTH)
{
    const int8_t *weights = job->weights[block];
    __m256 total[TILE_PIXELS][2];
    for (int p = 0; p < PIXELS; p++) total[p][0] = total[p][1] = _mm256_setzero_ps();
    for (int group = 0; group < job->groups; group++) {
        __m256i sum[TILE_PIXELS][2];
        struct lanes begin = lanes_load(job->starts[block] + group * BLOCK_CHANNELS);
#pragma GCC unroll 4
        for (int p = 0; p < PIXELS; p++) {
            sum[p][0] = begin.half[0];
            sum[p][1] = begin.half[1];
        }
        for (int quad = job->quad_first[group]; quad <= job->quad_last[group]; quad++)
            weights = add_quad(job, input + job->quad_offsets[quad], weights, sum, PIXELS, WIDTH);
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

typedef void (*convolve_function)(const struct convolve_job *job, int block, const uint8_t *input, float *output);

// convolve_PIXELSx1_WIDTH
#define TILE(pixels, name, width)                                                                                            \
    static void __attribute__((noinline))                                                                                    \
    convolve_##pixels##x1_##name##_avx2(const struct convolve_job *job, int block, const uint8_t *input, float *output)      \
    {                                                                                                                        \
        convolve_tile(job, block, input, output, pixels, width);                                                             \
    }
#define TILES(name, width) TILE(1, name, width) TILE(2, name, width) TILE(3, name, width) TILE(4, name, width)
TILES(any, WIDTH_ANY)
TILES(one, WIDTH_ONE)
TILES(three, WIDTH_THREE)
#undef TILE

#define ROW(name) {convolve_1x1_##name##_avx2, convolve_2x1_##name##_avx2, convolve_3x1_##name##_avx2, convolve_4x1_##name##_avx2}
static const convolve_function tiles[][TILE_PIXELS] = {[WIDTH_ANY] = ROW(any), [WIDTH_ONE] = ROW(one), [WIDTH_THREE] = ROW(three)};

static void convolve_row_avx2(const struct convolve_job *job, const uint8_t *input, int pixels, float *const outputs[2])
{
    const convolve_function *functions = tiles[width_of(job->largest_input, job->largest_weight)];
    for (int block = 0; block < job->blocks; block++)
        for (int x = 0; x < pixels; x += TILE_PIXELS) {
            int count = pixels - x < TILE_PIXELS ? pixels - x : TILE_PIXELS;
            functions[count - 1](job, block, input + (size_t)x * job->pixel_bytes, outputs[block] + (size_t)x * job->output_step);
        }
}

// ---------------------------------------------------------------------------------------------
// Weight gradient

#define CHUNK_QUADS 66 // a multiple of 2 and 3

// The operands of some quads of 4 pixels.
struct gradient_chunk {
    __m256i errors[CHUNK_QUADS];         // [8 output channels][4 pixels]
    __m256i wide_errors[CHUNK_QUADS][2]; // [8 output channels][2 pixels] in 16 bits: pixels 0 and 2, 1 and 3
    __m256i pixels[2][CHUNK_QUADS];      // [half of the input channels][..][8 input channels][4 pixels]
};

// Errors, up to a multiple of 6 quads; what is not there is 0.
static void load_errors(const int8_t *quads, int count, enum width width, struct gradient_chunk *chunk)
{
    for (int i = 0; i < count; i++) chunk->errors[i] = load_256(quads + 64 * i);
    for (int i = count; i % 6 != 0; i++) chunk->errors[i] = chunk->pixels[0][i] = chunk->pixels[1][i] = _mm256_setzero_si256();
    for (int i = 0; i < count && width == WIDTH_ANY; i++) {
        chunk->wide_errors[i][0] = even_signed(chunk->errors[i]);
        chunk->wide_errors[i][1] = odd_signed(chunk->errors[i]);
    }
}

// The 16 channels of two pixels.
INLINE __m256i load_pair(const uint8_t *from, size_t pixel_bytes)
{
    __m256i first = _mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)from));
    return _mm256_inserti128_si256(first, _mm_loadu_si128((const __m128i *)(from + pixel_bytes)), 1);
}

// `at`: the first quad of the chunk.
static void load_pixels(const struct gradient_job *job, int tap, struct cursor at, int count, struct gradient_chunk *chunk)
{
    const __m256i order = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 8, 4, 12, 1, 9, 5, 13, 2, 10, 6, 14, 3, 11, 7, 15));
    const size_t step = job->pixel_bytes;
    for (int i = 0; i < count; i++) {
        const uint8_t *from = job->pixels + job->tap_offsets[tap] + (size_t)at.y * job->row_bytes + (size_t)at.x * 4 * step;
        __m256i near = load_pair(from, step), far = load_pair(from + 2 * step, step);
        // Then a 128-bit lane holds 4 channels of the pixels 0, 2, 1, 3.
        __m256i low = _mm256_permute4x64_epi64(_mm256_unpacklo_epi32(near, far), 0xd8);
        __m256i high = _mm256_permute4x64_epi64(_mm256_unpackhi_epi32(near, far), 0xd8);
        chunk->pixels[0][i] = _mm256_shuffle_epi8(low, order);
        chunk->pixels[1][i] = _mm256_shuffle_epi8(high, order);
        cursor_advance(&at, 1, job->row_quads);
    }
}

// sum[output channel] += the products of WIDTH quads, small errors. pixels: of 8 input channels.
INLINE void add_small_quads(const __m256i *pixels, const __m256i *errors, __m256i sum[GRADIENT_CHANNELS], const enum width WIDTH)
{
    const __m256i ones = _mm256_set1_epi16(1);
    __m256i a[3];
#pragma GCC unroll 3
    for (int k = 0; k < (int)WIDTH; k++) a[k] = pixels[k];
#pragma GCC unroll 8
    for (int c = 0; c < GRADIENT_CHANNELS; c++) {
        __m256i products = _mm256_maddubs_epi16(a[0], broadcast_4((const int32_t *)errors + c));
#pragma GCC unroll 3
        for (int k = 1; k < (int)WIDTH; k++)
            products = _mm256_add_epi16(products, _mm256_maddubs_epi16(a[k], broadcast_4((const int32_t *)(errors + k) + c)));
        add_products(&sum[c], products, ones);
        FORGET_LOADS;
    }
}

// The same for one quad and all errors.
INLINE void add_quad_of_pixels(__m256i pixels, const __m256i wide_errors[2], __m256i sum[GRADIENT_CHANNELS])
{
    __m256i even = even_unsigned(pixels), odd = odd_unsigned(pixels);
#pragma GCC unroll 8
    for (int c = 0; c < GRADIENT_CHANNELS; c++) {
        add_products(&sum[c], even, broadcast_4((const int32_t *)&wide_errors[0] + c));
        add_products(&sum[c], odd, broadcast_4((const int32_t *)&wide_errors[1] + c));
        FORGET_LOADS;
    }
}

// total[output channel] += the products of a chunk. half: of the input channels.
INLINE void gradient_tile(const struct gradient_chunk *chunk, int count, int half, __m256i total[GRADIENT_CHANNELS], const enum width WIDTH)
{
    __m256i sum[GRADIENT_CHANNELS];
#pragma GCC unroll 8
    for (int c = 0; c < GRADIENT_CHANNELS; c++) sum[c] = total[c];
    for (int i = 0; i < count; i += WIDTH == WIDTH_THREE ? 3 : 1) {
        if (WIDTH == WIDTH_ANY)
            add_quad_of_pixels(chunk->pixels[half][i], chunk->wide_errors[i], sum);
        else
            add_small_quads(&chunk->pixels[half][i], &chunk->errors[i], sum, WIDTH);
    }
#pragma GCC unroll 8
    for (int c = 0; c < GRADIENT_CHANNELS; c++) total[c] = sum[c];
}

typedef void (*gradient_function)(const struct gradient_chunk *chunk, int count, int half, __m256i total[GRADIENT_CHANNELS]);

// gradient_8_WIDTH: 8 input channels, 8 output channels, one tap.
#define TILE(name, width)                                                                                                    \
    static void __attribute__((noinline))                                                                                    \
    gradient_8_##name##_avx2(const struct gradient_chunk *chunk, int count, int half, __m256i total[GRADIENT_CHANNELS])      \
    {                                                                                                                        \
        gradient_tile(chunk, count, half, total, width);                                                                     \
    }
TILE(any, WIDTH_ANY)
TILE(one, WIDTH_ONE)
TILE(three, WIDTH_THREE)
#undef TILE

static const gradient_function gradient_tiles[] = {
    [WIDTH_ANY] = gradient_8_any_avx2, [WIDTH_ONE] = gradient_8_one_avx2, [WIDTH_THREE] = gradient_8_three_avx2};

struct gradient_sums {
    __m256i of[GRADIENT_TAPS][2][GRADIENT_CHANNELS]; // [half of the input channels]
};

// P of `taps` taps from `tap` on.
static void gradient_sums_avx2(const struct gradient_job *job, int tap, int taps, struct gradient_sums *sums)
{
    struct gradient_chunk chunk;
    int quads = job->height * job->row_quads;
    enum width width = width_of(job->largest_input, job->largest_error);
    struct cursor at = {0, 0};
    for (int t = 0; t < taps; t++)
        for (int c = 0; c < GRADIENT_CHANNELS; c++)
            sums->of[t][0][c] = sums->of[t][1][c] = _mm256_set1_epi32(job->corrections ? -job->corrections[c] : 0);
    for (int first = 0; first < quads; first += CHUNK_QUADS) {
        int count = quads - first < CHUNK_QUADS ? quads - first : CHUNK_QUADS;
        load_errors(job->quads + (size_t)first * 64, count, width, &chunk);
        for (int t = 0; t < taps; t++) {
            load_pixels(job, tap + t, at, count, &chunk);
            for (int half = 0; half < 2; half++) gradient_tiles[width](&chunk, count, half, sums->of[t][half]);
        }
        cursor_advance(&at, count, job->row_quads);
    }
}

static void gradient_image_avx2(const struct gradient_job *job, float *totals)
{
    struct gradient_sums sums;
    for (int tap = 0, taps; tap < job->taps; tap += taps) {
        taps = gradient_tile_taps(job, tap);
        gradient_sums_avx2(job, tap, taps, &sums);
        for (int t = 0; t < taps; t++)
            for (int c = 0; c < GRADIENT_CHANNELS; c++)
                for (int h = 0; h < 2; h++, totals += 8) {
                    __m256 scale = _mm256_mul_ps(_mm256_loadu_ps(job->in_scales + 8 * h), _mm256_set1_ps(job->out_scales[c]));
                    __m256 p = _mm256_cvtepi32_ps(sums.of[t][h][c]);
                    _mm256_storeu_ps(totals, _mm256_fmadd_ps(p, scale, _mm256_loadu_ps(totals)));
                }
    }
}

static void gradient_image_sums_avx2(const struct gradient_job *job, int64_t *totals)
{
    struct gradient_sums sums;
    for (int tap = 0, taps; tap < job->taps; tap += taps) {
        taps = gradient_tile_taps(job, tap);
        gradient_sums_avx2(job, tap, taps, &sums);
        for (int t = 0; t < taps; t++)
            for (int c = 0; c < GRADIENT_CHANNELS; c++)
                for (int k = 0; k < 4; k++, totals += 4) {
                    __m128i part = _mm_load_si128((const __m128i *)&sums.of[t][k / 2][c] + k % 2);
                    _mm256_storeu_si256((__m256i *)totals, _mm256_add_epi64(load_256(totals), _mm256_cvtepi32_epi64(part)));
                }
    }
}

static void gradient_images_avx2(const struct gradient_job *job, float *totals)
{
    struct gradient_job one = *job;
    for (int n = 0; n < job->images; n++, gradient_next_image(&one)) gradient_image_avx2(&one, totals);
}

static void gradient_images_sums_avx2(const struct gradient_job *job, int64_t *sums)
{
    struct gradient_job one = *job;
    for (int n = 0; n < job->images; n++, gradient_next_image(&one)) gradient_image_sums_avx2(&one, sums);
}

// ---------------------------------------------------------------------------------------------
// Peaks

#define TWELVE(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11)

static double dot_product_rounds_avx2(long rounds)
{
    __m256i a = _mm256_set1_epi32((int)rounds), b = _mm256_set1_epi32((int)rounds + 1);
#define BEGIN(i) __m256i sum##i = a;
#define ADD(i)                                                                                                      \
    {                                                                                                               \
        __m256i products;                                                                                           \
        __asm__ volatile("vpmaddwd %2, %3, %1\n\tvpaddd %1, %0, %0" : "+x"(sum##i), "=&x"(products) : "x"(a), "x"(b)); \
    }
    TWELVE(BEGIN)
    for (long round = 0; round < rounds; round++) {
        TWELVE(ADD)
    }
#undef BEGIN
#undef ADD
    return 12.0 * 16 * (double)rounds;
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
    .help = "AVX2 and FMA, 16-bit multiply-adds",
    .supported = supported_avx2,
    .quantize_block = quantize_block_avx2,
    .quantize_run = quantize_run_avx2,
    .convolve_row = convolve_row_avx2,
    .gradient_images = gradient_images_avx2,
    .gradient_images_sums = gradient_images_sums_avx2,
    .direct_row = direct_row_avx2,
    .direct_gradient = direct_gradient_avx2,
    .dot_product_rounds = dot_product_rounds_avx2,
    .multiply_add_rounds = multiply_add_rounds_avx2,
};
