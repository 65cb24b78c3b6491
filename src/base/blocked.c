#include "base/blocked.h"

void blocked_from_planar(const float *planar, int channels, size_t pixels, float *blocked)
{
    for (int first = 0; first < channels; first += BLOCK_CHANNELS)
        for (size_t p = 0; p < pixels; p++)
            for (int i = 0; i < BLOCK_CHANNELS; i++)
                *blocked++ = first + i < channels ? planar[(size_t)(first + i) * pixels + p] : 0;
}

void blocked_to_planar(const float *blocked, int channels, size_t pixels, float *planar)
{
    for (int c = 0; c < channels; c++)
        for (size_t p = 0; p < pixels; p++) *planar++ = blocked[blocked_at(pixels, c, p)];
}
