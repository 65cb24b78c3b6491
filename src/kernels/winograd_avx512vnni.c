// Two rows of outputs at once (struct winograd_job) and of errors (struct winograd_gradient_job), for AVX-512 with VNNI. In forward and input
// error a lane is an output channel, in the weight gradient an input channel.
#include "kernels/fetch.h"
#include "kernels/functions_avx512.h"
#include "kernels/vectors_avx512.h"
#include "kernels/winograd_input.h"

TRANSFORM(64, __m512i, _mm512_loadu_si512, _mm512_storeu_si512, _mm512_add_epi8, _mm512_sub_epi8, _mm512_xor_si512, _mm512_set1_epi8)

INLINE void transform_line(const uint8_t *from, size_t row_bytes, size_t pitch, uint8_t *to)
{
    size_t x = 0;
    for (; x + 64 <= pitch; x += 64) transform_64(from + x, row_bytes, pitch, to + x);
    for (; x + 32 <= pitch; x += 32) transform_32(from + x, row_bytes, pitch, to + x);
    if (x < pitch) transform_16(from + x, row_bytes, pitch, to + x);
}

void winograd_input_avx512vnni(const struct winograd_input_job *job)
{
    transform_lines(job, transform_line);
}

// The totals are twice what they should be.
INLINE void store_half(const struct winograd_job *job, __m512 total, float *row, int pixel)
{
    store_outputs(row + (size_t)pixel * BLOCK_CHANNELS, _mm512_mul_ps(total, _mm512_set1_ps(0.5f)), job->factor, job->accumulate, job->ahead);
}

// ---------------------------------------------------------------------------------------------
// Groups of one channel, in planes

// 2 x PIXELS outputs from pixel `first` on. Of the four dot products, the last two add to what the others leave. These are numbers whose bits
// are those of floats: m1 and m2 of 1.5 * 2^23 and m, their sum of 1.5 * 2^24 and m1 + m2, whose last place is 2. So they are added, and what
// comes out is converted, by the adders of floats. Those of integers would do in name, but a Zen sends half of them where dot products go.
INLINE void planar_tile(const struct winograd_job *job, int first, float *const outputs[2], const int PIXELS)
{
    const uint8_t *rows = job->rows + job->quad_offsets[job->quad_first[0]] + first;
    const int8_t *weights = job->weights;
    const int32_t *starts = job->starts;
    const float *scales = job->scales;
    const size_t pitch = job->pitch;
    const __m512i once = _mm512_set1_epi32(0x4b400000);
    const __m512 twice = _mm512_set1_ps(0x3p23f);
    __m512 total[8][2];
#pragma GCC unroll 8
    for (int p = 0; p < PIXELS; p++) total[p][0] = total[p][1] = _mm512_setzero_ps();
    for (int group = 0; group < job->groups; group++) {
        __m512i w[4], middle[2];
#pragma GCC unroll 4
        for (int k = 0; k < 4; k++) w[k] = _mm512_loadu_si512(weights + 64 * k);
#pragma GCC unroll 2
        for (int m = 0; m < 2; m++) middle[m] = _mm512_add_epi32(_mm512_loadu_si512(starts + m * BLOCK_CHANNELS), once);
        const __m512 scale = _mm512_loadu_ps(scales);
#pragma GCC unroll 8
        for (int p = 0; p < PIXELS; p++) {
            const __m512 m1 = _mm512_castsi512_ps(_mm512_dpbusd_epi32(middle[0], broadcast_4(rows + pitch + p), w[1]));
            const __m512 m2 = _mm512_castsi512_ps(_mm512_dpbusd_epi32(middle[1], broadcast_4(rows + 2 * pitch + p), w[2]));
            const __m512i sum = _mm512_castps_si512(_mm512_add_ps(m1, m2));
            const __m512i difference = _mm512_castps_si512(_mm512_add_ps(_mm512_sub_ps(m1, m2), twice));
            const __m512 upper = _mm512_castsi512_ps(_mm512_dpbusd_epi32(sum, broadcast_4(rows + p), w[0]));
            const __m512 lower = _mm512_castsi512_ps(_mm512_dpbusd_epi32(difference, broadcast_4(rows + 3 * pitch + p), w[3]));
            total[p][0] = _mm512_fmadd_ps(_mm512_sub_ps(upper, twice), scale, total[p][0]);
            total[p][1] = _mm512_fmadd_ps(_mm512_sub_ps(lower, twice), scale, total[p][1]);
        }
        rows += 4 * pitch;
        weights += 4 * 64;
        starts += 2 * BLOCK_CHANNELS;
        scales += BLOCK_CHANNELS;
    }
#pragma GCC unroll 2
    for (int row = 0; row < 2; row++)
#pragma GCC unroll 8
        for (int p = 0; p < PIXELS; p++)
            store_half(job, total[p][row], outputs[row], first + p);
}

// ---------------------------------------------------------------------------------------------
// Packed blocks

// sums[p] += the products of one transformed row of a quad: each broadcast serves the outputs of three columns.
INLINE void add_columns(const uint8_t *row, const int8_t *weights, __m512i sums[8], const int PIXELS)
{
    __m512i w[WINOGRAD_COLUMNS];
#pragma GCC unroll 3
    for (int k = 0; k < WINOGRAD_COLUMNS; k++) w[k] = _mm512_loadu_si512(weights + 64 * k);
#pragma GCC unroll 10
    for (int i = 0; i < PIXELS + WINOGRAD_COLUMNS - 1; i++) {
        const __m512i a = broadcast_4(row + i * BLOCK_CHANNELS);
#pragma GCC unroll 3
        for (int k = 0; k < WINOGRAD_COLUMNS; k++)
            if (i - k >= 0 && i - k < PIXELS) sums[i - k] = _mm512_dpbusd_epi32(sums[i - k], a, w[k]);
    }
}

// sums[2][8] of a group: m1 and m2 first, to which the other two rows add when they have become their sum and their difference.
INLINE void sum_group(const struct winograd_job *job, int group, const uint8_t *rows, const int8_t *weights, __m512i sums[2][8],
                      const int PIXELS)
{
    const size_t pitch = job->pitch, row_weights = WINOGRAD_COLUMNS * 64;
    const int8_t *w = weights;
#pragma GCC unroll 2
    for (int m = 0; m < 2; m++) {
        const __m512i start = _mm512_loadu_si512(job->starts + (2 * group + m) * BLOCK_CHANNELS);
#pragma GCC unroll 8
        for (int p = 0; p < PIXELS; p++) sums[m][p] = start;
    }
    for (int quad = job->quad_first[group]; quad <= job->quad_last[group]; quad++, w += 4 * row_weights) {
        const uint8_t *from = rows + job->quad_offsets[quad] + pitch;
        add_columns(from, w + row_weights, sums[0], PIXELS);
        add_columns(from + pitch, w + 2 * row_weights, sums[1], PIXELS);
    }
#pragma GCC unroll 8
    for (int p = 0; p < PIXELS; p++) {
        const __m512i m1 = sums[0][p], m2 = sums[1][p];
        sums[0][p] = _mm512_add_epi32(m1, m2);
        sums[1][p] = _mm512_sub_epi32(m1, m2);
    }
    w = weights;
    for (int quad = job->quad_first[group]; quad <= job->quad_last[group]; quad++, w += 4 * row_weights) {
        const uint8_t *from = rows + job->quad_offsets[quad];
        add_columns(from, w, sums[0], PIXELS);
        add_columns(from + 3 * pitch, w + 3 * row_weights, sums[1], PIXELS);
    }
}

// 2 x PIXELS outputs from pixel `first` on. The fp32 totals are in the first cache: all registers are left to the integer sums.
INLINE void blocked_tile(const struct winograd_job *job, int first, float *const outputs[2], float stored[2][8][BLOCK_CHANNELS],
                         const int PIXELS)
{
    const uint8_t *rows = job->rows + (size_t)first * BLOCK_CHANNELS;
    const int8_t *weights = job->weights;
    for (int group = 0; group < job->groups; group++) {
        __m512i sums[2][8];
        sum_group(job, group, rows, weights, sums, PIXELS);
        weights += (job->quad_last[group] - job->quad_first[group] + 1) * 4 * WINOGRAD_COLUMNS * 64;
        const __m512 scale = _mm512_loadu_ps(job->scales + group * BLOCK_CHANNELS);
        const bool last = group + 1 == job->groups;
#pragma GCC unroll 2
        for (int row = 0; row < 2; row++)
#pragma GCC unroll 8
            for (int p = 0; p < PIXELS; p++) {
                __m512 total = group ? _mm512_load_ps(stored[row][p]) : _mm512_setzero_ps();
                total = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[row][p]), scale, total);
                if (last)
                    store_half(job, total, outputs[row], first + p);
                else
                    _mm512_store_ps(stored[row][p], total);
            }
    }
}

// ---------------------------------------------------------------------------------------------

typedef void (*tile_function)(const struct winograd_job *job, int first, float *const outputs[2], float stored[2][8][BLOCK_CHANNELS]);

// winograd_LAYOUT_2xPIXELS
#define TILE(layout, pixels, ...)                                                                                  \
    static void __attribute__((noinline)) winograd_##layout##_2x##pixels##_avx512vnni(                              \
        const struct winograd_job *job, int first, float *const outputs[2], float stored[2][8][BLOCK_CHANNELS])     \
    {                                                                                                              \
        (void)stored;                                                                                              \
        layout##_tile(job, first, outputs, __VA_ARGS__);                                                           \
    }
TILE(planar, 8, 8) TILE(planar, 7, 7) TILE(blocked, 8, stored, 8) TILE(blocked, 7, stored, 7)

void winograd_rows_avx512vnni(const struct winograd_job *job, float *const outputs[2])
{
    static const tile_function tiles[2][2] = {{winograd_blocked_2x7_avx512vnni, winograd_blocked_2x8_avx512vnni},
                                              {winograd_planar_2x7_avx512vnni, winograd_planar_2x8_avx512vnni}};
    float stored[2][8][BLOCK_CHANNELS] __attribute__((aligned(64)));
    bool eights = job->pixels % 8 == 0;
    for (int x = 0, width = eights ? 8 : 7; x < job->pixels; x += width) {
        fetch_some(job->fetch, 2 * width);
        tiles[job->planar][eights](job, x, outputs, stored);
    }
}

// ---------------------------------------------------------------------------------------------
// Weight gradient

void winograd_errors_avx512vnni(const struct winograd_errors_job *job)
{
    const __m512i ones = _mm512_set1_epi8(1);
    __m512i sums[2] = {_mm512_setzero_si512(), _mm512_setzero_si512()}; // of e0 and of e1, by channel
    const size_t row = (size_t)job->row_quads * 64;
    const int8_t *quads = job->quads;
    int8_t *mixed = job->mixed;
    for (int pair = 0; pair < job->pairs; pair++, quads += 2 * row, mixed += 2 * row)
        for (size_t x = 0; x < row; x += 64) {
            const __m512i e0 = _mm512_loadu_si512(quads + x), e1 = _mm512_loadu_si512(quads + row + x);
            sums[0] = _mm512_dpbusd_epi32(sums[0], ones, e0);
            sums[1] = _mm512_dpbusd_epi32(sums[1], ones, e1);
            _mm512_storeu_si512(mixed + x, _mm512_add_epi8(e0, e1));
            _mm512_storeu_si512(mixed + row + x, _mm512_sub_epi8(e0, e1));
        }
    const __m512i offset = _mm512_set1_epi32(-WINOGRAD_OFFSET);
    const __m512i all[4] = {sums[0], _mm512_add_epi32(sums[0], sums[1]), _mm512_sub_epi32(sums[0], sums[1]), sums[1]};
    for (int k = 0; k < 4; k++) _mm512_storeu_si512(job->starts + k * BLOCK_CHANNELS, _mm512_mullo_epi32(all[k], offset));
}

// M of transformed row K, for 3 columns of the window.
INLINE void gradient_sums(const struct winograd_gradient_job *job, __m512i sum[3][GRADIENT_CHANNELS], const int K)
{
    const __m512i order = order_of_pixels();
#pragma GCC unroll 8
    for (int c = 0; c < GRADIENT_CHANNELS; c++) sum[0][c] = sum[1][c] = sum[2][c] = _mm512_set1_epi32(job->starts[K * BLOCK_CHANNELS + c]);
    const int8_t *errors = (K == 0 || K == 3 ? job->quads : job->mixed) + (K >= 2 ? job->row_quads * 64 : 0);
    const uint8_t *row = job->rows + K * job->pitch;
    for (int pair = 0; pair < job->pairs; pair++, errors += job->row_quads * 64, row += 4 * job->pitch) {
        const uint8_t *pixels = row;
        fetch_some(job->fetch, job->row_quads);
        for (int x = 0; x < job->row_quads; x++, errors += 64, pixels += 64) {
            __m512i a[3];
#pragma GCC unroll 3
            for (int t = 0; t < 3; t++) a[t] = _mm512_permutexvar_epi8(order, _mm512_loadu_si512(pixels + t * BLOCK_CHANNELS));
#pragma GCC unroll 8
            for (int c = 0; c < GRADIENT_CHANNELS; c++) {
                const __m512i e = broadcast_4((const uint8_t *)errors + 4 * c);
#pragma GCC unroll 3
                for (int t = 0; t < 3; t++) sum[t][c] = _mm512_dpbusd_epi32(sum[t][c], a[t], e);
            }
        }
    }
}

// Row `row` of the window: totals += P * scale of 3 columns and 8 output channels.
INLINE void add_row(const struct winograd_gradient_job *job, int row, __m512i sum[3][GRADIENT_CHANNELS], float *totals)
{
    const __m512 in_scales = _mm512_loadu_ps(job->in_scales);
#pragma GCC unroll 8
    for (int c = 0; c < GRADIENT_CHANNELS; c++) {
        const __m512 scale = _mm512_mul_ps(in_scales, _mm512_set1_ps(job->out_scales[c]));
#pragma GCC unroll 3
        for (int t = 0; t < 3; t++) {
            float *to = totals + ((3 * row + t) * GRADIENT_CHANNELS + c) * BLOCK_CHANNELS;
            _mm512_storeu_ps(to, _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[t][c]), scale, _mm512_loadu_ps(to)));
        }
    }
}

typedef int32_t stored_sums[3][GRADIENT_CHANNELS][BLOCK_CHANNELS];

// M1, for the rows to come.
static void __attribute__((noinline)) gradient_first_avx512vnni(const struct winograd_gradient_job *job, stored_sums stored)
{
    __m512i sum[3][GRADIENT_CHANNELS];
    gradient_sums(job, sum, 1);
#pragma GCC unroll 3
    for (int t = 0; t < 3; t++)
#pragma GCC unroll 8
        for (int c = 0; c < GRADIENT_CHANNELS; c++) _mm512_store_si512(stored[t][c], sum[t][c]);
}

// M2: row 1 of the window, and (M1 + M2) / 2 for the others.
static void __attribute__((noinline)) gradient_middle_avx512vnni(const struct winograd_gradient_job *job, stored_sums stored, float *totals)
{
    __m512i sum[3][GRADIENT_CHANNELS];
    gradient_sums(job, sum, 2);
#pragma GCC unroll 3
    for (int t = 0; t < 3; t++)
#pragma GCC unroll 8
        for (int c = 0; c < GRADIENT_CHANNELS; c++) {
            const __m512i m1 = _mm512_load_si512(stored[t][c]), m2 = sum[t][c];
            _mm512_store_si512(stored[t][c], _mm512_srai_epi32(_mm512_add_epi32(m1, m2), 1));
            sum[t][c] = _mm512_srai_epi32(_mm512_sub_epi32(m1, m2), 1);
        }
    add_row(job, 1, sum, totals);
}

// M0 or M3: row 0 or 2 of the window.
INLINE void gradient_outer(const struct winograd_gradient_job *job, stored_sums stored, float *totals, const int K)
{
    __m512i sum[3][GRADIENT_CHANNELS];
    gradient_sums(job, sum, K);
#pragma GCC unroll 3
    for (int t = 0; t < 3; t++)
#pragma GCC unroll 8
        for (int c = 0; c < GRADIENT_CHANNELS; c++) sum[t][c] = _mm512_add_epi32(sum[t][c], _mm512_load_si512(stored[t][c]));
    add_row(job, K == 0 ? 0 : 2, sum, totals);
}

static void __attribute__((noinline)) gradient_upper_avx512vnni(const struct winograd_gradient_job *job, stored_sums stored, float *totals)
{
    gradient_outer(job, stored, totals, 0);
}

static void __attribute__((noinline)) gradient_lower_avx512vnni(const struct winograd_gradient_job *job, stored_sums stored, float *totals)
{
    gradient_outer(job, stored, totals, 3);
}

void winograd_gradient_avx512vnni(const struct winograd_gradient_job *job, float *totals)
{
    stored_sums stored __attribute__((aligned(64)));
    struct winograd_gradient_job one = *job;
    for (int n = 0; n < job->images; n++, winograd_next_image(&one)) {
        gradient_first_avx512vnni(&one, stored);
        gradient_middle_avx512vnni(&one, stored, totals);
        gradient_upper_avx512vnni(&one, stored, totals);
        gradient_lower_avx512vnni(&one, stored, totals);
    }
}
