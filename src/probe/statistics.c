#include "probe/statistics.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "mls/quantize.h"

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

static size_t maxima_count(const struct operand_statistics *row)
{
    return (size_t)(row->groups - row->zero_groups);
}

static bool grow_maxima(struct operand_statistics *row, size_t more, struct error *error)
{
    size_t used = maxima_count(row), room = 2 * row->maxima_room;
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

// One (d0, d1) of the tensor, all of one group; returns its largest |x|.
static float add_plane(struct operand_statistics *row, const struct mls_tensor *tensor, size_t at, size_t count, float scale,
                       const float *x)
{
    const int fraction = mls_fraction_bits(&tensor->format);
    const int32_t largest = mls_largest_integer(&tensor->format);
    const float unit = ldexpf(1, -fraction), limit = scale * ((float)largest * unit);
    float maximum = 0;
    double square = 0, error = 0;
    for (size_t i = at; i < at + count; i++) {
        float magnitude = fabsf(x[i]), q = scale * ((float)tensor->integers[i] * unit);
        double difference = (double)q - (double)x[i];
        square += (double)x[i] * (double)x[i];
        error += difference * difference;
        if (magnitude > maximum) maximum = magnitude;
        row->zeros += magnitude == 0;
        row->underflows += magnitude != 0 && tensor->integers[i] == 0;
        row->at_largest += scale > 0 && abs(tensor->integers[i]) == largest;
        row->above_largest += scale > 0 && magnitude > limit;
    }
    row->square += square;
    row->error += error;
    row->elements += count;
    return maximum;
}

static void add_maxima(struct operand_statistics *row, const float *maxima, size_t count)
{
    float most = 0;
    for (size_t g = 0; g < count; g++)
        if (maxima[g] > most) most = maxima[g];
    size_t used = maxima_count(row);
    for (size_t g = 0; g < count; g++) {
        row->groups++;
        if (maxima[g] > 0)
            row->maxima[used++] = log2f(maxima[g] / most);
        else
            row->zero_groups++;
    }
}

static bool add_tensor(struct operand_statistics *row, const struct mls_tensor *tensor, const float *x, struct error *error)
{
    const int *dims = tensor->dims;
    size_t plane = (size_t)dims[2] * (size_t)dims[3], groups = (size_t)tensor->grouping.blocks[0] * (size_t)tensor->grouping.blocks[1];
    float *maxima = memory_allocate(groups, sizeof *maxima, error);
    bool good = maxima && grow_maxima(row, groups, error);
    for (int i = 0; good && i < dims[0]; i++)
        for (int j = 0; j < dims[1]; j++) {
            int group = mls_group_index(&tensor->grouping, i, j);
            float scale = tensor->tensor_scale * tensor->group_scales[group];
            float largest = add_plane(row, tensor, ((size_t)i * (size_t)dims[1] + (size_t)j) * plane, plane, scale, x);
            if (largest > maxima[group]) maxima[group] = largest;
        }
    if (good) add_maxima(row, maxima, groups);
    memory_release(maxima);
    return good;
}

bool statistics_see(void *context, const struct observation *o, struct error *error)
{
    static const char *const names[] = {"weights: ", "activations: ", "errors: "};
    struct statistics *statistics = context;
    struct operand_statistics *row = &statistics->rows[o->layer->index][o->operand];
    struct mls_tensor tensor;
    row->seen = true;
    row->format = o->format;
    row->nonnegative = o->nonnegative;
    row->tensors++;
    if (!mls_quantize(&o->format, o->operand, o->values, o->dims, o->convolution_groups, o->tensor_key, &tensor, error))
        return error_prefix(error, "%s", names[o->operand]);
    bool good = add_tensor(row, &tensor, o->values, error);
    mls_tensor_release(&tensor);
    return good;
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
            if (row->maxima) qsort(row->maxima, maxima_count(row), sizeof *row->maxima, by_value);
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
    return row->format.exponent + row->format.mantissa + !row->nonnegative;
}

double statistics_stored_bits(const struct operand_statistics *row)
{
    double scales = (double)row->groups * (row->format.scale_exponent + row->format.scale_mantissa) + 32.0 * (double)row->tensors;
    return statistics_element_bits(row) + scales / (double)row->elements;
}

double statistics_deviation(const struct operand_statistics *row)
{
    size_t count = maxima_count(row);
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
    size_t count = maxima_count(row);
    if (count == 0) return NAN;
    double position = share * (double)(count - 1);
    size_t below = (size_t)position, above = below + 1 < count ? below + 1 : below;
    double part = position - (double)below;
    return (double)row->maxima[below] * (1 - part) + (double)row->maxima[above] * part;
}
