// Darknet's .weights files: a header, then the layers' arrays one behind the other in fp32, without names or shapes, so that only
// the cfg tells what they are:
//
//   header         int32 major, minor, revision; pictures seen: 8 bytes where major * 10 + minor >= 2 (both below 1000), else 4
//   convolutional  biases, with batch_normalize=1 scales, means, variances, then weights
//   connected      biases, weights, with batch_normalize=1 scales, means, variances
//   batchnorm      in 0.2.5 (the successors') biases; scales, means, variances
//   local          biases, weights
//
// Weights stand as [outputs][inputs], but as [inputs][outputs] in [connected] where major or minor is above 1000, and in
// [convolutional] with flipped=1.
#ifndef TRAIN_DARKNET_WEIGHTS_H
#define TRAIN_DARKNET_WEIGHTS_H

#include "net/network.h"

struct darknet_header {
    bool known; // false: there is none
    int32_t major, minor, revision;
    uint64_t seen; // pictures
};

// Whether the bytes begin as a .weights file does.
bool darknet_weights_recognized(const uint8_t *bytes, size_t size);
// Fills the parameters of the first `layers` layers (layer_count: of all) from a file that holds these alone, as Darknet's
// `partial` writes them, or those of all layers; or changes nothing and names the layer where the bytes ran out. `name` is for
// messages.
bool darknet_weights_parse(const char *name, const uint8_t *bytes, size_t size, struct network *network, int layers,
                           struct darknet_header *header, struct error *error);
// Those of the first `layers` layers alone.
bool darknet_weights_write(const char *path, const struct network *network, int layers, const struct darknet_header *header,
                           struct error *error);

// "0.2.0"; false if the text is no version that a file can have.
bool darknet_header_from_text(const char *text, struct darknet_header *header);
// What programs with this header divide by (net/network.h): up to 0.2.4 the original Darknet, from then on its successors.
enum batch_norm_epsilon darknet_header_epsilon(const struct darknet_header *header);

#endif
