// What the commands that run a network share: cfg with --set, threads, network, data set.
#ifndef CLI_SESSION_H
#define CLI_SESSION_H

#include <limits.h>

#include "cli/arguments.h"
#include "data/darknet.h"
#include "data/data.h"
#include "net/data_options.h"
#include "net/network.h"
#include "net/training_options.h"

struct session_request {
    const char *cfg_path, *data, *kernel;
    struct argument_list set;
    int threads; // 0: all cores the process may use
    int seed;    // SEED_OF_CFG: as the cfg says
    bool for_training, needs_data;
    bool data_optional;               // needs_data, but a cfg without [data] gets one without pictures where --data is not given either
    bool without_train, without_test; // of the data: these pictures are not needed
    bool loss_optional;
    const char *names;                // file of class names that go before the data set's own; NULL: none
    int max_images; // 0: as the cfg says
    unsigned plain_operands; // see struct network_request
};
#define SEED_OF_CFG INT_MIN
#define SESSION_REQUEST_DEFAULTS {.seed = SEED_OF_CFG}

// Rows for a command's table.
#define SESSION_ARGUMENTS(request)                                                                                   \
    {"CFG", ARGUMENT_POSITIONAL, &(request).cfg_path, "the network's cfg file"},                                     \
    {"--set", ARGUMENT_LIST, &(request).set, "KEY=VALUE or SECTION.KEY=VALUE: change an option; may be repeated"},   \
    {"--data", ARGUMENT_TEXT, &(request).data, "folder of the data set, or its parent, or a Darknet .data file (default: $MLSNET_DATA, then the cfg)"}, \
    {"--threads", ARGUMENT_INT, &(request).threads, "threads (default: all cores the process may use)"},             \
    {"--kernel", ARGUMENT_TEXT, &(request).kernel, "kernel set, see mlsnet kernels (default: the best supported)"}

struct session {
    struct cfg *cfg;
    char *cfg_text;
    struct thread_pool *pool;
    struct network *network;
    struct dataset *dataset; // NULL if not needed
    struct training_settings training;
    struct data_options data;
    struct darknet_data darknet; // of --data FILE; else zeros
};

// The cfg with --set and --seed in it; NULL after messages on stderr: exit status 2.
struct cfg *session_read_cfg(const struct session_request *request);

// 0, or the exit status after messages on stderr: 2 for a wrong cfg or argument, 1 for the rest. Released in any case.
int session_open(struct session *session, const struct session_request *request);
// Weights for eval and predict, of either kind. Darknet's are meant for fp32: says so on stderr where the cfg leaves MLS to
// its defaults.
bool session_load_weights(struct session *session, const char *path, struct error *error);
// For --layers N, which is 0 if not given: how many layers of the network that are; -1 with a message if it has not so many.
int session_first_layers(const struct session *session, int count, struct error *error);
void session_close(struct session *session);

#endif
