// Picture files: which decoder reads them, what is refused.
#include "data/picture.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"

#define LARGEST_FILE ((size_t)256 << 20)

static const struct kind {
    const char *name;
    size_t at, length;
    const char *bytes;
    bool (*decode)(const uint8_t *data, size_t size, int channels, struct picture *picture, struct error *error); // NULL: refused
} kinds[] = {
    {"JPEG", 0, 2, "\xff\xd8", jpeg_decode},
    {"PNG", 0, 8, "\x89PNG\r\n\x1a\n", png_decode},
    {"GIF", 0, 4, "GIF8", NULL},
    {"BMP", 0, 2, "BM", NULL},
    {"WebP", 8, 4, "WEBP", NULL},
    {"TIFF", 0, 4, "II*\0", NULL},
    {"TIFF", 0, 4, "MM\0*", NULL},
    {"HEIF or AVIF", 4, 4, "ftyp", NULL},
    {"JPEG 2000", 4, 4, "jP  ", NULL},
    {"JPEG 2000", 0, 4, "\xff\x4f\xff\x51", NULL},
    {"Photoshop", 0, 4, "8BPS", NULL},
    {"PNM", 0, 2, "P6", NULL},
    {"PNM", 0, 2, "P5", NULL},
    {"icon", 0, 4, "\0\0\1\0", NULL},
    {"PDF", 0, 4, "%PDF", NULL},
    {"HTML or XML", 0, 1, "<", NULL},
};

static const struct kind *kind_of(const uint8_t *data, size_t size)
{
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
        if (size >= kinds[i].at + kinds[i].length && memcmp(data + kinds[i].at, kinds[i].bytes, kinds[i].length) == 0) return &kinds[i];
    return NULL;
}

bool picture_size_fits(long width, long height, struct error *error)
{
    bool sides_fit = width >= 1 && width <= LARGEST_SIDE && height >= 1 && height <= LARGEST_SIDE;
    if (sides_fit && width <= LARGEST_PICTURE / height) return true;
    return error_set(error, "%ld x %ld pixels: expected at most %ld pixels, %ld a side", width, height, LARGEST_PICTURE, LARGEST_SIDE);
}

bool picture_decode(const uint8_t *data, size_t size, int channels, struct picture *picture, struct error *error)
{
    *picture = (struct picture){0};
    const struct kind *kind = kind_of(data, size);
    if (channels != 1 && channels != 3) return error_set(error, "the network takes %d channels: pictures have 1 or 3", channels);
    if (size == 0) return error_set(error, "an empty file, not a JPEG or PNG picture");
    if (size > LARGEST_FILE) return error_set(error, "%zu bytes: expected at most %zu", size, LARGEST_FILE);
    if (!kind) return error_set(error, "not a JPEG or PNG picture");
    if (!kind->decode) return error_set(error, "%s, not a JPEG or PNG picture", kind->name);
    return kind->decode(data, size, channels, picture, error);
}

bool picture_load(const char *path, int channels, struct picture *picture, struct error *error)
{
    size_t size = 0;
    *picture = (struct picture){0};
    uint8_t *data = file_read(path, LARGEST_FILE, &size, error);
    if (!data) return false;
    bool good = picture_decode(data, size, channels, picture, error) || error_prefix(error, "%s: ", path);
    memory_release(data);
    return good;
}

void picture_release(struct picture *picture)
{
    free(picture->pixels);
    picture->pixels = NULL;
}
