// The folder of a run: last.safetensors, best.safetensors, log.csv, config.cfg, summary.json, skipped.txt.
#ifndef TRAIN_RUN_FOLDER_H
#define TRAIN_RUN_FOLDER_H

#include "base/error.h"

struct run_folder {
    char path[3072];
};

struct epoch_row {
    long epoch, step;
    double rate, train_loss, train_accuracy, test_loss, top1, top5, images_per_second, seconds;
    double waited; // share of the training time in which the next batch was not ready
};

// Creates the folder (and its parents) and writes a probe file, so that an unwritable place is found before
// training. `path` NULL: PARENT/NAME, NAME being the cfg's file name without .cfg; `parent` NULL: results.
bool run_folder_open(struct run_folder *folder, const char *path, const char *parent, const char *cfg_path, struct error *error);
// Keeps other processes from training in it until this one ends. false with a message if another does.
bool run_folder_lock(const struct run_folder *folder, struct error *error);
// Full name of a file in it; never longer than 4096.
void run_folder_file(const struct run_folder *folder, const char *name, char path[4096]);
bool run_folder_write_text(const struct run_folder *folder, const char *name, const char *text, struct error *error);
// Drops rows after `epochs` finished epochs (a resumed run writes them again), or starts a new log with epochs 0.
bool run_folder_start_log(const struct run_folder *folder, long epochs, struct error *error);
bool run_folder_append(const struct run_folder *folder, const struct epoch_row *row, struct error *error);

// Adds those lines to a text file that it does not have yet.
bool run_folder_add_lines(const struct run_folder *folder, const char *name, const char *const *lines, int count, struct error *error);
// Whether its summary.json says that the run reached its end.
bool run_folder_is_finished(const char *path);

#endif
