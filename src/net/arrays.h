// The arrays of feature maps. An array serves another map as soon as its own is not needed any more, which saves memory, and
// what is written again soon is still in the cache:
//
//   errors (layer->delta)       in use from the moment when the first reader of the layer's output writes to it in the backward
//                               pass until the layer's own backward is done
//   outputs (layer->output and  kept for the backward pass in training; otherwise in use until the last layer that reads it
//   layer->raw)
#ifndef NET_ARRAYS_H
#define NET_ARRAYS_H

#include "net/network.h"

struct shared_array {
    float *values;
    size_t floats;
    int busy_until; // the last time at which it is in use; time is counted in layers
};

// Sets output and raw of all layers.
bool arrays_allocate_outputs(struct network *network, struct error *error);
// Sets delta and delta_owner of all layers that need one. After the outputs; the two do not share.
bool arrays_allocate_deltas(struct network *network, struct error *error);
void arrays_release(struct network *network);

#endif
