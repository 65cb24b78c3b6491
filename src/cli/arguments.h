// Command-line arguments from a table, which also gives --help.
#ifndef CLI_ARGUMENTS_H
#define CLI_ARGUMENTS_H

#include <stdbool.h>

enum argument_type { ARGUMENT_FLAG, ARGUMENT_INT, ARGUMENT_FLOAT, ARGUMENT_TEXT, ARGUMENT_LIST, ARGUMENT_POSITIONAL };

#define MOST_LIST 256

struct argument_list {
    int count;
    const char *items[MOST_LIST];
};

// FLAG: bool, INT: int, FLOAT: double, TEXT and POSITIONAL: const char *, LIST: struct argument_list (may be repeated;
// a LIST whose name has no dashes takes all further positional arguments). Defaults are what the destination holds.
struct argument {
    const char *name; // "--threads", or "CFG" for a positional one; NULL ends a table
    enum argument_type type;
    void *destination;
    const char *help; // with the default
};

enum arguments_result { ARGUMENTS_GO_ON = -1, ARGUMENTS_HELP = 0, ARGUMENTS_WRONG = 2 };

// GO_ON, or the exit status: help was printed (0), or one line on stderr (2). All POSITIONAL arguments are required.
enum arguments_result arguments_parse(int argc, char **argv, const char *usage, const struct argument *table);

#endif
