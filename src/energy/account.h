// Sums over lists of operations.
#ifndef ENERGY_ACCOUNT_H
#define ENERGY_ACCOUNT_H

#include "energy/table.h"

struct energy_sums { // for all images; energies in pJ
    double total, low_bit; // low_bit: the low-bit convolutions with their quantization
    double counts[OPERATION_KINDS], kinds[OPERATION_KINDS], passes[OPERATION_PASSES];
};

// Of one layer, or of all with layer < 0.
struct energy_sums energy_sum(const struct energy_prices *prices, const struct operations *operations, int layer);

// Memory traffic by operand and bits of an element.
struct traffic_row {
    enum mls_operand operand;
    double bits, bytes;
    double operand_bytes; // of them, those that low-bit convolutions read
};
#define MOST_TRAFFIC_ROWS 64
// The number of rows used; *total is the sum of all.
int traffic_sum(const struct operations *operations, struct traffic_row rows[MOST_TRAFFIC_ROWS], struct traffic_row *total);

// Mean bits of the elements of each operand (enum mls_operand) that low-bit convolutions read; 32 where there are none.
void bits_of_elements(const struct operations *operations, double bits[3]);

#endif
