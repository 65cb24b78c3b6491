// What the files of direct.h share: the layout of one fp32 convolution. Included by direct*.c only.
#ifndef KERNELS_DIRECT_INTERNAL_H
#define KERNELS_DIRECT_INTERNAL_H

#include "kernels/direct.h"
#include "kernels/fetch_image.h"

// Images with their halos: blocked, or planar with the channels apart. Of small maps several images at once, pixel by pixel side
// by side: they are for a kernel what neighbouring pixels are, and the weights are read once for all of them.
struct padded {
    int channels, blocks, height, width;
    int top, left;
    size_t padded_width, plane; // pixels
    bool planar;
    int together;               // images
    size_t size;                // floats
};

// From first to end - 1.
struct range {
    int first, end;
};

static inline bool range_has(struct range range, int i)
{
    return i >= range.first && i < range.end;
}

// A set of outputs that share their window (packed_internal.h, struct phase). Output (j, i) is pixel (first_y + j * step,
// first_x + i * step) and reads the padded map from pixel (j * stride, i * stride).
struct phase {
    int first_y, first_x, step, rows, columns, stride;
    // A block of outputs reduces over the channels of its convolution groups; blocks of the same channels share their terms.
    struct range *block_terms; // [output block]
    int terms, most_terms;     // of all blocks; the most of one
    size_t *offsets;           // [terms]
    int *codes, output_stride; // [terms]: the weight of output o is at o * output_stride + code
    struct range *outputs;     // [terms]: the outputs of the term's convolution group; others have no such weight
    float *weights;            // [output block][most_terms][16]
};

struct direct_convolution {
    struct direct_request request;
    bool depthwise; // a block of outputs reads one block of the input
    int together;   // images
    struct padded input, errors;
    struct phase forward, *backward;
    int backward_phases;
    int chunks;       // of the weight gradient
    float *partial;   // [chunks][output block][forward.most_terms][16]
    float *scratch;   // per thread: the padded input, then the padded errors
    int threads;
    size_t memory;
};

// Floats from a pixel to the one on its right. An odd number of lines of the cache, so that the pixels of one image spread over it.
static inline size_t pixel_step(const struct padded *p)
{
    return p->planar ? 1 : (size_t)(p->together | 1) * BLOCK_CHANNELS;
}

// Where a channel of pixel (y, x) of the first image of the padded map is; the next image is BLOCK_CHANNELS further.
static inline size_t padded_at(const struct padded *p, int channel, int y, int x)
{
    size_t pixel = (size_t)y * p->padded_width + (size_t)x, lane = (size_t)channel % BLOCK_CHANNELS;
    if (p->planar) return (size_t)channel * p->plane + pixel;
    return ((size_t)(channel / BLOCK_CHANNELS) * p->plane + pixel) * pixel_step(p) + lane;
}

struct work {
    struct direct_convolution *direct;
    const struct source *input, *errors;
    float *output;
    bool accumulate;
    struct image_done done;
    int images, each; // each: of a task
    int tasks;        // of the weight gradient
};

// direct_padded.c: images with what is still owed to them into the buffers of a thread. Floats of both buffers of a thread:
size_t direct_scratch_floats(const struct direct_convolution *direct);
// Images, at most as many as are together; errors of some blocks.
const float *direct_fill_input(const struct work *work, struct range images, int thread);
const float *direct_fill_errors(const struct work *work, struct range images, struct range blocks, int thread);

#endif
