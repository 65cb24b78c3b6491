// The table of data sources: one row each, in the order of the choices of [data] type=.
#include <stddef.h>

#include "data/data.h"

extern const struct data_source cifar10_source, cifar100_source, idx_source, imagefolder_source, list_source;

const struct data_source *const data_sources[] = {&cifar10_source, &cifar100_source, &idx_source, &imagefolder_source, &list_source, NULL};
