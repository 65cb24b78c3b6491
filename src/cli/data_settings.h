// From [data], [net] and Darknet's .data file to the settings of src/data.
#ifndef CLI_DATA_SETTINGS_H
#define CLI_DATA_SETTINGS_H

#include "data/darknet.h"
#include "data/data.h"
#include "net/network.h"

// [data] goes before [net], where Darknet keeps its augmentation. `darknet`: from a .data file, or NULL; what it says goes
// before [data], and Darknet's defaults hold: flip=1, a random crop of width to 2 width, pixels of 0..1. The settings point into
// what they are made from. false: options that do not go together.
bool data_settings_make(const struct data_options *data, const struct network *network, const struct darknet_data *darknet,
                        struct data_settings *settings, struct error *error);

#endif
