// Data sets and the loader. A data source is one file (cifar.c, imagefolder.c, ...) and one row in the table of table.c. It
// says where the pictures of each split are: all in memory as bytes, or in files that the loader reads when it needs them.
#ifndef DATA_DATA_H
#define DATA_DATA_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

enum on_bad_image { BAD_IMAGE_SKIP, BAD_IMAGE_STOP };

// The settings of the [data] section, as the caller read them (data/ does not know cfg files). Zeros are defaults.
struct data_settings {
    int type;                 // index in data_sources[]; option type=
    char *path;               // folder with the files, or its parent
    int classes;              // 0: as the data set says
    const char *names;        // file with a class name a line; NULL: the data set's own
    bool more_names;          // it may hold more names than there are classes, as Darknet's lists do
    char *train, *valid;      // type=list: files with the paths of the pictures
    const char *labels;       // type=list: file with the class labels that paths contain; NULL: the names
    bool darknet;             // type=list, as Darknet's .data files mean it: see list.c
    int channels, height, width; // what the network takes; 0: as the data has it
    int mean_count, std_count;
    const float *mean, *std;  // per channel, in units of 0..1; count 0: the source's default; count 1: for all channels
    bool without_train, without_test; // these pictures are not wanted: a source may leave them out
    // Training
    int pad_crop;             // zero-pad by this many pixels and crop at random; 0: off
    int flip;                 // mirror every other picture at random
    int cutout;               // side of a random square set to the mean; 0: off
    bool darknet_crop;        // Darknet's random crop: shorter side to min_crop..max_crop, aspect, angle, position
    int min_crop, max_crop;
    float aspect, angle;
    bool area_crop;           // torchvision's RandomResizedCrop: shares of the area, and width / height
    float crop_scale[2], crop_ratio[2];
    float hue, saturation, exposure; // Darknet's; 0: off
    // Evaluation
    int resize;               // shorter side before the centre crop; 0: as small as covers the crop
    // Loading
    int on_bad_image;         // enum on_bad_image
    int cache;                // MiB of decoded pictures that are kept
    int threads;              // of the loader; 0: all cores for picture files, 1 for pictures in memory
};

struct split {                // training or test part
    int count;
    int *labels;              // [count], 0 <= label < classes
    uint8_t *pixels;          // [count][channels][picture_height][picture_width], all in memory; or NULL:
    char **paths;             // [count], files that are read when wanted
    struct store *store;      // what is remembered about the files (store.h); NULL with pixels
};

struct dataset {
    int channels, height, width; // what the loader gives: the network's input
    int picture_height, picture_width; // of pictures in memory; 0: files of any size
    int classes;
    char **names;             // [classes]
    float mean[4], std[4];
    struct data_settings settings;
    struct split train, test;
    atomic_size_t cache_room; // bytes left for decoded pictures
};

#define DATASET_FINGERPRINT 96 // bytes of its text

struct data_source {
    const char *name;         // "cifar10"
    const char *help;
    const char *folder;       // usual name of the folder with the files; NULL: none
    const char *where_to_get; // shown when a file is missing
    // true if the folder seems to hold this data set. NULL: settings tell all, no folder is looked for.
    bool (*present)(const char *folder);
    // Fills classes, names, default mean and std (above 0), and both splits from the folder; and channels, picture_height and
    // picture_width, if the pictures are in memory (for files channels is set already).
    bool (*read)(struct dataset *dataset, const char *folder, struct error *error);
};
extern const struct data_source *const data_sources[]; // ended by NULL
// Index of a source; -1: none of that name.
int data_source_find(const char *name);

// What a source's read function uses: `count` names, copied; `count` pictures for a split, in memory (of channels, picture_height and
// picture_width, which have to be set before) or as files.
bool dataset_set_names(struct dataset *dataset, const char *const *names, int count, struct error *error);
bool split_allocate(const struct dataset *dataset, struct split *split, int count, struct error *error);
bool split_allocate_files(struct split *split, int count, struct error *error);
// A file of the settings: the name as it is, or below the folder if it is only there (then in `path`).
const char *dataset_find_file(const char *folder, const char *name, char path[4096]);
// ImageNet's mean and deviation, for 1 or 3 channels.
void dataset_use_imagenet_mean(struct dataset *dataset);

// The folder: `override` if not NULL (--data), else the environment variable MLSNET_DATA, else settings->path.
// Each may be the folder with the files or its parent (the source's usual folder name is then tried below
// it, e.g. cifar-10-batches-bin). Every file's length and every label is checked.
bool dataset_open(const struct data_settings *settings, const char *override, struct dataset **dataset,
                  struct error *error);
// For pictures that come from elsewhere (dataset_read_picture): settings->classes classes with the names of settings->names,
// or numbers; without mean and deviation in the settings pixels are 0..1.
bool dataset_open_without_pictures(const struct data_settings *settings, struct dataset **dataset, struct error *error);
void dataset_close(struct dataset *dataset);
// How many pictures and classes, and a checksum of all labels and of the pictures (of files: of their names without folders, which may have
// moved): two data sets with the same text are the same for training.
void dataset_fingerprint(const struct dataset *dataset, char text[DATASET_FINGERPRINT]);

// One picture file as evaluation sees it, normalized, into out[channels][height][width].
bool dataset_read_picture(const struct dataset *dataset, const char *path, float *out, struct error *error);

// The training order of one epoch: a permutation of 0..count-1 that depends on (seed, epoch) alone.
void shuffle_order(int *order, int count, uint64_t seed, uint64_t epoch);

// Prefetching loader: threads of its own prepare batches ahead (a fixed number of buffers, allocated once).
struct loader;
struct batch {
    int images;               // less than asked for only in the test split; 0: the end
    const float *input;       // [images][channels][height][width], normalized
    const int *labels;        // [images]
    const int *pictures;      // [images], index in the split
    int crops;                // the same pictures otherwise cropped: crop k is at input + k * crop_stride
    size_t crop_stride;       // floats
};
struct loader_request {
    const struct dataset *dataset;
    // true: shuffled with (seed, epoch), augmented with (seed, epoch, index of the picture), the incomplete last batch of an
    // epoch dropped (batch > count is an error); endless, epoch after epoch. false: the test split in its order, one pass.
    bool training;
    int batch;                // images
    uint64_t seed;
    int crops;                // test split: 0 or 1: the centre; 10: corners and centre, and these mirrored
};
bool loader_create(const struct loader_request *request, struct loader **loader, struct error *error);
// Starts (or restarts) at this batch of this epoch.
bool loader_start(struct loader *loader, uint64_t epoch, int first_batch, struct error *error);
// The next batch; valid until the next call. false: a picture of it cannot be read and on_bad_image=stop, or too many are bad.
// A picture that is skipped is replaced by another one in training, and left out of a test batch.
bool loader_next(struct loader *loader, struct batch *batch, struct error *error);
int loader_batches_per_epoch(const struct loader *loader);
double loader_waited_seconds(const struct loader *loader); // time loader_next had to wait, since loader_start
void loader_destroy(struct loader *loader);

// Pictures that could not be read so far, in the order in which they were met: "PATH: reason".
int split_skipped(const struct split *split);
const char *split_skipped_text(const struct split *split, int index);

#endif
