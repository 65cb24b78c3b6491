// Copies of images with a halo of zeros, which the kernels of fp32 convolutions read.
#include <string.h>

#include "kernels/direct_internal.h"

#define ROW_PART 8 // pixels of a row that are taken apart at a time

size_t direct_scratch_floats(const struct direct_convolution *direct)
{
    return (direct->input.size + direct->errors.size + 31) / 16 * 16;
}

static void fill_planar(const struct padded *map, const struct source *source, int image, float *to)
{
    size_t width = (size_t)map->width;
    const float *from = source->x + (size_t)image * (size_t)map->channels * (size_t)map->height * width;
    for (int c = 0; c < map->channels; c++)
        for (int y = 0; y < map->height; y++, from += width) memcpy(to + padded_at(map, c, map->top + y, map->left), from, width * sizeof(float));
}

// A row of one image between those of others.
static void write_apart(const struct padded *map, struct source row, float *to)
{
    float pixels[ROW_PART * BLOCK_CHANNELS];
    for (int left = map->width; left > 0; left -= ROW_PART) {
        int count = left < ROW_PART ? left : ROW_PART;
        source_write(&row, (size_t)count, pixels, false);
        for (int i = 0; i < count; i++, to += pixel_step(map)) memcpy(to, pixels + i * BLOCK_CHANNELS, BLOCK_CHANNELS * sizeof(float));
        row.x += ROW_PART * BLOCK_CHANNELS;
        if (row.kind == SOURCE_ERROR) row.delta += ROW_PART * BLOCK_CHANNELS;
    }
}

// Blocks of images into the padded buffer, whose halo is zero from the start.
static const float *fill(const struct padded *map, const struct source *source, struct range images, struct range blocks, float *to)
{
    size_t pixels = (size_t)map->height * (size_t)map->width, width = (size_t)map->width;
    if (map->planar) {
        fill_planar(map, source, images.first, to);
        return to;
    }
    for (int image = images.first; image < images.end; image++)
        for (int block = blocks.first; block < blocks.end; block++)
            for (int y = 0; y < map->height; y++) {
                struct source row = source_of_block(source, image, block, map->blocks, pixels);
                float *at = to + padded_at(map, block * BLOCK_CHANNELS, map->top + y, map->left) + (image - images.first) * BLOCK_CHANNELS;
                row.x += (size_t)y * width * BLOCK_CHANNELS;
                if (row.kind == SOURCE_ERROR) row.delta += (size_t)y * width * BLOCK_CHANNELS;
                if (map->together > 1)
                    write_apart(map, row, at);
                else
                    source_write(&row, width, at, false);
            }
    return to;
}

const float *direct_fill_input(const struct work *work, struct range images, int thread)
{
    const struct padded *map = &work->direct->input;
    float *scratch = work->direct->scratch + (size_t)thread * direct_scratch_floats(work->direct);
    return fill(map, work->input, images, (struct range){0, map->blocks}, scratch);
}

const float *direct_fill_errors(const struct work *work, struct range images, struct range blocks, int thread)
{
    const struct direct_convolution *direct = work->direct;
    float *scratch = direct->scratch + (size_t)thread * direct_scratch_floats(direct) + (direct->input.size + 15) / 16 * 16;
    return fill(&direct->errors, work->errors, images, blocks, scratch);
}
