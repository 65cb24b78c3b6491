#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "base/file.h"
#include "base/memory.h"
#include "base/random.h"
#include "data/augment.h"
#include "data/store.h"

bool dataset_set_names(struct dataset *dataset, const char *const *names, int count, struct error *error)
{
    dataset->names = memory_allocate((size_t)count, sizeof *dataset->names, error);
    for (int i = 0; dataset->names && i < count; i++)
        if (!(dataset->names[i] = strdup(names[i]))) return error_set(error, "out of memory");
    return dataset->names != NULL;
}

bool split_allocate(const struct dataset *dataset, struct split *split, int count, struct error *error)
{
    size_t size = (size_t)dataset->channels * (size_t)dataset->picture_height * (size_t)dataset->picture_width;
    split->count = count;
    split->pixels = memory_allocate((size_t)count, size, error);
    split->labels = memory_allocate((size_t)count, sizeof(int), error);
    return split->pixels && split->labels;
}

bool split_allocate_files(struct split *split, int count, struct error *error)
{
    split->count = count;
    split->paths = memory_allocate((size_t)count, sizeof *split->paths, error);
    split->labels = memory_allocate((size_t)count, sizeof(int), error);
    return split->paths && split->labels;
}

void dataset_use_imagenet_mean(struct dataset *dataset)
{
    static const float mean[3] = {0.485f, 0.456f, 0.406f}, deviation[3] = {0.229f, 0.224f, 0.225f};
    for (int c = 0; c < dataset->channels; c++) {
        dataset->mean[c] = dataset->channels == 3 ? mean[c] : 0.449f;
        dataset->std[c] = dataset->channels == 3 ? deviation[c] : 0.226f;
    }
}

static void split_release(struct split *split)
{
    store_destroy(split->store);
    for (int i = 0; split->paths && i < split->count; i++) free(split->paths[i]);
    memory_release(split->paths);
    memory_release(split->pixels);
    memory_release(split->labels);
}

static void release_names(struct dataset *dataset)
{
    for (int i = 0; dataset->names && i < dataset->classes; i++) free(dataset->names[i]);
    memory_release(dataset->names);
    dataset->names = NULL;
}

// A file with a class name a line takes the place of the data set's own names.
static bool read_names(struct dataset *dataset, const char *path, struct error *error)
{
    size_t size;
    char *text = (char *)file_read(path, (size_t)1 << 24, &size, error);
    const char **names = text ? memory_allocate((size_t)dataset->classes, sizeof *names, error) : NULL;
    int count = 0;
    char *rest = text;
    for (char *line; names && (line = strtok_r(rest, "\r\n", &rest)); count++)
        if (count < dataset->classes) names[count] = line;
    bool good = names != NULL;
    if (dataset->settings.more_names && count > dataset->classes) count = dataset->classes;
    if (good && count != dataset->classes)
        good = error_set(error, "%s: %d names: expected %d", path, count, dataset->classes);
    if (good) {
        release_names(dataset);
        good = dataset_set_names(dataset, names, count, error);
    }
    memory_release(names);
    memory_release(text);
    return good;
}

int data_source_find(const char *name)
{
    for (int i = 0; data_sources[i]; i++)
        if (strcmp(data_sources[i]->name, name) == 0) return i;
    return -1;
}

static bool find_folder(const struct data_source *source, const char *start, char *folder, size_t size)
{
    snprintf(folder, size, "%s", start);
    if (!source->present || source->present(folder)) return true;
    return source->folder && file_join(folder, size, start, source->folder) && source->present(folder);
}

const char *dataset_find_file(const char *folder, const char *name, char path[4096])
{
    return name[0] != '/' && !file_exists(name) && file_join(path, 4096, folder, name) && file_exists(path) ? path : name;
}

static bool apply_settings(struct dataset *dataset, const char *folder, struct error *error)
{
    char path[4096];
    const struct data_settings *s = &dataset->settings;
    if (s->classes && s->classes < dataset->classes)
        return error_set(error, "[data] classes=%d, but the data has labels up to %d", s->classes, dataset->classes - 1);
    if (s->classes > dataset->classes)
        return error_set(error, "[data] classes=%d, but the data set has %d", s->classes, dataset->classes);
    const int counts[2] = {s->mean_count, s->std_count};
    const float *values[2] = {s->mean, s->std};
    float *targets[2] = {dataset->mean, dataset->std};
    for (int k = 0; k < 2; k++) {
        if (counts[k] == 0) continue;
        if (counts[k] != 1 && counts[k] != dataset->channels)
            return error_set(error, "[data] %s: %d numbers: expected 1 or %d", k ? "std" : "mean", counts[k], dataset->channels);
        for (int c = 0; c < dataset->channels; c++) targets[k][c] = values[k][counts[k] == 1 ? 0 : c];
    }
    return !s->names || read_names(dataset, dataset_find_file(folder, s->names, path), error);
}

// What the loader gives: the network's size, or the pictures' own.
static bool set_shape(struct dataset *dataset, struct error *error)
{
    const struct data_settings *s = &dataset->settings;
    dataset->height = s->height ? s->height : dataset->picture_height;
    dataset->width = s->width ? s->width : dataset->picture_width;
    if (s->resize && (s->resize < dataset->height || s->resize < dataset->width))
        return error_set(error, "[data] resize=%d: expected at least the network's %d x %d", s->resize, dataset->width, dataset->height);
    if (dataset->picture_height) return true;
    if (dataset->channels != 1 && dataset->channels != 3)
        return error_set(error, "[net] channels=%d: pictures have 1 or 3", dataset->channels);
    atomic_store(&dataset->cache_room, (size_t)s->cache << 20);
    return (dataset->train.store = store_create(dataset->train.count, &dataset->cache_room, error)) &&
           (dataset->test.store = store_create(dataset->test.count, &dataset->cache_room, error));
}

bool dataset_open(const struct data_settings *settings, const char *override, struct dataset **result,
                  struct error *error)
{
    const struct data_source *source = data_sources[settings->type];
    const char *from_environment = getenv("MLSNET_DATA");
    const char *start = override ? override : from_environment && *from_environment ? from_environment : settings->path;
    char folder[4096];
    if (!find_folder(source, start, folder, sizeof folder))
        return error_set(error, "%s data not found in %s%s%s; get %s and name the folder with --data, MLSNET_DATA or [data] path=",
                         source->name, start, source->folder ? " or below it in " : "", source->folder ? source->folder : "",
                         source->where_to_get);
    struct dataset *dataset = memory_allocate(1, sizeof *dataset, error);
    if (!dataset) return false;
    dataset->settings = *settings;
    dataset->channels = settings->channels;
    bool good = dataset->channels <= 4 || error_set(error, "[net] channels=%d: pictures have 1 or 3", dataset->channels);
    good = good && source->read(dataset, folder, error) && apply_settings(dataset, folder, error) && set_shape(dataset, error);
    if (good)
        *result = dataset;
    else
        dataset_close(dataset);
    return good;
}

static bool number_classes(struct dataset *dataset, int classes, struct error *error)
{
    char number[16];
    dataset->classes = classes;
    if (!(dataset->names = memory_allocate((size_t)classes, sizeof *dataset->names, error))) return false;
    for (int i = 0; i < classes; i++) {
        snprintf(number, sizeof number, "%d", i);
        if (!(dataset->names[i] = strdup(number))) return error_set(error, "out of memory");
    }
    return true;
}

bool dataset_open_without_pictures(const struct data_settings *settings, struct dataset **result, struct error *error)
{
    struct dataset *dataset = memory_allocate(1, sizeof *dataset, error);
    if (!dataset) return false;
    dataset->settings = *settings;
    dataset->channels = settings->channels;
    for (int c = 0; c < 4; c++) dataset->std[c] = 1;
    bool good = (dataset->channels <= 4 || error_set(error, "[net] channels=%d: pictures have 1 or 3", dataset->channels)) &&
                number_classes(dataset, settings->classes, error) && apply_settings(dataset, ".", error) && set_shape(dataset, error);
    if (good)
        *result = dataset;
    else
        dataset_close(dataset);
    return good;
}

void dataset_close(struct dataset *dataset)
{
    if (!dataset) return;
    release_names(dataset);
    split_release(&dataset->train);
    split_release(&dataset->test);
    memory_release(dataset);
}

static uLong split_checksum(const struct dataset *dataset, const struct split *split, uLong sum)
{
    size_t size = (size_t)dataset->channels * (size_t)dataset->picture_height * (size_t)dataset->picture_width;
    sum = crc32_z(sum, (const Bytef *)split->labels, (size_t)split->count * sizeof *split->labels);
    if (split->pixels) return crc32_z(sum, split->pixels, (size_t)split->count * size);
    for (int i = 0; i < split->count; i++) {
        const char *slash = strrchr(split->paths[i], '/'), *name = slash ? slash + 1 : split->paths[i];
        sum = crc32_z(sum, (const Bytef *)name, strlen(name) + 1);
    }
    return sum;
}

void dataset_fingerprint(const struct dataset *dataset, char text[DATASET_FINGERPRINT])
{
    uLong sum = split_checksum(dataset, &dataset->test, split_checksum(dataset, &dataset->train, 0));
    snprintf(text, DATASET_FINGERPRINT, "%d + %d pictures of %d classes, checksum %08lx", dataset->train.count, dataset->test.count,
             dataset->classes, sum);
}

bool dataset_read_picture(const struct dataset *dataset, const char *path, float *out, struct error *error)
{
    int channels = dataset->channels;
    size_t plane = (size_t)dataset->height * (size_t)dataset->width;
    struct picture picture;
    if (!picture_load(path, channels, &picture, error)) return false;
    uint8_t *view = memory_allocate(plane, (size_t)channels, error);
    bool good = view && (augment_centre(&dataset->settings, &picture, CROP_CENTRE, dataset->width, dataset->height, view, error) ||
                         error_prefix(error, "%s: ", path));
    for (size_t i = 0; good && i < plane; i++)
        for (int c = 0; c < channels; c++)
            out[(size_t)c * plane + i] = ((float)view[i * (size_t)channels + (size_t)c] / 255.0f - dataset->mean[c]) / dataset->std[c];
    memory_release(view);
    picture_release(&picture);
    return good;
}

void shuffle_order(int *order, int count, uint64_t seed, uint64_t epoch)
{
    struct random_stream stream = {random_key(seed, 2, epoch, 0), 0};
    for (int i = 0; i < count; i++) order[i] = i;
    for (int i = count - 1; i > 0; i--) { // Fisher-Yates
        int j = (int)random_below(&stream, (uint32_t)i + 1), swap = order[i];
        order[i] = order[j];
        order[j] = swap;
    }
}
