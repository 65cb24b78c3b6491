#include "probe/statistics.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "energy/arithmetic.h"
#include "mls/quantize.h"
#include "mls/standard.h"

bool statistics_create(struct statistics *statistics, int layer_count, struct error *error)
{
    *statistics = (struct statistics){.layer_count = layer_count};
    statistics->rows = memory_allocate((size_t)layer_count, sizeof *statistics->rows, error);
    return statistics->rows != NULL;
}

void statistics_release(struct statistics *statistics)
{
    for (int i = 0; statistics->rows && i < statistics->layer_count; i++)
        for (int k = 0; k < 3; k++) memory_release(statistics->rows[i][k].maxima);
    memory_release(statistics->rows);
    *statistics = (struct statistics){0};
}

// Of so many groups the maximum of every few is kept: an odd number, so that all columns of a picture are met.
static size_t kept_of(size_t groups)
{
    return (groups / STATISTICS_GROUPS) | 1;
}

static bool grow_maxima(struct operand_statistics *row, size_t groups, struct error *error)
{
    size_t used = row->maxima_count, room = 2 * row->maxima_room, more = groups / kept_of(groups) + 1;
    if (used + more <= row->maxima_room) return true;
    if (room < used + more) room = used + more;
    float *grown = memory_allocate(room, sizeof *grown, error);
    if (!grown) return false;
    if (used) memcpy(grown, row->maxima, used * sizeof *grown);
    memory_release(row->maxima);
    row->maxima = grown;
    row->maxima_room = room;
    return true;
}

// ---------------------------------------------------------------------------------------------
// A tensor in the format

// Groups of element p of plane (i, j): first + p * step.
struct plane_groups {
    size_t first, step;
};

struct rounded {
    const struct observation *seen;
    size_t plane, groups;
    bool each_pixel;             // a group is of some channels at one pixel, else of whole planes
    struct mls_grouping grouping; // not each_pixel
    float *values;               // q, [dims]
    float *limits;               // [groups] the largest magnitude in each
    float *maxima;               // [groups] the largest |x|
};

static struct plane_groups groups_of(const struct rounded *r, int i, int j)
{
    if (!r->each_pixel) return (struct plane_groups){(size_t)mls_group_index(&r->grouping, i, j), 0};
    const struct observation *o = r->seen;
    int parts = o->operand == MLS_WEIGHT ? 1 : o->convolution_groups, blocks = standard_blocks(o->operand, o->dims, o->convolution_groups);
    int block = mls_block_index(j, o->dims[1], parts, MICROSCALING_BLOCK);
    return (struct plane_groups){((size_t)i * (size_t)blocks + (size_t)block) * r->plane, 1};
}

static size_t count_groups(const struct rounded *r)
{
    const struct observation *o = r->seen;
    if (!r->each_pixel) return (size_t)r->grouping.blocks[0] * (size_t)r->grouping.blocks[1];
    return (size_t)o->dims[0] * (size_t)standard_blocks(o->operand, o->dims, o->convolution_groups) * r->plane;
}

static bool round_integers(struct rounded *r, struct error *error)
{
    const struct observation *o = r->seen;
    struct mls_tensor tensor;
    if (!mls_quantize(&o->format, o->operand, o->values, o->dims, o->convolution_groups, o->tensor_key, &tensor, error)) return false;
    float largest = (float)mls_largest_integer(&o->format) * ldexpf(1, -mls_fraction_bits(&o->format));
    mls_dequantize(&tensor, r->values);
    for (size_t g = 0; g < r->groups; g++) r->limits[g] = tensor.tensor_scale * tensor.group_scales[g] * largest;
    mls_tensor_release(&tensor);
    return true;
}

static bool round_to_standard(struct rounded *r, struct error *error)
{
    const struct observation *o = r->seen;
    const struct standard_result result = {.values = r->values, .scales = r->limits};
    if (!standard_quantize(&o->format, o->operand, o->values, o->dims, o->convolution_groups, o->tensor_key, NULL, &result, error))
        return false;
    for (size_t g = 0; g < r->groups; g++) r->limits[g] *= standard_element_of(&o->format)->largest;
    return true;
}

static void release_rounded(struct rounded *r)
{
    memory_release(r->values);
    memory_release(r->limits);
    memory_release(r->maxima);
}

// Released in any case.
static bool round_tensor(const struct observation *o, struct rounded *r, struct error *error)
{
    *r = (struct rounded){.seen = o, .plane = (size_t)o->dims[2] * (size_t)o->dims[3],
                          .each_pixel = o->format.family == MLS_FAMILY_MICROSCALING,
                          .grouping = mls_grouping_of(&o->format, o->operand, o->dims[0], o->dims[1], o->convolution_groups)};
    r->groups = count_groups(r);
    r->values = memory_allocate((size_t)o->dims[0] * (size_t)o->dims[1] * r->plane, sizeof *r->values, error);
    r->limits = r->values ? memory_allocate(r->groups, sizeof *r->limits, error) : NULL;
    r->maxima = r->limits ? memory_allocate(r->groups, sizeof *r->maxima, error) : NULL;
    return r->maxima && (mls_has_integers(&o->format) ? round_integers(r, error) : round_to_standard(r, error));
}

// ---------------------------------------------------------------------------------------------
// Counting

// One (d0, d1) of the tensor.
static void add_plane(struct operand_statistics *row, const struct rounded *r, int i, int j)
{
    const struct plane_groups groups = groups_of(r, i, j);
    const size_t start = ((size_t)i * (size_t)r->seen->dims[1] + (size_t)j) * r->plane;
    const float *x = r->seen->values + start, *q = r->values + start;
    double square = 0, error = 0;
    for (size_t p = 0; p < r->plane; p++) {
        size_t group = groups.first + p * groups.step;
        float magnitude = fabsf(x[p]), limit = r->limits[group];
        double difference = (double)q[p] - (double)x[p];
        square += (double)x[p] * (double)x[p];
        error += difference * difference;
        if (magnitude > r->maxima[group]) r->maxima[group] = magnitude;
        row->zeros += magnitude == 0;
        row->underflows += magnitude != 0 && q[p] == 0;
        row->at_largest += limit > 0 && fabsf(q[p]) == limit;
        row->above_largest += limit > 0 && magnitude > limit * (1 + 0x1p-20f); // a float's own maximum, divided and multiplied, is not
    }
    row->square += square;
    row->error += error;
    row->elements += r->plane;
}

static void add_maxima(struct operand_statistics *row, const float *maxima, size_t count)
{
    float most = 0;
    size_t every = kept_of(count);
    for (size_t g = 0; g < count; g++)
        if (maxima[g] > most) most = maxima[g];
    for (size_t g = 0; g < count; g++) {
        row->groups++;
        row->zero_groups += maxima[g] == 0;
        if (maxima[g] > 0 && g % every == 0) row->maxima[row->maxima_count++] = log2f(maxima[g] / most);
    }
}

bool statistics_see(void *context, const struct observation *o, struct error *error)
{
    static const char *const names[] = {"weights: ", "activations: ", "errors: "};
    struct statistics *statistics = context;
    struct operand_statistics *row = &statistics->rows[o->layer->index][o->operand];
    struct rounded r;
    row->seen = true;
    row->format = o->format;
    row->nonnegative = o->nonnegative;
    row->tensors++;
    bool good = round_tensor(o, &r, error) && grow_maxima(row, r.groups, error);
    for (int i = 0; good && i < o->dims[0]; i++)
        for (int j = 0; j < o->dims[1]; j++) add_plane(row, &r, i, j);
    if (good) add_maxima(row, r.maxima, r.groups);
    release_rounded(&r);
    return good || error_prefix(error, "%s", names[o->operand]);
}

static int by_value(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

void statistics_finish(struct statistics *statistics)
{
    for (int i = 0; i < statistics->layer_count; i++)
        for (int k = 0; k < 3; k++) {
            struct operand_statistics *row = &statistics->rows[i][k];
            if (row->maxima) qsort(row->maxima, row->maxima_count, sizeof *row->maxima, by_value);
        }
}

double statistics_relative_error(const struct operand_statistics *row)
{
    return row->square > 0 ? sqrt(row->error / row->square) : NAN;
}

double statistics_decibel(const struct operand_statistics *row)
{
    return row->square > 0 ? 10 * log10(row->square / row->error) : NAN;
}

int statistics_element_bits(const struct operand_statistics *row)
{
    struct operand_format format = operand_of_format(&row->format);
    format.nonnegative = row->nonnegative && !format.always_signed;
    return operand_bits(&format);
}

double statistics_stored_bits(const struct operand_statistics *row)
{
    struct operand_format format = operand_of_format(&row->format);
    return statistics_element_bits(row) + operand_scale_bits(&format, (double)row->tensors, (double)row->groups) / (double)row->elements;
}

double statistics_deviation(const struct operand_statistics *row)
{
    size_t count = row->maxima_count;
    double sum = 0, square = 0;
    for (size_t i = 0; i < count; i++) sum += (double)row->maxima[i];
    for (size_t i = 0; i < count; i++) {
        double difference = (double)row->maxima[i] - sum / (double)count;
        square += difference * difference;
    }
    return count ? sqrt(square / (double)count) : NAN;
}

double statistics_quantile(const struct operand_statistics *row, double share)
{
    size_t count = row->maxima_count;
    if (count == 0) return NAN;
    double position = share * (double)(count - 1);
    size_t below = (size_t)position, above = below + 1 < count ? below + 1 : below;
    double part = position - (double)below;
    return (double)row->maxima[below] * (1 - part) + (double)row->maxima[above] * part;
}
