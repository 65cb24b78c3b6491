#include "energy/account.h"

static bool is_low_bit(enum operation_kind kind)
{
    return kind <= QUANTIZE_RANDOM;
}

struct energy_sums energy_sum(const struct energy_prices *prices, const struct operations *operations, int layer)
{
    struct energy_sums sums = {0};
    for (size_t i = 0; i < operations->count; i++) {
        const struct operation *operation = &operations->items[i];
        if (layer >= 0 && operation->layer != layer) continue;
        double energy = operation->count * operation_energy(prices, operation);
        sums.total += energy;
        sums.low_bit += is_low_bit(operation->kind) ? energy : 0;
        sums.counts[operation->kind] += operation->count;
        sums.kinds[operation->kind] += energy;
        sums.passes[operation->pass] += energy;
    }
    return sums;
}

int traffic_sum(const struct operations *operations, struct traffic_row rows[MOST_TRAFFIC_ROWS], struct traffic_row *total)
{
    int used = 0;
    *total = (struct traffic_row){0};
    for (size_t i = 0; i < operations->traffic_count; i++) {
        const struct traffic *t = &operations->traffic[i];
        double bytes = t->elements * t->bits / 8;
        int k = 0;
        while (k < used && (rows[k].operand != t->operand || rows[k].bits != t->bits)) k++;
        if (k == MOST_TRAFFIC_ROWS) k--; // more widths than rows: the last row takes them
        if (k == used) rows[used++] = (struct traffic_row){.operand = t->operand, .bits = t->bits};
        rows[k].bytes += bytes;
        rows[k].operand_bytes += t->low_bit ? bytes : 0;
        total->bytes += bytes;
        total->operand_bytes += t->low_bit ? bytes : 0;
    }
    return used;
}

void bits_of_elements(const struct operations *operations, double bits[3])
{
    double elements[3] = {0}, sums[3] = {0};
    for (size_t i = 0; i < operations->traffic_count; i++) {
        const struct traffic *t = &operations->traffic[i];
        if (!t->low_bit || t->scales) continue;
        elements[t->operand] += t->elements;
        sums[t->operand] += t->elements * t->bits;
    }
    for (int k = 0; k < 3; k++) bits[k] = elements[k] > 0 ? sums[k] / elements[k] : 32;
}
