// mlsnet options: every option of cfg files, from the tables that the parser uses.
#include "net/options.h"

#include <stdio.h>
#include <string.h>

#include "cli/arguments.h"
#include "cli/command.h"
#include "net/network.h"

static void describe_values(const struct option_description *row, char *text, size_t size)
{
    static const char *const types[] = {"integer", "number", "0 or 1", "text", "", "integers", "numbers", "anything"};
    if (row->type == OPTION_CHOICE)
        snprintf(text, size, "%s", row->choices);
    else if ((row->minimum == 0 && row->maximum == 0) || row->type == OPTION_BOOL)
        snprintf(text, size, "%s", types[row->type]);
    else
        snprintf(text, size, "%s, %.6g to %.6g", types[row->type], row->minimum, row->maximum);
}

static void print_table(const struct option_description *table, bool markdown)
{
    for (const struct option_description *row = table; row->name; row++) {
        char values[512];
        if (row->type == OPTION_IGNORED) continue;
        describe_values(row, values, sizeof values);
        const char *otherwise = row->default_text ? row->default_text : "";
        if (markdown)
            printf("| `%s` | %s | %s | %s |\n", row->name, values, otherwise, row->help);
        else
            printf("  %-26s %s (%s%s%s)\n", row->name, row->help, values, *otherwise ? "; default " : "", otherwise);
    }
    bool first = true;
    for (const struct option_description *row = table; row->name; row++) {
        if (row->type != OPTION_IGNORED) continue;
        printf("%s%s", first ? (markdown ? "\nAccepted for Darknet's files, without effect: " : "  accepted for Darknet's files, without effect: ") : ", ", row->name);
        first = false;
    }
    if (!first) puts(markdown ? ".\n" : "");
}

static void print_section(const char *title, const char *help, const struct option_description *const *tables, bool markdown)
{
    printf(markdown ? "\n#### `[%s]`: %s\n\n" : "\n[%s]: %s\n", title, help);
    if (!tables[0]->name && !tables[1]) {
        puts(markdown ? "No options." : "  no options");
        return;
    }
    if (markdown) puts("| option | values | default | what it is |\n| --- | --- | --- | --- |");
    for (int i = 0; tables[i]; i++) print_table(tables[i], markdown);
}

int command_options(int argc, char **argv)
{
    bool markdown = false;
    const struct argument table[] = {{"--markdown", ARGUMENT_FLAG, &markdown, "print as Markdown tables"}, {0}};
    enum arguments_result result = arguments_parse(argc, argv, "[options]", table);
    if (result != ARGUMENTS_GO_ON) return (int)result;
    const struct option_description *const net[] = {training_option_table, net_option_table, NULL};
    const struct option_description *const mls[] = {mls_option_table, NULL}, *const data[] = {data_option_table, NULL};
    print_section("net", "the network's input and its training", net, markdown);
    print_section(markdown ? "convolutional]` and `[net" : "convolutional] and [net", "MLS settings; in [net] they are the defaults of all layers", mls, markdown);
    print_section("data", "the data set", data, markdown);
    for (int i = 0; layer_types[i]; i++) {
        const struct option_description *const options[] = {layer_types[i]->options, NULL};
        print_section(layer_types[i]->name, layer_types[i]->help, options, markdown);
    }
    return 0;
}
