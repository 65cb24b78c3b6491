// Scaling by stb_image_resize, and sampling with a rotation, which it does not have.
#include <math.h>
#include <stddef.h>
#include <string.h>

#include "data/picture.h"

#if defined(__GNUC__)
#pragma GCC diagnostic ignored "-Wunused-function"
#pragma GCC diagnostic ignored "-Wsign-compare"
#pragma GCC diagnostic ignored "-Wunused-parameter"
#pragma GCC diagnostic ignored "-Wunused-but-set-variable"
#endif
#define STB_IMAGE_RESIZE_STATIC
#define STB_IMAGE_RESIZE_IMPLEMENTATION
#define STBIR_ASSERT(x) ((void)0) // a library does not end the process
#include <stb/stb_image_resize.h>

// stb_image_resize counts its working memory in 32 bits; a picture of 65000 rows made one of few rows comes near that.
static bool fits(int rows, double vertical_scale, int width, int channels, struct error *error)
{
    double window = vertical_scale < 1 ? 2 / vertical_scale + 2 : 4;
    if (window * width * channels * (double)sizeof(float) < (double)(1 << 30)) return true;
    return error_set(error, "%d rows cannot be scaled down that far", rows);
}

static bool done(int result, struct error *error)
{
    return result || error_set(error, "out of memory");
}

static void copy_part(const struct picture *from, struct rectangle part, uint8_t *to)
{
    size_t pixel = (size_t)from->channels, row = (size_t)part.width * pixel;
    for (int y = 0; y < part.height; y++, to += row)
        memcpy(to, from->pixels + ((size_t)(part.top + y) * (size_t)from->width + (size_t)part.left) * pixel, row);
}

bool picture_scale_part(const struct picture *from, struct rectangle part, int width, int height, uint8_t *to, struct error *error)
{
    size_t row = (size_t)from->width * (size_t)from->channels;
    const uint8_t *first = from->pixels + (size_t)part.top * row + (size_t)part.left * (size_t)from->channels;
    if (width == part.width && height == part.height) {
        copy_part(from, part, to);
        return true;
    }
    if (!fits(part.height, (double)height / part.height, width, from->channels, error)) return false;
    return done(stbir_resize_uint8_generic(first, part.width, part.height, (int)row, to, width, height, 0, from->channels,
                                           STBIR_ALPHA_CHANNEL_NONE, 0, STBIR_EDGE_CLAMP, STBIR_FILTER_TRIANGLE,
                                           STBIR_COLORSPACE_LINEAR, NULL), error);
}

bool picture_part_of_scaled(const struct picture *from, int scaled_width, int scaled_height, struct rectangle part, uint8_t *to,
                            struct error *error)
{
    if (scaled_width == from->width && scaled_height == from->height) {
        copy_part(from, part, to);
        return true;
    }
    float horizontal = (float)scaled_width / (float)from->width, vertical = (float)scaled_height / (float)from->height;
    if (!fits(from->height, (double)vertical, part.width, from->channels, error)) return false;
    return done(stbir_resize_subpixel(from->pixels, from->width, from->height, 0, to, part.width, part.height, 0, STBIR_TYPE_UINT8,
                                      from->channels, STBIR_ALPHA_CHANNEL_NONE, 0, STBIR_EDGE_CLAMP, STBIR_EDGE_CLAMP,
                                      STBIR_FILTER_TRIANGLE, STBIR_FILTER_TRIANGLE, STBIR_COLORSPACE_LINEAR, NULL, horizontal,
                                      vertical, (float)part.left, (float)part.top), error);
}

static const uint8_t *pixel_or_black(const struct picture *from, int x, int y)
{
    static const uint8_t black[4] = {0};
    if (x < 0 || x >= from->width || y < 0 || y >= from->height) return black;
    return from->pixels + ((size_t)y * (size_t)from->width + (size_t)x) * (size_t)from->channels;
}

void picture_sample(const struct picture *from, const float m[6], int width, int height, uint8_t *to)
{
    for (int y = 0; y < height; y++)
        for (int x = 0; x < width; x++) {
            float column = m[0] * (float)x + m[1] * (float)y + m[2], row = m[3] * (float)x + m[4] * (float)y + m[5];
            bool outside = !(column > -1 && column < (float)from->width && row > -1 && row < (float)from->height);
            int left = outside ? -2 : (int)floorf(column), top = outside ? -2 : (int)floorf(row);
            float right_share = column - (float)left, lower_share = row - (float)top;
            const uint8_t *a = pixel_or_black(from, left, top), *b = pixel_or_black(from, left + 1, top);
            const uint8_t *d = pixel_or_black(from, left, top + 1), *e = pixel_or_black(from, left + 1, top + 1);
            for (int c = 0; c < from->channels; c++) {
                float upper = (1 - right_share) * a[c] + right_share * b[c], lower = (1 - right_share) * d[c] + right_share * e[c];
                *to++ = (uint8_t)((1 - lower_share) * upper + lower_share * lower + 0.5f);
            }
        }
}
