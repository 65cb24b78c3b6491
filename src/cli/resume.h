// Whether a run that is resumed is still the run that was begun.
#ifndef CLI_RESUME_H
#define CLI_RESUME_H

#include "cli/session.h"
#include "train/checkpoint.h"
#include "train/run_folder.h"

// Compares the session's cfg with the folder's config.cfg, if there is one: what may differ are the options of [net] that steer the
// optimizer and the length of the training, and those of [data] and [net] that say where and how the same is done. false: a message
// with the first other difference.
bool resume_fits(const struct session *session, const struct run_folder *folder, struct error *error);

// The command that goes on with the run: the arguments of this one, without those that are for its beginning. argv[0]: "train".
void resume_print_command(int argc, char **argv);

#endif
