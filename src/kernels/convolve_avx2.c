// The kernels for AVX2 with FMA (Haswell, Zen and later).
//
// Forward and input error: a lane is an output channel, a product takes 4 input channels of one pixel (broadcast). Weight
// gradient: a lane is an input channel, a product takes 4 pixels. The product of bytes of this instruction set has 16 bits and
// saturates. It is used where the signed bytes are so small that it cannot, and its results are added in 16 bits as long as the
// bytes' size allows. Otherwise a 32-bit lane with 4 bytes is taken apart into the 16-bit pairs (byte 0, byte 2) and (byte 1, byte 3),
// which takes shifts but no shuffles.
#include "kernels/depthwise.h"
#include "kernels/fetch.h"
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

// How many products of bytes add up in 16 bits before they are widened. ANY: none, bytes are widened first, exact for all bytes.
// ONE: 2, those of one instruction. THREE: 6, those of three taps. MANY: those of all taps and as many quads as the bytes' size allows.
enum width { WIDTH_ANY, WIDTH_ONE, WIDTH_THREE, WIDTH_MANY };

// How many sums of 2 products of the largest bytes fit 16 bits.
static int depth_of(int largest_unsigned, int largest_signed)
{
    int pair = 2 * largest_unsigned * largest_signed;
    return pair > 0 ? INT16_MAX / pair : INT16_MAX;
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
// Weight gradient

#define CHUNK_QUADS 64

// Some quads of 4 pixels, whole rows of errors or a part of one, and what is read for them.
struct gradient_chunk {
    int y, x, rows, columns;             // in quads
    const int8_t *errors;                // [quad][16 output channels][4 pixels], of which 8 are used
    __m256i wide_errors[CHUNK_QUADS][2]; // [8 output channels][2 pixels] in 16 bits: pixels 0 and 2, 1 and 3
    // [rows, and one more for each further tap][columns][half of the input channels][8 input channels][4 pixels]
    __m256i pixels[GRADIENT_TAPS * CHUNK_QUADS][2];
};

static void widen_errors(struct gradient_chunk *chunk)
{
    for (int i = 0; i < chunk->rows * chunk->columns; i++) {
        __m256i bytes = load_256(chunk->errors + 64 * i);
        chunk->wide_errors[i][0] = even_signed(bytes);
        chunk->wide_errors[i][1] = odd_signed(bytes);
    }
}

// The 16 channels of two pixels.
INLINE __m256i load_pair(const uint8_t *from, size_t pixel_bytes)
{
    __m256i first = _mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)from));
    return _mm256_inserti128_si256(first, _mm_loadu_si128((const __m128i *)(from + pixel_bytes)), 1);
}

// For `taps` taps that lie a row of the map apart: they share rows.
static void load_pixels(const struct gradient_job *job, int tap, int taps, struct gradient_chunk *chunk)
{
    const __m256i order = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 8, 4, 12, 1, 9, 5, 13, 2, 10, 6, 14, 3, 11, 7, 15));
    const size_t step = job->pixel_bytes;
    __m256i(*to)[2] = chunk->pixels;
    for (int row = 0; row < chunk->rows + taps - 1; row++) {
        const uint8_t *from = job->pixels + job->tap_offsets[tap] + (size_t)(chunk->y + row) * job->row_bytes + (size_t)chunk->x * 4 * step;
        for (int i = 0; i < chunk->columns; i++, to++, from += 4 * step) {
            __m256i near = load_pair(from, step), far = load_pair(from + 2 * step, step);
            // Then a 128-bit lane holds 4 channels of the pixels 0, 2, 1, 3.
            __m256i low = _mm256_permute4x64_epi64(_mm256_unpacklo_epi32(near, far), 0xd8);
            __m256i high = _mm256_permute4x64_epi64(_mm256_unpackhi_epi32(near, far), 0xd8);
            to[0][0] = _mm256_shuffle_epi8(low, order);
            to[0][1] = _mm256_shuffle_epi8(high, order);
        }
    }
}

// sum[output channel] += the products of one quad and half of the input channels.
INLINE void add_quad(__m256i pixels, const __m256i wide_errors[2], __m256i sum[GRADIENT_CHANNELS])
{
    __m256i even = even_unsigned(pixels), odd = odd_unsigned(pixels);
#pragma GCC unroll 8
    for (int c = 0; c < GRADIENT_CHANNELS; c++) {
        add_products(&sum[c], even, broadcast_4((const int32_t *)&wide_errors[0] + c));
        add_products(&sum[c], odd, broadcast_4((const int32_t *)&wide_errors[1] + c));
        FORGET_LOADS;
    }
}

// The same, small errors.
INLINE void add_small_quad(__m256i pixels, const int8_t *errors, __m256i sum[GRADIENT_CHANNELS])
{
#pragma GCC unroll 8
    for (int c = 0; c < GRADIENT_CHANNELS; c++) {
        __m256i products = _mm256_maddubs_epi16(pixels, broadcast_4(errors + 4 * c));
        add_products(&sum[c], products, _mm256_set1_epi16(1));
    }
}

// total[half][output channel] += the products of the chunk. pixels: of a tap.
static void gradient_8_any_avx2(const struct gradient_chunk *chunk, __m256i (*pixels)[2], int depth, __m256i total[2][GRADIENT_CHANNELS])
{
    for (int half = 0; half < 2; half++) {
        __m256i sum[GRADIENT_CHANNELS];
        int count = chunk->rows * chunk->columns;
        for (int c = 0; c < GRADIENT_CHANNELS; c++) sum[c] = total[half][c];
        if (depth == 0)
            for (int i = 0; i < count; i++) add_quad(pixels[i][half], chunk->wide_errors[i], sum);
        else
            for (int i = 0; i < count; i++) add_small_quad(pixels[i][half], chunk->errors + 64 * i, sum);
        for (int c = 0; c < GRADIENT_CHANNELS; c++) total[half][c] = sum[c];
    }
}

// sum[output channel][half of the input channels], of 16 bits: the products of the quads [begin, end) and 4 output channels from `first`.
INLINE void sum_quads(const struct gradient_chunk *chunk, __m256i (*pixels)[2], int first, int begin, int end, __m256i sum[4][2])
{
#pragma GCC unroll 4
    for (int c = 0; c < 4; c++) sum[c][0] = sum[c][1] = _mm256_setzero_si256();
    for (int i = begin; i < end; i++)
#pragma GCC unroll 4
        for (int c = 0; c < 4; c++) {
            __m256i error = broadcast_4(chunk->errors + 64 * i + 4 * (first + c));
            sum[c][0] = _mm256_add_epi16(sum[c][0], _mm256_maddubs_epi16(pixels[i][0], error));
            sum[c][1] = _mm256_add_epi16(sum[c][1], _mm256_maddubs_epi16(pixels[i][1], error));
        }
}

// As gradient_8_any, by sums of 16 bits, for half of the output channels at a time.
static void gradient_8_many_avx2(const struct gradient_chunk *chunk, __m256i (*pixels)[2], int depth, __m256i total[2][GRADIENT_CHANNELS])
{
    int count = chunk->rows * chunk->columns;
    for (int first = 0; first < GRADIENT_CHANNELS; first += 4)
        for (int begin = 0, end; begin < count; begin = end) {
            __m256i sum[4][2];
            end = count - begin < depth ? count : begin + depth;
            sum_quads(chunk, pixels, first, begin, end, sum);
#pragma GCC unroll 4
            for (int c = 0; c < 4; c++)
#pragma GCC unroll 2
                for (int half = 0; half < 2; half++) add_products(&total[half][first + c], sum[c][half], _mm256_set1_epi16(1));
        }
}

struct gradient_sums {
    __m256i of[GRADIENT_TAPS][2][GRADIENT_CHANNELS]; // [half of the input channels]
};

// How many taps from `tap` on, one below the other in the window, lie a row of the map apart.
static int taps_in_column(const struct gradient_job *job, int tap)
{
    int count = 1;
    for (int next = tap + job->row_taps; count < GRADIENT_TAPS && next < job->taps; next += job->row_taps, count++)
        if (job->tap_offsets[next] != job->tap_offsets[next - job->row_taps] + job->row_bytes) break;
    return count;
}

// P of `taps` taps from `tap` on, one below the other.
static void gradient_sums_avx2(const struct gradient_job *job, int tap, int taps, struct gradient_sums *sums)
{
    struct gradient_chunk chunk;
    int depth = depth_of(job->largest_input, job->largest_error);
    int columns = job->row_quads < CHUNK_QUADS ? job->row_quads : CHUNK_QUADS, rows = CHUNK_QUADS / columns;
    for (int t = 0; t < taps; t++)
        for (int c = 0; c < GRADIENT_CHANNELS; c++)
            sums->of[t][0][c] = sums->of[t][1][c] = _mm256_set1_epi32(job->corrections ? -job->corrections[c] : 0);
    for (chunk.y = 0; chunk.y < job->height; chunk.y += rows)
        for (chunk.x = 0; chunk.x < job->row_quads; chunk.x += columns) {
            chunk.rows = job->height - chunk.y < rows ? job->height - chunk.y : rows;
            chunk.columns = job->row_quads - chunk.x < columns ? job->row_quads - chunk.x : columns;
            chunk.errors = job->quads + (size_t)(chunk.y * job->row_quads + chunk.x) * 64;
            fetch_some(job->fetch, chunk.rows * chunk.columns);
            load_pixels(job, tap, taps, &chunk);
            if (depth == 0) widen_errors(&chunk);
            for (int t = 0; t < taps; t++) {
                __m256i(*pixels)[2] = chunk.pixels + t * chunk.columns;
                if (depth > 1)
                    gradient_8_many_avx2(&chunk, pixels, depth, sums->of[t]);
                else
                    gradient_8_any_avx2(&chunk, pixels, depth, sums->of[t]);
            }
        }
}

// totals: of the tap, [8][16].
static void add_to_floats(const struct gradient_job *job, __m256i sums[2][GRADIENT_CHANNELS], float *totals)
{
    for (int c = 0; c < GRADIENT_CHANNELS; c++)
        for (int h = 0; h < 2; h++, totals += 8) {
            __m256 scale = _mm256_mul_ps(_mm256_loadu_ps(job->in_scales + 8 * h), _mm256_set1_ps(job->out_scales[c]));
            _mm256_storeu_ps(totals, _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums[h][c]), scale, _mm256_loadu_ps(totals)));
        }
}

static void add_to_integers(__m256i sums[2][GRADIENT_CHANNELS], int64_t *totals)
{
    for (int c = 0; c < GRADIENT_CHANNELS; c++)
        for (int k = 0; k < 4; k++, totals += 4) {
            __m128i part = _mm_load_si128((const __m128i *)&sums[k / 2][c] + k % 2);
            _mm256_storeu_si256((__m256i *)totals, _mm256_add_epi64(load_256(totals), _mm256_cvtepi32_epi64(part)));
        }
}

// totals of one tap, [8][16], of an image that is one chunk and whose sums fit 16 bits: they are widened in registers.
static void gradient_8_once_avx2(const struct gradient_job *job, const struct gradient_chunk *chunk, __m256i (*pixels)[2],
                                 __m256 scales[GRADIENT_CHANNELS][2], float *totals)
{
    for (int first = 0; first < GRADIENT_CHANNELS; first += 4) {
        __m256i sum[4][2];
        sum_quads(chunk, pixels, first, 0, chunk->rows * chunk->columns, sum);
#pragma GCC unroll 4
        for (int c = 0; c < 4; c++) {
            const __m256i start = _mm256_set1_epi32(job->corrections ? -job->corrections[first + c] : 0);
#pragma GCC unroll 2
            for (int half = 0; half < 2; half++, totals += 8) {
                __m256i products = start;
                add_products(&products, sum[c][half], _mm256_set1_epi16(1));
                _mm256_storeu_ps(totals, _mm256_fmadd_ps(_mm256_cvtepi32_ps(products), scales[first + c][half], _mm256_loadu_ps(totals)));
            }
        }
    }
}

// Whether an image is one chunk and its sums fit 16 bits.
static bool is_small(const struct gradient_job *job)
{
    const int quads = job->height * job->row_quads;
    return quads <= CHUNK_QUADS && quads <= depth_of(job->largest_input, job->largest_error);
}

static void gradient_small_image_avx2(const struct gradient_job *job, float *totals)
{
    struct gradient_chunk chunk; // large: only what is used is set
    __m256 scales[GRADIENT_CHANNELS][2];
    chunk.y = chunk.x = 0;
    chunk.rows = job->height;
    chunk.columns = job->row_quads;
    chunk.errors = job->quads;
    for (int c = 0; c < GRADIENT_CHANNELS; c++)
        for (int half = 0; half < 2; half++)
            scales[c][half] = _mm256_mul_ps(_mm256_loadu_ps(job->in_scales + 8 * half), _mm256_set1_ps(job->out_scales[c]));
    for (int first = 0, taps; first < job->taps; first += taps * job->row_taps) {
        taps = taps_in_column(job, first);
        for (int tap = first; tap < first + job->row_taps; tap++) {
            fetch_some(job->fetch, chunk.rows * chunk.columns);
            load_pixels(job, tap, taps, &chunk);
            for (int t = 0; t < taps; t++)
                gradient_8_once_avx2(job, &chunk, chunk.pixels + t * chunk.columns, scales,
                                     totals + (size_t)(tap + t * job->row_taps) * GRADIENT_CHANNELS * BLOCK_CHANNELS);
        }
    }
}

// One image. To totals, or else to wide.
static void gradient_image_avx2(const struct gradient_job *job, float *totals, int64_t *wide)
{
    struct gradient_sums sums;
    if (totals && is_small(job)) {
        gradient_small_image_avx2(job, totals);
        return;
    }
    for (int first = 0, taps; first < job->taps; first += taps * job->row_taps) {
        taps = taps_in_column(job, first);
        for (int tap = first; tap < first + job->row_taps; tap++) {
            gradient_sums_avx2(job, tap, taps, &sums);
            for (int t = 0; t < taps; t++) {
                size_t at = (size_t)(tap + t * job->row_taps) * GRADIENT_CHANNELS * BLOCK_CHANNELS;
                if (totals)
                    add_to_floats(job, sums.of[t], totals + at);
                else
                    add_to_integers(sums.of[t], wide + at);
            }
        }
    }
}

static void gradient_images_avx2(const struct gradient_job *job, float *totals)
{
    struct gradient_job one = *job;
    for (int n = 0; n < job->images; n++, gradient_next_image(&one)) gradient_image_avx2(&one, totals, NULL);
}

static void gradient_images_sums_avx2(const struct gradient_job *job, int64_t *sums)
{
    struct gradient_job one = *job;
    for (int n = 0; n < job->images; n++, gradient_next_image(&one)) gradient_image_avx2(&one, NULL, sums);
}

// Half of the 16 input channels.
INLINE void add_half_products(const struct products_job *job, int half, float *totals)
{
    for (int n = 0; n < job->images; n++) {
        const float *products = job->products + (size_t)n * job->image_products + 8 * half;
        const __m256 in_scales = _mm256_loadu_ps(job->in_scales + (size_t)n * job->image_in_scales + 8 * half);
        __m256 scales[GRADIENT_CHANNELS];
        for (int c = 0; c < GRADIENT_CHANNELS; c++)
            scales[c] = _mm256_mul_ps(in_scales, _mm256_set1_ps(job->out_scales[(size_t)n * job->image_out_scales + (size_t)c]));
        for (int row = 0; row < job->taps * GRADIENT_CHANNELS; row++, products += BLOCK_CHANNELS) {
            float *to = totals + row * BLOCK_CHANNELS + 8 * half;
            _mm256_storeu_ps(to, _mm256_fmadd_ps(_mm256_loadu_ps(products), scales[row % GRADIENT_CHANNELS], _mm256_loadu_ps(to)));
        }
    }
}

static void add_image_products_avx2(const struct products_job *job, float *totals)
{
    for (int half = 0; half < 2; half++) add_half_products(job, half, totals);
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
