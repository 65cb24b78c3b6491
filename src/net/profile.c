#include "net/profile.h"

#include <string.h>
#include <time.h>

#include "base/memory.h"

const char *const profile_part_names[PROFILE_PARTS] = {
    [PART_DATA] = "wait for data",
    [PART_QUANTIZE_WEIGHTS] = "quantize weights",
    [PART_CONVOLVE] = "quantize, convolve",
    [PART_NORMALIZE] = "normalize, activate",
    [PART_FORWARD] = "forward",
    [PART_NORMALIZE_BACKWARD] = "normalize backward",
    [PART_WEIGHT_GRADIENT] = "weight gradient",
    [PART_INPUT_ERROR] = "quantize, input error",
    [PART_ERROR_AND_GRADIENT] = "quantize, backward",
    [PART_ADD_GRADIENTS] = "add up the gradient",
    [PART_BACKWARD] = "backward",
    [PART_OPTIMIZER] = "optimizer",
};

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

struct profile *profile_create(int layers, struct error *error)
{
    struct profile *profile = memory_allocate(1, sizeof *profile, error);
    if (!profile) return NULL;
    profile->layers = layers;
    profile->rows = memory_allocate((size_t)layers + 1, sizeof *profile->rows, error);
    if (profile->rows) return profile;
    memory_release(profile);
    return NULL;
}

void profile_destroy(struct profile *profile)
{
    if (!profile) return;
    memory_release(profile->rows);
    memory_release(profile);
}

void profile_start(struct profile *profile)
{
    if (!profile) return;
    memset(profile->rows, 0, ((size_t)profile->layers + 1) * sizeof *profile->rows);
    profile->last = now();
}

void profile_lap(struct profile *profile, int layer, enum profile_part part, double multiply_adds, double bytes, bool integers)
{
    if (!profile) return;
    double time = now();
    struct profile_row *row = &profile->rows[layer][part];
    row->seconds += time - profile->last;
    row->multiply_adds += multiply_adds;
    row->bytes += bytes;
    row->integers |= integers;
    profile->last = time;
}
