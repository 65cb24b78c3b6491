// Folders of pictures, as ImageNet's and torchvision's: PATH/train/CLASS/*, PATH/val/CLASS/*. Classes are the folders below
// train in the order of their names' bytes, or of val where evaluation finds no train; pictures in folders below a class
// belong to it.
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/memory.h"
#include "data/data.h"

#define DEEPEST 32 // folders below a class

// A growing list of texts.
struct texts {
    char **items;
    size_t count, capacity;
};

static void texts_release(struct texts *texts)
{
    for (size_t i = 0; i < texts->count; i++) free(texts->items[i]);
    free(texts->items);
    *texts = (struct texts){0};
}

static bool texts_add(struct texts *texts, const char *text, struct error *error)
{
    if (texts->count == texts->capacity) {
        size_t capacity = texts->capacity ? 2 * texts->capacity : 64;
        char **items = realloc(texts->items, capacity * sizeof *items);
        if (!items) return error_set(error, "out of memory");
        texts->items = items;
        texts->capacity = capacity;
    }
    if (!(texts->items[texts->count] = strdup(text))) return error_set(error, "out of memory");
    texts->count++;
    return true;
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static bool is_folder(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

// The names in a folder, sorted; hidden ones are left out.
static bool list_folder(const char *path, struct texts *names, struct error *error)
{
    DIR *folder = opendir(path);
    if (!folder) return error_set(error, "%s: cannot list the folder: %s", path, strerror(errno));
    bool good = true;
    errno = 0; // which alone tells the end from a failure
    for (struct dirent *entry; good && (entry = readdir(folder)); errno = 0)
        if (entry->d_name[0] != '.') good = texts_add(names, entry->d_name, error);
    if (good && errno) good = error_set(error, "%s: cannot list the folder: %s", path, strerror(errno));
    closedir(folder);
    if (names->count) qsort(names->items, names->count, sizeof *names->items, by_text);
    return good;
}

// The suffixes that torchvision takes for pictures. What a file really is, its content tells later.
static bool is_picture_name(const char *name)
{
    static const char *const suffixes[] = {".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp"};
    const char *dot = strrchr(name, '.');
    for (size_t i = 0; dot && i < sizeof suffixes / sizeof suffixes[0]; i++)
        if (strcasecmp(dot, suffixes[i]) == 0) return true;
    return false;
}

// All pictures in the folder, then those in each folder below it.
static bool find_pictures(const char *path, int depth, struct texts *pictures, struct error *error)
{
    struct texts names = {0};
    char below[4096];
    bool good = depth < DEEPEST || error_set(error, "%s: more than %d folders deep", path, DEEPEST);
    good = good && list_folder(path, &names, error);
    for (int folders = 0; folders < 2; folders++)
        for (size_t i = 0; good && i < names.count; i++) {
            good = file_path(below, path, names.items[i], error);
            if (!good || is_folder(below) != folders) continue;
            if (folders)
                good = find_pictures(below, depth + 1, pictures, error);
            else if (is_picture_name(names.items[i]))
                good = texts_add(pictures, below, error);
        }
    texts_release(&names);
    return good;
}

// The names of the folders in a folder.
static bool list_classes(const char *path, struct texts *classes, struct error *error)
{
    struct texts names = {0};
    char below[4096];
    bool good = list_folder(path, &names, error);
    for (size_t i = 0; good && i < names.count; i++) {
        good = file_path(below, path, names.items[i], error);
        if (good && is_folder(below)) good = texts_add(classes, names.items[i], error);
    }
    texts_release(&names);
    return good;
}

// Classes of the split that the training split lacks have no label.
static bool check_classes(const char *path, const struct texts *classes, struct error *error)
{
    struct texts found = {0};
    bool good = list_classes(path, &found, error);
    for (size_t i = 0; good && i < found.count; i++)
        if (!bsearch(&found.items[i], classes->items, classes->count, sizeof *classes->items, by_text))
            good = error_set(error, "%s/%s: no class of the training pictures has this name", path, found.items[i]);
    texts_release(&found);
    return good;
}

static bool read_split(const char *path, const struct texts *classes, struct split *split, struct error *error)
{
    struct texts pictures = {0};
    size_t *ends = memory_allocate(classes->count, sizeof *ends, error);
    char folder[4096];
    bool good = ends && check_classes(path, classes, error);
    for (size_t k = 0; good && k < classes->count; k++) {
        good = file_path(folder, path, classes->items[k], error) && (!is_folder(folder) || find_pictures(folder, 0, &pictures, error));
        if (good) ends[k] = pictures.count;
    }
    if (good && (pictures.count == 0 || pictures.count > 0x7fffffff))
        good = error_set(error, "%s: %zu pictures: expected at least one in a folder named as its class", path, pictures.count);
    good = good && split_allocate_files(split, (int)pictures.count, error);
    for (size_t i = 0, k = 0; good && i < pictures.count; i++) {
        while (ends[k] <= i) k++;
        split->labels[i] = (int)k;
        split->paths[i] = pictures.items[i];
    }
    if (good) pictures.count = 0; // the split has them now
    texts_release(&pictures);
    memory_release(ends);
    return good;
}

static bool split_folder(char path[4096], const char *folder, const char *const *names)
{
    for (; *names; names++)
        if (file_join(path, 4096, folder, *names) && is_folder(path)) return true;
    return false;
}

static const char *const train_names[] = {"train", NULL}, *const test_names[] = {"val", "valid", "test", NULL};

static bool read(struct dataset *dataset, const char *folder, struct error *error)
{
    char train[4096], test[4096];
    struct texts classes = {0};
    bool has_train = split_folder(train, folder, train_names), has_test = split_folder(test, folder, test_names);
    if (!has_test || (!has_train && !dataset->settings.without_train))
        return error_set(error, "%s: expected the folders train and val", folder);
    const char *labelled = has_train ? train : test;
    dataset_use_imagenet_mean(dataset);
    bool good = list_classes(labelled, &classes, error);
    if (good && (classes.count == 0 || classes.count > 1000000))
        good = error_set(error, "%s: %zu folders: expected one for each class", labelled, classes.count);
    dataset->classes = good ? (int)classes.count : 0;
    good = good && dataset_set_names(dataset, (const char *const *)classes.items, dataset->classes, error) &&
           (dataset->settings.without_train || read_split(train, &classes, &dataset->train, error)) &&
           (dataset->settings.without_test || read_split(test, &classes, &dataset->test, error));
    texts_release(&classes);
    return good;
}

static bool present(const char *folder)
{
    char path[4096];
    return split_folder(path, folder, test_names);
}

const struct data_source imagefolder_source = {
    "imagefolder", "folders of JPEG and PNG files (train/CLASS/*, val/CLASS/*)", NULL,
    "a folder with train/CLASS/* and val/CLASS/*, as ImageNet's", present, read,
};
