// Fetching ahead what passes over images read.
#ifndef KERNELS_FETCH_IMAGE_H
#define KERNELS_FETCH_IMAGE_H

#include "kernels/fetch.h"
#include "kernels/packed.h"

#define MOST_OF_IMAGE ((size_t)384 << 10) // bytes for an image that are worth fetching: a part of the second cache

// What is read when the image's output is complete.
static inline void fetch_add_done(struct fetch *fetch, const struct image_done *done, int image)
{
    if (done->reads) fetch_add(fetch, done->reads + (size_t)image * done->image_floats, done->image_floats * sizeof(float), 0, 1);
}

// An image of a source, of `floats` numbers.
static inline void fetch_add_source(struct fetch *fetch, const struct source *source, int image, size_t floats)
{
    fetch_add(fetch, source->x + (size_t)image * floats, floats * sizeof(float), 0, 1);
    if (source->kind == SOURCE_ERROR) fetch_add(fetch, source->delta + (size_t)image * floats, floats * sizeof(float), 0, 1);
}

#endif
