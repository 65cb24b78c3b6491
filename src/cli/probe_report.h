// What `mlsnet probe` prints.
#ifndef CLI_PROBE_REPORT_H
#define CLI_PROBE_REPORT_H

#include <stdio.h>

#include "probe/gradient.h"

struct probed { // one setting with one set of operands quantized
    char setting[256];   // "mantissa=1 group_size=16"
    const char *operand; // "all", "weights", "activations", "errors"
    struct gradient_result result;
};

struct probe_report {
    const char *cfg_path, *checkpoint;
    int images, batches, seeds; // images: of a batch
    int counted;                // layers in the figures of the network
    bool low_bit;               // they are the low-bit ones; otherwise there are none, and they are all
    bool layers;                // in the text, too
    int count;
    struct probed *settings;
};

void probe_print_text(const struct probe_report *report);
void probe_print_json(const struct probe_report *report);
// A row for each layer, "mean" over the counted layers and "network", their weights as one vector.
void probe_write_csv(const struct probe_report *report, FILE *file);

#endif
