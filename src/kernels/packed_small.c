// Packed convolutions: small maps. Images are taken together, so that they share what is read of the weights; and outputs whose window lies
// partly outside of the map, as most do here, become a phase of their own, which has the taps inside alone.
#include <string.h>

#include "base/memory.h"
#include "kernels/packed_internal.h"

#define TOGETHER_GROUPS 64               // more groups would take more scales than the first cache holds
#define TOGETHER_BYTES ((size_t)1 << 20) // of an image that is read
#define MOST_USED 0.8                    // of all taps: with more, too little is saved

int images_together(const struct packed_convolution *packed, const struct direction *d)
{
    const struct packed_map *map = d == &packed->forward ? &packed->activations : &packed->errors;
    int pixels = d->output_height * d->output_width;
    if (!packed->request.kernels->convolve_pixels || d->planar || packed->depthwise) return 1;
    bool small = pixels <= TOGETHER_PIXELS / 2 && d->groups <= TOGETHER_GROUPS && map->image_bytes <= TOGETHER_BYTES;
    return small ? TOGETHER_PIXELS / pixels : 1;
}

// What a phase reads: `size` rows or columns of the map behind `before` of its halo.
struct axis {
    const struct phase *phase;
    size_t unit, period; // bytes from one to the next; of all
    int before, size, stride;
};

static struct axis rows_of(const struct direction *d, const struct packed_map *map, const struct phase *phase)
{
    return (struct axis){phase, map->row_bytes, (size_t)map->padded_height * map->row_bytes, map->top, map->height, d->stride};
}

static struct axis columns_of(const struct direction *d, const struct packed_map *map, const struct phase *phase)
{
    return (struct axis){phase, BLOCK_CHANNELS, map->row_bytes, map->left, map->width, d->stride};
}

// Whether output row or column `output` reads inside of the map with a tap.
static bool reads_inside(const struct axis *axis, int output, int tap)
{
    const int at = output * axis->stride + (int)((size_t)axis->phase->tap_offsets[tap] % axis->period / axis->unit) - axis->before;
    return at >= 0 && at < axis->size;
}

// The first output behind `first` that reads inside with other taps than that; `end` where there is none.
static int next_output(const struct axis *axis, int first, int end)
{
    for (int output = first + 1; output < end; output++)
        for (int tap = 0; tap < axis->phase->taps; tap++)
            if (reads_inside(axis, output, tap) != reads_inside(axis, first, tap)) return output;
    return end;
}

static int count_taps(const struct axis *rows, const struct axis *columns, int row, int column)
{
    int count = 0;
    for (int tap = 0; tap < rows->phase->taps; tap++) count += reads_inside(rows, row, tap) && reads_inside(columns, column, tap);
    return count;
}

// Of all outputs of all phases.
static bool saves_taps(const struct direction *d, const struct packed_map *map)
{
    double used = 0, all = 0;
    for (int i = 0; i < d->phase_count; i++) {
        const struct axis rows = rows_of(d, map, &d->phases[i]), columns = columns_of(d, map, &d->phases[i]);
        for (int row = 0; row < d->phases[i].rows; row++)
            for (int column = 0; column < d->phases[i].columns; column++) used += count_taps(&rows, &columns, row, column);
        all += (double)d->phases[i].taps * d->phases[i].rows * d->phases[i].columns;
    }
    return used <= MOST_USED * all;
}

// The outputs from (row, column) to before (end_row, end_column) of `whole`.
static bool create_part(struct packed_convolution *packed, const struct direction *d, const struct packed_map *map, const struct phase *whole,
                        const int first[2], const int end[2], struct phase *part, struct error *error)
{
    const struct axis rows = rows_of(d, map, whole), columns = columns_of(d, map, whole);
    if (!phase_create(packed, d, part, count_taps(&rows, &columns, first[0], first[1]), error)) return false;
    part->first_y = whole->first_y + first[0] * whole->step;
    part->first_x = whole->first_x + first[1] * whole->step;
    part->step = whole->step;
    part->rows = end[0] - first[0];
    part->columns = end[1] - first[1];
    part->run = 1;
    for (int tap = 0; tap < whole->taps; tap++) {
        if (!reads_inside(&rows, first[0], tap) || !reads_inside(&columns, first[1], tap)) continue;
        const size_t moved = ((size_t)first[0] * map->row_bytes + (size_t)first[1] * BLOCK_CHANNELS) * (size_t)d->stride;
        part->tap_offsets[part->taps] = whole->tap_offsets[tap] + (int32_t)moved;
        memcpy(part->tap_weights[part->taps++], whole->tap_weights[tap], sizeof *part->tap_weights);
    }
    return true;
}

// The parts of a phase, behind those that are there.
static bool part_phase(struct packed_convolution *packed, const struct direction *d, const struct packed_map *map, const struct phase *whole,
                       struct phase *parts, int *count, struct error *error)
{
    const struct axis rows = rows_of(d, map, whole), columns = columns_of(d, map, whole);
    for (int row = 0, end_row; row < whole->rows; row = end_row) {
        end_row = next_output(&rows, row, whole->rows);
        for (int column = 0, end_column; column < whole->columns; column = end_column) {
            end_column = next_output(&columns, column, whole->columns);
            const int first[2] = {row, column}, end[2] = {end_row, end_column};
            if (!create_part(packed, d, map, whole, first, end, &parts[(*count)++], error)) return false;
        }
    }
    return true;
}

bool small_create(struct packed_convolution *packed, struct direction *d, struct error *error)
{
    const struct packed_map *map = d == &packed->forward ? &packed->activations : &packed->errors;
    if (d->together == 1 || d->squares.rows || !saves_taps(d, map)) return true;
    struct phase *parts = memory_allocate((size_t)(d->output_height * d->output_width), sizeof *parts, error);
    bool good = parts != NULL;
    int count = 0;
    for (int i = 0; good && i < d->phase_count; i++) good = part_phase(packed, d, map, &d->phases[i], parts, &count, error);
    phases_destroy(d);
    d->phases = parts;
    d->phase_count = count;
    if (d->together < LEAST_TOGETHER) d->together = LEAST_TOGETHER;
    return good;
}
