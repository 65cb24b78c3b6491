// Checkpoints: everything the next step reads. Nothing in them depends on time, machine or number of threads.
#ifndef TRAIN_CHECKPOINT_H
#define TRAIN_CHECKPOINT_H

#include "data/data.h"
#include "net/network.h"
#include "train/darknet_weights.h"

struct training_state {
    long step;            // optimizer steps done
    long epoch;           // epochs done
    long batch;           // batches done in the present epoch
    double loss_sum;      // of the present epoch
    long correct, images;
    double best;          // best test accuracy so far, -1: none
    long seed;
    char data[DATASET_FINGERPRINT]; // of the data set; "": not known
};

// cfg_text goes into the metadata.
bool checkpoint_save(const char *path, const struct network *network, const struct training_state *state,
                     const char *cfg_text, struct error *error);
// Weights and running statistics alone. A known header goes into the metadata, from where checkpoint_load_weights takes it again.
bool checkpoint_save_weights(const char *path, const struct network *network, const char *cfg_text, const struct darknet_header *header,
                             struct error *error);
// A text in the metadata, to be freed; NULL where there is none, as in a .weights file. "cfg": that of the network, "data": the data set's
// fingerprint.
char *checkpoint_text(const char *path, const char *key);
// Into a network of the same names and shapes; nothing is changed unless all is verified. state NULL: only the
// weights and running statistics are wanted (momentum may be missing), which may come from one of Darknet's .weights files, too.
bool checkpoint_load(const char *path, struct network *network, struct training_state *state, struct error *error);
// The same without state. header: that of the .weights file, or of the one from which the checkpoint was made.
bool checkpoint_load_weights(const char *path, struct network *network, struct darknet_header *header, struct error *error);
// The same of the first `layers` layers alone; the others stay as they are. A .weights file holds these alone or all; in
// safetensors other tensors are not looked at, so that it may be of a network that goes on otherwise.
bool checkpoint_load_first_layers(const char *path, struct network *network, int layers, struct darknet_header *header, struct error *error);

#endif
