// Inner loops of depthwise convolutions, where every channel is a convolution group of its own: a lane is a channel, in the input
// as well as in the output. packed_depthwise.c and direct.c run them over maps.
#ifndef KERNELS_DEPTHWISE_H
#define KERNELS_DEPTHWISE_H

#include "kernels/kernels.h"
#include "mls/convolution.h"

static inline bool is_depthwise(const struct convolution_shape *s)
{
    return s->groups > 1 && s->groups == s->in_channels && s->groups == s->out_channels;
}

// In plain C for all instruction sets (base/vector.h): those of the kernel sets that have none of their own.
void depthwise_row_plain(const struct depthwise_job *job, const uint8_t *input, int pixels, float *output);
void depthwise_gradient_plain(const struct depthwise_gradient_job *job, int32_t *sums);

// fp32, in place of a kernel set's direct_row and direct_gradient for one block: a term is a window position; sums are made in the
// order of the terms and of the pixels, by a multiplication and an addition each.
void depthwise_direct_row(const struct direct_job *job, const float *input, int pixels, float *const outputs[2]);
void depthwise_direct_gradient(const struct direct_gradient_job *job, float *totals);

#endif
