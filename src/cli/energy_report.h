// What `mlsnet energy` prints.
#ifndef CLI_ENERGY_REPORT_H
#define CLI_ENERGY_REPORT_H

#include "energy/account.h"
#include "energy/arithmetic.h"
#include "net/network.h"

// The network in one arithmetic.
struct energy_run {
    const char *name, *help;
    char preset[32]; // its name, if it is a format by the name of cfg files,
    struct arithmetic arithmetic; // and what it is
    struct operations training, inference;
};

struct energy_report {
    const struct network *network;
    const char *table_path;
    const struct energy_prices *prices;
    int images;   // of a step; all that is printed is for one image
    bool memory;
    struct energy_run own;
    int against_count;
    struct energy_run *against;
};

void energy_print_text(const struct energy_report *report);
void energy_print_json(const struct energy_report *report);
void energy_print_csv(const struct energy_report *report); // a row for each layer, pass and kind

#endif
