// The runs of a sweep as processes of this program, some at a time, with progress and time left.
#ifndef CLI_SWEEP_JOBS_H
#define CLI_SWEEP_JOBS_H

#include "cli/sweep_plan.h"

// Runs all that is not finished, and writes the table before and after each. A run that fails is reported and the rest goes on; after
// SIGINT or SIGTERM no run is begun and those at work are told to save and end. 0: all are finished; 1: some failed; 130: stopped.
// false: the table could not be written or a process not begun; the processes are told to end.
bool sweep_jobs_run(struct sweep_plan *plan, int *status, struct error *error);

#endif
