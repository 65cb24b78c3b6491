// The pictures of a sweep: accuracy-bits, accuracy-energy, learning-curves (.png, .svg, .gnuplot).
#ifndef CLI_SWEEP_PICTURES_H
#define CLI_SWEEP_PICTURES_H

#include "cli/sweep_table.h"

struct sweep_pictures {
    bool points; // accuracy-bits and accuracy-energy
    bool curves; // learning-curves
};

// All three in the sweep's folder; what has no data yet is left out. false: a message, that gnuplot is missing for example.
// drawn (or NULL): which there are.
bool sweep_pictures_draw(const struct sweep_table *table, const char *folder, struct sweep_pictures *drawn, struct error *error);

#endif
