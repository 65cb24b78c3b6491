// The report of `mlsnet bench --layers`: where the time of a step goes, by layer and part, and how near each part is to
// what the machine can do.
#ifndef CLI_BENCH_LAYERS_H
#define CLI_BENCH_LAYERS_H

#include "base/error.h"
#include "cli/peaks.h"
#include "net/network.h"

// From network->profile, filled by `steps` steps that took `seconds` together. As a table, or with `json` as the members of
// a JSON object without its braces.
void bench_layers_print(const struct network *network, const struct peaks *peaks, double steps, double seconds, bool json);

#endif
