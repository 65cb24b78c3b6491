// What an evaluation measures.
#ifndef TRAIN_METRICS_H
#define TRAIN_METRICS_H

#include "base/error.h"

struct metrics {
    int classes;
    long images, top1, top5;
    double loss_sum;
    long *labelled, *predicted, *right; // pictures of each class, [classes]: by label, by prediction, by both
};

bool metrics_create(struct metrics *metrics, int classes, struct error *error);
void metrics_release(struct metrics *metrics);
// scores[images][classes]. A prediction is the class of the highest score, the lowest index among equals.
void metrics_add(struct metrics *metrics, const float *scores, const int *labels, int images);
int metrics_prediction(const float *scores, int classes);
// Classes of the `count` highest scores, the highest first, the lowest index among equals. count <= classes.
void metrics_top(const float *scores, int classes, int count, int *top);
double metrics_precision(const struct metrics *metrics, int class); // of the predictions of the class; 0 if none
double metrics_recall(const struct metrics *metrics, int class);    // of the pictures of the class; 0 if none

#endif
