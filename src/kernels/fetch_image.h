// Fetching ahead what passes over images read.
#ifndef KERNELS_FETCH_IMAGE_H
#define KERNELS_FETCH_IMAGE_H

#include "kernels/fetch.h"
#include "kernels/packed.h"

#define MOST_OF_IMAGE ((size_t)384 << 10) // bytes for an image that are worth fetching: a part of the second cache

// What is read when the output of some images is complete.
static inline void fetch_add_done(struct fetch *fetch, const struct image_done *done, int first, int images)
{
    const size_t bytes = done->image_floats * sizeof(float) * (size_t)images;
    if (done->reads) fetch_add(fetch, done->reads + (size_t)first * done->image_floats, bytes, 0, 1);
}

// Some images of a source, of `floats` numbers each.
static inline void fetch_add_source(struct fetch *fetch, const struct source *source, int first, int images, size_t floats)
{
    const size_t bytes = floats * sizeof(float) * (size_t)images;
    fetch_add(fetch, source->x + (size_t)first * floats, bytes, 0, 1);
    if (source->kind == SOURCE_ERROR) fetch_add(fetch, source->delta + (size_t)first * floats, bytes, 0, 1);
}

#endif
