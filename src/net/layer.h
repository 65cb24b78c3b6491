// What a layer is. One layer type is one file under layers/ and one row in the table of layers/table.c.
//
// All feature maps are fp32 and blocked (base/blocked.h): [images][blocks of 16 channels][height * width][16].
#ifndef NET_LAYER_H
#define NET_LAYER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/blocked.h"
#include "base/error.h"
#include "base/threads.h"
#include "kernels/packed.h"
#include "kernels/source.h"
#include "net/cfg.h"
#include "net/options.h"

struct shape {
    int channels, height, width;
};

static inline size_t shape_pixels(struct shape s)
{
    return (size_t)s.height * (size_t)s.width;
}

// Numbers of an image, and floats it takes in a blocked map.
static inline size_t shape_size(struct shape s)
{
    return (size_t)s.channels * shape_pixels(s);
}

static inline size_t shape_stored(struct shape s)
{
    return blocked_channels(s.channels) * shape_pixels(s);
}

// Gates of a ReLU: one bit for each number of a map, [images][blocks][pixels / 32, rounded up][16]; a word's highest bit is that of its
// first pixel; 1: open.
#define GATE_PIXELS 32

// Words of a block.
static inline size_t gate_words(size_t pixels)
{
    return (pixels + GATE_PIXELS - 1) / GATE_PIXELS * BLOCK_CHANNELS;
}

struct layer;
struct network;
struct operations;

// A named array that is saved in checkpoints. Trainable ones have a gradient and a momentum.
struct parameter {
    char name[64];      // layers.3.conv.weight, layers.3.batchnorm.scale, layers.3.batchnorm.running_mean, ...
    int dims[4], rank;
    size_t count;
    float *value;
    float *gradient;    // NULL: not trainable, or not for_training. Summed over subdivisions; mean over the batch
    float *momentum;    // NULL with gradient
    bool trainable;     // not so: running statistics
    bool decay;         // weight decay applies (weights only, not biases and batch norm)
};

// The arguments of one forward or backward pass.
struct pass {
    struct thread_pool *pool;
    int images;          // images in this (sub)batch, <= network->max_images
    bool training;
    bool same_weights;   // parameters as in the forward pass before, which was for the same purpose; what was made of them serves again
    uint64_t seed, step; // random bits are keyed by (seed, step, layer index, operand); each subdivision is a step here
    uint64_t part;       // which of its step's subdivisions: weights are quantized once a step, with the bits of the first one
    uint64_t rounding;   // 0; another number: other random bits for stochastic rounding, all else as it was (probe/gradient.h)
    const int *labels;   // [images]; NULL: no loss wanted
    float label_smoothing;
    float loss_scale;    // gradients are multiplied by this: 1 / images, and 1 / subdivisions where those accumulate
};

// A layer's result is `output`, or, where all readers can do the layer's last piece of work themselves as they read, only
// the source of it (`deferred`; kernels/source.h). `output_maximum` is [images][blocked channels], the largest |value| of
// each channel's plane; a layer that has it at hand fills it and sets output_maximum_known in its forward pass, which spares
// the quantizer of the next layer a pass over memory.
//
// `delta` is dL/d(output). Layers share arrays for it where their times do not overlap (net/arrays.h), and a [shortcut] passes
// the same numbers on to both inputs in one array (delta_owner). In a backward pass it goes: the readers of the output, from the last
// one to the first, write delta or add to it (layer_input_delta, which counts them in delta_written_count); the last one calls
// delta_ready for each image, if there is such a function, and sets delta_seen; then the layer's own backward reads it.
//
// Lanes of a blocked map that stand for no channel may hold anything (base/blocked.h), in outputs and deltas.
struct layer {
    const struct layer_type *type;
    struct network *network;
    int index;                 // 0-based among layer sections
    struct cfg_section *section;
    void *settings;            // type->settings_size bytes, filled from type->options
    void *state;               // the type's own; allocated in create

    int input_count;
    struct layer **inputs;     // the layers it reads; an entry NULL is the network's input
    struct shape input_shape;  // of inputs[0]
    struct shape output_shape; // set by create

    float *output;             // [max_images] of output_shape; allocated by the network after create; NULL if deferred
    float *raw;                // the same for a layer's own use, where it wants_raw: what its output is computed from
    struct source source;      // the output for those that read sources; set by forward where deferred
    float *output_maximum;     // [max_images][blocked channels]
    bool output_maximum_known;
    float *delta;              // dL/d(output), same size, allocated for training only; NULL where nothing flows back
    struct layer *delta_owner; // the layer whose array delta is: itself, or a [shortcut] that reads it
    bool delta_written;        // a reader of the output has written delta in this backward pass
    bool needs_delta;          // some trainable parameter lies at or below this layer
    int delta_writers, delta_written_count; // readers that write delta; those that did in this backward pass
    bool delta_seen;           // the last writer called delta_ready for each image

    // Evaluation: a [shortcut] that computes each image while that of this layer is still in the cache; or NULL.
    struct layer *output_follower;
    bool output_followed;      // it did so in this forward pass

    // Set by create:
    bool output_nonnegative;   // no output is ever negative, so a quantized element needs no sign
    bool low_bit;              // mls=1: its convolutions quantize their operands (but for network->plain_operands)
    bool reads_sources;        // reads inputs by layer_input_source alone
    bool reads_planar;         // as the first layer it reads network->input as it comes, [channels][pixels]
    bool wants_raw;
    bool can_defer;            // can leave its output as a source
    bool can_be_followed;      // tells its output_follower of each image
    bool is_alias;             // another name for inputs[0]; layers that name this one read that instead
    bool keeps_delta;          // backward leaves delta as it was
    bool backward_spares_input;  // backward does not read the inputs' outputs, so that their arrays may serve others
    bool backward_spares_output; // nor its own
    // If not NULL: called for each image by the last writer of delta, while that image is in the cache. It reads `raw` of
    // delta_reads. `gates`, if not NULL, are those of the image: delta is first to be set to 0 where they are shut.
    void (*delta_ready)(struct layer *layer, int image, const int32_t *gates);
    const struct layer *delta_reads;
    // If not NULL: called by the layer that this one follows, for each image when its source is there.
    void (*follow)(struct layer *layer, int image);

    size_t extra_memory;       // bytes the layer allocated itself, for `summary`
    double multiply_adds;      // per image, one forward pass, for `summary`
};

// What the network has to know of a layer type.
enum layer_property {
    LAYER_TAKES_MLS = 1,        // the MLS options belong to its section, too
    LAYER_IS_LOSS = 2,          // adds to network->loss
    LAYER_GIVES_PROBABILITIES = 4, // of the classes
    LAYER_SHARES_DELTA = 8,     // gives its delta to both inputs as it is
    LAYER_HAS_PARTS = 16        // measures all of its time by parts of its own (net/profile.h)
};

struct layer_type {
    const char *name, *alias;          // "convolutional", "conv"; alias may be NULL
    unsigned properties;               // enum layer_property
    const char *help;
    const struct option_description *options;
    size_t settings_size;
    // Checks settings against the inputs (layer->inputs[0] and input_shape are already the previous layer;
    // layers with `from`/`layers` options replace them with layer_set_inputs), sets output_shape, registers
    // parameters and allocates state. Problems go to diagnostics with the section's line.
    bool (*create)(struct layer *layer, struct diagnostics *diagnostics);
    // Called when all layers are there and delta_owner is set, before arrays are allocated; may be NULL.
    bool (*planned)(struct layer *layer, struct diagnostics *diagnostics);
    // output = f(inputs).
    bool (*forward)(struct layer *layer, const struct pass *pass, struct error *error);
    // From layer->delta: parameter gradients are added to, and the deltas of the inputs written (see
    // layer_input_delta). Not called where layer->needs_delta is false.
    bool (*backward)(struct layer *layer, const struct pass *pass, struct error *error);
    void (*destroy)(struct layer *layer);
    // One short text for `summary` ("3x3/1 MLS <2,1> nc 16"), may be NULL.
    void (*describe)(const struct layer *layer, char *text, size_t size);
    // Adds what the layer computes (net/operations.h has helpers); NULL: nothing. Parameters' updates and the sums of errors
    // from several readers are added by network_operations.
    void (*operations)(const struct layer *layer, struct operations *operations);
};

// All layer types, ended by NULL (layers/table.c).
extern const struct layer_type *const layer_types[];
const struct layer_type *layer_type_find(const char *name); // by name or alias

static inline bool layer_is(const struct layer *layer, enum layer_property property)
{
    return layer->type->properties & property;
}

// Whether input k of `reader` is `layer`, and is really read.
static inline bool layer_reads(const struct layer *reader, int k, const struct layer *layer)
{
    return !reader->is_alias && reader->inputs[k] == layer;
}

// --- helpers for layer files (network.c) ---

// Values read by the layer: inputs[i]'s output, or the network's input; and the same as a source (of the whole map).
const float *layer_input(const struct layer *layer, int i);
struct source layer_input_source(const struct layer *layer, int i);
// Where dL/d(inputs[i]) goes: *accumulate says whether to add to it or to overwrite it (the first reader in a
// backward pass overwrites). NULL: nobody needs it. Marks it as written and its maximum as unknown.
float *layer_input_delta(struct layer *layer, int i, bool *accumulate);
// The same for a layer that keeps the promise to call target.done, if there is a function in it, for each image when its
// delta is complete.
struct delta_target {
    float *values; // NULL: nobody needs it
    bool accumulate;
    struct image_done done;
};
struct delta_target layer_delta_target(struct layer *layer, int i);
// Resolves Darknet's layer references (negative: relative to this layer, else absolute); problems go to
// diagnostics. Sets inputs, input_count and input_shape.
bool layer_set_inputs(struct layer *layer, const int *references, int count, struct diagnostics *diagnostics);
// Output shape of the layer an input comes from.
struct shape layer_input_shape(const struct layer *layer, int i);
// Registers and allocates a parameter "layers.INDEX.<role>"; NULL without memory (reported to diagnostics).
struct parameter *layer_add_parameter(struct layer *layer, const char *role, int rank, const int *dims, bool trainable,
                                      bool decay, struct diagnostics *diagnostics);
// Memory that is counted in extra_memory; NULL is reported to diagnostics.
void *layer_allocate(struct layer *layer, size_t count, size_t size, struct diagnostics *diagnostics);

#endif
