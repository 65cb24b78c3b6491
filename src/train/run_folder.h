// The folder of a run: last.safetensors, best.safetensors, log.csv, config.cfg, summary.json.
#ifndef TRAIN_RUN_FOLDER_H
#define TRAIN_RUN_FOLDER_H

#include "base/error.h"

struct run_folder {
    char path[3072];
};

struct epoch_row {
    long epoch, step;
    double rate, train_loss, train_accuracy, test_loss, top1, top5, images_per_second, seconds;
};

// Creates the folder (and its parents) and writes a probe file, so that an unwritable place is found before
// training. `path` NULL: results/NAME, NAME being the cfg's file name without .cfg.
bool run_folder_open(struct run_folder *folder, const char *path, const char *cfg_path, struct error *error);
// Full name of a file in it; never longer than 4096.
void run_folder_file(const struct run_folder *folder, const char *name, char path[4096]);
bool run_folder_write_text(const struct run_folder *folder, const char *name, const char *text, struct error *error);
// Drops rows after `epochs` finished epochs (a resumed run writes them again), or starts a new log with epochs 0.
bool run_folder_start_log(const struct run_folder *folder, long epochs, struct error *error);
bool run_folder_append(const struct run_folder *folder, const struct epoch_row *row, struct error *error);

#endif
