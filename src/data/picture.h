// One picture as the decoders give it, and its scaling.
#ifndef DATA_PICTURE_H
#define DATA_PICTURE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

struct picture {
    int width, height, channels;
    uint8_t *pixels; // [height][width][channels], from malloc
};

// Pixels, and pixels of a side (JPEG's own limit); files that declare more are refused before anything is allocated. The product
// of a side and the largest resize= is an int.
#define LARGEST_PICTURE ((long)64 << 20)
#define LARGEST_SIDE 65535L

// A JPEG or PNG file in memory: the content decides. `channels`: 3, grey pictures are given 3 equal channels; or 1, colour
// is turned to grey. 16 bits become 8, transparency is dropped, as Darknet and torchvision do. Messages lack the file's name.
bool picture_decode(const uint8_t *data, size_t size, int channels, struct picture *picture, struct error *error);
// The same from a file; messages begin with its name.
bool picture_load(const char *path, int channels, struct picture *picture, struct error *error);
void picture_release(struct picture *picture);

// The decoders behind it: jpeg.c, png.c.
bool jpeg_decode(const uint8_t *data, size_t size, int channels, struct picture *picture, struct error *error);
bool png_decode(const uint8_t *data, size_t size, int channels, struct picture *picture, struct error *error);
// false with a message if a file declares more than LARGEST_PICTURE and LARGEST_SIDE allow, or no pixels.
bool picture_size_fits(long width, long height, struct error *error);

// Scaling, antialiased: a triangle filter of the width of an output pixel, or of an input pixel if that is larger; beyond the
// edge the outermost pixel goes on. `to`: [height][width][channels of the picture].
struct rectangle {
    int left, top, width, height;
};
// A part of the picture, whole pixels inside it; nothing outside of the part counts.
bool picture_scale_part(const struct picture *from, struct rectangle part, int width, int height, uint8_t *to, struct error *error);
// A part of the picture as it would be if scaled to scaled_width x scaled_height.
bool picture_part_of_scaled(const struct picture *from, int scaled_width, int scaled_height, struct rectangle part, uint8_t *to,
                            struct error *error);
// Pixel (x, y) of `to` is the picture at (m[0] x + m[1] y + m[2], m[3] x + m[4] y + m[5]), bilinear between pixel centres at
// whole numbers, black outside.
void picture_sample(const struct picture *from, const float m[6], int width, int height, uint8_t *to);

#endif
