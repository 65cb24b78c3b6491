// The simulated path (mls-format.md section 4): a tensor rounded to the values of a format, any format, as fp32 numbers for fp32
// convolutions.
#ifndef MLS_SIMULATE_H
#define MLS_SIMULATE_H

#include "base/threads.h"
#include "mls/format.h"

// values[dims] from x[dims] (C order); `pool` may be NULL. false with the position of a NaN or an infinity, or without memory.
bool mls_simulate(const struct mls_format *format, enum mls_operand operand, const float *x, const int dims[4], int convolution_groups,
                  uint64_t tensor_key, struct thread_pool *pool, float *values, struct error *error);

#endif
