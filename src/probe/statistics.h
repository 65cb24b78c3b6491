// What quantization does to the operands of the low-bit convolutions during real steps.
#ifndef PROBE_STATISTICS_H
#define PROBE_STATISTICS_H

#include <stddef.h>
#include <stdint.h>

#include "net/network.h"

// Of one layer and operand, summed over the tensors seen. x: an element, q: what becomes of it, in the layer's format and rounding.
struct operand_statistics {
    bool seen;
    struct mls_format format;
    bool nonnegative;
    uint64_t tensors, elements;
    uint64_t zeros;            // x = 0
    uint64_t underflows;       // x != 0, q = 0
    uint64_t at_largest;       // |q| is the largest of its group's scale, Xmax
    uint64_t above_largest;    // |x| is above that: cut off
    double square, error;      // sums of x^2 and (q - x)^2
    uint64_t groups;           // that share a scale: one a tensor where the format has no others
    uint64_t zero_groups;      // those without anything but zeros
    float *maxima;             // [maxima_count] log2(Sr / St): how far below the tensor's maximum those of its groups lie; of the
    size_t maxima_count;       // groups that are not zero, all if a tensor has up to STATISTICS_GROUPS, else every few of them
    size_t maxima_room;
};

#define STATISTICS_GROUPS 65536

struct statistics {
    int layer_count;
    struct operand_statistics (*rows)[3]; // [layer_count], by enum mls_operand
};

bool statistics_create(struct statistics *statistics, int layer_count, struct error *error);
void statistics_release(struct statistics *statistics);
// For struct observer; the context is a struct statistics.
bool statistics_see(void *context, const struct observation *observation, struct error *error);
// To be called once, when all is seen and before statistics_quantile: sorts the maxima.
void statistics_finish(struct statistics *statistics);

// sqrt(sum (q - x)^2 / sum x^2), and the same as signal-to-noise ratio in dB (infinite without error). NAN where all is zero.
double statistics_relative_error(const struct operand_statistics *row);
double statistics_decibel(const struct operand_statistics *row);
// Bits of an element, with a sign where it can be negative (a float of mls/standard.h always has one); and with its share of the
// format's scales.
int statistics_element_bits(const struct operand_statistics *row);
double statistics_stored_bits(const struct operand_statistics *row);
// Standard deviation of the maxima, and their quantile (0 to 1, linear between neighbours); NAN without any.
double statistics_deviation(const struct operand_statistics *row);
double statistics_quantile(const struct operand_statistics *row, double share);

#endif
