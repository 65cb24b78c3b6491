// Options of the cfg sections, declared in tables: one table gives the parser, the error messages and
// the documentation (`mlsnet options`) their facts.
#ifndef NET_OPTIONS_H
#define NET_OPTIONS_H

#include "net/cfg.h"

enum option_type {
    OPTION_INT,        // int
    OPTION_FLOAT,      // float
    OPTION_BOOL,       // int, 0 or 1
    OPTION_STRING,     // char *, malloced
    OPTION_CHOICE,     // int: index in the list of `choices`
    OPTION_INT_LIST,   // struct option_list, `integers`
    OPTION_FLOAT_LIST, // struct option_list, `floats`
    OPTION_IGNORED     // accepted for Darknet's sake and without effect here; help says so. No destination.
};

struct option_list {
    int count;
    int *integers;
    float *floats;
};

#define OPTION_UNSET (-2147483647 - 1) // value of an int, bool or choice whose default is NULL and that is not given
// (a float without default and value: NAN; a string: NULL; a list: count 0)

struct option_description {
    const char *name;         // NULL ends a table
    enum option_type type;
    size_t offset;            // of the destination in the settings structure
    double minimum, maximum;  // inclusive, for numbers and each number of a list (both 0: no bounds)
    const char *default_text; // as it would stand in a file; NULL: unset
    const char *choices;      // "none n c nc"
    const char *help;         // one line
};

// Fills `settings` (zeroed by the caller) from one section, which may be NULL (all defaults). Marks options
// as used. Values that do not fit and out-of-range numbers go to diagnostics. Returns false if any did.
bool options_read(const struct option_description *table, struct cfg_section *section, void *settings,
                  struct diagnostics *diagnostics);
// Frees the strings and lists in `settings`.
void options_release(const struct option_description *table, void *settings);

// Reports every option of the section not yet used, with the nearest name from the tables given
// (a NULL-terminated array of tables).
void options_report_unknown(const struct cfg_section *section, const struct option_description *const *tables,
                            struct diagnostics *diagnostics);

// The candidate with the smallest edit distance to `name`, or NULL if none is near (more than 1/2 of
// its letters differ).
const char *options_nearest(const char *name, const char *const *candidates, int count);

#endif
