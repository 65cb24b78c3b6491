// Picture files made by the tests, with libjpeg and libpng: after testing.h.
#ifndef TESTS_PICTURES_H
#define TESTS_PICTURES_H

#include <stdbool.h>

#include <jpeglib.h>
#include <png.h>

struct jpeg_kind {
    J_COLOR_SPACE from, to; // of the pixels given, and in the file
    bool progressive, subsampled, without_adobe;
    int restart_interval;
};

struct file_bytes {
    unsigned char *data;
    unsigned long size;
};

// Quality 100. Pixels [height][width][components of `from`].
static inline struct file_bytes make_jpeg(const uint8_t *pixels, int width, int height, struct jpeg_kind kind)
{
    struct jpeg_compress_struct c;
    struct jpeg_error_mgr errors;
    struct file_bytes file = {NULL, 0};
    c.err = jpeg_std_error(&errors);
    jpeg_create_compress(&c);
    jpeg_mem_dest(&c, &file.data, &file.size);
    c.image_width = (JDIMENSION)width;
    c.image_height = (JDIMENSION)height;
    c.input_components = kind.from == JCS_GRAYSCALE ? 1 : kind.from == JCS_CMYK ? 4 : 3;
    c.in_color_space = kind.from;
    jpeg_set_defaults(&c);
    jpeg_set_colorspace(&c, kind.to);
    jpeg_set_quality(&c, 100, TRUE);
    c.comp_info[0].h_samp_factor = c.comp_info[0].v_samp_factor = kind.subsampled ? 2 : 1;
    if (kind.without_adobe) c.write_Adobe_marker = FALSE;
    c.restart_interval = (unsigned)kind.restart_interval;
    if (kind.progressive) jpeg_simple_progression(&c);
    jpeg_start_compress(&c, TRUE);
    for (int y = 0; y < height; y++) {
        JSAMPROW row = (JSAMPROW)(uintptr_t)(pixels + (size_t)y * (size_t)width * (size_t)c.input_components);
        jpeg_write_scanlines(&c, &row, 1);
    }
    jpeg_finish_compress(&c);
    jpeg_destroy_compress(&c);
    return file;
}

struct png_kind {
    int colour_type, bits; // PNG_COLOR_TYPE_RGB, ...
    bool interlaced;
    const png_color *palette;
    const uint8_t *palette_alpha;
    int palette_size;
};

static inline void add_bytes(png_structp png, png_bytep data, size_t size)
{
    struct file_bytes *file = png_get_io_ptr(png);
    file->data = realloc(file->data, file->size + size);
    memcpy(file->data + file->size, data, size);
    file->size += size;
}

// Rows of `row_bytes` bytes as PNG stores them.
static inline struct file_bytes make_png(const uint8_t *rows, size_t row_bytes, int width, int height, struct png_kind kind)
{
    struct file_bytes file = {NULL, 0};
    png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, NULL, NULL, NULL);
    png_infop info = png_create_info_struct(png);
    png_set_write_fn(png, &file, add_bytes, NULL);
    png_set_IHDR(png, info, (png_uint_32)width, (png_uint_32)height, kind.bits, kind.colour_type,
                 kind.interlaced ? PNG_INTERLACE_ADAM7 : PNG_INTERLACE_NONE, PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
    if (kind.palette) png_set_PLTE(png, info, kind.palette, kind.palette_size);
    if (kind.palette_alpha) png_set_tRNS(png, info, kind.palette_alpha, kind.palette_size, NULL);
    png_write_info(png, info);
    png_bytep *pointers = malloc((size_t)height * sizeof *pointers);
    for (int y = 0; y < height; y++) pointers[y] = (png_bytep)(uintptr_t)(rows + (size_t)y * row_bytes);
    png_write_image(png, pointers);
    png_write_end(png, info);
    png_destroy_write_struct(&png, &info);
    free(pointers);
    return file;
}

#endif
