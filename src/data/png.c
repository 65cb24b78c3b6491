// PNG by libpng, to 8 bits. Gamma is not applied and transparency dropped, as Darknet and torchvision do.
#include <png.h>
#include <stdlib.h>
#include <string.h>

#include "data/picture.h"

struct png_work {
    const uint8_t *data;
    size_t size, at;
    struct error *error;
    png_structp png;
    png_infop info;
    uint8_t *pixels;
    png_bytep *rows;
};

static void read_bytes(png_structp png, png_bytep to, size_t count)
{
    struct png_work *work = png_get_io_ptr(png);
    if (count > work->size - work->at) png_error(png, "the file is cut off");
    memcpy(to, work->data + work->at, count);
    work->at += count;
}

static void failed(png_structp png, png_const_charp text)
{
    struct png_work *work = png_get_error_ptr(png);
    error_set(work->error, "cannot decode the PNG: %s", text);
    png_longjmp(png, 1);
}

static void ignore(png_structp png, png_const_charp text)
{
    (void)png;
    (void)text;
}

// 8 bits, 3 channels; 1 if both the file and the caller have grey. Returns the channels.
static int set_transforms(const struct png_work *work, int channels)
{
    bool grey = channels == 1 && !(png_get_color_type(work->png, work->info) & PNG_COLOR_MASK_COLOR);
    png_set_expand(work->png); // palettes, and less than 8 bits
    png_set_scale_16(work->png);
    png_set_strip_alpha(work->png);
    if (!grey) png_set_gray_to_rgb(work->png);
    png_set_interlace_handling(work->png);
    png_read_update_info(work->png, work->info);
    return grey ? 1 : 3;
}

// Everything that can longjmp is below this call. picture->channels: in: what is wanted; out: what was read.
static bool read_png(struct png_work *work, struct picture *picture)
{
    if (setjmp(png_jmpbuf(work->png))) return false;
    png_set_read_fn(work->png, work, read_bytes);
    png_set_user_limits(work->png, 0x7fffffff, 0x7fffffff); // picture_size_fits says it in our words
    png_set_chunk_malloc_max(work->png, (png_alloc_size_t)16 << 20);
    png_read_info(work->png, work->info);
    size_t width = png_get_image_width(work->png, work->info), height = png_get_image_height(work->png, work->info);
    if (!picture_size_fits((long)width, (long)height, work->error)) return false;
    picture->width = (int)width;
    picture->height = (int)height;
    picture->channels = set_transforms(work, picture->channels);
    size_t row = width * (size_t)picture->channels;
    if (png_get_rowbytes(work->png, work->info) != row) png_error(work->png, "rows of an unexpected length");
    work->pixels = malloc(row * height);
    work->rows = malloc(height * sizeof *work->rows);
    if (!work->pixels || !work->rows) png_error(work->png, "out of memory");
    for (size_t y = 0; y < height; y++) work->rows[y] = work->pixels + y * row;
    png_read_image(work->png, work->rows);
    return true;
}

// Luminance of ITU-R 601, in place.
static void make_grey(struct picture *picture)
{
    size_t count = (size_t)picture->width * (size_t)picture->height;
    const uint8_t *from = picture->pixels;
    for (size_t i = 0; i < count; i++, from += 3)
        picture->pixels[i] = (uint8_t)((19595u * from[0] + 38470u * from[1] + 7471u * from[2] + 32768u) >> 16);
    picture->channels = 1;
}

bool png_decode(const uint8_t *data, size_t size, int channels, struct picture *picture, struct error *error)
{
    struct png_work work = {.data = data, .size = size, .error = error};
    *picture = (struct picture){0, 0, channels, NULL};
    work.png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &work, failed, ignore);
    work.info = work.png ? png_create_info_struct(work.png) : NULL;
    bool good = work.info ? read_png(&work, picture) : error_set(error, "out of memory");
    png_destroy_read_struct(&work.png, &work.info, NULL);
    free(work.rows);
    if (!good) {
        free(work.pixels);
        return false;
    }
    picture->pixels = work.pixels;
    if (picture->channels != channels) make_grey(picture);
    return true;
}
