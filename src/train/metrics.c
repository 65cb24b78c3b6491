#include "train/metrics.h"

#include <stddef.h>

#include "base/memory.h"

bool metrics_create(struct metrics *metrics, int classes, struct error *error)
{
    *metrics = (struct metrics){.classes = classes};
    metrics->confusion = memory_allocate((size_t)classes * (size_t)classes, sizeof(long), error);
    return metrics->confusion != NULL;
}

void metrics_release(struct metrics *metrics)
{
    memory_release(metrics->confusion);
    metrics->confusion = NULL;
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
        int rank = rank_of(scores, classes, labels[n]);
        metrics->top1 += rank == 0;
        metrics->top5 += rank < 5;
        metrics->confusion[(size_t)labels[n] * (size_t)classes + (size_t)metrics_prediction(scores, classes)]++;
    }
    metrics->images += images;
}

static long sum(const long *from, int count, int step)
{
    long total = 0;
    for (int i = 0; i < count; i++) total += from[(size_t)i * (size_t)step];
    return total;
}

double metrics_precision(const struct metrics *metrics, int class)
{
    long predicted = sum(metrics->confusion + class, metrics->classes, metrics->classes);
    long right = metrics->confusion[(size_t)class * (size_t)metrics->classes + (size_t)class];
    return predicted ? (double)right / (double)predicted : 0;
}

double metrics_recall(const struct metrics *metrics, int class)
{
    long present = sum(metrics->confusion + (size_t)class * (size_t)metrics->classes, metrics->classes, 1);
    long right = metrics->confusion[(size_t)class * (size_t)metrics->classes + (size_t)class];
    return present ? (double)right / (double)present : 0;
}
