// Packed convolutions, squares of outputs by Winograd's way: what struct squares_job needs.
#include "base/memory.h"
#include "kernels/packed_internal.h"

#define INPUT_BYTES ((size_t)640 << 10)      // of the transformed input: most of it stays in the second cache
#define KEPT_BYTES ((size_t)384 << 10)       // of the transformed weights: they stay in the second cache, most of them
#define FEW_SETS 4
#define MOST_SPARE 1.35                      // outputs that are computed for each that there is

// The products of a group are transformed back once for all its quads: with one it costs more than it saves.
static bool groups_fit(const struct direction *d)
{
    return !d->planar && d->total_quads >= 2 * d->groups;
}

static bool sums_fit(const struct packed_convolution *packed, const struct direction *d, const struct packed_map *map)
{
    const int64_t product = (int64_t)mls_largest_integer(&map->format) * mls_largest_integer(&packed->request.formats[MLS_WEIGHT]);
    for (int g = 0; g < d->all_groups; g++)
        if (9 * product * (d->group_last[g] - d->group_first[g] + 1) >= SQUARES_LIMIT) return false;
    return true;
}

bool squares_cover(int height, int width, size_t row_bytes)
{
    const int rows = divide_up(height, SQUARE), columns = divide_up(width, SQUARE);
    const size_t behind = (size_t)(rows * SQUARE - height) * row_bytes;
    return behind + 64 <= MAP_SPARE && (double)rows * columns * SQUARE * SQUARE <= MOST_SPARE * height * width;
}

static bool shape_fits(const struct packed_convolution *packed, const struct direction *d, const struct packed_map *map)
{
    const struct convolution_shape *s = &packed->shape;
    bool window = s->kernel_height == 3 && s->kernel_width == 3 && s->stride == 1;
    return window && squares_cover(d->output_height, d->output_width, map->row_bytes);
}

// Few weights are transformed once a step. More would come from memory, in eight times as many bytes as they have by themselves.
static bool create_weights(struct packed_convolution *packed, struct direction *d, struct error *error)
{
    struct squares *squares = &d->squares;
    const size_t of_block = (size_t)d->total_quads * SQUARE_WEIGHTS, bytes = (size_t)d->output_blocks * of_block * sizeof(int16_t);
    if (bytes > KEPT_BYTES) return true;
    squares->weights_block = of_block;
    squares->weights = memory_allocate(bytes, 1, error);
    packed->memory += bytes;
    return squares->weights != NULL;
}

bool squares_create(struct packed_convolution *packed, struct direction *d, struct error *error)
{
    const struct packed_map *map = d == &packed->forward ? &packed->activations : &packed->errors;
    struct squares *squares = &d->squares;
    const struct kernel_set *kernels = packed->request.kernels;
    if (!kernels->convolve_squares || d->winograd.weights || d->output_blocks < kernels->squares_blocks) return true;
    if (!groups_fit(d) || !shape_fits(packed, d, map) || !sums_fit(packed, d, map)) return true;
    const size_t quads = (size_t)map->blocks * BLOCK_CHANNELS / 4;
    squares->rows = divide_up(d->output_height, SQUARE);
    squares->columns = divide_up(d->output_width, SQUARE);
    for (int g = 0; g < d->all_groups; g++)
        if (d->quad_last[g] - d->quad_first[g] + 1 > squares->group_quads) squares->group_quads = d->quad_last[g] - d->quad_first[g] + 1;
    squares->quad_offsets = memory_allocate(quads, sizeof(size_t), error);
    packed->memory += quads * sizeof(size_t);
    for (size_t q = 0; squares->quad_offsets && q < quads; q++) squares->quad_offsets[q] = q / 4 * SET_NUMBERS + q % 4 * 2;
    return squares->quad_offsets && create_weights(packed, d, error);
}

void squares_pack_block(const struct packed_convolution *packed, const struct direction *d, int block)
{
    const int8_t *from = d->phases->weights + (size_t)block * d->phases->weights_block;
    int16_t *to = d->squares.weights + (size_t)block * d->squares.weights_block;
    for (int group = d->block_first[block]; group < d->block_first[block] + d->block_groups[block]; group++) {
        const int quads = d->quad_last[group] - d->quad_first[group] + 1;
        packed->request.kernels->squares_weights(from, quads, from_the_bottom(d), to);
        from += (size_t)quads * 9 * 64;
        to += (size_t)quads * SQUARE_WEIGHTS;
    }
}

// Several images at a time where they are small, with the same number of tasks for each thread: as many as fit, so that weights are
// transformed as rarely as may be; or, where that was done before, few, so that each is still in the cache when it is complete.
void squares_plan(const struct packed_convolution *packed, struct direction *d, int threads)
{
    struct squares *squares = &d->squares;
    if (!squares->rows) return;
    const size_t set_bytes = (size_t)blocked_count(d->reduced) * SET_NUMBERS * sizeof(int16_t);
    const int fit = (int)(INPUT_BYTES / set_bytes), most = fit < 1 ? 1 : minimum(fit, SQUARES_SETS);
    const int of_image = squares->rows * squares->columns, images = packed->shape.images;
    int together = (squares->weights ? minimum(most, FEW_SETS) : most) * SQUARES_OF_SET / of_image;
    if (together < 1) together = 1;
    d->together = divide_up(images, threads * divide_up(images, threads * together));
    const int all = divide_up(d->together * of_image, SQUARES_OF_SET);
    squares->sets = divide_up(all, divide_up(all, most));
}

size_t squares_input_numbers(const struct direction *d)
{
    return (size_t)d->squares.sets * (size_t)blocked_count(d->reduced) * SET_NUMBERS;
}

size_t squares_total_numbers(const struct direction *d)
{
    return (size_t)d->squares.sets * SQUARES_OF_SET * SQUARE * SQUARE * BLOCK_CHANNELS;
}

size_t squares_scratch_bytes(const struct direction *d)
{
    const size_t weights = (size_t)d->squares.group_quads * SQUARE_WEIGHTS;
    return (squares_input_numbers(d) + weights) * sizeof(int16_t) + squares_total_numbers(d) * sizeof(float);
}

// ---------------------------------------------------------------------------------------------
// Input

void squares_list(const struct direction *d, const struct packed_map *map, int first, int count, int sets, struct square *squares)
{
    const int columns = d->squares.columns, of_image = d->squares.rows * columns;
    const size_t pixels = (size_t)d->output_height * (size_t)d->output_width;
    for (int i = 0; i < sets * SQUARES_OF_SET; i++) {
        const int n = first + minimum(i, count - 1), image = n / of_image;
        const int y = n % of_image / columns * SQUARE, x = n % of_image % columns * SQUARE;
        squares[i] = (struct square){
            .input = (size_t)image * map->image_bytes + (size_t)y * map->row_bytes + (size_t)x * BLOCK_CHANNELS,
            .output = ((size_t)image * (size_t)d->output_blocks * pixels + (size_t)(y * d->output_width + x)) * BLOCK_CHANNELS,
            .scales = (size_t)image * 2 * (size_t)d->groups * BLOCK_CHANNELS,
            .rows = i < count ? minimum(SQUARE, d->output_height - y) : 0,
            .columns = minimum(SQUARE, d->output_width - x)};
    }
}

void squares_transform(const struct packed_convolution *packed, const struct packed_map *map, const struct direction *d, const uint8_t *bytes,
                       const struct square *squares, int sets, int16_t *to)
{
    const struct squares_input_job job = {.sets = sets, .blocks = map->blocks, .squares = squares, .zero_point = map->zero_point,
                                          .input = bytes + d->phases->tap_offsets[from_the_bottom(d) ? 6 : 0], .transformed = to,
                                          .block_bytes = map->block_bytes, .row_bytes = map->row_bytes};
    packed->request.kernels->squares_input(&job);
}
