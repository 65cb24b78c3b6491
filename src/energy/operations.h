// What a network computes, as a list of operations: for each layer and pass, how many of which kind, and of which arithmetic
// units one of them is made. Layer types add their own (layer_type.operations in net/layer.h); energy/table.h prices units.
#ifndef ENERGY_OPERATIONS_H
#define ENERGY_OPERATIONS_H

#include <stdbool.h>
#include <stddef.h>

#include "mls/format.h"

enum operation_pass {
    IN_FORWARD, IN_INPUT_ERROR, IN_WEIGHT_GRADIENT,
    IN_BACKWARD, // what else the backward pass does
    IN_UPDATE,   // optimizer
    OPERATION_PASSES
};

// One operation of a kind is what its comment says; it can be made of several units.
enum operation_kind {
    ELEMENT_MULTIPLY,    // of two elements of a low-bit convolution
    ELEMENT_ACCUMULATE,  // of a product, within a group pair
    GROUP_SCALE,         // a group pair's sum times both scales
    GROUP_ACCUMULATE,    // of a scaled sum, in fp32
    TENSOR_SCALE,        // a result times both tensor scales
    QUANTIZE_MAXIMUM,    // comparison of an element, or of a group's maximum
    QUANTIZE_DIVISION,   // Sr / St, or 1 / (St * Sg)
    QUANTIZE_SCALING,    // an element divided by its scales
    QUANTIZE_ROUNDING,   // an element rounded
    QUANTIZE_RANDOM,     // a random bit
    FLOAT_LAYER,         // multiply and add of a layer left in fp32
    BATCH_NORM,          // an element, or the statistics of a channel
    ACTIVATION,          // an element, with its bias
    RESIDUAL_ADD,        // an element; in the backward pass: the sum of errors where a map has several readers
    POOLING,             // an element of a window
    OTHER,               // loss, dropout, crop: an element
    OPTIMIZER,           // a parameter
    OPERATION_KINDS
};

enum unit_type {
    NO_UNIT, // ends a list
    INTEGER_ADD,      // width bits; comparisons too
    INTEGER_MULTIPLY, // width x second bits
    FLOAT_ADD,        // width exponent bits, second mantissa bits
    FLOAT_MULTIPLY,   // the same
    FLOAT_FUNCTION,   // fp32 division, root, exponential
    SHIFT,            // width bits by 0 to second places
    RANDOM_BIT
};

struct unit {
    enum unit_type type;
    double times; // in one operation
    int width, second;
};
#define MOST_UNITS 6

struct operation {
    int layer;
    enum operation_pass pass;
    enum operation_kind kind;
    double count;
    struct unit units[MOST_UNITS];
};

// Elements of `bits` bits each, read or written once.
struct traffic {
    int layer;
    enum operation_pass pass;
    enum mls_operand operand;
    double elements;
    double bits;
    bool low_bit; // an operand of a low-bit convolution (of the format compared, too), read by it
    bool scales;  // these are group scales
};

struct arithmetic; // energy/arithmetic.h

struct operations {
    // What is asked for:
    int images;                       // of a step, or of one inference pass
    bool training;
    const struct arithmetic *instead; // of the low-bit convolutions' own arithmetic; NULL: as the cfg says
    // Set for each layer before it is asked:
    int layer;
    bool backward;                    // it has a backward pass
    bool passes_error;                // and its first input wants an error
    // What the layers answered, for all images:
    struct operation *items;
    struct traffic *traffic;
    size_t count, room, traffic_count, traffic_room;
    bool failed;                      // no memory
};

extern const char *const operation_pass_names[OPERATION_PASSES], *const operation_kind_names[OPERATION_KINDS];
extern const char *const unit_names[], *const operand_names[];

// `count` operations, each of these units (up to MOST_UNITS, ended by one with type NO_UNIT). Nothing if count is 0.
void operations_add(struct operations *operations, enum operation_pass pass, enum operation_kind kind, double count,
                    const struct unit *units);
// Traffic of the layer at hand; nothing if there are no elements.
void operations_add_traffic(struct operations *operations, struct traffic traffic);
void operations_move(struct operations *operations, enum operation_pass pass, enum mls_operand operand, double elements, double bits);
void operations_release(struct operations *operations);

// Lists of units for fp32 work: multiplications and additions.
#define FP32_ADD(number) {FLOAT_ADD, number, 8, 23}
#define FP32_MULTIPLY(number) {FLOAT_MULTIPLY, number, 8, 23}
#define FP32_COMPARE(number) {INTEGER_ADD, number, 32, 0}
#define UNITS(...) ((const struct unit[]){__VA_ARGS__, {NO_UNIT, 0, 0, 0}})

// Multiply-adds of a layer left in fp32.
void operations_add_products(struct operations *operations, enum operation_pass pass, double products);

// Positions of a window along one axis that lie inside the picture, summed over all windows.
double window_positions(int input, int output, int size, int stride, int padding);

#endif
