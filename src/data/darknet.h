// Darknet's .data files: KEY = VALUE lines that say where a data set is.
#ifndef DATA_DARKNET_H
#define DATA_DARKNET_H

#include "base/error.h"

struct darknet_data {
    int classes, top;                             // 0: not given
    char *train, *valid, *labels, *names, *backup; // NULL: not given; from malloc
};

// Keys of other tasks (eval, leaves, tree, ...) are passed over as Darknet does. Released with darknet_data_release in any case.
bool darknet_data_read(const char *path, struct darknet_data *data, struct error *error);
void darknet_data_release(struct darknet_data *data);

#endif
