// Data sets and the loader. A data source is one file (cifar.c, idx.c, ...) and one row in the table
// of table.c. Pictures are kept as bytes, [images][channels][height][width]; the loader turns them
// into normalized fp32 batches on its own thread.
#ifndef DATA_DATA_H
#define DATA_DATA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

// What a source's read function uses: `count` names, copied; count pictures for a split.
struct dataset;
struct split;
bool dataset_set_names(struct dataset *dataset, const char *const *names, int count, struct error *error);
bool split_allocate(const struct dataset *dataset, struct split *split, int count, struct error *error);

// Text values of the [data] section, as the caller read them (data/ does not know cfg files).
struct data_settings {
    int type;                 // index in data_sources[]; option type=
    char *path;               // folder with the files, or its parent
    int classes;              // 0: as the data set says
    char *names;              // file with a class name a line; NULL: the data set's own
    int mean_count, std_count;
    const float *mean, *std;  // per channel, in units of 0..1; count 0: the source's default; count 1: for all channels
    int pad_crop;             // zero-pad by this many pixels and crop at random; 0: off
    int flip;                 // mirror every other picture at random
    int cutout;               // side of a random square set to the mean; 0: off
};

struct split {                // training or test part, all in memory
    int count;
    uint8_t *pixels;          // [count][channels][height][width]
    int *labels;              // [count], 0 <= label < classes
};

struct dataset {
    int channels, height, width, classes;
    char **names;             // [classes]
    float mean[4], std[4];
    struct data_settings settings;
    struct split train, test;
};

struct data_source {
    const char *name;         // "cifar10"
    const char *help;
    const char *folder;       // usual name of the folder with the files; NULL: none
    const char *where_to_get; // shown when a file is missing
    // true if the folder seems to hold this data set.
    bool (*present)(const char *folder);
    // Fills shape, classes, names, default mean and std, and both splits from the folder.
    bool (*read)(struct dataset *dataset, const char *folder, struct error *error);
};
extern const struct data_source *const data_sources[]; // ended by NULL

// The folder: `override` if not NULL (--data), else the environment variable MLSNET_DATA, else settings->path.
// Each may be the folder with the files or its parent (the source's usual folder name is then tried below
// it, e.g. cifar-10-batches-bin). Every file's length and every label is checked.
bool dataset_open(const struct data_settings *settings, const char *override, struct dataset **dataset,
                  struct error *error);
void dataset_close(struct dataset *dataset);

// One picture, normalized, without augmentation, into out[channels][height][width].
void dataset_normalize(const struct dataset *dataset, const uint8_t *pixels, float *out);

// The training order of one epoch: a permutation of 0..count-1 that depends on (seed, epoch) alone.
void shuffle_order(int *order, int count, uint64_t seed, uint64_t epoch);

// Prefetching loader: one thread prepares batches ahead (a fixed number of buffers, allocated once).
struct loader;
struct batch {
    int images;               // less than asked for only in the last batch of the test split
    const float *input;       // [images][channels][height][width], normalized
    const int *labels;        // [images]
};
// training: shuffled with (seed, epoch), augmented with (seed, epoch, index of the picture), the incomplete
// last batch of an epoch dropped (batch > count is an error); endless, epoch after epoch. Not training: in file
// order, one pass, then the loader gives images == 0.
bool loader_create(const struct dataset *dataset, bool training, int batch, uint64_t seed, struct loader **loader,
                   struct error *error);
// Starts (or restarts) at this batch of this epoch.
bool loader_start(struct loader *loader, uint64_t epoch, int first_batch, struct error *error);
// The next batch; valid until the next call.
struct batch loader_next(struct loader *loader);
int loader_batches_per_epoch(const struct loader *loader);
double loader_waited_seconds(const struct loader *loader); // time loader_next had to wait, since loader_start
void loader_destroy(struct loader *loader);

// A picture file (JPEG or PNG through stb_image) as bytes [channels][height][width], scaled (shorter side) and
// centre-cropped to the size asked for; grey pictures are given 3 equal channels and colour ones turned to grey as needed.
bool picture_read(const char *path, int channels, int height, int width, uint8_t *pixels, struct error *error);

#endif
