// Blocked maps: the layout of all feature maps inside a network, fp32 [images][blocks][pixels][16], a block being 16
// neighbouring channels. A vector of 16 lanes is then one pixel of a block: convolutions store what they computed as it
// is, per-channel constants are vectors, and sums over pixels need no shuffles.
//
// Lanes of the last block that stand for no channel may hold anything; readers ignore them.
#ifndef BASE_BLOCKED_H
#define BASE_BLOCKED_H

#include <stddef.h>

#define BLOCK_CHANNELS 16

static inline int blocked_count(int channels)
{
    return (channels + BLOCK_CHANNELS - 1) / BLOCK_CHANNELS;
}

// Channels with the empty lanes counted in.
static inline size_t blocked_channels(int channels)
{
    return (size_t)blocked_count(channels) * BLOCK_CHANNELS;
}

// Where a channel of a pixel is within an image.
static inline size_t blocked_at(size_t pixels, int channel, size_t pixel)
{
    size_t c = (size_t)channel;
    return (c / BLOCK_CHANNELS * pixels + pixel) * BLOCK_CHANNELS + c % BLOCK_CHANNELS;
}

// One image, [channels][pixels] <-> blocked. Empty lanes are written as 0.
void blocked_from_planar(const float *planar, int channels, size_t pixels, float *blocked);
void blocked_to_planar(const float *blocked, int channels, size_t pixels, float *planar);

#endif
