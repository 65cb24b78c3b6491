// mlsnet convert: weights between Darknet's .weights files and safetensors.
#include <stdio.h>
#include <string.h>

#include "cli/command.h"
#include "cli/session.h"
#include "train/checkpoint.h"

struct options {
    struct session_request session;
    const char *in, *out, *header;
    int layers; // 0: all
};

enum kind { KIND_UNKNOWN, KIND_WEIGHTS, KIND_SAFETENSORS };

static bool ends_with(const char *path, const char *suffix)
{
    size_t length = strlen(path), end = strlen(suffix);
    return length > end && strcmp(path + length - end, suffix) == 0;
}

static enum kind kind_of(const char *path)
{
    return ends_with(path, ".weights") ? KIND_WEIGHTS : ends_with(path, ".safetensors") ? KIND_SAFETENSORS : KIND_UNKNOWN;
}

static int complain(const char *message, int status)
{
    fprintf(stderr, "mlsnet convert: %s\n", message);
    return status;
}

// The header of a .weights file to be written: as asked for, as the weights came with, or the version that evaluates as the
// network does.
static void choose_header(const struct options *o, const struct network *network, struct darknet_header *header)
{
    uint64_t seen = header->seen;
    if (o->header)
        darknet_header_from_text(o->header, header);
    else if (!header->known)
        darknet_header_from_text(network->batch_norm_epsilon == BATCH_NORM_EPSILON_DEVIATION ? "0.2.0" : "0.2.5", header);
    header->seen = seen;
}

static int run(const struct options *o, struct session *session)
{
    struct error error;
    struct darknet_header header;
    struct network *network = session->network;
    int layers = session_first_layers(session, o->layers, &error);
    if (layers < 0) return complain(error.message, 2);
    if (!checkpoint_load_first_layers(o->in, network, layers, &header, &error)) return complain(error.message, 1);
    bool weights = kind_of(o->out) == KIND_WEIGHTS;
    if (weights) choose_header(o, network, &header);
    if (o->layers) header.seen = 0; // a training that begins with a part begins anew, as with Darknet's `partial`
    bool good = weights ? darknet_weights_write(o->out, network, layers, &header, &error)
                        : checkpoint_save_weights(o->out, network, session->cfg_text, &header, &error);
    return good ? 0 : complain(error.message, 1);
}

int command_convert(int argc, char **argv)
{
    struct options o = {.session = SESSION_REQUEST_DEFAULTS};
    const struct argument table[] = {
        {"IN", ARGUMENT_POSITIONAL, &o.in, "a .weights or .safetensors file; its content tells which"},
        {"OUT", ARGUMENT_POSITIONAL, &o.out, "the file to write; its suffix tells which kind"},
        {"--cfg", ARGUMENT_TEXT, &o.session.cfg_path, "the network's cfg file (required)"},
        {"--set", ARGUMENT_LIST, &o.session.set, "KEY=VALUE or SECTION.KEY=VALUE: change an option; may be repeated"},
        {"--layers", ARGUMENT_INT, &o.layers, "the first N layers alone: IN may hold only these; a .weights OUT gets only these, in .safetensors the others are as initialized"},
        {"--header", ARGUMENT_TEXT, &o.header, "version of a .weights file: 0.1, 0.2.0, 0.2.5 (default: IN's; else 0.2.5, or 0.2.0 with batch_norm_epsilon=deviation)"},
        {0},
    };
    enum arguments_result result = arguments_parse(argc, argv, "IN OUT --cfg CFG [options]", table);
    if (result != ARGUMENTS_GO_ON) return (int)result;
    struct darknet_header header;
    if (!o.session.cfg_path) return complain("--cfg is missing: a .weights file can be read only with its cfg", 2);
    if (kind_of(o.out) == KIND_UNKNOWN) return complain("OUT: expected a name that ends in .weights or .safetensors", 2);
    if (o.header && !darknet_header_from_text(o.header, &header)) return complain("--header: expected a version as 0.2.0", 2);
    struct session session;
    o.session.max_images = 1;
    o.session.threads = 1;
    int status = session_open(&session, &o.session);
    if (status == 0) status = run(&o, &session);
    session_close(&session);
    return status;
}
