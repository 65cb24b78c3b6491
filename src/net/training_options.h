// The options of [net] that steer training.
#ifndef NET_TRAINING_OPTIONS_H
#define NET_TRAINING_OPTIONS_H

#include "net/cfg.h"
#include "net/options.h"

enum learning_rate_policy {
    POLICY_CONSTANT, POLICY_STEP, POLICY_STEPS, POLICY_EXP, POLICY_POLY, POLICY_SIGMOID, POLICY_COSINE, POLICY_ONECYCLE
};
#define POLICY_NAMES "constant step steps exp poly sigmoid cosine onecycle"

struct training_settings {
    float learning_rate, momentum, decay, label_smoothing;
    int decay_all, nesterov, policy, burn_in, max_batches, epochs, seed;
    float power, gamma, scale;
    int step;
    struct option_list steps, scales;
};

// From [net], with what they must be among themselves; released by options_release(training_option_table, ...).
void training_settings_read(const struct cfg *cfg, struct training_settings *settings, struct diagnostics *diagnostics);

#endif
