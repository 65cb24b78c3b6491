// The table of layer types: one row each.
#include <string.h>

#include "net/layer.h"

extern const struct layer_type convolutional_layer_type, batchnorm_layer_type, shortcut_layer_type, route_layer_type,
    maxpool_layer_type, avgpool_layer_type, connected_layer_type, dropout_layer_type, softmax_layer_type,
    crop_layer_type, cost_layer_type, local_layer_type;

const struct layer_type *const layer_types[] = {
    &convolutional_layer_type, &batchnorm_layer_type, &shortcut_layer_type, &route_layer_type,
    &maxpool_layer_type,       &avgpool_layer_type,   &connected_layer_type, &dropout_layer_type,
    &softmax_layer_type,       &crop_layer_type,      &cost_layer_type,      &local_layer_type,
    NULL,
};

const struct layer_type *layer_type_find(const char *name)
{
    for (int i = 0; layer_types[i]; i++) {
        if (strcmp(layer_types[i]->name, name) == 0) return layer_types[i];
        if (layer_types[i]->alias && strcmp(layer_types[i]->alias, name) == 0) return layer_types[i];
    }
    return NULL;
}
