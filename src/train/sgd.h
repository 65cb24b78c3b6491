// Stochastic gradient descent with momentum, as PyTorch's: g += decay * w (weights, or all), v = momentum * v + g,
// w -= rate * v, or with Nesterov w -= rate * (g + momentum * v). Gradients are cleared on the way.
#ifndef TRAIN_SGD_H
#define TRAIN_SGD_H

#include "net/network.h"

struct sgd {
    float rate, momentum, decay;
    bool nesterov, decay_all; // decay_all: not on weights only
};

// false if a new weight is not a finite number; the message names the parameter.
bool sgd_step(const struct sgd *sgd, struct network *network, struct error *error);

#endif
