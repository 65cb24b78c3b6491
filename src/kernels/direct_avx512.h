// The fp32 kernels for AVX-512, members of the sets for it (direct_avx512.c).
#ifndef KERNELS_DIRECT_AVX512_H
#define KERNELS_DIRECT_AVX512_H

#include "kernels/kernels.h"

void direct_row_avx512(const struct direct_job *job, const float *input, int pixels, float *const outputs[2]);
void direct_gradient_avx512(const struct direct_gradient_job *job, float *totals);

#endif
