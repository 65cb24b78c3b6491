// What a sweep is to run: settings (all combinations, and fp32 to compare with) times seeds, each run with its folder and state.
#ifndef CLI_SWEEP_PLAN_H
#define CLI_SWEEP_PLAN_H

#include <sys/types.h>

#include "cli/combinations.h"
#include "cli/session.h"
#include "cli/sweep_table.h"
#include "energy/table.h"

struct sweep_request {
    struct session_request session; // `set` holds what all runs have in common, with --epochs
    struct argument_list over;
    const char *output;
    int seeds, jobs, epochs; // epochs 0: as the cfg says
    bool without_fp32, skip_invalid, without_pictures;
};

enum run_state { RUN_WAITING, RUN_RUNNING, RUN_FINISHED, RUN_FAILED, RUN_STOPPED };

struct sweep_run {
    int setting, seed;
    char *folder;
    enum run_state state;
    pid_t process;       // while running
    double started;      // seconds, of the monotonic clock
    double seconds_before; // of training in its log, when this call began it
};

// --set arguments of one setting, beyond those in common.
struct sweep_setting {
    struct argument_list set;
    bool fp32;
};

struct sweep_plan {
    const struct sweep_request *request;
    struct combinations combinations;
    char *folder;
    long epochs;                    // of a run
    char data[DATASET_FINGERPRINT]; // of all runs; "": --over takes several data sets
    struct sweep_setting *settings; // the same index as in the table
    struct sweep_table table;
    char **texts;                   // that settings point to
    int text_count;
    int run_count;
    struct sweep_run *runs;         // in the order in which they are begun: all settings with the first seed, then with the second
};

// Checks every setting, fills its bits and energies, finds out which runs are finished. 0, or the exit status after messages on
// stderr: a key or value that no cfg takes, data that is not there, a folder with runs of other settings. Nothing is written.
int sweep_plan_make(const struct sweep_request *request, struct sweep_plan *plan);
void sweep_plan_release(struct sweep_plan *plan);
// Takes the accuracies of finished runs into the table, and writes it.
bool sweep_plan_write_table(struct sweep_plan *plan, struct error *error);

#endif
