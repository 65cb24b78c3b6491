// The operations of a network (energy/operations.h): the walk over its layers, and what their files share.
#ifndef NET_OPERATIONS_H
#define NET_OPERATIONS_H

#include "energy/arithmetic.h"
#include "net/activations.h"
#include "net/network.h"
#include "net/training_options.h"

// All operations of one training step of operations->images images, or of inference. The step counts as one pass over the
// whole batch: subdivisions serve this machine's memory alone. false without memory.
bool network_operations(const struct network *network, const struct training_settings *training, struct operations *operations);

// --- helpers for layer files; `elements` and `products` are those of one image ---

// Batch normalization of a map, both directions.
void operations_of_batch_normalization(struct operations *operations, double elements, int channels);
// The activation of a map, both directions, after the addition of a bias if there is one.
void operations_of_activation(struct operations *operations, enum activation activation, double elements, bool bias);
// A matrix product in fp32, all passes.
void operations_of_float_products(struct operations *operations, double products, double weights, double inputs, double outputs);

#endif
