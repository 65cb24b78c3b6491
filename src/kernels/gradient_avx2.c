// The weight gradient for AVX2 with FMA: a lane is an input channel, a product takes 4 pixels.
#include "kernels/fetch.h"
#include "kernels/functions_avx2.h"

#if defined(__GNUC__) && !defined(__clang__)
// These passes make gcc 12 copy accumulators at each turn of the inner loops, or need more registers than there are.
#pragma GCC optimize("no-tree-pre", "no-tree-reassoc")
#endif

#include "kernels/products_avx2.h"

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

void gradient_images_avx2(const struct gradient_job *job, float *totals)
{
    struct gradient_job one = *job;
    for (int n = 0; n < job->images; n++, gradient_next_image(&one)) gradient_image_avx2(&one, totals, NULL);
}

void gradient_images_sums_avx2(const struct gradient_job *job, int64_t *sums)
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

void add_image_products_avx2(const struct products_job *job, float *totals)
{
    for (int half = 0; half < 2; half++) add_half_products(job, half, totals);
}
