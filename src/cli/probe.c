// mlsnet probe: how good the weight gradient is in a number format, against fp32's, without training.
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "cli/combinations.h"
#include "cli/command.h"
#include "cli/probe_report.h"
#include "cli/session.h"
#include "train/checkpoint.h"

struct options {
    struct session_request session;
    const char *checkpoint, *operands, *csv;
    struct argument_list over;
    int batches, seeds;
    bool layers, json;
};

struct operand_set {
    const char *name;
    unsigned plain; // the operands that stay in fp32
};
static const struct operand_set operand_sets[] = {
    {"all", 0},
    {"weights", MLS_ALL_OPERANDS & ~(1u << MLS_WEIGHT)},
    {"activations", MLS_ALL_OPERANDS & ~(1u << MLS_ACTIVATION)},
    {"errors", MLS_ALL_OPERANDS & ~(1u << MLS_ERROR)},
};
#define OPERAND_SETS ((int)(sizeof operand_sets / sizeof operand_sets[0]))

struct probing {
    const struct options *options;
    struct session session;            // its network is the fp32 one
    struct combinations combinations;
    const struct operand_set *sets[OPERAND_SETS]; // asked for
    int set_count;
    bool *counted;                     // [layers]
    struct probe_report report;
};

static int fail(const char *text, int status)
{
    fprintf(stderr, "mlsnet probe: %s\n", text);
    return status;
}

// ---------------------------------------------------------------------------------------------
// Arguments

static bool read_operands(struct probing *p, struct error *error)
{
    for (const char *name = p->options->operands; *name; name += *name == ',') {
        size_t length = strcspn(name, ",");
        const struct operand_set *found = NULL;
        for (int i = 0; i < OPERAND_SETS; i++)
            if (strlen(operand_sets[i].name) == length && strncmp(operand_sets[i].name, name, length) == 0) found = &operand_sets[i];
        bool twice = false;
        for (int i = 0; i < p->set_count; i++) twice |= p->sets[i] == found;
        if (!found || twice)
            return error_set(error, "--operand %s: expected some of all, weights, activations, errors, each once, with commas between",
                             p->options->operands);
        p->sets[p->set_count++] = found;
        name += length;
    }
    return p->set_count > 0 || error_set(error, "--operand: expected some of all, weights, activations, errors");
}

// Anything but the number format would change what fp32 does, too.
static bool check_keys(const struct combinations *combinations, struct error *error)
{
    for (int k = 0; k < combinations->key_count; k++) {
        if (over_is_of_format(&combinations->keys[k])) continue;
        return error_set(error, "--over %s: not an option of the number format (mls, mantissa, group_size, ...): use --set",
                         combinations->keys[k].key);
    }
    return true;
}

// ---------------------------------------------------------------------------------------------
// Settings

struct setting {
    struct cfg *cfg;
    struct network *network;
};

static void setting_close(struct setting *setting)
{
    network_destroy(setting->network);
    cfg_release(setting->cfg);
    *setting = (struct setting){0};
}

// 0, or the exit status after messages on stderr.
static int setting_open(const struct probing *p, int combination, const struct network_request *request, struct setting *setting)
{
    const struct options *o = p->options;
    struct error error;
    struct diagnostics diagnostics = {.path = o->session.cfg_path};
    *setting = (struct setting){.cfg = session_read_cfg(&o->session)};
    if (!setting->cfg) return 2;
    if (!combination_apply(&p->combinations, combination, setting->cfg, &error)) return fail(error.message, 2);
    setting->network = network_create(setting->cfg, request, p->session.pool, &diagnostics);
    if (setting->network) return 0;
    char name[256];
    combination_name(&p->combinations, combination, name, sizeof name);
    fprintf(stderr, "mlsnet probe: %s\n%s", name, diagnostics.text ? diagnostics.text : "out of memory\n");
    diagnostics_release(&diagnostics);
    return 2;
}

// All settings can be made; the layers that are low-bit in any of them count in the figures of the network, or else all.
static int check_settings(struct probing *p)
{
    const struct network *network = p->session.network;
    int low_bit = 0;
    for (int i = 0; i < p->combinations.count; i++) {
        struct setting setting;
        int status = setting_open(p, i, &(struct network_request){.max_images = 1, .kernel = p->options->session.kernel}, &setting);
        for (int k = 0; status == 0 && k < network->layer_count; k++) {
            low_bit += setting.network->layers[k]->low_bit && !p->counted[k];
            p->counted[k] |= setting.network->layers[k]->low_bit;
        }
        setting_close(&setting);
        if (status) return status;
    }
    p->report.low_bit = low_bit > 0;
    for (int k = 0; k < network->layer_count; k++) p->counted[k] |= low_bit == 0;
    return 0;
}

static int measure(struct probing *p, const struct gradient_probe *probe, int combination, const struct operand_set *set)
{
    struct error error;
    struct setting setting;
    const struct network_request request = {.for_training = true, .kernel = p->options->session.kernel, .plain_operands = set->plain};
    struct probed *probed = &p->report.settings[p->report.count];
    probed->operand = set->name;
    if (p->combinations.key_count)
        combination_name(&p->combinations, combination, probed->setting, sizeof probed->setting);
    else
        snprintf(probed->setting, sizeof probed->setting, "the cfg's");
    int status = setting_open(p, combination, &request, &setting);
    if (status == 0 && (!checkpoint_load(p->options->checkpoint, setting.network, NULL, &error) ||
                        !gradient_probe_measure(probe, setting.network, p->options->seeds, &probed->result, &error)))
        status = fail(error.message, 1);
    setting_close(&setting);
    p->report.count += status == 0;
    return status;
}

// ---------------------------------------------------------------------------------------------
// The command

static int measure_all(struct probing *p, struct loader *loader)
{
    struct error error;
    struct session *s = &p->session;
    if (!checkpoint_load(p->options->checkpoint, s->network, NULL, &error)) return fail(error.message, 1);
    struct gradient_probe *probe = gradient_probe_create(s->network, &s->training, loader, p->options->batches, p->counted, &error);
    if (!probe) return fail(error.message, 1);
    int status = 0;
    for (int i = 0; status == 0 && i < p->combinations.count; i++)
        for (int k = 0; status == 0 && k < p->set_count; k++) status = measure(p, probe, i, p->sets[k]);
    gradient_probe_destroy(probe);
    return status;
}

static int report(struct probing *p)
{
    struct probe_report *r = &p->report;
    const struct options *o = p->options;
    r->cfg_path = o->session.cfg_path;
    r->checkpoint = o->checkpoint;
    r->images = p->session.network->settings.batch;
    r->batches = o->batches;
    r->seeds = o->seeds;
    r->layers = o->layers || r->count == 1;
    for (int i = 0; i < r->settings[0].result.count; i++) r->counted += r->settings[0].result.rows[i].counted;
    o->json ? probe_print_json(r) : probe_print_text(r);
    FILE *file = o->csv ? fopen(o->csv, "w") : NULL;
    if (!o->csv) return 0;
    if (file) probe_write_csv(r, file);
    bool bad = !file || ferror(file);
    if (file && fclose(file) != 0) bad = true;
    if (bad) fprintf(stderr, "mlsnet probe: %s: cannot write: %s\n", o->csv, strerror(errno));
    return bad;
}

static int run(struct probing *p)
{
    struct error error;
    struct session *s = &p->session;
    struct loader *loader = NULL;
    p->counted = memory_allocate((size_t)s->network->layer_count, sizeof *p->counted, &error);
    p->report.settings = memory_allocate((size_t)p->combinations.count * (size_t)p->set_count, sizeof *p->report.settings, &error);
    if (!p->counted || !p->report.settings) return fail(error.message, 1);
    int status = check_settings(p);
    if (status) return status;
    const struct loader_request request = {.dataset = s->dataset, .training = true, .batch = s->network->settings.batch,
                                           .seed = (uint64_t)s->training.seed};
    if (!loader_create(&request, &loader, &error)) return fail(error.message, 1);
    status = measure_all(p, loader);
    loader_destroy(loader);
    return status ? status : report(p);
}

static void release(struct probing *p)
{
    for (int i = 0; i < p->report.count; i++) memory_release(p->report.settings[i].result.rows);
    memory_release(p->report.settings);
    memory_release(p->counted);
    combinations_release(&p->combinations);
    session_close(&p->session);
}

int command_probe(int argc, char **argv)
{
    struct options o = {.session = SESSION_REQUEST_DEFAULTS, .operands = "all", .batches = 4, .seeds = 4};
    const struct argument table[] = {
        SESSION_ARGUMENTS(o.session),
        {"CHECKPOINT", ARGUMENT_POSITIONAL, &o.checkpoint, "a .safetensors file of the network: the weights"},
        OVER_ARGUMENT(o.over),
        {"--operand", ARGUMENT_TEXT, &o.operands, "what is quantized, the rest in fp32: all, weights, activations, errors; some of them with commas"
         " (default: all)"},
        {"--batches", ARGUMENT_INT, &o.batches, "batches of training pictures (default: 4)"},
        {"--seeds", ARGUMENT_INT, &o.seeds, "rounding seeds for each batch; bias and noise need 2 (default: 4)"},
        {"--layers", ARGUMENT_FLAG, &o.layers, "print a table of layers for each setting (default: if there is but one)"},
        {"--csv", ARGUMENT_TEXT, &o.csv, "write all figures to this CSV file (default: do not)"},
        {"--json", ARGUMENT_FLAG, &o.json, "print as JSON"},
        {0},
    };
    enum arguments_result result = arguments_parse(argc, argv, "CFG CHECKPOINT [--over KEY=V1,V2,...] [options]", table);
    if (result != ARGUMENTS_GO_ON) return (int)result;
    struct error error;
    struct probing p = {.options = &o};
    if (o.batches < 1 || o.batches > 10000 || o.seeds < 1 || o.seeds > 10000) {
        error_set(&error, "--batches %d --seeds %d: expected 1 to 10000", o.batches, o.seeds);
        return fail(error.message, 2);
    }
    o.session.needs_data = o.session.for_training = o.session.without_test = true;
    o.session.plain_operands = MLS_ALL_OPERANDS;
    int status = 2;
    if (!read_operands(&p, &error) || !combinations_parse(&o.over, &p.combinations, &error) || !check_keys(&p.combinations, &error))
        fail(error.message, 2);
    else
        status = session_open(&p.session, &o.session);
    if (status == 0) status = run(&p);
    release(&p);
    return status;
}
