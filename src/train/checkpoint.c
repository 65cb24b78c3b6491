#include "train/checkpoint.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "train/safetensors.h"

#ifndef MLSNET_VERSION
#define MLSNET_VERSION "unknown"
#endif

static struct safetensors_tensor tensor_of(const struct parameter *p, const char *name, const float *data)
{
    struct safetensors_tensor tensor = {.name = name, .rank = p->rank, .data = data, .count = p->count};
    memcpy(tensor.dims, p->dims, sizeof tensor.dims);
    return tensor;
}

static void momentum_name(char name[96], const struct parameter *parameter)
{
    snprintf(name, 96, "%s.momentum", parameter->name);
}

bool checkpoint_save(const char *path, const struct network *network, const struct training_state *state,
                     const char *cfg_text, struct error *error)
{
    size_t most = 2 * (size_t)network->parameter_count;
    struct safetensors_tensor *tensors = memory_allocate(most, sizeof *tensors, error);
    char(*names)[96] = memory_allocate(most, sizeof *names, error);
    bool good = tensors && names;
    int count = 0;
    for (int i = 0; good && i < network->parameter_count; i++) {
        const struct parameter *p = network->parameters[i];
        tensors[count++] = tensor_of(p, p->name, p->value);
        if (!p->momentum) continue;
        momentum_name(names[i], p);
        tensors[count++] = tensor_of(p, names[i], p->momentum);
    }
    char numbers[8][32];
    snprintf(numbers[0], 32, "%ld", state->step);
    snprintf(numbers[1], 32, "%ld", state->epoch);
    snprintf(numbers[2], 32, "%ld", state->batch);
    snprintf(numbers[3], 32, "%a", state->loss_sum);
    snprintf(numbers[4], 32, "%ld", state->correct);
    snprintf(numbers[5], 32, "%ld", state->images);
    snprintf(numbers[6], 32, "%a", state->best);
    snprintf(numbers[7], 32, "%ld", state->seed);
    const struct safetensors_text metadata[] = {
        {"format", "mlsnet"}, {"version", MLSNET_VERSION}, {"step", numbers[0]}, {"epoch", numbers[1]},
        {"batch", numbers[2]}, {"loss_sum", numbers[3]}, {"correct", numbers[4]}, {"images", numbers[5]},
        {"best", numbers[6]}, {"seed", numbers[7]}, {"cfg", cfg_text},
    };
    good = good && safetensors_write(path, tensors, count, metadata, (int)(sizeof metadata / sizeof metadata[0]), error);
    memory_release(tensors);
    memory_release(names);
    return good;
}

static void shape_text(char text[64], int rank, const int *dims)
{
    int used = snprintf(text, 64, "[");
    for (int i = 0; i < rank && used < 50; i++) used += snprintf(text + used, (size_t)(64 - used), i ? ", %d" : "%d", dims[i]);
    snprintf(text + used, (size_t)(64 - used), "]");
}

// The tensor that fits the parameter, or NULL with a message.
static const struct safetensors_tensor *fitting(const char *path, const struct safetensors *file, const struct parameter *p,
                                                const char *name, struct error *error)
{
    const struct safetensors_tensor *tensor = safetensors_find(file, name);
    char found[64], expected[64];
    if (!tensor) {
        error_set(error, "%s: no tensor %s: a checkpoint of another network", path, name);
        return NULL;
    }
    if (tensor->rank == p->rank && memcmp(tensor->dims, p->dims, (size_t)p->rank * sizeof(int)) == 0) return tensor;
    shape_text(found, tensor->rank, tensor->dims);
    shape_text(expected, p->rank, p->dims);
    error_set(error, "%s: tensor %s has shape %s, the network needs %s: a checkpoint of another network", path, name, found,
              expected);
    return NULL;
}

// Checks (copy = false) or copies every tensor.
static bool visit(const char *path, const struct safetensors *file, struct network *network, bool momentum, bool copy,
                  int *used, struct error *error)
{
    *used = 0;
    for (int i = 0; i < network->parameter_count; i++) {
        struct parameter *p = network->parameters[i];
        char name[96];
        momentum_name(name, p);
        const struct safetensors_tensor *value = fitting(path, file, p, p->name, error), *velocity = NULL;
        if (!value) return false;
        if (p->momentum && momentum && !(velocity = fitting(path, file, p, name, error))) return false;
        *used += 1 + (safetensors_find(file, name) != NULL);
        if (copy) memcpy(p->value, value->data, p->count * sizeof(float));
        if (copy && velocity) memcpy(p->momentum, velocity->data, p->count * sizeof(float));
    }
    return true;
}

static bool read_number(const char *path, const struct safetensors *file, const char *key, long *integer, double *number,
                        struct error *error)
{
    const char *text = safetensors_metadata(file, key);
    char *end = NULL;
    if (text && integer) *integer = strtol(text, &end, 10);
    if (text && number) *number = strtod(text, &end);
    if (text && end != text && *end == 0 && (!integer || *integer >= 0)) return true;
    return error_set(error, "%s: metadata %s is %s: cannot go on from this checkpoint", path, key, text ? text : "missing");
}

static bool read_state(const char *path, const struct safetensors *file, struct training_state *s, struct error *error)
{
    return read_number(path, file, "step", &s->step, NULL, error) && read_number(path, file, "epoch", &s->epoch, NULL, error) &&
           read_number(path, file, "batch", &s->batch, NULL, error) &&
           read_number(path, file, "loss_sum", NULL, &s->loss_sum, error) &&
           read_number(path, file, "correct", &s->correct, NULL, error) &&
           read_number(path, file, "images", &s->images, NULL, error) && read_number(path, file, "best", NULL, &s->best, error) &&
           read_number(path, file, "seed", &s->seed, NULL, error);
}

bool checkpoint_load(const char *path, struct network *network, struct training_state *state, struct error *error)
{
    struct safetensors file;
    struct training_state read = {0};
    int used = 0;
    bool good = safetensors_read(path, &file, error) && visit(path, &file, network, state != NULL, false, &used, error);
    if (good && used != file.count)
        good = error_set(error, "%s: %d tensors, the network has %d: a checkpoint of another network", path, file.count, used);
    if (good && state) good = read_state(path, &file, &read, error);
    if (good) {
        visit(path, &file, network, state != NULL, true, &used, error);
        if (state) *state = read;
    }
    safetensors_release(&file);
    return good;
}
