// The three convolutions of one layer on packed operands: bytes in blocks of 16 channels, channels last, with a
// halo, made once a step by the quantizer and read by the kernels of a kernel set (kernels.h).
//
//   activations   [image][block][row + halo][column + halo][16]: I, or I + 128 where negative values may come
//   errors        [image][block][row][column / 4][16][4], which the weight gradient broadcasts
//   weights       by output block, in the order in which the kernel reads them, once for each direction
//
// What only the convolution of the same image reads is kept in the cache, for the images that are being computed: the errors in the layout
// of the activations, both operands as planes where groups have few channels, and the activations where no weight gradient follows. Where
// few channels have large maps, so are the errors in their other layout: the sums of the weight gradient are then made of each image at once.
//
// The fp32 maps that come and go are blocked (base/blocked.h).
//
// What is computed is section 4 of mls-format.md (src/mls), bit for bit, in convolution groups of any size; depthwise convolutions have
// kernels of their own (depthwise.h). Shapes and formats that do not fit (I beyond int8, sums beyond 32 bits, padding as large as the
// window) are refused by packed_supports and run on src/mls.
#ifndef KERNELS_PACKED_H
#define KERNELS_PACKED_H

#include "base/threads.h"
#include "kernels/kernels.h"
#include "mls/convolution.h"

struct packed_convolution;

// formats[enum mls_operand]. `reason`, if not NULL, gets a text when the answer is no.
bool packed_supports(const struct convolution_shape *shape, const struct mls_format formats[3], const char **reason);

struct packed_request {
    const struct kernel_set *kernels;
    struct convolution_shape shape; // images: the most that will come
    struct mls_format formats[3];
    bool nonnegative;               // no activation is ever negative
    bool for_training;
    bool shared_workspace;          // the caller provides memory (packed_use_workspace)
};
struct packed_convolution *packed_create(const struct packed_request *request, struct error *error);
void packed_destroy(struct packed_convolution *packed);
size_t packed_memory(const struct packed_convolution *packed); // bytes
// Memory that may serve several convolutions in turn: for codes of the weights, in use during packed_quantize_weights, and for the
// bytes of the errors (or what they add to the weight gradient), in use from packed_input_error to packed_weight_gradient. To be set before
// the first of these calls.
size_t packed_workspace_bytes(const struct packed_convolution *packed);
void packed_use_workspace(struct packed_convolution *packed, void *workspace);

// tensor_key: see quantize.h; not read where the rounding is to nearest. `evaluation` rounds to nearest whatever the format
// says. false with a message on a NaN or an infinity.
bool packed_quantize_weights(struct packed_convolution *packed, struct thread_pool *pool, const float *weights,
                             uint64_t tensor_key, bool evaluation, struct error *error);

// A map to quantize on the way.
struct packed_input {
    struct source source;  // the whole map, its factors by channel
    const float *maxima;   // max |value| of each plane, [images][blocked channels]; or NULL: found by reading the source
    const float *bounds;   // with maxima NULL: no |value| of a plane is larger, [images][blocked channels]; or NULL: not known
    uint64_t tensor_key;
};

// Called for each image as soon as its output is complete, on the thread that computed it, while it is still in the cache. NULL: nothing.
struct image_done {
    void (*function)(void *context, int image);
    void *context;
    const float *reads;  // what it reads besides, fetched in good time; or NULL
    size_t image_floats; // of that, for each image
};

// Each image is quantized and then convolved while its bytes are in the cache; the bytes are kept for the weight gradient.
// Weights have to be quantized before.
// output: blocked [images] of Co x Ho x Wo.
bool packed_forward(struct packed_convolution *packed, struct thread_pool *pool, int images, const struct packed_input *activations,
                    bool evaluation, float *output, struct image_done done, struct error *error);
// input_error: blocked [images] of Ci x H x W, overwritten or added to; NULL: the errors are only quantized.
bool packed_input_error(struct packed_convolution *packed, struct thread_pool *pool, int images, const struct packed_input *errors,
                        float *input_error, bool accumulate, struct image_done done, struct error *error);
// Whether packed_input_error computes what each image adds to the weight gradient, which packed_weight_gradient then only sums.
bool packed_gradient_by_image(const struct packed_convolution *packed);
// From the bytes of the last two calls.
// gradient[Co][Ci][Kh][Kw] += the weight gradient.
void packed_weight_gradient(struct packed_convolution *packed, struct thread_pool *pool, int images, float *gradient);

// One pass from planar fp32 operands to the planar fp32 result, on one thread, all rounding to nearest: forward takes activations and
// weights, input error errors and weights, weight gradient activations and errors. The shape's sizes are those of the arrays.
bool packed_convolve_once(const struct packed_request *request, enum convolution_pass pass, const float *first,
                          const float *second, float *result, struct error *error);

#endif
