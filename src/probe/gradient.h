// How good is the gradient of a network in few bits? The weight gradient of a few batches in the format, drawn with several rounding
// seeds, against that of fp32 for the same batches and weights. Nothing is trained; batch normalization takes the statistics of the
// batch, as in training, and its running statistics stay as they were.
#ifndef PROBE_GRADIENT_H
#define PROBE_GRADIENT_H

#include "data/data.h"
#include "net/network.h"
#include "net/training_options.h"

// With G the gradient of fp32, g that of the format under one rounding seed, m the mean of g over all roundings; each figure is
// the mean over the batches. NAN where G is 0.
struct gradient_figures {
    double error;  // |g - G|^2 / |G|^2, mean over the seeds = bias + noise
    double bias;   // |m - G|^2 / |G|^2, what no averaging takes away. An estimate free of the noise, so it can come out just below 0
    double noise;  // mean |g - m|^2 / |G|^2
    double cosine; // (g, G) / (|g| |G|), mean over the seeds
    double slope;  // (g, G) / |G|^2, mean over the seeds: 1: as long as G along G
};

struct gradient_row { // one weight tensor
    char name[64];    // the parameter's
    int layer;
    bool low_bit;     // of this network
    bool counted;     // in the two figures of the whole network
    struct gradient_figures figures;
};

struct gradient_result {
    int count;
    struct gradient_row *rows;    // in layer order, all that have weights
    struct gradient_figures mean; // over the counted rows
    struct gradient_figures whole; // of the counted weights as one vector
    double loss, loss_difference; // an image's, of the format; less that of fp32
};

struct gradient_probe;

// Takes fp32's gradients: `fp32` is a network for training with the weights to be probed and plain_operands = MLS_ALL_OPERANDS. The loader
// gives training batches, from its first one on; settings->seed and label_smoothing are read. counted[fp32->layer_count]: the layers
// that enter the figures of the whole network.
struct gradient_probe *gradient_probe_create(struct network *fp32, const struct training_settings *settings, struct loader *loader,
                                             int batches, const bool *counted, struct error *error);
void gradient_probe_destroy(struct gradient_probe *probe);

// `network`: the same layers and weights, for training. seeds: at least 1; bias and noise are NAN with 1. result->rows is released
// with memory_release.
bool gradient_probe_measure(const struct gradient_probe *probe, struct network *network, int seeds, struct gradient_result *result,
                            struct error *error);

#endif
