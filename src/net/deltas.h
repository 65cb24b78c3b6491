// The arrays of the errors (layer->delta). An array is in use from the moment when the first reader of the layer's output
// writes to it in the backward pass until the layer's own backward is done; then it serves another layer. That saves memory,
// and what is written again soon is still in the cache.
#ifndef NET_DELTAS_H
#define NET_DELTAS_H

#include "net/network.h"

struct delta_array {
    float *values;
    size_t floats;
    int last_use; // the lowest index of a layer that uses it now; other layers below may take it
};

// Sets delta and delta_owner of all layers that need one.
bool deltas_allocate(struct network *network, struct error *error);
void deltas_release(struct network *network);

#endif
