// Energy tables, text files in the syntax of cfg files: [energy] says what the arithmetic units of some technology take, [format]
// sections, in the same file or in others, are the arithmetics of other number formats to compare with.
//
// The rules for widths that were not published, each through both published points (figures are those of horowitz-45nm.cfg):
//   integer add        linear in the bits                               8: 0.03, 32: 0.1 pJ
//   integer multiply   linear in the product of the widths              8 x 8: 0.2, 32 x 32: 3.1
//   float add          linear in the bits of the significand            <5,10>: 0.4, <8,23>: 0.9
//   float multiply     linear in the product of the significands' bits  <5,10>: 1.1, <8,23>: 3.7
//   shift              bits x stages of multiplexers, ceil(log2(places + 1)) of them
// None is below 0.
#ifndef ENERGY_TABLE_H
#define ENERGY_TABLE_H

#include "energy/arithmetic.h"
#include "net/cfg.h"
#include "net/options.h"

struct energy_prices { // picojoules
    char *name;        // of the technology
    float integer_add_8, integer_add_32, integer_multiply_8, integer_multiply_32;
    float float_add_16, float_add_32, float_multiply_16, float_multiply_32;
    float float_function, multiplexer_bit, random_bit;
    float sram_bit, dram_bit;
};

// An arithmetic that all low-bit convolutions could run in instead.
struct energy_format {
    char *name, *help;
    struct arithmetic arithmetic;
};

struct energy_table {
    struct energy_prices prices;
    int format_count;
    struct energy_format *formats;
};

// For `mlsnet energy --help` and messages.
extern const struct option_description energy_option_table[], energy_format_option_table[];

// NULL with all that is wrong in diagnostics.
struct energy_table *energy_table_read(const char *path, struct diagnostics *diagnostics);
struct energy_table *energy_table_parse(const char *path, const char *text, size_t length, struct diagnostics *diagnostics);
// Adds the formats of a file that has no [energy] section.
bool energy_table_read_formats(struct energy_table *table, const char *path, struct diagnostics *diagnostics);
void energy_table_release(struct energy_table *table);
const struct energy_format *energy_table_find(const struct energy_table *table, const char *name);

double unit_energy(const struct energy_prices *prices, const struct unit *unit);        // pJ, `times` of them
double operation_energy(const struct energy_prices *prices, const struct operation *operation); // pJ, one operation of the kind

#endif
