// mlsnet energy: operations of a training step and of inference, and their energy by a table of prices.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "cli/command.h"
#include "cli/energy_prices.h"
#include "cli/energy_report.h"
#include "cli/session.h"
#include "mls/presets.h"
#include "net/operations.h"

struct options {
    struct session_request session;
    const char *table, *formats, *against;
    bool memory, json, csv;
};

static int fail(const char *text)
{
    fprintf(stderr, "mlsnet energy: %s\n", text);
    return 1;
}

static bool count(const struct session *session, const struct arithmetic *instead, struct energy_run *run)
{
    int images = session->network->settings.batch;
    run->training = (struct operations){.images = images, .training = true, .instead = instead};
    run->inference = (struct operations){.images = images, .instead = instead};
    return network_operations(session->network, &session->training, &run->training) &&
           network_operations(session->network, &session->training, &run->inference);
}

// A format by its name in cfg files (mls/presets.h); true if there is none of the name.
static bool add_preset(struct energy_report *report, const struct session *session, const char *name, bool *known)
{
    struct mls_format formats[3];
    *known = strcmp(name, "mls") != 0;
    for (int k = 0; k < 3; k++) *known = mls_preset(name, (enum mls_operand)k, &formats[k]) && *known;
    if (!*known) return true;
    struct energy_run *run = &report->against[report->against_count++];
    snprintf(run->preset, sizeof run->preset, "%s", name);
    run->name = run->preset;
    run->help = "format=, for all operands";
    run->arithmetic = arithmetic_of_formats(formats);
    return count(session, &run->arithmetic, run) || fail("out of memory") == 0;
}

// One name of the list, or all names of the table for "all".
static bool add_against(struct energy_report *report, const struct session *session, const struct energy_table *table, const char *name)
{
    bool all = strcmp(name, "all") == 0;
    for (int i = 0; i < table->format_count; i++) {
        const struct energy_format *format = &table->formats[i];
        if (!all && strcmp(format->name, name) != 0) continue;
        struct energy_run *run = &report->against[report->against_count++];
        run->name = format->name;
        run->help = format->help;
        if (!count(session, &format->arithmetic, run)) return fail("out of memory") == 0;
        if (!all) return true;
    }
    bool known;
    if (all || !add_preset(report, session, name, &known)) return all;
    if (known) return true;
    fprintf(stderr, "mlsnet energy: --against %s: no such format; expected all, or some of", name);
    for (int i = 0; i < table->format_count; i++) fprintf(stderr, "%s %s", i ? "," : "", table->formats[i].name);
    fputs(", or a name of the cfg option format: fixed8, bfp4, mxfp4, ...\n", stderr);
    return false;
}

static bool add_all_against(struct energy_report *report, const struct session *session, const struct energy_table *table, const char *list)
{
    size_t names = 1;
    for (const char *p = list; *p; p++) names += *p == ',';
    report->against = memory_allocate(names * (size_t)(table->format_count + 1), sizeof *report->against, NULL);
    char *copy = strdup(list), *rest = copy, *name;
    bool good = report->against && copy;
    while (good && (name = strsep(&rest, ",")))
        if (*name) good = add_against(report, session, table, name);
    free(copy);
    return good;
}

static void release(struct energy_report *report)
{
    for (int i = -1; i < report->against_count; i++) {
        struct energy_run *run = i < 0 ? &report->own : &report->against[i];
        operations_release(&run->training);
        operations_release(&run->inference);
    }
    memory_release(report->against);
}

static int run(const struct options *options, const struct session *session, const struct energy_table *table)
{
    struct energy_report report = {.network = session->network, .table_path = options->table, .prices = &table->prices,
                                   .images = session->network->settings.batch, .memory = options->memory, .own = {.name = "this cfg"}};
    bool good = count(session, NULL, &report.own) || fail("out of memory") == 0;
    good = good && add_all_against(&report, session, table, options->against);
    if (good) options->json ? energy_print_json(&report) : options->csv ? energy_print_csv(&report) : energy_print_text(&report);
    release(&report);
    return good ? 0 : 2;
}

int command_energy(int argc, char **argv)
{
    struct options options = {.session = SESSION_REQUEST_DEFAULTS, .against = "fp32,fp8"};
    const struct argument table[] = {
        SESSION_ARGUMENTS(options.session),
        {"--table", ARGUMENT_TEXT, &options.table, "prices (default: " DEFAULT_ENERGY_TABLE ")"},
        {"--formats", ARGUMENT_TEXT, &options.formats, "formats to compare with (default: " DEFAULT_ENERGY_FORMATS ")"},
        {"--against", ARGUMENT_TEXT, &options.against,
         "formats to compare with, of the file or as the cfg option format, or all of the file (default: fp32,fp8)"},
        {"--memory", ARGUMENT_FLAG, &options.memory, "memory traffic too"},
        {"--json", ARGUMENT_FLAG, &options.json, "print as JSON, with the units of every operation"},
        {"--csv", ARGUMENT_FLAG, &options.csv, "print a row for each layer, pass and kind"}, {0}};
    enum arguments_result result = arguments_parse(argc, argv, "CFG [options]", table);
    if (result != ARGUMENTS_GO_ON) return (int)result;
    char buffer[1024];
    if (!options.table) options.table = own_file(DEFAULT_ENERGY_TABLE, buffer, sizeof buffer);
    struct energy_table *prices = energy_prices_open(options.table, options.formats);
    if (!prices) return 2;
    struct session session;
    options.session.max_images = 1; // nothing is computed
    int status = session_open(&session, &options.session);
    if (status == 0) status = run(&options, &session, prices);
    session_close(&session);
    energy_table_release(prices);
    return status;
}
