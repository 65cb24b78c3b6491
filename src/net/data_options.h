// The options of [data]; the data floor gets them as struct data_settings.
#ifndef NET_DATA_OPTIONS_H
#define NET_DATA_OPTIONS_H

#include "net/options.h"

#define DATA_TYPE_NAMES "cifar10 cifar100 idx" // in the order of data_sources[]

struct data_options {
    int type, classes, pad_crop, flip, cutout;
    char *path, *names;
    struct option_list mean, std;
};

#endif
