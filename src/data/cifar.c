// CIFAR-10 and CIFAR-100 in their binary layout: records of one (CIFAR-100: two) label bytes and 3 x 32 x 32 pixels.
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "data/data.h"

#define PIXELS 3072

struct layout {
    int label_bytes, classes; // the last label byte is the class
    int train_files, train_records, test_records;
    const char *train_file, *test_file, *names_file; // train_file: a format with the number of the file
};

static const struct layout cifar10 = {1, 10, 5, 10000, 10000, "data_batch_%d.bin", "test_batch.bin", "batches.meta.txt"};
static const struct layout cifar100 = {2, 100, 1, 50000, 10000, "train.bin", "test.bin", "fine_label_names.txt"};

static bool read_records(const struct layout *layout, const char *path, int records, uint8_t *pixels, int *labels,
                         struct error *error)
{
    size_t record = (size_t)layout->label_bytes + PIXELS, size = 0, expected = record * (size_t)records;
    uint8_t *data = file_read(path, expected, &size, error);
    if (!data) return false;
    bool good = size == expected || error_set(error, "%s: %zu bytes: expected %zu (%d records)", path, size, expected, records);
    for (int i = 0; good && i < records; i++) {
        const uint8_t *from = data + (size_t)i * record;
        labels[i] = from[layout->label_bytes - 1];
        if (labels[i] >= layout->classes)
            good = error_set(error, "%s: record %d has label %d: expected 0 to %d", path, i, labels[i], layout->classes - 1);
        memcpy(pixels + (size_t)i * PIXELS, from + layout->label_bytes, PIXELS);
    }
    memory_release(data);
    return good;
}

static bool default_names(struct dataset *dataset, const char *path, int classes, struct error *error)
{
    char texts[100][64];
    const char *names[100];
    FILE *file = fopen(path, "r");
    for (int i = 0; i < classes; i++) {
        names[i] = texts[i];
        if (file && fgets(texts[i], sizeof texts[i], file) && texts[i][0] > ' ')
            texts[i][strcspn(texts[i], "\r\n")] = 0;
        else
            snprintf(texts[i], sizeof texts[i], "%d", i);
    }
    if (file) fclose(file);
    return dataset_set_names(dataset, names, classes, error);
}

static bool read_cifar(struct dataset *dataset, const struct layout *layout, const char *folder, struct error *error)
{
    char path[4096], name[64];
    dataset->channels = 3;
    dataset->picture_height = dataset->picture_width = 32;
    dataset->classes = layout->classes;
    const float mean[3] = {0.4914f, 0.4822f, 0.4465f}, deviation[3] = {0.2470f, 0.2435f, 0.2616f};
    memcpy(dataset->mean, mean, sizeof mean);
    memcpy(dataset->std, deviation, sizeof deviation);
    if (!split_allocate(dataset, &dataset->train, layout->train_files * layout->train_records, error) ||
        !split_allocate(dataset, &dataset->test, layout->test_records, error))
        return false;
    for (int i = 0; i < layout->train_files; i++) {
        size_t first = (size_t)i * (size_t)layout->train_records;
        if (strchr(layout->train_file, '%'))
            snprintf(name, sizeof name, "data_batch_%d.bin", i + 1);
        else
            snprintf(name, sizeof name, "%s", layout->train_file);
        if (!file_path(path, folder, name, error) ||
            !read_records(layout, path, layout->train_records, dataset->train.pixels + first * PIXELS,
                          dataset->train.labels + first, error))
            return false;
    }
    if (!file_path(path, folder, layout->test_file, error) ||
        !read_records(layout, path, layout->test_records, dataset->test.pixels, dataset->test.labels, error))
        return false;
    return file_path(path, folder, layout->names_file, error) && default_names(dataset, path, layout->classes, error);
}

static bool has_file(const char *folder, const char *name)
{
    char path[4096];
    return file_join(path, sizeof path, folder, name) && file_exists(path);
}

static bool present10(const char *folder)
{
    return has_file(folder, "test_batch.bin");
}

static bool present100(const char *folder)
{
    return has_file(folder, "test.bin");
}

static bool read10(struct dataset *dataset, const char *folder, struct error *error)
{
    return read_cifar(dataset, &cifar10, folder, error);
}

static bool read100(struct dataset *dataset, const char *folder, struct error *error)
{
    return read_cifar(dataset, &cifar100, folder, error);
}

const struct data_source cifar10_source = {
    "cifar10", "CIFAR-10, binary version (data_batch_1.bin ... test_batch.bin)", "cifar-10-batches-bin",
    "cifar-10-binary.tar.gz from https://www.cs.toronto.edu/~kriz/cifar.html", present10, read10,
};
const struct data_source cifar100_source = {
    "cifar100", "CIFAR-100, binary version (train.bin, test.bin)", "cifar-100-binary",
    "cifar-100-binary.tar.gz from https://www.cs.toronto.edu/~kriz/cifar.html", present100, read100,
};
