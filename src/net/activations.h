// Activation functions, by Darknet's names.
#ifndef NET_ACTIVATIONS_H
#define NET_ACTIVATIONS_H

#include <stdbool.h>
#include <stddef.h>

#include "kernels/source.h"

enum activation {
    ACTIVATION_LINEAR, ACTIVATION_RELU, ACTIVATION_LEAKY, ACTIVATION_RELU6, ACTIVATION_LOGISTIC, ACTIVATION_TANH,
    ACTIVATION_ELU, ACTIVATION_SELU, ACTIVATION_LOGGY, ACTIVATION_RELIE, ACTIVATION_RAMP, ACTIVATION_PLSE,
    ACTIVATION_STAIR, ACTIVATION_HARDTAN, ACTIVATION_LHTAN
};
// `choices` of an activation option, in the order of the enumeration.
#define ACTIVATION_NAMES "linear relu leaky relu6 logistic tanh elu selu loggy relie ramp plse stair hardtan lhtan"

// values[i] = f(values[i]).
void activation_apply(enum activation activation, float *values, size_t count);
// delta[i] *= f'(x), written in terms of the output y = f(x) as Darknet does.
void activation_gradient(enum activation activation, const float *outputs, float *delta, size_t count);
// Whether the activation is one that readers of a map can apply on the way (kernels/source.h); *piecewise is linear if not.
bool activation_piecewise(enum activation activation, enum piecewise *piecewise);
// true where no output can be negative, so that a quantized element needs no sign.
bool activation_is_nonnegative(enum activation activation);

#endif
