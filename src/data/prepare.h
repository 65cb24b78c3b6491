// From a picture of a split to the network's input.
#ifndef DATA_PREPARE_H
#define DATA_PREPARE_H

#include "data/data.h"

// What one thread of the loader needs: settings, tables, room for one picture.
struct preparer;
struct preparer *preparer_create(const struct loader_request *request, struct split *split, struct error *error);
void preparer_destroy(struct preparer *preparer);

// Where pictures go: crop k of slot i to input + k * crop_stride + i * picture_floats.
struct place {
    float *input;
    size_t crop_stride, picture_floats;
};

// Prepares picture *picture of the split; in training as a function of (seed, epoch, picture) alone. One that cannot be read
// is replaced in training by another one, whose index goes to *picture, chosen by (seed, epoch, picture); in evaluation *picture
// becomes -1. false: settings->on_bad_image is stop, or more than 1 % of the split's pictures cannot be read.
bool prepare_picture(struct preparer *preparer, uint64_t epoch, int *picture, const struct place *place, int slot, struct error *error);

#endif
