/* mlsnet: quantize a tensor, run a low-bit convolution, train and evaluate a network, from C or a binding.
 *
 * Functions that can fail return 0 for success and another number otherwise; `error` (may be NULL) then holds one line of
 * text. All arrays are fp32 in C order. No function prints or ends the process.
 *
 * One thread at a time may use a network; different networks and the other functions may be used by several at once. To link with the
 * static library: -lmlsnet -lpng -ljson-c -lz -lm -lpthread. */
#ifndef MLSNET_H
#define MLSNET_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define MLSNET_API __attribute__((visibility("default")))
#define MLSNET_ERROR_SIZE 2048

/* One line of text, without a newline. */
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
 * gradient: activations, errors. formats by operand; all rounding is to nearest, whatever they say. Formats whose elements are no integers
 * of 8 bits (mx*, fp8_* among them) are computed in fp32 on the dequantized operands. kernel: a kernel set's name, "reference", or NULL
 * for the best. */
MLSNET_API int mlsnet_convolve(const mlsnet_convolution *shape, int pass, const mlsnet_format formats[3], const char *kernel,
                               const float *first, const float *second, float *result, mlsnet_error *error);

/* ---- networks ---- */

typedef struct mlsnet_network mlsnet_network;

/* A network for training and prediction, with the weights that the cfg's seed gives. settings: count strings "KEY=VALUE" as of --set.
 * threads 0: all cores. batch: images of one pass, 0: as the cfg says (batch / subdivisions). */
MLSNET_API mlsnet_network *mlsnet_network_open(const char *cfg_path, const char *const *settings, int count, int threads, int batch,
                                               mlsnet_error *error);
MLSNET_API void mlsnet_network_close(mlsnet_network *network);
/* Of the input; classes are the scores of an image; batch is what train_step takes: images of one pass times subdivisions. */
MLSNET_API void mlsnet_network_shape(const mlsnet_network *network, int *channels, int *height, int *width, int *classes, int *batch);
/* load: weights and running statistics of a checkpoint or a .weights file. save: a checkpoint, which `mlsnet eval` reads, too. */
MLSNET_API int mlsnet_network_load(mlsnet_network *network, const char *path, mlsnet_error *error);
MLSNET_API int mlsnet_network_save(const mlsnet_network *network, const char *path, mlsnet_error *error);
/* input[images][C][H][W]: pixels of 0 to 1, less mean=, divided by std= of the cfg's [data] (CIFAR-10 without them: 0.4914, 0.4822, 0.4465
 * and 0.2470, 0.2435, 0.2616). images: 1 to those of one pass. scores[images][classes]. In MLS they depend a little on the other images of
 * the call, which share the scale of the tensor. */
MLSNET_API int mlsnet_network_predict(mlsnet_network *network, const float *input, int images, float *scores, mlsnet_error *error);
/* One optimizer step on exactly `batch` images with labels of 0 to classes - 1; the learning rate follows the cfg's policy for `step`, from
 * 0, of `total`. */
MLSNET_API int mlsnet_network_train_step(mlsnet_network *network, const float *input, const int *labels, long step, long total,
                                         double *mean_loss, mlsnet_error *error);

#ifdef __cplusplus
}
#endif
#endif
