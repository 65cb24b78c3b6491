// What a sweep found, a row a setting: sweep.csv, sweep.md, and what the pictures are drawn from.
#ifndef CLI_SWEEP_TABLE_H
#define CLI_SWEEP_TABLE_H

#include "base/error.h"

struct sweep_row {
    char *name;         // "exponent=2 mantissa=1", or "fp32", or "fp32 learning_rate=0.1"
    char *folder;       // of its runs seed1, seed2, ..., below the sweep's
    int reference;      // index of its fp32 row; -1: none
    double bits[3];     // of an element, mean over the operands of all low-bit convolutions, by enum mls_operand; 32 if there are none
    double energy;      // microjoules an image of a training step
    double fp32_energy; // the same network in fp32
    int seeds;          // asked for
    int finished, failed;
    double top1, spread, least, most; // of the last epoch, over the finished seeds: mean, standard deviation (0 for one), range; NAN for none
    double lost;              // top-1 of the reference less this one
    double images_per_second; // median over epochs and seeds
    bool on_front;            // no other row has as much top-1 for less energy, or more for as much
};

struct sweep_table {
    int count;
    struct sweep_row *rows;
};

bool sweep_table_create(struct sweep_table *table, int count, struct error *error);
void sweep_table_release(struct sweep_table *table);

bool sweep_row_is_fp32(const struct sweep_row *row);
double sweep_row_bits(const struct sweep_row *row);         // mean of the three operands
double sweep_row_energy_ratio(const struct sweep_row *row); // fp32's energy over the row's

// Sets finished, the accuracies and images_per_second from the log.csv of the row's finished runs, whose paths `logs` are.
bool sweep_row_measure(struct sweep_row *row, const char *const *logs, int count, struct error *error);
// Sets lost and on_front of all rows.
void sweep_table_compare(struct sweep_table *table);

// sweep.csv and sweep.md in the folder.
bool sweep_table_write(const struct sweep_table *table, const char *folder, struct error *error);
// From sweep.csv of the folder; lost and on_front are computed anew.
bool sweep_table_read(struct sweep_table *table, const char *folder, struct error *error);

#endif
