// Where the time of a step goes: a stopwatch that is read at the end of each part. What ran since the last reading
// belongs to the part that just ended, so the parts leave no gap. Used by `mlsnet bench --layers`; absent otherwise.
#ifndef NET_PROFILE_H
#define NET_PROFILE_H

#include <stdbool.h>

#include "base/error.h"

enum profile_part {
    PART_DATA,
    PART_QUANTIZE_WEIGHTS,
    PART_CONVOLVE,
    PART_NORMALIZE,
    PART_FORWARD,
    PART_NORMALIZE_BACKWARD,
    PART_WEIGHT_GRADIENT,
    PART_INPUT_ERROR,
    PART_ERROR_AND_GRADIENT, // by image (kernels/packed_gradient.c)
    PART_ADD_GRADIENTS,
    PART_BACKWARD,
    PART_OPTIMIZER,
    PROFILE_PARTS
};
extern const char *const profile_part_names[PROFILE_PARTS];

struct profile_row {
    double seconds, multiply_adds, bytes; // summed over the steps
    bool integers;                        // the multiply-adds are of 8-bit integers
};

struct profile {
    int layers;
    double last;                               // when the stopwatch was read last
    struct profile_row (*rows)[PROFILE_PARTS]; // [layers + 1]: the last one for what belongs to no layer
};

struct profile *profile_create(int layers, struct error *error);
void profile_destroy(struct profile *profile);
// Forgets what was measured and starts the stopwatch. NULL is allowed here and below: nothing happens.
void profile_start(struct profile *profile);
// Ends a part of a layer (0 to layers): the work it did, in multiply-adds and bytes read and written.
void profile_lap(struct profile *profile, int layer, enum profile_part part, double multiply_adds, double bytes, bool integers);

#endif
