// Whoever looks at the operands of the low-bit convolutions during a step, before they are quantized (probe/statistics.h); absent
// otherwise.
#ifndef NET_OBSERVER_H
#define NET_OBSERVER_H

#include <stdbool.h>

#include "base/error.h"
#include "kernels/source.h"
#include "mls/format.h"

struct layer;

struct observation {
    const struct layer *layer;
    enum mls_operand operand;
    struct mls_format format;
    bool nonnegative;       // no element is ever negative
    int convolution_groups;
    uint64_t tensor_key;    // of stochastic rounding
    int dims[4];
    const float *values;    // [dims], C order; valid during the call
};

struct observer {
    // false: the step fails with the message.
    bool (*see)(void *context, const struct observation *observation, struct error *error);
    void *context;
};

// Calls the observer, with the values of a whole blocked map of dims[0] images if `map` is not NULL, else with seen->values.
bool observer_show(const struct observer *observer, struct observation *seen, const struct source *map, struct error *error);

#endif
