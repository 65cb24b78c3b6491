#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "base/random.h"
#include "data/data.h"

bool dataset_set_names(struct dataset *dataset, const char *const *names, int count, struct error *error)
{
    dataset->names = memory_allocate((size_t)count, sizeof *dataset->names, error);
    for (int i = 0; dataset->names && i < count; i++)
        if (!(dataset->names[i] = strdup(names[i]))) return error_set(error, "out of memory");
    return dataset->names != NULL;
}

bool split_allocate(const struct dataset *dataset, struct split *split, int count, struct error *error)
{
    size_t size = (size_t)dataset->channels * (size_t)dataset->height * (size_t)dataset->width;
    split->count = count;
    split->pixels = memory_allocate((size_t)count, size, error);
    split->labels = memory_allocate((size_t)count, sizeof(int), error);
    return split->pixels && split->labels;
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

static bool find_folder(const struct data_source *source, const char *start, char *folder, size_t size)
{
    snprintf(folder, size, "%s", start);
    if (source->present(folder)) return true;
    return source->folder && file_join(folder, size, start, source->folder) && source->present(folder);
}

static bool apply_settings(struct dataset *dataset, struct error *error)
{
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
    return !s->names || read_names(dataset, s->names, error);
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
    bool good = source->read(dataset, folder, error) && apply_settings(dataset, error);
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
    memory_release(dataset->train.pixels);
    memory_release(dataset->train.labels);
    memory_release(dataset->test.pixels);
    memory_release(dataset->test.labels);
    memory_release(dataset);
}

void dataset_normalize(const struct dataset *dataset, const uint8_t *pixels, float *out)
{
    size_t plane = (size_t)dataset->height * (size_t)dataset->width;
    for (int c = 0; c < dataset->channels; c++)
        for (size_t i = 0; i < plane; i++)
            *out++ = ((float)*pixels++ / 255.0f - dataset->mean[c]) / dataset->std[c];
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
