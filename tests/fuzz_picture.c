// libFuzzer: the picture decoders, and the scaling of what they give. The first byte says how many channels and how large.
#include <stdint.h>
#include <stdlib.h>

#include "data/augment.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MOST_PIXELS (1L << 18) // larger ones are decoded by the decoders' own rules and take only time here

// The size that a file declares, without decoding it; large ones are left to the tests.
static bool is_small(const uint8_t *data, size_t size)
{
    if (size > 24 && data[0] == 0x89) {
        uint64_t width = (uint32_t)data[16] << 24 | data[17] << 16 | data[18] << 8 | data[19];
        uint64_t height = (uint32_t)data[20] << 24 | data[21] << 16 | data[22] << 8 | data[23];
        return width * height <= MOST_PIXELS || width * height > (uint64_t)LARGEST_PICTURE;
    }
    for (size_t i = 2; i + 9 < size; i++)
        if (data[i] == 0xff && data[i + 1] >= 0xc0 && data[i + 1] <= 0xc2 &&
            (long)(data[i + 5] << 8 | data[i + 6]) * (data[i + 7] << 8 | data[i + 8]) > MOST_PIXELS)
            return false;
    return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const int sides[][2] = {{8, 8}, {1, 1}, {3, 40}, {32, 2}};
    static uint8_t view[40 * 40 * 3];
    if (size < 1 || !is_small(data + 1, size - 1)) return 0;
    int channels = data[0] & 1 ? 1 : 3, width = sides[data[0] >> 1 & 3][0], height = sides[data[0] >> 1 & 3][1];
    struct picture picture;
    struct error error;
    if (!picture_decode(data + 1, size - 1, channels, &picture, &error)) return 0;
    const struct data_settings centre = {.resize = data[0] & 8 ? 40 : 0};
    const struct data_settings area = {.area_crop = true, .crop_scale = {0.08f, 1}, .crop_ratio = {0.75f, 1.333f}};
    const struct data_settings darknet = {.darknet_crop = true, .min_crop = width, .max_crop = 2 * width, .aspect = 0.75f, .angle = 7};
    struct random_stream stream = {size, 0};
    augment_centre(&centre, &picture, data[0] >> 4 & 7, width, height, view, &error);
    augment_random(&area, &picture, &stream, width, height, view, &error);
    augment_random(&darknet, &picture, &stream, width, height, view, &error);
    picture_release(&picture);
    return 0;
}
