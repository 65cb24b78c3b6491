// The option tables of [net] and [data].
#include <stddef.h>

#include "net/data_options.h"
#include "net/network.h"
#include "net/training_options.h"

#define NET(field) offsetof(struct net_settings, field)
#define TRAIN(field) offsetof(struct training_settings, field)
#define DATA(field) offsetof(struct data_options, field)
#define IGNORED(name) {name, OPTION_IGNORED, 0, 0, 0, NULL, NULL, "accepted for Darknet's files; without effect"}

// clang-format off
#define AUGMENTATION(AT) \
    {"flip", OPTION_BOOL, AT(augmentation.flip), 0, 1, NULL, NULL, "training: mirror every other picture at random (0; 1 with a .data file)"}, \
    {"min_crop", OPTION_INT, AT(augmentation.min_crop), 1, 16384, NULL, NULL, "training, Darknet's random crop: least shorter side (width)"}, \
    {"max_crop", OPTION_INT, AT(augmentation.max_crop), 1, 16384, NULL, NULL, "... and the most (2 width)"}, \
    {"aspect", OPTION_FLOAT, AT(augmentation.aspect), 0.01, 100, NULL, NULL, "... width changed against height by 1 to this or its inverse (1)"}, \
    {"angle", OPTION_FLOAT, AT(augmentation.angle), 0, 180, NULL, NULL, "... turned by up to so many degrees (0)"}, \
    {"hue", OPTION_FLOAT, AT(augmentation.hue), 0, 1, NULL, NULL, "training: hue turned by up to this share of the circle (0)"}, \
    {"saturation", OPTION_FLOAT, AT(augmentation.saturation), 0.01, 100, NULL, NULL, "training: saturation times 1 to this or its inverse (1)"}, \
    {"exposure", OPTION_FLOAT, AT(augmentation.exposure), 0.01, 100, NULL, NULL, "training: brightness times 1 to this or its inverse (1)"}

// center: Darknet's classifier training does not read it either, only its GANs and detectors do.
const struct option_description net_option_table[] = {
    {"batch", OPTION_INT, NET(batch), 1, 65536, "1", NULL, "images of one optimizer step"},
    {"subdivisions", OPTION_INT, NET(subdivisions), 1, 65536, "1", NULL, "the batch is computed in this many parts, gradients are summed"},
    {"height", OPTION_INT, NET(height), 1, 4096, "32", NULL, "input rows"},
    {"width", OPTION_INT, NET(width), 1, 4096, "32", NULL, "input columns"},
    {"channels", OPTION_INT, NET(channels), 1, 1024, "3", NULL, "input channels"},
    {"kernel", OPTION_STRING, NET(kernel), 0, 0, NULL, NULL, "kernel set by name (see `mlsnet kernels`); the best there is otherwise"},
    {"batch_norm_epsilon", OPTION_CHOICE, NET(batch_norm_epsilon), 0, 0, NULL, BATCH_NORM_EPSILON_NAMES, "evaluation divides by: variance: sqrt(variance + 1e-5), deviation: sqrt(variance) + 1e-6 (original Darknet); as the weights' file says"},
    AUGMENTATION(NET), IGNORED("center"), IGNORED("adam"), IGNORED("B1"), IGNORED("B2"), IGNORED("eps"),
    IGNORED("random"), IGNORED("notruth"), IGNORED("inputs"), IGNORED("time_steps"),
    {0},
};

const struct option_description training_option_table[] = {
    {"learning_rate", OPTION_FLOAT, TRAIN(learning_rate), 0, 1e6, "0.001", NULL, "highest learning rate"},
    {"momentum", OPTION_FLOAT, TRAIN(momentum), 0, 1, "0.9", NULL, "momentum of SGD"},
    {"nesterov", OPTION_BOOL, TRAIN(nesterov), 0, 1, "0", NULL, "1: Nesterov's momentum"},
    {"decay", OPTION_FLOAT, TRAIN(decay), 0, 1, "0.0001", NULL, "weight decay, on weights only"},
    {"decay_all", OPTION_BOOL, TRAIN(decay_all), 0, 1, "0", NULL, "1: weight decay on biases and batch normalization too, as PyTorch's SGD"},
    {"label_smoothing", OPTION_FLOAT, TRAIN(label_smoothing), 0, 0.999, "0", NULL, "share of the target spread over all classes"},
    {"seed", OPTION_INT, TRAIN(seed), 0, 2147483647, "1", NULL, "of weights, shuffling, augmentation and rounding"},
    {"epochs", OPTION_INT, TRAIN(epochs), 0, 1000000, "0", NULL, "training ends after this many epochs; 0: by max_batches alone"},
    {"max_batches", OPTION_INT, TRAIN(max_batches), 0, 2147483647, "0", NULL, "training ends after this many steps; 0: by epochs alone"},
    {"policy", OPTION_CHOICE, TRAIN(policy), 0, 0, "constant", POLICY_NAMES, "how the learning rate changes"},
    {"burn_in", OPTION_INT, TRAIN(burn_in), 0, 2147483647, "0", NULL, "steps over which the learning rate rises as (step/burn_in)^power"},
    {"power", OPTION_FLOAT, TRAIN(power), 0, 100, "4", NULL, "of burn_in and of policy=poly"},
    {"step", OPTION_INT, TRAIN(step), 1, 2147483647, "1", NULL, "policy=step: steps between changes; sigmoid: the step of half the rate"},
    {"scale", OPTION_FLOAT, TRAIN(scale), 0, 1e6, "1", NULL, "policy=step: factor of each change"},
    {"steps", OPTION_INT_LIST, TRAIN(steps), 0, 2147483647, NULL, NULL, "policy=steps: the steps of the changes"},
    {"scales", OPTION_FLOAT_LIST, TRAIN(scales), 0, 1e6, NULL, NULL, "policy=steps: the factor of each change"},
    {"gamma", OPTION_FLOAT, TRAIN(gamma), 0, 1e6, "1", NULL, "policy=exp: factor of each step; sigmoid: slope"},
    {0},
};

const struct option_description data_option_table[] = {
    {"type", OPTION_CHOICE, DATA(type), 0, 0, "cifar10", DATA_TYPE_NAMES, "the kind of data set"},
    {"path", OPTION_STRING, DATA(path), 0, 0, "data", NULL, "folder with the files, or its parent"},
    {"classes", OPTION_INT, DATA(classes), 0, 1000000, "0", NULL, "number of classes; 0: as the data set says"},
    {"names", OPTION_STRING, DATA(names), 0, 0, NULL, NULL, "file with a class name a line; otherwise the data set's own"},
    {"mean", OPTION_FLOAT_LIST, DATA(mean), -1e6, 1e6, NULL, NULL, "subtracted from each channel, pixels being 0..1"},
    {"std", OPTION_FLOAT_LIST, DATA(std), 1e-6, 1e6, NULL, NULL, "each channel is divided by it"},
    {"pad_crop", OPTION_INT, DATA(pad_crop), 0, 64, "0", NULL, "training: pad by this many pixels and crop at random"},
    {"cutout", OPTION_INT, DATA(cutout), 0, 4096, "0", NULL, "training: side of a random square set to the mean"},
    {"crop_scale", OPTION_FLOAT_LIST, DATA(crop_scale), 1e-6, 1, NULL, NULL, "training: share of the area of a random crop, least and most (torchvision: 0.08,1)"},
    {"crop_ratio", OPTION_FLOAT_LIST, DATA(crop_ratio), 1e-3, 1e3, NULL, NULL, "with crop_scale: width / height of the crop, least and most (0.75,1.333)"},
    AUGMENTATION(DATA),
    {"resize", OPTION_INT, DATA(resize), 0, 16384, "0", NULL, "evaluation: shorter side of the picture before the centre crop; 0: as the crop"},
    {"crops", OPTION_INT, DATA(crops), 1, 10, "1", NULL, "mlsnet eval: 10: corners and centre, and these mirrored, averaged; 1: the centre"},
    {"train", OPTION_STRING, DATA(train), 0, 0, NULL, NULL, "type=list: file with a training picture's path a line, and its label or not"},
    {"valid", OPTION_STRING, DATA(valid), 0, 0, NULL, NULL, "type=list: the same of the test pictures"},
    {"labels", OPTION_STRING, DATA(labels), 0, 0, NULL, NULL, "type=list: file with a class label a line, as paths contain them; otherwise names"},
    {"on_bad_image", OPTION_CHOICE, DATA(on_bad_image), 0, 0, "skip", "skip stop", "pictures that cannot be read; more than 1 % of them always stop"},
    {"cache", OPTION_INT, DATA(cache), 0, 1048576, "1024", NULL, "MiB of decoded picture files that are kept in memory"},
    {"loader_threads", OPTION_INT, DATA(loader_threads), 0, 64, "0", NULL, "threads that prepare pictures; 0: all cores for picture files, else 1"},
    {0},
};
// clang-format on

void training_settings_read(const struct cfg *cfg, struct training_settings *settings, struct diagnostics *diagnostics)
{
    struct cfg_section *net = cfg_find_net(cfg);
    options_read(training_option_table, net, settings, diagnostics);
    if (settings->steps.count != settings->scales.count)
        diagnostics_add(diagnostics, net ? net->line : 1, "net", "steps has %d numbers, scales %d: expected as many", settings->steps.count,
                        settings->scales.count);
}
