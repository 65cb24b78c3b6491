// libFuzzer: the data readers, through a folder in memory (/dev/shm where there is one). The first byte says which:
// IDX pictures, IDX labels, a gzip of one, a CIFAR file; a file of class names, lists of pictures, a .data file.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "data/darknet.h"
#include "data/data.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *folder(void)
{
    static char path[64];
    if (!path[0]) {
        snprintf(path, sizeof path, "%s/mlsnet-fuzz-XXXXXX", access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
        if (!mkdtemp(path)) abort();
    }
    return path;
}

static void put(const char *name, const void *data, size_t size)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", folder(), name);
    FILE *file = fopen(path, "wb");
    if (!file) abort();
    fwrite(data, 1, size, file);
    fclose(file);
}

static void drop(const char *name)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", folder(), name);
    unlink(path);
}

static void open_and_close(int type, const char *names)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", folder(), names ? names : "");
    struct data_settings settings = {.type = type, .path = path, .names = names ? path : NULL};
    struct dataset *dataset = NULL;
    struct error error;
    if (dataset_open(&settings, folder(), &dataset, &error)) dataset_close(dataset);
}

// The same bytes as the list of paths, as the labels, and as a .data file.
static void open_list(const uint8_t *data, size_t size)
{
    char list[256], labels[256];
    struct error error;
    struct dataset *dataset = NULL;
    struct darknet_data darknet;
    put("list", data, size);
    put("labels", size && data[0] & 1 ? data : (const uint8_t *)"cat\ndog\n", size && data[0] & 1 ? size : 8);
    snprintf(list, sizeof list, "%s/list", folder());
    snprintf(labels, sizeof labels, "%s/labels", folder());
    struct data_settings settings = {.type = data_source_find("list"), .train = list, .valid = list, .labels = labels, .channels = 3,
                                     .height = 4, .width = 4, .darknet = size && data[0] & 2, .more_names = size && data[0] & 4};
    if (dataset_open(&settings, folder(), &dataset, &error)) dataset_close(dataset);
    darknet_data_read(list, &darknet, &error);
    darknet_data_release(&darknet);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint8_t images[] = {0, 0, 8, 3, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 2, 7, 8}, labels[] = {0, 0, 8, 1, 0, 0, 0, 1, 3};
    static const char *const names[] = {"train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"};
    if (size < 1) return 0;
    int kind = data[0] % 5;
    for (int i = 0; i < 4; i++) put(names[i], i % 2 ? labels : images, i % 2 ? sizeof labels : sizeof images);
    if (kind < 2) {
        put(names[kind], data + 1, size - 1);
        open_and_close(2, NULL);
    } else if (kind == 2) {
        drop(names[0]);
        put("train-images-idx3-ubyte.gz", data + 1, size - 1);
        open_and_close(2, NULL);
        drop("train-images-idx3-ubyte.gz");
    } else if (kind == 3) {
        put("test_batch.bin", data + 1, size - 1);
        put("data_batch_1.bin", data + 1, size - 1);
        open_and_close(0, NULL);
        put("names", data + 1, size - 1);
        open_and_close(2, "names");
    } else {
        open_list(data + 1, size - 1);
    }
    return 0;
}
