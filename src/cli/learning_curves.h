// Train loss and test top-1 against epochs, from the log.csv of runs.
#ifndef CLI_LEARNING_CURVES_H
#define CLI_LEARNING_CURVES_H

#include "base/error.h"

struct curve {
    char *name;
    bool fp32;
    int epochs;
    double *loss, *top1; // of each epoch: mean over those of its runs that reached it; top-1 in percent
};

struct curves {
    int count;
    struct curve *items;
};

// One curve from the logs of runs that differ in their seed alone.
bool curves_add(struct curves *curves, const char *name, bool fp32, const char *const *logs, int count, struct error *error);
void curves_release(struct curves *curves);
// learning-curves.png, .svg and .gnuplot in the folder.
bool curves_draw(const struct curves *curves, const char *folder, struct error *error);

#endif
