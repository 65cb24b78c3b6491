#include "energy/operations.h"

#include <stdlib.h>

const char *const operation_pass_names[OPERATION_PASSES] = {"forward", "input error", "weight gradient", "backward", "update"};

const char *const operation_kind_names[OPERATION_KINDS] = {
    "element multiply", "accumulate in a group", "group scale", "accumulate groups", "tensor scale", "quantize: maximum",
    "quantize: division", "quantize: scaling", "quantize: rounding", "quantize: random bits", "layers in fp32", "batch norm",
    "activation", "residual add", "pooling", "other", "optimizer"};

const char *const unit_names[] = {"", "integer add", "integer multiply", "float add", "float multiply", "float function", "shift",
                                  "random bit"};
const char *const operand_names[] = {"weights", "activations", "errors"};

// Room for one item more in an array that is kept in steps of powers of two.
static bool grow(void **array, size_t count, size_t *room, size_t size)
{
    if (count < *room) return true;
    size_t wanted = *room ? 2 * *room : 64;
    void *grown = realloc(*array, wanted * size);
    if (!grown) return false;
    *array = grown;
    *room = wanted;
    return true;
}

void operations_add(struct operations *operations, enum operation_pass pass, enum operation_kind kind, double count,
                    const struct unit *units)
{
    if (count == 0) return;
    void *items = operations->items;
    if (!grow(&items, operations->count, &operations->room, sizeof *operations->items)) {
        operations->failed = true;
        return;
    }
    operations->items = items;
    struct operation *operation = &operations->items[operations->count++];
    *operation = (struct operation){.layer = operations->layer, .pass = pass, .kind = kind, .count = count};
    for (int i = 0; i < MOST_UNITS && units[i].type != NO_UNIT; i++) operation->units[i] = units[i];
}

void operations_add_traffic(struct operations *operations, struct traffic row)
{
    if (row.elements == 0) return;
    void *items = operations->traffic;
    if (!grow(&items, operations->traffic_count, &operations->traffic_room, sizeof *operations->traffic)) {
        operations->failed = true;
        return;
    }
    operations->traffic = items;
    row.layer = operations->layer;
    operations->traffic[operations->traffic_count++] = row;
}

void operations_move(struct operations *operations, enum operation_pass pass, enum mls_operand operand, double elements, double bits)
{
    operations_add_traffic(operations, (struct traffic){.pass = pass, .operand = operand, .elements = elements, .bits = bits});
}

void operations_release(struct operations *operations)
{
    free(operations->items);
    free(operations->traffic);
    *operations = (struct operations){0};
}

void operations_add_products(struct operations *operations, enum operation_pass pass, double products)
{
    operations_add(operations, pass, FLOAT_LAYER, products, UNITS(FP32_MULTIPLY(1), FP32_ADD(1)));
}

double window_positions(int input, int output, int size, int stride, int padding)
{
    double positions = 0;
    for (int y = 0; y < output; y++) {
        int first = y * stride - padding, last = first + size;
        first = first < 0 ? 0 : first;
        last = last > input ? input : last;
        positions += last > first ? last - first : 0;
    }
    return positions;
}
