#include "train/metrics.h"

#include <stddef.h>

#include "base/memory.h"

bool metrics_create(struct metrics *metrics, int classes, struct error *error)
{
    *metrics = (struct metrics){.classes = classes};
    metrics->labelled = memory_allocate(3 * (size_t)classes, sizeof(long), error);
    if (!metrics->labelled) return false;
    metrics->predicted = metrics->labelled + classes;
    metrics->right = metrics->predicted + classes;
    return true;
}

void metrics_release(struct metrics *metrics)
{
    memory_release(metrics->labelled);
    metrics->labelled = metrics->predicted = metrics->right = NULL;
}

int metrics_prediction(const float *scores, int classes)
{
    int best = 0;
    for (int i = 1; i < classes; i++)
        if (scores[i] > scores[best]) best = i;
    return best;
}

void metrics_top(const float *scores, int classes, int count, int *top)
{
    int used = 0;
    for (int i = 0; i < classes; i++) {
        int at = used;
        while (at > 0 && scores[top[at - 1]] < scores[i]) at--;
        if (at == count) continue;
        if (used < count) used++;
        for (int k = used - 1; k > at; k--) top[k] = top[k - 1];
        top[at] = i;
    }
}

// How many classes come before the label.
static int rank_of(const float *scores, int classes, int label)
{
    int rank = 0;
    for (int i = 0; i < classes; i++) rank += scores[i] > scores[label] || (scores[i] == scores[label] && i < label);
    return rank;
}

void metrics_add(struct metrics *metrics, const float *scores, const int *labels, int images)
{
    int classes = metrics->classes;
    for (int n = 0; n < images; n++, scores += classes) {
        int rank = rank_of(scores, classes, labels[n]), prediction = metrics_prediction(scores, classes);
        metrics->top1 += rank == 0;
        metrics->top5 += rank < 5;
        metrics->labelled[labels[n]]++;
        metrics->predicted[prediction]++;
        if (prediction == labels[n]) metrics->right[prediction]++;
    }
    metrics->images += images;
}

double metrics_precision(const struct metrics *metrics, int class)
{
    return metrics->predicted[class] ? (double)metrics->right[class] / (double)metrics->predicted[class] : 0;
}

double metrics_recall(const struct metrics *metrics, int class)
{
    return metrics->labelled[class] ? (double)metrics->right[class] / (double)metrics->labelled[class] : 0;
}
