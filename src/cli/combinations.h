// --over KEY=V1,V2,...: the values that an option takes in turn, and all combinations of them.
#ifndef CLI_COMBINATIONS_H
#define CLI_COMBINATIONS_H

#include "cli/arguments.h"
#include "net/cfg.h"

#define MOST_COMBINATIONS 4096

struct over {
    char *key; // as for --set: KEY, SECTION.KEY or INDEX.KEY
    int value_count;
    char **assignments; // "KEY=VALUE", as cfg_set takes it
};

struct combinations {
    int key_count;
    struct over *keys;
    int count; // product of the numbers of values; 1 without any key
};

// Whether the key is an option of the number format, which fp32 does not read (net/mls_options.h).
bool over_is_of_format(const struct over *over);

// A row for a command's table.
#define OVER_ARGUMENT(list) \
    {"--over", ARGUMENT_LIST, &(list), "KEY=V1,V2,...: these values of an option (KEY as for --set), in all combinations; may be repeated"}

// false with one line that begins with --over: no KEY=, an empty value, one that would break a table, a key or a value given twice, too many combinations.
// Whether the keys exist is known when they are applied to a cfg. Released in any case.
bool combinations_parse(const struct argument_list *over, struct combinations *combinations, struct error *error);
void combinations_release(struct combinations *combinations);

// What combination `index` (0 to count - 1) sets key `key` to, as "KEY=VALUE". The last key changes fastest.
const char *combination_assignment(const struct combinations *combinations, int index, int key);
// All assignments, with a space between.
void combination_name(const struct combinations *combinations, int index, char *text, size_t size);
// Sets them in the cfg, in the order of the command line. false: an unknown key, as one line that begins with --over.
bool combination_apply(const struct combinations *combinations, int index, struct cfg *cfg, struct error *error);

#endif
