// The training loop and the evaluation.
#ifndef TRAIN_TRAINER_H
#define TRAIN_TRAINER_H

#include "data/data.h"
#include "net/network.h"
#include "net/training_options.h"
#include "train/checkpoint.h"
#include "train/metrics.h"
#include "train/run_folder.h"

// Top-1, top-5, loss, precision and recall over the test split; `metrics` is created here. With several crops the scores are
// their mean. `each` is called with each batch's scores if it is not NULL.
typedef void (*evaluation_batch)(void *context, const float *scores, const struct batch *batch);
bool evaluate(struct network *network, struct loader *test, struct metrics *metrics, evaluation_batch each, void *context,
              struct error *error);

// What the loop tells its caller, which prints it.
struct progress {
    long epoch, epochs, batch, batches, step, steps;
    double loss, accuracy;          // of the present epoch so far
    double images_per_second, seconds_left;
};

struct trainer {
    struct network *network;
    const struct dataset *dataset;
    const struct training_settings *settings;
    const struct run_folder *folder; // NULL: nothing is saved (bench)
    const char *cfg_text;
    double save_seconds;             // a checkpoint within an epoch at least this often
    long stop_after;                 // stop and save after this many steps of this call; 0: no
    const volatile int *stop_flag;   // set by a signal: finish the step, save, return
    void (*on_step)(void *context, const struct progress *progress);
    void (*on_epoch)(void *context, const struct epoch_row *row);
    void *context;

    struct training_state state;     // in: where to begin; out: where it ended
    bool finished;                   // out: false if stopped
};

// Total steps: the smaller of max_batches and epochs, where given. 0 with a message if neither is, or batch is too large.
long trainer_total_steps(const struct trainer *trainer, struct error *error);
// Trains from trainer->state to the end. Saves last.safetensors at the end of each epoch, in between and on a stop,
// best.safetensors when the test accuracy rises. false: a message; the last good checkpoint stays.
bool trainer_run(struct trainer *trainer, struct error *error);

// Adds one batch, with subdivisions, to the gradients, the sum of the losses and the number of right predictions. rounding: see struct
// pass; 0 in training.
bool trainer_gradient(struct network *network, const struct training_settings *settings, const struct batch *batch, long step,
                      uint64_t rounding, double *loss_sum, long *correct, struct error *error);
// One optimizer step on one batch, with subdivisions. The batch's losses are added to loss_sum.
bool trainer_step(struct network *network, const struct training_settings *settings, const struct batch *batch, long step,
                  long total, double *loss_sum, long *correct, struct error *error);

#endif
