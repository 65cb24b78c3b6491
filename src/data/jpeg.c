// JPEG by stb_image. CMYK without Adobe's marker, which stb_image takes for YCbCr, is converted here from its decoded planes.
#include <stdlib.h>
#include <string.h>

#include "data/picture.h"

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
#define STBI_NO_STDIO
#define STBI_ASSERT(x) ((void)0) // a library does not end the process
#include <stb/stb_image.h>

// Debian bookworm's stb_image writes behind its tables if a Huffman table claims more than 256 codes.
// A table may reach beyond its segment, and beyond the file, where stb_image reads zeros.
static bool huffman_tables_fit(const uint8_t *segment, long length, size_t left)
{
    while (length > 0) {
        size_t codes = 0;
        for (size_t i = 1; i <= 16 && i < left; i++) codes += segment[i];
        if (codes > 256) return false;
        size_t table = 17 + codes;
        if (table >= left) return true;
        segment += table;
        left -= table;
        length -= (long)table;
    }
    return true;
}

// Looks at all DHT segments of the file; where its structure is wrong otherwise, stb_image finds that out.
static bool tables_fit(const uint8_t *data, size_t size)
{
    size_t at = 2;
    while (at + 4 <= size) {
        // To the next marker, over what is between segments and over coded data, in which FF stands before 00 and restarts only.
        if (data[at] != 0xff || data[at + 1] == 0 || data[at + 1] == 0xff || (data[at + 1] >= 0xd0 && data[at + 1] <= 0xd7)) {
            at++;
            continue;
        }
        size_t length = (size_t)(data[at + 2] << 8 | data[at + 3]);
        if (length < 2) return true;
        if (data[at + 1] == 0xc4 && !huffman_tables_fit(data + at + 4, (long)length - 2, size - at - 4)) return false;
        at += 2 + length;
    }
    return true;
}

static bool damaged(const uint8_t *data, size_t size, struct error *error)
{
    bool has_end = false;
    for (size_t i = size; i-- > 1 && !has_end;) has_end = data[i] == 0xd9 && data[i - 1] == 0xff;
    return error_set(error, "cannot decode the JPEG: %s", has_end ? stbi_failure_reason() : "the file is cut off");
}

// A component's sample for a pixel, without interpolation: CMYK is rarely subsampled.
static int sample(const stbi__jpeg *j, int component, int x, int y)
{
    const int rows = j->img_comp[component].v, columns = j->img_comp[component].h;
    return j->img_comp[component].data[(size_t)(y * rows / j->img_v_max) * (size_t)j->img_comp[component].w2 +
                                       (size_t)(x * columns / j->img_h_max)];
}

static int multiplied(int a, int b)
{
    return (a * b + 127) / 255;
}

// Ink as it is, not inverted as Adobe writes it.
static void convert_cmyk(const stbi__jpeg *j, struct picture *picture)
{
    uint8_t *to = picture->pixels;
    for (int y = 0; y < picture->height; y++)
        for (int x = 0; x < picture->width; x++) {
            int light = 255 - sample(j, 3, x, y), rgb[3];
            for (int c = 0; c < 3; c++) rgb[c] = multiplied(255 - sample(j, c, x, y), light);
            if (picture->channels == 3)
                for (int c = 0; c < 3; c++) *to++ = (uint8_t)rgb[c];
            else
                *to++ = stbi__compute_y(rgb[0], rgb[1], rgb[2]);
        }
}

static bool decode_cmyk(stbi__jpeg *j, const uint8_t *data, size_t size, struct picture *picture, struct error *error)
{
    stbi__start_mem(j->s, data, (int)size);
    bool good = stbi__decode_jpeg_image(j) || damaged(data, size, error);
    if (good && !(picture->pixels = malloc((size_t)picture->width * (size_t)picture->height * (size_t)picture->channels)))
        good = error_set(error, "out of memory");
    if (good) convert_cmyk(j, picture);
    stbi__cleanup_jpeg(j);
    return good;
}

static bool decode(stbi__jpeg *j, const uint8_t *data, size_t size, struct picture *picture, struct error *error)
{
    if (!tables_fit(data, size)) return error_set(error, "cannot decode the JPEG: a Huffman table of more than 256 codes");
    stbi__start_mem(j->s, data, (int)size);
    stbi__setup_jpeg(j);
    if (!stbi__decode_jpeg_header(j, STBI__SCAN_header)) return damaged(data, size, error);
    picture->width = (int)j->s->img_x;
    picture->height = (int)j->s->img_y;
    if (!picture_size_fits(picture->width, picture->height, error)) return false;
    if (j->s->img_n == 4 && j->app14_color_transform == -1) return decode_cmyk(j, data, size, picture, error);
    if (j->s->img_n == 4 && j->app14_color_transform == 1)
        return error_set(error, "cannot decode the JPEG: 4 components of unknown colours");
    int found;
    picture->pixels = stbi_load_from_memory(data, (int)size, &picture->width, &picture->height, &found, picture->channels);
    return picture->pixels || damaged(data, size, error);
}

bool jpeg_decode(const uint8_t *data, size_t size, int channels, struct picture *picture, struct error *error)
{
    stbi__context context;
    stbi__jpeg *j = calloc(1, sizeof *j);
    if (!j) return error_set(error, "out of memory");
    j->s = &context;
    *picture = (struct picture){0, 0, channels, NULL};
    bool good = decode(j, data, size, picture, error);
    free(j);
    return good;
}
