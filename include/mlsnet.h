/* mlsnet: quantize a tensor, run a low-bit convolution, train and evaluate a network, from C or a binding.
 *
 * Functions that can fail return 0 for success and another number otherwise; `error` (may be NULL) then holds one line of
 * text. All arrays are fp32 in C order. No function prints or ends the process. */
#ifndef MLSNET_H
#define MLSNET_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define MLSNET_API __attribute__((visibility("default")))
#define MLSNET_ERROR_SIZE 2048

typedef struct mlsnet_error {
    char message[MLSNET_ERROR_SIZE];
} mlsnet_error;

MLSNET_API const char *mlsnet_version(void);

/* ---- the number format (the words are those of the cfg options) ---- */

enum { MLSNET_GROUP_NONE, MLSNET_GROUP_N, MLSNET_GROUP_C, MLSNET_GROUP_NC };
enum { MLSNET_NEAREST, MLSNET_STOCHASTIC };
enum { MLSNET_WEIGHT, MLSNET_ACTIVATION, MLSNET_ERROR };

typedef struct mlsnet_format {
    int exponent, mantissa, group, group_size, scale_exponent, scale_mantissa, rounding;
    int family; /* 0: MLS; another number only by mlsnet_format_named */
} mlsnet_format;

/* <2,1>, nc, 16, <8,1>; stochastic for errors, nearest for the rest. */
MLSNET_API mlsnet_format mlsnet_format_default(int operand);

/* A format by the words of the cfg option `format`: "mls", "fixed8", "bfp4", "mxfp4", "fp8_e4m3", ... */
MLSNET_API int mlsnet_format_named(const char *name, int operand, mlsnet_format *format, mlsnet_error *error);

/* values[dims] -> dequantized[dims] (may be values), and where not NULL the signed integers[dims], the tensor scale St and the
 * group scales [D0 blocks][D1 blocks], whose counts go to blocks[2]. seed: of stochastic rounding.
 * mx* and fp8_*: integers are the standard's codes; the scales of mx* are [D0][D1 blocks][D2][D3]. */
MLSNET_API int mlsnet_quantize(const mlsnet_format *format, int operand, const float *values, const int dims[4], uint64_t seed,
                               float *dequantized, int32_t *integers, float *tensor_scale, float *group_scales, int blocks[2],
                               mlsnet_error *error);

enum { MLSNET_FORWARD, MLSNET_INPUT_ERROR, MLSNET_WEIGHT_GRADIENT };

typedef struct mlsnet_convolution {
    int images, in_channels, in_height, in_width, out_channels, kernel_height, kernel_width, stride, padding, groups;
} mlsnet_convolution;

/* One low-bit convolution. forward: first = activations, second = weights; input error: errors, weights; weight
 * gradient: activations, errors. formats by operand; mx* and fp8_* are computed in fp32 on the dequantized operands. kernel: a
 * kernel set's name, "reference", or NULL for the best. */
MLSNET_API int mlsnet_convolve(const mlsnet_convolution *shape, int pass, const mlsnet_format formats[3], const char *kernel,
                               const float *first, const float *second, float *result, mlsnet_error *error);

/* ---- networks ---- */

typedef struct mlsnet_network mlsnet_network;

/* settings: count strings "KEY=VALUE" as of --set. threads 0: all cores. batch 0: as the cfg says. */
MLSNET_API mlsnet_network *mlsnet_network_open(const char *cfg_path, const char *const *settings, int count, int threads, int batch,
                                               mlsnet_error *error);
MLSNET_API void mlsnet_network_close(mlsnet_network *network);
MLSNET_API void mlsnet_network_shape(const mlsnet_network *network, int *channels, int *height, int *width, int *classes, int *batch);
/* A checkpoint's weights and running statistics, or Darknet's .weights; the checkpoint of the present state, which `mlsnet eval` reads too. */
MLSNET_API int mlsnet_network_load(mlsnet_network *network, const char *path, mlsnet_error *error);
MLSNET_API int mlsnet_network_save(const mlsnet_network *network, const char *path, mlsnet_error *error);
/* input[images][C][H][W], normalized; images at most batch. scores[images][classes]. */
MLSNET_API int mlsnet_network_predict(mlsnet_network *network, const float *input, int images, float *scores, mlsnet_error *error);
/* One optimizer step on exactly `batch` images; the learning rate follows the cfg's policy for `step` of `total`. */
MLSNET_API int mlsnet_network_train_step(mlsnet_network *network, const float *input, const int *labels, long step, long total,
                                         double *mean_loss, mlsnet_error *error);

#ifdef __cplusplus
}
#endif
#endif
