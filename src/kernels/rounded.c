#include "kernels/rounded.h"

#include <stdatomic.h>

#include "base/memory.h"
#include "mls/elements.h"

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
    int *columns;                 // group of a channel in image 0
    atomic_bool failed;
};

static size_t plane_of(const struct work *w, int image, int block)
{
    return ((size_t)image * (size_t)w->blocks + (size_t)block) * BLOCK_CHANNELS;
}

static float *value_at(const struct work *w, int image, int channel, size_t pixel)
{
    return &w->values[plane_of(w, image, channel / BLOCK_CHANNELS) * w->pixels + pixel * BLOCK_CHANNELS + (size_t)channel % BLOCK_CHANNELS];
}

static int lanes_of(const struct work *w, int block)
{
    int left = w->channels - block * BLOCK_CHANNELS;
    return left < BLOCK_CHANNELS ? left : BLOCK_CHANNELS;
}

// ---------------------------------------------------------------------------------------------
// Elements of one piece, in place. Loops over lanes are what the compiler makes vectors of.

struct piece {
    float *values; // [count][16]
    size_t first;  // pixel of the plane
    int count;
};

enum scaling { BY_PLANE, BY_PIXEL, BY_ELEMENT }; // what has a scale of its own; the last two are those of Microscaling

VECTOR_INLINE uint32_t hash_of(const struct lanes *lanes, int i, uint32_t counter)
{
    return mls_random_hash((struct mls_plane_keys){lanes->first[i], lanes->second[i]}, counter);
}

// maxima: magnitude_bits of each pixel, for BY_PIXEL. `scaling` and `stochastic`: constants.
VECTOR_INLINE void round_elements(const struct standard_element *element, const struct piece *piece, const struct lanes *lanes,
                                  const int32_t *maxima, const enum scaling scaling, const bool stochastic)
{
    const struct standard_rounding r = standard_rounding_of(element);
    const struct lanes l = *lanes;
    const int emax = element->emax;
    float *x = piece->values;
    for (int p = 0; p < piece->count; p++, x += BLOCK_CHANNELS)
        for (int i = 0; i < BLOCK_CHANNELS; i++) {
            float scale = l.scales[i], reciprocal = l.reciprocals[i];
            if (scaling != BY_PLANE) {
                int exponent = microscaling_exponent(emax, scaling == BY_PIXEL ? maxima[p] : magnitude_bits(x[i]));
                scale = power_of_two(exponent);
                reciprocal = power_of_two(-exponent);
            }
            uint32_t hash = stochastic ? hash_of(&l, i, (uint32_t)piece->first + (uint32_t)p) : 0;
            x[i] = round_standard(&r, x[i], reciprocal, stochastic, hash) * scale;
        }
}

#define ROUND_ELEMENTS(name, scaling, stochastic)                                                                              \
    VECTORIZED static void name(const struct standard_element *element, const struct piece *piece, const struct lanes *lanes,  \
                                const int32_t *maxima)                                                                         \
    {                                                                                                                          \
        round_elements(element, piece, lanes, maxima, scaling, stochastic);                                                    \
    }
ROUND_ELEMENTS(round_by_plane, BY_PLANE, false)
ROUND_ELEMENTS(round_by_plane_stochastically, BY_PLANE, true)
ROUND_ELEMENTS(round_by_pixel, BY_PIXEL, false)
ROUND_ELEMENTS(round_by_pixel_stochastically, BY_PIXEL, true)
ROUND_ELEMENTS(round_by_element, BY_ELEMENT, false)
ROUND_ELEMENTS(round_by_element_stochastically, BY_ELEMENT, true)

VECTORIZED static void round_integers(const struct mls_format *format, const struct piece *piece, const struct lanes *lanes)
{
    const struct integer_rounding r = integer_rounding_of(format);
    const struct lanes l = *lanes;
    float *x = piece->values;
    for (int p = 0; p < piece->count; p++, x += BLOCK_CHANNELS)
        for (int i = 0; i < BLOCK_CHANNELS; i++) x[i] = l.scales[i] * ((float)round_integer(&r, x[i], l.reciprocals[i], false, 0) * r.unit);
}

VECTORIZED static void round_integers_stochastically(const struct mls_format *format, const struct piece *piece, const struct lanes *lanes)
{
    const struct integer_rounding r = integer_rounding_of(format);
    const struct lanes l = *lanes;
    float *x = piece->values;
    for (int p = 0; p < piece->count; p++, x += BLOCK_CHANNELS) {
        const uint32_t position = (uint32_t)piece->first + (uint32_t)p, counter = random_counter(r.bits, position);
        for (int i = 0; i < BLOCK_CHANNELS; i++) {
            uint32_t random = random_part(r.bits, position, hash_of(&l, i, counter));
            x[i] = l.scales[i] * ((float)round_integer(&r, x[i], l.reciprocals[i], true, random) * r.unit);
        }
    }
}

// With the scales in `lanes`.
static void round_piece(const struct work *w, const struct piece *piece, const struct lanes *lanes)
{
    bool stochastic = w->request->format->rounding == MLS_STOCHASTIC;
    if (w->element)
        (stochastic ? round_by_plane_stochastically : round_by_plane)(w->element, piece, lanes, NULL);
    else
        (stochastic ? round_integers_stochastically : round_integers)(w->request->format, piece, lanes);
}

// ---------------------------------------------------------------------------------------------
// Planes

static void set_keys(const struct work *w, int image, int block, struct lanes *lanes)
{
    if (w->request->format->rounding != MLS_STOCHASTIC) return;
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

static float *groups_of_image(const struct work *w, int image)
{
    return w->groups + mls_group_index(&w->grouping, image, 0);
}

static bool find_scales(struct work *w)
{
    const struct rounded_request *r = w->request;
    float largest = 0;
    for (int n = 0; n < r->dims[0]; n++) {
        const float *maxima = w->maxima + plane_of(w, n, 0);
        float *groups = w->element ? NULL : groups_of_image(w, n);
        for (int c = 0; c < w->channels; c++) {
            largest = larger(maxima[c], largest);
            if (groups) groups[w->columns[c]] = larger(maxima[c], groups[w->columns[c]]);
        }
    }
    if (!isfinite(largest)) return false;
    if (!w->element) return mls_scales(r->format, w->groups, w->grouping.blocks[0] * w->grouping.blocks[1], &w->tensor_scale, w->groups);
    w->tensor_scale = fp8_tensor_scale(w->element, largest);
    return true;
}

static void set_scales(const struct work *w, int image, int block, struct lanes *lanes)
{
    const float *groups = w->element ? NULL : groups_of_image(w, image);
    for (int i = 0; i < lanes_of(w, block); i++) {
        float scale = groups ? w->tensor_scale * groups[w->columns[block * BLOCK_CHANNELS + i]] : w->tensor_scale;
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

enum { PARTS = MICROSCALING_BLOCK / BLOCK_CHANNELS }; // 2

// maxima[count] = the largest |value| over the lanes of both blocks at a pixel, as magnitude_bits; a NaN is above all. Returns the
// largest of them.
VECTORIZED static int32_t find_pixel_maxima(const float *a, const float *b, int count, int32_t *maxima)
{
    int32_t all = 0;
    for (int p = 0; p < count; p++, a += BLOCK_CHANNELS, b += BLOCK_CHANNELS) {
        int32_t largest = 0;
        for (int i = 0; i < BLOCK_CHANNELS; i++) {
            int32_t one = magnitude_bits(a[i]), other = magnitude_bits(b[i]), both = one > other ? one : other;
            largest = both > largest ? both : largest;
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
    int32_t maxima[PIECE_PIXELS];
    bool stochastic = w->request->format->rounding == MLS_STOCHASTIC, alone = w->request->convolution_groups == w->channels;
    for (int k = 0; k < parts; k++) pieces[k] = read_piece(w, image, block + k, pixel);
    if (find_pixel_maxima(pieces[0].values, pieces[parts - 1].values, pieces[0].count, maxima) >= NOT_FINITE) return false;
    for (int k = 0; k < parts; k++)
        (alone ? stochastic ? round_by_element_stochastically : round_by_element
               : stochastic ? round_by_pixel_stochastically : round_by_pixel)(w->element, &pieces[k], &lanes[k], maxima);
    return true;
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

// Convolution groups of several channels, in which scales do not belong to whole blocks.

// Some channels of an image, that share a scale at each pixel.
static bool round_channels(const struct work *w, int image, int first, int channels)
{
    const struct standard_rounding r = standard_rounding_of(w->element);
    const bool stochastic = w->request->format->rounding == MLS_STOCHASTIC;
    struct mls_plane_keys keys[MICROSCALING_BLOCK];
    for (int c = 0; c < channels; c++)
        keys[c] = mls_plane_keys_of(w->request->tensor_key, (uint64_t)image * (uint64_t)w->channels + (uint64_t)(first + c));
    for (size_t pixel = 0; pixel < w->pixels; pixel++) {
        int32_t largest = 0;
        for (int c = 0; c < channels; c++) {
            int32_t bits = magnitude_bits(*value_at(w, image, first + c, pixel));
            largest = bits > largest ? bits : largest;
        }
        if (largest >= NOT_FINITE) return false;
        const int exponent = microscaling_exponent(w->element->emax, largest);
        for (int c = 0; c < channels; c++) {
            float *x = value_at(w, image, first + c, pixel);
            uint32_t hash = stochastic ? mls_random_hash(keys[c], (uint32_t)pixel) : 0;
            *x = round_standard(&r, *x, power_of_two(-exponent), stochastic, hash) * power_of_two(exponent);
        }
    }
    return true;
}

static void round_grouped_microscaling(void *context, int image, int thread)
{
    struct work *w = context;
    const int group = w->channels / w->request->convolution_groups;
    copy(w, image, thread);
    for (int first = 0, end; first < w->channels && !w->failed; first = end) {
        int group_end = (first / group + 1) * group;
        end = first + MICROSCALING_BLOCK < group_end ? first + MICROSCALING_BLOCK : group_end;
        if (!round_channels(w, image, first, end - first)) w->failed = true;
    }
}

// ---------------------------------------------------------------------------------------------

static bool allocate(struct work *w, struct error *error)
{
    if (!w->maxima)
        w->maxima = w->plane_maxima = memory_allocate(plane_of(w, w->request->dims[0], 0), sizeof(float), error);
    if (w->element || !w->maxima) return w->maxima != NULL;
    w->groups = memory_allocate((size_t)w->grouping.blocks[0] * (size_t)w->grouping.blocks[1], sizeof(float), error);
    w->columns = w->groups ? memory_allocate((size_t)w->channels, sizeof(int), error) : NULL;
    for (int c = 0; w->columns && c < w->channels; c++) w->columns[c] = mls_group_index(&w->grouping, 0, c);
    return w->columns != NULL;
}

static bool round_by_planes(struct work *w, struct thread_pool *pool, struct error *error)
{
    bool good = allocate(w, error);
    if (good && w->plane_maxima) thread_pool_run(pool, w->request->dims[0], find_plane_maxima, w);
    if (good) w->failed = !find_scales(w);
    if (good && !w->failed) thread_pool_run(pool, w->request->dims[0], round_planes, w);
    memory_release(w->plane_maxima);
    memory_release(w->groups);
    memory_release(w->columns);
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
    const int group = dims[1] / request->convolution_groups; // channels
    const bool by_blocks = request->convolution_groups == 1 || group == 1 || group % MICROSCALING_BLOCK == 0;
    if (request->format->family == MLS_FAMILY_MICROSCALING)
        thread_pool_run(pool, dims[0], by_blocks ? round_microscaling : round_grouped_microscaling, &w);
    else if (!round_by_planes(&w, pool, error))
        return false;
    return !w.failed || report(&w, error);
}
