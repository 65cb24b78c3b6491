#include "kernels/rounded.h"

#include <math.h>
#include <stdatomic.h>

#include "base/memory.h"
#include "mls/quantize.h"
#include "mls/standard.h"

// Work is done in pieces of so many pixels of a block, which stay in the cache between the steps.
#define PIECE_PIXELS 64

// Of the 16 channels of a block in one image.
struct lanes {
    float reciprocals[BLOCK_CHANNELS]; // an element is x times this, rounded
    float scales[BLOCK_CHANNELS];      // a value is the element times this
    uint32_t first[BLOCK_CHANNELS], second[BLOCK_CHANNELS]; // keys of stochastic rounding (struct mls_plane_keys)
};

struct work {
    const struct rounded_request *request;
    const struct standard_element *element; // NULL: MLS integers
    const struct source *map;
    float *values;
    size_t pixels;
    int channels, blocks;
    struct mls_grouping grouping; // MLS integers
    float *plane_maxima;
    const float *maxima;          // of the planes
    float tensor_scale;           // 0: all is zero
    float *groups;                // maxima, then scales, of the groups
    atomic_bool failed;
};

static size_t plane_of(const struct work *w, int image, int block)
{
    return ((size_t)image * (size_t)w->blocks + (size_t)block) * BLOCK_CHANNELS;
}

static int lanes_of(const struct work *w, int block)
{
    int left = w->channels - block * BLOCK_CHANNELS;
    return left < BLOCK_CHANNELS ? left : BLOCK_CHANNELS;
}

static uint32_t bits_of(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static float float_of(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

// ---------------------------------------------------------------------------------------------
// Elements of one piece, in place. The formulas are those of mls/standard.c and mls/quantize.c for 16 channels at a time; loops over
// lanes are what the compiler makes vectors of.

struct piece {
    float *values; // [count][16]
    size_t first;  // pixel of the plane
    int count;
};

enum scaling { BY_PLANE, BY_PIXEL, BY_ELEMENT }; // what has a scale of its own; the last two are those of Microscaling

// 2^e, -127 <= e <= 127.
VECTOR_INLINE float power_of_two(int e)
{
    return float_of(e > -127 ? (uint32_t)(e + 127) << 23 : 0x400000);
}

VECTOR_INLINE float to_nearest(float v, uint32_t power, float steps)
{
    float offset = float_of(power) * steps;
    return (v + offset) - offset;
}

VECTOR_INLINE float stochastically(float v, uint32_t power, float fraction, float step, uint32_t hash)
{
    float exact = v * float_of(0x7f000000 - power) * fraction, whole = (float)(int32_t)exact;
    float random = (float)(int32_t)(hash >> 8) * 0x1p-24f;
    return (whole + (exact - whole > random ? 1.0f : 0.0f)) * (float_of(power) * step);
}

// maxima: bits of the largest |x| of each pixel, of BY_PIXEL. `scaling` and `stochastic`: constants.
VECTOR_INLINE void round_standard(const struct standard_element *element, const struct piece *piece, const struct lanes *block,
                                  const int32_t *maxima, const enum scaling scaling, const bool stochastic)
{
    const struct standard_element e = *element;
    const struct lanes lanes = *block;
    const float smallest = power_of_two(e.emin), steps = power_of_two(23 - e.fraction);
    const float fraction = power_of_two(e.fraction), step = power_of_two(-e.fraction);
    float *x = piece->values;
    for (int p = 0; p < piece->count; p++, x += BLOCK_CHANNELS)
        for (int i = 0; i < BLOCK_CHANNELS; i++) {
            float scale = lanes.scales[i], reciprocal = lanes.reciprocals[i];
            if (scaling != BY_PLANE) {
                int32_t maximum = scaling == BY_PIXEL ? maxima[p] : (int32_t)(bits_of(x[i]) & 0x7fffffff);
                int exponent = (maximum >> 23) - 127 - e.emax; // zero and subnormal maxima end up at the lower limit in any case
                exponent = exponent < -127 ? -127 : exponent;
                scale = power_of_two(exponent);
                reciprocal = power_of_two(-exponent);
            }
            float v = fabsf(x[i]) * reciprocal;
            uint32_t power = bits_of(v > smallest ? v : smallest) & 0x7f800000;
            float rounded;
            if (stochastic) {
                const struct mls_plane_keys keys = {lanes.first[i], lanes.second[i]};
                rounded = stochastically(v, power, fraction, step, mls_random_hash(keys, (uint32_t)piece->first + (uint32_t)p));
            } else {
                rounded = to_nearest(v, power, steps);
            }
            x[i] = copysignf(rounded < e.largest ? rounded : e.largest, x[i]) * scale;
        }
}

#define ROUND_STANDARD(name, scaling, stochastic)                                                                              \
    VECTORIZED static void name(const struct standard_element *element, const struct piece *piece, const struct lanes *lanes,  \
                                const int32_t *maxima)                                                                         \
    {                                                                                                                          \
        round_standard(element, piece, lanes, maxima, scaling, stochastic);                                                    \
    }
ROUND_STANDARD(round_by_plane, BY_PLANE, false)
ROUND_STANDARD(round_by_plane_stochastically, BY_PLANE, true)
ROUND_STANDARD(round_by_pixel, BY_PIXEL, false)
ROUND_STANDARD(round_by_pixel_stochastically, BY_PIXEL, true)
ROUND_STANDARD(round_by_element, BY_ELEMENT, false)
ROUND_STANDARD(round_by_element_stochastically, BY_ELEMENT, true)

// What mls_quantize_element needs of a format.
struct integer_format {
    int bits, exponent, mantissa, lowest, largest;
    float unit;
};

static struct integer_format integer_format_of(const struct mls_format *format)
{
    return (struct integer_format){.bits = mls_quantizer_bits(format), .exponent = format->exponent, .mantissa = format->mantissa,
                                   .lowest = format->exponent ? 1 - (1 << format->exponent) : 0, .largest = mls_largest_integer(format),
                                   .unit = ldexpf(1.0f, -mls_fraction_bits(format))};
}

// The signed integer of x. `stochastic`: a constant.
VECTOR_INLINE int32_t integer_of(const struct integer_format *f, float x, float reciprocal, const bool stochastic, uint32_t random)
{
    float scaled = rintf((fabsf(x) * reciprocal) * (float)(1 << f->bits)), limit = (float)((1 << f->bits) - 1);
    int32_t y = (int32_t)(scaled < limit ? scaled : limit), lowest = f->lowest;
    int32_t e = (int32_t)(bits_of((float)y) >> 23) - 127 - f->bits; // floor(log2 y); y < 2^24 is exact
    e = e < lowest ? lowest : e > -1 ? -1 : e;
    if (f->exponent == 0) e = 0;
    int32_t dropped = f->bits + e - f->mantissa; // at least Q - F, which is 8 or more
    y += stochastic ? (int32_t)(random & ((1u << dropped) - 1)) : 1 << (dropped - 1);
    int32_t integer = (y >> dropped) << (e - lowest);
    integer = integer > f->largest ? f->largest : integer;
    return x < 0 ? -integer : integer;
}

VECTORIZED static void round_integers_to_nearest(const struct integer_format *format, const struct piece *piece, const struct lanes *lanes)
{
    const struct integer_format f = *format;
    float *x = piece->values;
    for (int p = 0; p < piece->count; p++, x += BLOCK_CHANNELS)
        for (int i = 0; i < BLOCK_CHANNELS; i++)
            x[i] = lanes->scales[i] * ((float)integer_of(&f, x[i], lanes->reciprocals[i], false, 0) * f.unit);
}

VECTORIZED static void round_integers_stochastically(const struct integer_format *format, const struct piece *piece, const struct lanes *lanes)
{
    const struct integer_format f = *format;
    float *x = piece->values;
    for (int p = 0; p < piece->count; p++, x += BLOCK_CHANNELS) {
        uint32_t position = (uint32_t)piece->first + (uint32_t)p, high = position / 16 % 2 * 16; // mls_random_bits
        uint32_t counter = f.bits > 16 ? position : position / 32 * 16 + position % 16;
        for (int i = 0; i < BLOCK_CHANNELS; i++) {
            uint32_t hash = mls_random_hash((struct mls_plane_keys){lanes->first[i], lanes->second[i]}, counter);
            uint32_t random = f.bits > 16 ? hash >> 8 : hash >> high & 0xffff;
            x[i] = lanes->scales[i] * ((float)integer_of(&f, x[i], lanes->reciprocals[i], true, random) * f.unit);
        }
    }
}

// With the scales in `lanes`.
static void round_piece(const struct work *w, const struct piece *piece, const struct lanes *lanes)
{
    bool stochastic = w->request->format->rounding == MLS_STOCHASTIC;
    if (w->element) {
        (stochastic ? round_by_plane_stochastically : round_by_plane)(w->element, piece, lanes, NULL);
        return;
    }
    struct integer_format format = integer_format_of(w->request->format);
    (stochastic ? round_integers_stochastically : round_integers_to_nearest)(&format, piece, lanes);
}

// ---------------------------------------------------------------------------------------------
// Planes

static void set_keys(const struct work *w, int image, int block, struct lanes *lanes)
{
    for (int i = 0; i < lanes_of(w, block); i++) {
        uint64_t plane = (uint64_t)image * (uint64_t)w->channels + (uint64_t)(block * BLOCK_CHANNELS + i);
        struct mls_plane_keys keys = mls_plane_keys_of(w->request->tensor_key, plane);
        lanes->first[i] = keys.first;
        lanes->second[i] = keys.second;
    }
}

// The source's numbers; lanes without a channel become 0.
static struct piece read_piece(const struct work *w, int image, int block, size_t first)
{
    struct source source = source_of_block(w->map, image, block, w->blocks, w->pixels);
    size_t count = w->pixels - first < PIECE_PIXELS ? w->pixels - first : PIECE_PIXELS;
    struct piece piece = {w->values + plane_of(w, image, block) * w->pixels + first * BLOCK_CHANNELS, first, (int)count};
    source.x += first * BLOCK_CHANNELS;
    if (source.kind == SOURCE_ERROR) source.delta += first * BLOCK_CHANNELS;
    source_write(&source, count, piece.values, false);
    for (size_t p = 0; lanes_of(w, block) < BLOCK_CHANNELS && p < count; p++)
        for (int i = lanes_of(w, block); i < BLOCK_CHANNELS; i++) piece.values[p * BLOCK_CHANNELS + (size_t)i] = 0;
    return piece;
}

static void copy(void *context, int image, int thread)
{
    (void)thread;
    const struct work *w = context;
    for (int block = 0; block < w->blocks; block++)
        for (size_t pixel = 0; pixel < w->pixels; pixel += PIECE_PIXELS) read_piece(w, image, block, pixel);
}

static void find_plane_maxima(void *context, int image, int thread)
{
    (void)thread;
    const struct work *w = context;
    for (int block = 0; block < w->blocks; block++) {
        struct source source = source_of_block(w->map, image, block, w->blocks, w->pixels);
        source_maxima(&source, w->pixels, w->plane_maxima + plane_of(w, image, block));
    }
}

// ---------------------------------------------------------------------------------------------
// One scale for a tensor (FP8) or for groups of planes (MLS integers)

static float larger(float a, float b)
{
    return bits_of(a) > bits_of(b) ? a : b; // not negative; a NaN is above all
}

static bool find_scales(struct work *w)
{
    const struct rounded_request *r = w->request;
    float largest = 0;
    for (int n = 0; n < r->dims[0]; n++)
        for (int c = 0; c < w->channels; c++) {
            float maximum = w->maxima[plane_of(w, n, 0) + (size_t)c];
            largest = larger(maximum, largest);
            if (w->element) continue;
            float *group = &w->groups[mls_group_index(&w->grouping, n, c)];
            *group = larger(maximum, *group);
        }
    if (!isfinite(largest)) return false;
    if (w->element) {
        w->tensor_scale = largest < 0x1p-60f ? 0 : largest / w->element->largest;
        return true;
    }
    return mls_scales(r->format, w->groups, w->grouping.blocks[0] * w->grouping.blocks[1], &w->tensor_scale, w->groups);
}

static void set_scales(const struct work *w, int image, int block, struct lanes *lanes)
{
    for (int i = 0; i < lanes_of(w, block); i++) {
        float scale = w->tensor_scale;
        if (!w->element) scale *= w->groups[mls_group_index(&w->grouping, image, block * BLOCK_CHANNELS + i)];
        lanes->scales[i] = scale;
        lanes->reciprocals[i] = w->tensor_scale > 0 ? 1.0f / scale : 0;
    }
}

static void round_planes(void *context, int image, int thread)
{
    (void)thread;
    const struct work *w = context;
    for (int block = 0; block < w->blocks; block++) {
        struct lanes lanes = {0};
        set_scales(w, image, block, &lanes);
        set_keys(w, image, block, &lanes);
        for (size_t pixel = 0; pixel < w->pixels; pixel += PIECE_PIXELS) {
            struct piece piece = read_piece(w, image, block, pixel);
            round_piece(w, &piece, &lanes);
        }
    }
}

// ---------------------------------------------------------------------------------------------
// Microscaling: a scale for each pixel of MICROSCALING_BLOCK channels

enum { PARTS = MICROSCALING_BLOCK / BLOCK_CHANNELS };

// maxima[count] = max(maxima, |value| of each pixel's 16) as bits; a NaN is above all. Returns the largest.
VECTORIZED static int32_t find_pixel_maxima(const struct piece *piece, int32_t *maxima)
{
    const float *x = piece->values;
    int32_t all = 0;
    for (int p = 0; p < piece->count; p++, x += BLOCK_CHANNELS) {
        int32_t largest = maxima[p];
        for (int i = 0; i < BLOCK_CHANNELS; i++) {
            int32_t bits = (int32_t)(bits_of(x[i]) & 0x7fffffff);
            largest = bits > largest ? bits : largest;
        }
        maxima[p] = largest;
        all = largest > all ? largest : all;
    }
    return all;
}

// Pieces of `parts` neighbouring blocks, which share scales unless each channel is a convolution group of its own.
static bool round_pixels(const struct work *w, int image, int block, int parts, size_t pixel, const struct lanes *lanes)
{
    struct piece pieces[PARTS];
    int32_t maxima[PIECE_PIXELS] = {0};
    bool finite = true, stochastic = w->request->format->rounding == MLS_STOCHASTIC, alone = w->request->convolution_groups > 1;
    for (int k = 0; k < parts; k++) {
        pieces[k] = read_piece(w, image, block + k, pixel);
        finite = find_pixel_maxima(&pieces[k], maxima) < 0x7f800000 && finite;
    }
    for (int k = 0; finite && k < parts; k++)
        (alone ? stochastic ? round_by_element_stochastically : round_by_element
               : stochastic ? round_by_pixel_stochastically : round_by_pixel)(w->element, &pieces[k], &lanes[k], maxima);
    return finite;
}

static void round_microscaling(void *context, int image, int thread)
{
    (void)thread;
    struct work *w = context;
    for (int block = 0; block < w->blocks && !w->failed; block += PARTS) {
        struct lanes lanes[PARTS] = {0};
        int parts = w->blocks - block < PARTS ? w->blocks - block : PARTS;
        for (int k = 0; k < parts; k++) set_keys(w, image, block + k, &lanes[k]);
        for (size_t pixel = 0; pixel < w->pixels; pixel += PIECE_PIXELS)
            if (!round_pixels(w, image, block, parts, pixel, lanes)) w->failed = true;
    }
}

// ---------------------------------------------------------------------------------------------

static bool allocate(struct work *w, struct error *error)
{
    if (!w->maxima)
        w->maxima = w->plane_maxima = memory_allocate(plane_of(w, w->request->dims[0], 0), sizeof(float), error);
    if (!w->element)
        w->groups = memory_allocate((size_t)w->grouping.blocks[0] * (size_t)w->grouping.blocks[1], sizeof(float), error);
    return w->maxima && (w->element || w->groups);
}

static bool round_by_planes(struct work *w, struct thread_pool *pool, struct error *error)
{
    bool good = allocate(w, error);
    if (good && w->plane_maxima) thread_pool_run(pool, w->request->dims[0], find_plane_maxima, w);
    if (good) w->failed = !find_scales(w);
    if (good && !w->failed) thread_pool_run(pool, w->request->dims[0], round_planes, w);
    memory_release(w->plane_maxima);
    memory_release(w->groups);
    return good;
}

// Always false: the message names the first number that is not finite.
static bool report(struct work *w, struct error *error)
{
    const int *dims = w->request->dims;
    size_t image = (size_t)w->channels * w->pixels;
    float *planar = memory_allocate((size_t)dims[0] * image, sizeof(float), error);
    if (!planar) return false;
    for (int n = 0; n < dims[0]; n++) {
        copy(w, n, 0);
        blocked_to_planar(w->values + plane_of(w, n, 0) * w->pixels, w->channels, w->pixels, planar + (size_t)n * image);
    }
    mls_report_not_finite(planar, dims, error);
    memory_release(planar);
    return false;
}

bool rounded_map(const struct rounded_request *request, struct thread_pool *pool, const struct source *map, float *values,
                 struct error *error)
{
    const int *dims = request->dims;
    struct work w = {.request = request, .map = map, .values = values, .maxima = request->maxima, .channels = dims[1],
                     .blocks = blocked_count(dims[1]), .pixels = (size_t)dims[2] * (size_t)dims[3]};
    if (!request->format) {
        thread_pool_run(pool, dims[0], copy, &w);
        return true;
    }
    w.element = standard_element_of(request->format);
    if (!w.element) w.grouping = mls_grouping_of(request->format, request->operand, dims[0], dims[1], request->convolution_groups);
    if (request->format->family == MLS_FAMILY_MICROSCALING)
        thread_pool_run(pool, dims[0], round_microscaling, &w);
    else if (!round_by_planes(&w, pool, error))
        return false;
    return !w.failed || report(&w, error);
}
