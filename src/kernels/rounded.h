// A feature map (activations or errors) rounded to the values of a format as it is read from its source: bit for bit what
// mls_simulate (mls/simulate.h) makes of the same numbers, for formats that are computed in fp32.
#ifndef KERNELS_ROUNDED_H
#define KERNELS_ROUNDED_H

#include "base/error.h"
#include "base/threads.h"
#include "kernels/source.h"
#include "mls/format.h"

struct rounded_request {
    const struct mls_format *format; // NULL: the numbers as they are
    enum mls_operand operand;
    int dims[4];            // images, channels, height, width
    int convolution_groups;
    uint64_t tensor_key;    // of stochastic rounding
    const float *maxima;    // max |value| of each plane, [images][blocked channels]; or NULL: found by reading the source
};

// values[images][blocks][pixels][16] from the source of the whole map. false with the position of a NaN or an infinity, or without
// memory.
bool rounded_map(const struct rounded_request *request, struct thread_pool *pool, const struct source *map, float *values,
                 struct error *error);

#endif
