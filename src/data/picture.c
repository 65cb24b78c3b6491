// Picture files for `mlsnet predict`: decoded by stb_image, scaled by stb_image_resize.
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "data/data.h"

#if defined(__GNUC__)
#pragma GCC diagnostic ignored "-Wunused-function"
#pragma GCC diagnostic ignored "-Wsign-compare"
#pragma GCC diagnostic ignored "-Wunused-parameter"
#pragma GCC diagnostic ignored "-Wunused-but-set-variable"
#pragma GCC diagnostic ignored "-Wcast-qual"
#endif
#define STB_IMAGE_STATIC
#define STB_IMAGE_IMPLEMENTATION
#define STBI_ONLY_JPEG
#define STBI_ONLY_PNG
#define STBI_NO_STDIO
#include <stb/stb_image.h>
#define STB_IMAGE_RESIZE_STATIC
#define STB_IMAGE_RESIZE_IMPLEMENTATION
#include <stb/stb_image_resize.h>

#define LARGEST_FILE ((size_t)64 << 20)
#define LARGEST_PICTURE ((long)64 << 20) // pixels

// Scales so that the picture covers width x height, and takes its centre.
static bool scale_and_crop(const uint8_t *from, int columns, int rows, int channels, int width, int height, uint8_t *to,
                           struct error *error)
{
    int scaled_width = width, scaled_height = height;
    if ((long)columns * height > (long)rows * width)
        scaled_width = (int)(((long)columns * height + rows / 2) / rows);
    else
        scaled_height = (int)(((long)rows * width + columns / 2) / columns);
    if ((long)scaled_width * scaled_height > LARGEST_PICTURE) return error_set(error, "too long and narrow to be scaled");
    uint8_t *scaled = memory_allocate((size_t)scaled_width * (size_t)scaled_height, (size_t)channels, error);
    if (!scaled) return false;
    bool same = scaled_width == columns && scaled_height == rows; // the filter would blur
    if (same) memcpy(scaled, from, (size_t)columns * (size_t)rows * (size_t)channels);
    bool good = same || stbir_resize_uint8(from, columns, rows, 0, scaled, scaled_width, scaled_height, 0, channels) != 0;
    if (!good) error_set(error, "out of memory");
    int top = (scaled_height - height) / 2, left = (scaled_width - width) / 2;
    for (int c = 0; good && c < channels; c++)
        for (int y = 0; y < height; y++)
            for (int x = 0; x < width; x++)
                *to++ = scaled[((size_t)(top + y) * (size_t)scaled_width + (size_t)(left + x)) * (size_t)channels + (size_t)c];
    memory_release(scaled);
    return good;
}

bool picture_read(const char *path, int channels, int height, int width, uint8_t *pixels, struct error *error)
{
    size_t size = 0;
    uint8_t *data = file_read(path, LARGEST_FILE, &size, error);
    if (!data) return false;
    int columns = 0, rows = 0, found = 0;
    uint8_t *decoded = NULL;
    bool good = false;
    if (channels != 1 && channels != 3)
        error_set(error, "%s: the network takes %d channels: pictures have 1 or 3", path, channels);
    else if (!stbi_info_from_memory(data, (int)size, &columns, &rows, &found))
        error_set(error, "%s: not a JPEG or PNG picture: %s", path, stbi_failure_reason());
    else if (columns < 1 || rows < 1 || (long)columns * rows > LARGEST_PICTURE)
        error_set(error, "%s: %d x %d pixels: expected at most %ld pixels", path, columns, rows, LARGEST_PICTURE);
    else if (!(decoded = stbi_load_from_memory(data, (int)size, &columns, &rows, &found, channels)))
        error_set(error, "%s: cannot decode: %s", path, stbi_failure_reason());
    else if (!(good = scale_and_crop(decoded, columns, rows, channels, width, height, pixels, error)))
        error_prefix(error, "%s: ", path);
    stbi_image_free(decoded);
    memory_release(data);
    return good;
}
