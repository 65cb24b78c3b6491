#include "mls/simulate.h"

#include "base/memory.h"
#include "mls/elements.h"
#include "mls/quantize.h"
#include "mls/standard.h"

// MLS integers as fp32 numbers: what mls_quantize and mls_dequantize give, without the integers in memory. A task is one index of
// the first dimension.

enum { MOST_ELEMENTS = 256 }; // of a piece of work, which may reach over several planes

struct work {
    const struct mls_format *format;
    struct mls_grouping grouping;
    const float *x;
    float *values;
    int channels;
    size_t plane;
    uint64_t tensor_key;
    float tensor_scale;    // 0: all is zero
    int32_t *row_maxima;   // [dims[0]][grouping.blocks[1]], magnitude_bits
    float *group_scales;   // [grouping.blocks[0]][grouping.blocks[1]]; first the maxima
};

// Neighbouring elements with what is needed to round them.
struct elements {
    int count;
    float reciprocals[MOST_ELEMENTS], scales[MOST_ELEMENTS];
    uint32_t first[MOST_ELEMENTS], second[MOST_ELEMENTS], positions[MOST_ELEMENTS]; // for stochastic rounding
};

static void maxima_task(void *context, int i, int thread)
{
    (void)thread;
    const struct work *w = context;
    const float *x = w->x + (size_t)i * (size_t)w->channels * w->plane;
    int32_t *maxima = w->row_maxima + (size_t)i * (size_t)w->grouping.blocks[1];
    for (int j = 0; j < w->channels; j++, x += w->plane) {
        int32_t largest = magnitude_bits(largest_magnitude(x, w->plane)), *maximum = &maxima[mls_group_index(&w->grouping, 0, j)];
        if (largest > *maximum) *maximum = largest;
    }
}

static bool find_scales(struct work *w, int rows)
{
    int columns = w->grouping.blocks[1];
    for (int i = 0; i < rows; i++) {
        float *groups = w->group_scales + mls_group_index(&w->grouping, i, 0);
        for (int k = 0; k < columns; k++) {
            int32_t largest = w->row_maxima[(size_t)i * (size_t)columns + (size_t)k];
            if (largest > magnitude_bits(groups[k])) groups[k] = float_of((uint32_t)largest);
        }
    }
    return mls_scales(w->format, w->group_scales, w->grouping.blocks[0] * columns, &w->tensor_scale, w->group_scales);
}

VECTORIZED static void round_to_nearest(const struct integer_rounding *rounding, const struct elements *e, const float *x, float *values)
{
    const struct integer_rounding r = *rounding;
    for (int k = 0; k < e->count; k++)
        values[k] = e->scales[k] * ((float)round_integer(&r, x[k], e->reciprocals[k], false, 0) * r.unit);
}

VECTORIZED static void round_stochastically(const struct integer_rounding *rounding, const struct elements *e, const float *x,
                                            float *values)
{
    const struct integer_rounding r = *rounding;
    for (int k = 0; k < e->count; k++) {
        const struct mls_plane_keys keys = {e->first[k], e->second[k]};
        uint32_t random = random_part(r.bits, e->positions[k], mls_random_hash(keys, random_counter(r.bits, e->positions[k])));
        values[k] = e->scales[k] * ((float)round_integer(&r, x[k], e->reciprocals[k], true, random) * r.unit);
    }
}

// Adds `count` elements of plane (i, j) from `position` on.
static void add_elements(const struct work *w, int i, int j, size_t position, int count, struct elements *e)
{
    float scale = w->tensor_scale * w->group_scales[mls_group_index(&w->grouping, i, j)];
    float reciprocal = w->tensor_scale > 0 ? 1.0f / scale : 0;
    for (int k = e->count; k < e->count + count; k++) {
        e->scales[k] = scale;
        e->reciprocals[k] = reciprocal;
    }
    if (w->format->rounding == MLS_STOCHASTIC) {
        struct mls_plane_keys keys = mls_plane_keys_of(w->tensor_key, (uint64_t)i * (uint64_t)w->channels + (uint64_t)j);
        for (int k = 0; k < count; k++) {
            e->first[e->count + k] = keys.first;
            e->second[e->count + k] = keys.second;
            e->positions[e->count + k] = (uint32_t)position + (uint32_t)k;
        }
    }
    e->count += count;
}

static void round_task(void *context, int i, int thread)
{
    (void)thread;
    const struct work *w = context;
    struct integer_rounding rounding = integer_rounding_of(w->format);
    size_t all = (size_t)w->channels * w->plane, row = (size_t)i * all, position = 0;
    struct elements e;
    for (size_t done = 0, j = 0; done < all; done += (size_t)e.count) {
        e.count = 0;
        while (e.count < MOST_ELEMENTS && j < (size_t)w->channels) {
            size_t count = w->plane - position, room = (size_t)(MOST_ELEMENTS - e.count);
            if (count > room) count = room;
            add_elements(w, i, (int)j, position, (int)count, &e);
            position += count;
            if (position == w->plane) position = 0, j++;
        }
        (w->format->rounding == MLS_STOCHASTIC ? round_stochastically : round_to_nearest)(&rounding, &e, w->x + row + done,
                                                                                          w->values + row + done);
    }
}

static void run(struct thread_pool *pool, int tasks, thread_task task, struct work *w)
{
    if (pool) thread_pool_run(pool, tasks, task, w);
    for (int i = 0; !pool && i < tasks; i++) task(w, i, 0);
}

static bool simulate_integers(struct work *w, const int dims[4], struct thread_pool *pool, struct error *error)
{
    size_t columns = (size_t)w->grouping.blocks[1];
    w->row_maxima = memory_allocate((size_t)dims[0] * columns, sizeof *w->row_maxima, error);
    w->group_scales = w->row_maxima ? memory_allocate((size_t)w->grouping.blocks[0] * columns, sizeof *w->group_scales, error) : NULL;
    bool good = w->group_scales != NULL;
    if (good) {
        run(pool, dims[0], maxima_task, w);
        good = find_scales(w, dims[0]) || mls_report_not_finite(w->x, dims, error);
    }
    if (good) run(pool, dims[0], round_task, w);
    memory_release(w->row_maxima);
    memory_release(w->group_scales);
    return good;
}

bool mls_simulate(const struct mls_format *format, enum mls_operand operand, const float *x, const int dims[4], int convolution_groups,
                  uint64_t tensor_key, struct thread_pool *pool, float *values, struct error *error)
{
    if (!mls_has_integers(format))
        return standard_quantize(format, operand, x, dims, convolution_groups, tensor_key, pool,
                                 &(struct standard_result){.values = values}, error);
    struct work w = {.format = format, .grouping = mls_grouping_of(format, operand, dims[0], dims[1], convolution_groups), .x = x,
                     .values = values, .channels = dims[1], .plane = (size_t)dims[2] * (size_t)dims[3], .tensor_key = tensor_key};
    return simulate_integers(&w, dims, pool, error);
}
