// The functions for AVX-512 that stand in files of their own, members of the kernel set in convolve_avx512vnni.c.
#ifndef KERNELS_FUNCTIONS_AVX512_H
#define KERNELS_FUNCTIONS_AVX512_H

#include "kernels/kernels.h"

// quantize_avx512.c
void quantize_block_avx512(const struct quantize_job *job);
void quantize_run_avx512(const struct quantizer *quantizer, const float *x, int count, float reciprocal, int8_t *codes);
// direct_avx512.c
void direct_row_avx512(const struct direct_job *job, const float *input, int pixels, float *const outputs[2]);
void direct_gradient_avx512(const struct direct_gradient_job *job, float *totals);
// gradient_avx512vnni.c
void gradient_images_avx512vnni(const struct gradient_job *job, float *totals);
void gradient_images_sums_avx512vnni(const struct gradient_job *job, int64_t *sums);
void raster_pixels_avx512vnni(const struct raster_pixels_job *job);
void gradient_raster_avx512vnni(const struct raster_job *job, float *totals);
void add_image_products_avx512vnni(const struct products_job *job, float *totals);
// winograd_avx512vnni.c
void winograd_input_avx512vnni(const struct winograd_input_job *job);
void winograd_rows_avx512vnni(const struct winograd_job *job, float *const outputs[2]);
void winograd_errors_avx512vnni(const struct winograd_errors_job *job);
void winograd_gradient_avx512vnni(const struct winograd_gradient_job *job, float *totals);
// squares_avx512vnni.c
void squares_weights_avx512vnni(const int8_t *taps, int quads, bool from_the_bottom, int16_t *transformed);
void squares_input_avx512vnni(const struct squares_input_job *job);
void convolve_squares_avx512vnni(const struct squares_job *job, float *outputs);
// gradient_squares_avx512vnni.c
void squares_pixels_avx512vnni(const struct squares_pixels_job *job);
void squares_errors_avx512vnni(const struct squares_errors_job *job);
void gradient_squares_avx512vnni(const struct squares_gradient_job *job, float *totals);
// depthwise_avx512vnni.c
void depthwise_row_avx512vnni(const struct depthwise_job *job, const uint8_t *input, int pixels, float *output);
void depthwise_gradient_avx512vnni(const struct depthwise_gradient_job *job, int32_t *sums);

#endif
