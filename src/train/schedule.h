// Learning-rate policies.
#ifndef TRAIN_SCHEDULE_H
#define TRAIN_SCHEDULE_H

#include "net/training_options.h"

// Learning rate of optimizer step `step` (from 0) of `total`. Darknet's formulas; cosine falls from the learning
// rate to 0 over the run; onecycle rises linearly from 1/25 of the learning rate over the first 30 % and then falls
// as a cosine to 1/10000 of where it began (PyTorch's OneCycleLR with a linear start).
float schedule_rate(const struct training_settings *settings, long step, long total);

#endif
