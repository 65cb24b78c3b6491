// The fp32 kernels for AVX2, members of the set of that name (direct_avx2.c).
#ifndef KERNELS_DIRECT_AVX2_H
#define KERNELS_DIRECT_AVX2_H

#include "kernels/kernels.h"

void direct_row_avx2(const struct direct_job *job, const float *input, int pixels, float *const outputs[2]);
void direct_gradient_avx2(const struct direct_gradient_job *job, float *totals);

#endif
