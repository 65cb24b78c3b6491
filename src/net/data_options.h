// The options of [data], and those that Darknet has in [net]; src/data gets them as struct data_settings.
#ifndef NET_DATA_OPTIONS_H
#define NET_DATA_OPTIONS_H

#include "net/options.h"

#define DATA_TYPE_NAMES "cifar10 cifar100 idx imagefolder list" // in the order of data_sources[]

// In [data] and, as in Darknet, in [net]. OPTION_UNSET or NAN: not given.
struct augmentation_options {
    int flip, min_crop, max_crop;
    float aspect, angle, hue, saturation, exposure;
};

struct data_options {
    int type, classes, pad_crop, cutout, resize, crops, on_bad_image, cache, loader_threads;
    char *path, *names, *train, *valid, *labels;
    struct option_list mean, std, crop_scale, crop_ratio;
    struct augmentation_options augmentation;
};

#endif
