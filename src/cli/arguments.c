#include "cli/arguments.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "net/options.h"

static void print_help(const char *command, const char *usage, const struct argument *table)
{
    printf("usage: mlsnet %s %s\n\n", command, usage);
    for (; table->name; table++) {
        static const char *const values[] = {"", " N", " X", " TEXT", " ...", ""};
        char name[64];
        snprintf(name, sizeof name, "%s%s", table->name, table->name[0] == '-' && table->type == ARGUMENT_LIST ? " TEXT" : values[table->type]);
        printf("  %-26s %s\n", name, table->help);
    }
}

static const struct argument *find(const struct argument *table, const char *name)
{
    for (; table->name; table++)
        if (strcmp(table->name, name) == 0) return table;
    return NULL;
}

// The n-th positional argument, or the list that takes all that are left.
static const struct argument *find_positional(const struct argument *table, int n)
{
    for (; table->name; table++) {
        if (table->name[0] == '-') continue;
        if (table->type == ARGUMENT_LIST || n-- == 0) return table;
    }
    return NULL;
}

static bool store(const struct argument *argument, const char *value)
{
    char *end = NULL;
    errno = 0;
    if (argument->type == ARGUMENT_INT) {
        long number = strtol(value, &end, 10);
        *(int *)argument->destination = (int)number;
        return end != value && *end == 0 && errno == 0 && number >= -2147483647L && number <= 2147483647L;
    }
    if (argument->type == ARGUMENT_FLOAT) {
        *(double *)argument->destination = strtod(value, &end);
        return end != value && *end == 0 && errno == 0;
    }
    if (argument->type != ARGUMENT_LIST) {
        *(const char **)argument->destination = value;
        return true;
    }
    struct argument_list *list = argument->destination;
    if (list->count == MOST_LIST) return false;
    list->items[list->count++] = value;
    return true;
}

static enum arguments_result wrong(const char *command, const char *text, const char *name)
{
    fprintf(stderr, "mlsnet %s: %s %s; see mlsnet %s --help\n", command, text, name, command);
    return ARGUMENTS_WRONG;
}

static enum arguments_result unknown(const char *command, const struct argument *table, const char *name)
{
    const char *names[64], *nearest;
    int count = 0;
    for (; table->name && count < 64; table++) names[count++] = table->name;
    nearest = options_nearest(name, names, count);
    fprintf(stderr, "mlsnet %s: unknown option %s%s%s; see mlsnet %s --help\n", command, name, nearest ? "; did you mean " : "",
            nearest ? nearest : "", command);
    return ARGUMENTS_WRONG;
}

enum arguments_result arguments_parse(int argc, char **argv, const char *usage, const struct argument *table)
{
    const char *command = argv[0];
    int positionals = 0;
    bool only_positionals = false;
    for (int i = 1; i < argc; i++) {
        const char *text = argv[i];
        if (!only_positionals && (strcmp(text, "--help") == 0 || strcmp(text, "-h") == 0)) {
            print_help(command, usage, table);
            return ARGUMENTS_HELP;
        }
        if (!only_positionals && strcmp(text, "--") == 0) {
            only_positionals = true;
            continue;
        }
        bool option = !only_positionals && text[0] == '-' && text[1] == '-';
        char name[64];
        size_t length = strcspn(text, "=");
        const char *value = option && text[length] == '=' && length < sizeof name ? text + length + 1 : NULL;
        snprintf(name, sizeof name, "%.*s", option ? (int)(length < 63 ? length : 63) : 63, text);
        const struct argument *argument = option ? find(table, name) : find_positional(table, positionals++);
        if (!argument) return option ? unknown(command, table, name) : wrong(command, "one argument too many:", text);
        if (argument->type == ARGUMENT_FLAG) {
            if (value) return wrong(command, "takes no value:", name);
            *(bool *)argument->destination = true;
            continue;
        }
        if (!option) value = text;
        if (!value && ++i == argc) return wrong(command, "a value is missing behind", name);
        if (!value) value = argv[i];
        if (!store(argument, value)) return wrong(command, "not a number, out of range, or given too often:", text);
    }
    for (const struct argument *a = table; a->name; a++)
        if (a->type == ARGUMENT_POSITIONAL && !*(const char **)a->destination) return wrong(command, "an argument is missing:", a->name);
    return ARGUMENTS_GO_ON;
}
