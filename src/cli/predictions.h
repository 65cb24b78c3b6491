// The predictions of an evaluation as CSV: path, label, and the most likely classes with their probabilities.
#ifndef CLI_PREDICTIONS_H
#define CLI_PREDICTIONS_H

#include <stdio.h>

#include "data/data.h"

struct predictions {
    const char *path; // of the CSV file
    FILE *file;
    const struct dataset *dataset;
    int top, *classes; // how many classes a picture gets
};

// Creates the file and writes the head of its columns. `top`: 1 or more; no more than there are classes are written.
bool predictions_open(struct predictions *predictions, const char *path, const struct dataset *dataset, int top, struct error *error);
// Adds the pictures of a batch; an evaluation_batch (train/trainer.h). `context`: struct predictions.
void predictions_add(void *context, const float *scores, const struct batch *batch);
// false: not everything could be written.
bool predictions_close(struct predictions *predictions, struct error *error);

#endif
