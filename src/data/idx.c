// IDX files (MNIST, Fashion-MNIST and others of their layout), plain or gzip: a big-endian header of magic number
// and sizes, then bytes.
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "data/data.h"

#define LARGEST ((size_t)1 << 31)

// "folder/name" or "folder/name.gz", whichever is there.
static bool find_file(char *path, size_t size, const char *folder, const char *name)
{
    char packed[128];
    snprintf(packed, sizeof packed, "%s.gz", name);
    return (file_join(path, size, folder, name) && file_exists(path)) ||
           (file_join(path, size, folder, packed) && file_exists(path));
}

static uint32_t big_endian(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

// The content behind a header of `rank` sizes; NULL with a message if anything is off.
static uint8_t *read_idx(const char *folder, const char *name, int rank, uint32_t *sizes, struct error *error)
{
    char path[4096];
    if (!find_file(path, sizeof path, folder, name)) {
        error_set(error, "%s/%s: no such file, nor with .gz", folder, name);
        return NULL;
    }
    size_t size = 0, header = 4 + 4 * (size_t)rank, expected = 1;
    uint8_t *data = file_read_gzip(path, LARGEST, &size, error);
    if (!data) return NULL;
    bool good = size >= header || error_set(error, "%s: %zu bytes: shorter than its header", path, size);
    if (good && big_endian(data) != 0x800u + (uint32_t)rank)
        good = error_set(error, "%s: magic number 0x%08x: expected 0x%08x", path, big_endian(data), 0x800u + (uint32_t)rank);
    for (int i = 0; good && i < rank; i++) {
        sizes[i] = big_endian(data + 4 + 4 * i);
        if (sizes[i] == 0 || sizes[i] > LARGEST / expected)
            good = error_set(error, "%s: dimension %d is %u: not possible", path, i, sizes[i]);
        else
            expected *= sizes[i];
    }
    if (good && size - header != expected)
        good = error_set(error, "%s: %zu bytes behind the header: expected %zu", path, size - header, expected);
    if (good) {
        memmove(data, data + header, expected);
        return data;
    }
    memory_release(data);
    return NULL;
}

static bool read_split(struct dataset *dataset, struct split *split, const char *folder, const char *pictures,
                       const char *labels, struct error *error)
{
    uint32_t sizes[3] = {0}, count = 0;
    uint8_t *pixels = read_idx(folder, pictures, 3, sizes, error);
    uint8_t *classes = pixels ? read_idx(folder, labels, 1, &count, error) : NULL;
    bool good = pixels && classes;
    if (good && count != sizes[0])
        good = error_set(error, "%s: %u pictures in %s but %u labels in %s", folder, sizes[0], pictures, count, labels);
    if (good && dataset->picture_height == 0) {
        dataset->picture_height = (int)sizes[1];
        dataset->picture_width = (int)sizes[2];
    }
    if (good && (sizes[1] != (uint32_t)dataset->picture_height || sizes[2] != (uint32_t)dataset->picture_width))
        good = error_set(error, "%s/%s: %ux%u pixels: expected %dx%d as in the training pictures", folder, pictures, sizes[1],
                         sizes[2], dataset->picture_height, dataset->picture_width);
    good = good && split_allocate(dataset, split, (int)count, error);
    if (good) memcpy(split->pixels, pixels, (size_t)count * sizes[1] * sizes[2]);
    for (uint32_t i = 0; good && i < count; i++) {
        split->labels[i] = classes[i];
        if (classes[i] >= dataset->classes) dataset->classes = classes[i] + 1;
    }
    memory_release(pixels);
    memory_release(classes);
    return good;
}

static bool set_names(struct dataset *dataset, const char *folder, struct error *error)
{
    static const char *const fashion[] = {"T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
                                          "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"};
    char texts[256][12];
    const char *names[256];
    if (dataset->classes == 10 && strstr(folder, "fashion")) return dataset_set_names(dataset, fashion, 10, error);
    for (int i = 0; i < dataset->classes; i++) {
        snprintf(texts[i], sizeof texts[i], "%d", i);
        names[i] = texts[i];
    }
    return dataset_set_names(dataset, names, dataset->classes, error);
}

static bool read(struct dataset *dataset, const char *folder, struct error *error)
{
    dataset->channels = 1;
    dataset->mean[0] = 0.2860f; // Fashion-MNIST's
    dataset->std[0] = 0.3530f;
    return read_split(dataset, &dataset->train, folder, "train-images-idx3-ubyte", "train-labels-idx1-ubyte", error) &&
           read_split(dataset, &dataset->test, folder, "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte", error) &&
           set_names(dataset, folder, error);
}

static bool present(const char *folder)
{
    char path[4096];
    return find_file(path, sizeof path, folder, "train-images-idx3-ubyte");
}

const struct data_source idx_source = {
    "idx", "IDX files as MNIST's (train-images-idx3-ubyte, ..., plain or .gz)", "fashion-mnist",
    "Debian's package dataset-fashion-mnist (/usr/share/datasets/fashion-mnist)", present, read,
};
