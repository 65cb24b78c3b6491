// The arrays of feature maps. They lie in one piece of memory, at places that others had before them or will have after them,
// where these are not in use at the same time:
//
//   outputs (layer->output)  in use until the last layer that reads it; in training to the end where some backward reads it
//   layer->raw               the same, and in training to the end: backward reads it
//   errors (layer->delta)    in use from the moment when the first reader of the layer's output writes to it in the backward pass
//                            until the layer's own backward is done
#ifndef NET_ARRAYS_H
#define NET_ARRAYS_H

#include "net/network.h"

// Sets delta_owner of all layers that have a delta.
void arrays_plan_deltas(struct network *network);
// After it: sets output, raw and delta of all layers, in network->maps.
bool arrays_allocate(struct network *network, struct error *error);

#endif
