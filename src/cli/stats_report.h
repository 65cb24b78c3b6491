// What `mlsnet stats` prints and draws.
#ifndef CLI_STATS_REPORT_H
#define CLI_STATS_REPORT_H

#include <stdio.h>

#include "net/network.h"
#include "probe/statistics.h"

struct stats_report {
    const char *cfg_path, *checkpoint;
    const struct network *network;
    const struct statistics *statistics; // finished
    int images, batches;                 // images: of a batch
};

extern const char *const stats_operand_names[3];

void stats_print_text(const struct stats_report *report);
void stats_print_json(const struct stats_report *report);
void stats_write_csv(const struct stats_report *report, FILE *file);
// A picture, by gnuplot_draw_file.
bool stats_plot(const struct stats_report *report, const char *path, struct error *error);

#endif
