// A network: the layers of a cfg in order, their parameters, forward and backward order.
#ifndef NET_NETWORK_H
#define NET_NETWORK_H

#include "net/data_options.h"
#include "net/layer.h"
#include "net/mls_options.h"
#include "net/observer.h"
#include "net/profile.h"

// Where evaluation adds epsilon: 1 / sqrt(variance + 1e-5), or 1 / (sqrt(variance) + 1e-6) as the original Darknet.
enum batch_norm_epsilon { BATCH_NORM_EPSILON_VARIANCE, BATCH_NORM_EPSILON_DEVIATION };
#define BATCH_NORM_EPSILON_NAMES "variance deviation"

// [net]: what the network reads itself. Options of training (learning_rate, ...) are in the same section
// and read by train/ with a table of its own; both tables count as known.
struct net_settings {
    int batch, subdivisions;
    int height, width, channels;
    char *kernel;       // name of the MLS kernel set; NULL: the best this processor has
    int batch_norm_epsilon; // enum batch_norm_epsilon, or OPTION_UNSET: as the weights say
    struct mls_settings mls;
    struct augmentation_options augmentation; // for src/data
};
extern const struct option_description net_option_table[];      // without the mls_* ones (see mls_option_table)
extern const struct option_description training_option_table[]; // training_options.h
extern const struct option_description data_option_table[];     // data_options.h

struct kernel_set;

struct network {
    const char *cfg_path;
    struct net_settings settings;
    const struct kernel_set *kernels;
    struct thread_pool *pool;     // not owned
    uint64_t seed;                // of the initial weights
    int max_images;               // largest images of a pass
    bool for_training;
    enum batch_norm_epsilon batch_norm_epsilon; // of evaluation
    struct shape input_shape;
    const float *input;           // set by network_forward: [images][channels][height][width]
    float *blocked_input;         // the same as a blocked map; NULL if no layer reads it so
    float *maps;                  // outputs and errors of all layers (arrays.h)
    size_t maps_floats;
    float *scores;                // output of the output layer, [max_images][classes]
    int layer_count;
    struct layer **layers;
    int parameter_count;
    struct parameter **parameters; // in layer order
    struct layer *output_layer;    // what predicts: the [softmax] if there is one, else the last layer
    struct layer *loss_layer;      // computes the loss ([softmax] or [cost]); NULL if none
    struct profile *profile;       // filled while it is there; not owned
    const struct observer *observer; // sees operands while it is there (observer.h); not owned
    unsigned plain_operands;       // as requested
    double loss;                   // sum over the images of the last forward pass with labels, not scaled
    void *scratch;                 // per thread, scratch_bytes each, at scratch + thread * scratch_bytes
    size_t scratch_bytes;
    void *workspace;               // of one layer's backward pass at a time
    size_t workspace_bytes;
};

struct network_request {
    bool for_training;
    int max_images;               // 0: batch / subdivisions
    const char *kernel;           // NULL: as the cfg says
    unsigned plain_operands;      // 1 << enum mls_operand: stay fp32 although mls=1 (simulated arithmetic); all of them: fp32 convolutions
    uint64_t seed;                // of the initial weights
    bool loss_optional;           // for_training is right without a loss layer, too
};

// Builds the network. All that is wrong with the cfg goes to diagnostics (every section is looked at before
// it gives up), and NULL is returned. Weights are initialized from the seed.
struct network *network_create(struct cfg *cfg, const struct network_request *request, struct thread_pool *pool,
                               struct diagnostics *diagnostics);
void network_destroy(struct network *network);

// input: [pass->images] of input_shape. With labels the loss layer fills network->loss.
// false: a NaN or infinity came up; the message names layer and operand.
bool network_forward(struct network *network, const float *input, const struct pass *pass, struct error *error);
// After network_forward with labels: adds to all gradients.
bool network_backward(struct network *network, const struct pass *pass, struct error *error);
// What the weights of a file were trained for; the cfg's own word goes before it.
void network_use_batch_norm_epsilon(struct network *network, enum batch_norm_epsilon epsilon);
void network_clear_gradients(struct network *network);
// Class scores of the last forward pass, [images][classes].
const float *network_output(const struct network *network, int *classes);
struct parameter *network_find_parameter(const struct network *network, const char *name);
// A layer asks for workspace of at least this size (in create); network->workspace is there from its first pass on.
void network_request_workspace(struct network *network, size_t bytes);
// A layer asks for per-thread scratch of at least this size (in create).
void network_request_scratch(struct network *network, size_t bytes);
static inline void *network_scratch(const struct network *network, int thread)
{
    return (char *)network->scratch + (size_t)thread * network->scratch_bytes;
}

#endif
