// The functions for AVX2 that stand in files of their own, members of the kernel set in convolve_avx2.c.
#ifndef KERNELS_FUNCTIONS_AVX2_H
#define KERNELS_FUNCTIONS_AVX2_H

#include "kernels/kernels.h"

// quantize_avx2.c
void quantize_block_avx2(const struct quantize_job *job);
void quantize_run_avx2(const struct quantizer *quantizer, const float *x, int count, float reciprocal, int8_t *codes);
// gradient_avx2.c
void gradient_images_avx2(const struct gradient_job *job, float *totals);
void gradient_images_sums_avx2(const struct gradient_job *job, int64_t *sums);
void add_image_products_avx2(const struct products_job *job, float *totals);
// winograd_avx2.c
void winograd_input_avx2(const struct winograd_input_job *job);
void winograd_rows_avx2(const struct winograd_job *job, float *const outputs[2]);
// squares_avx2.c
void squares_weights_avx2(const int8_t *taps, int quads, bool from_the_bottom, int16_t *transformed);
void squares_input_avx2(const struct squares_input_job *job);
void convolve_squares_avx2(const struct squares_job *job, float *outputs);
// gradient_squares_avx2.c
void squares_pixels_avx2(const struct squares_pixels_job *job);
void squares_errors_avx2(const struct squares_errors_job *job);
void gradient_squares_avx2(const struct squares_gradient_job *job, float *totals);
// direct_avx2.c
void direct_row_avx2(const struct direct_job *job, const float *input, int pixels, float *const outputs[2]);
void direct_gradient_avx2(const struct direct_gradient_job *job, float *totals);

#endif
