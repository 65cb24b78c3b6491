// Cfg files in Darknet's syntax: sections in brackets, KEY=VALUE lines, comments from # or ; (also at
// the end of a line), CRLF. This file reads text into sections and knows no option by name; options.h
// gives the options their types and finds the unknown ones.
#ifndef NET_CFG_H
#define NET_CFG_H

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"

struct cfg_option {
    char *key, *value;
    int line;  // 0: given on the command line with --set
    bool used; // set by options_read; what is still unused at the end is an error
};

struct cfg_section {
    char *name; // as written, without brackets
    int line;
    int option_count;
    struct cfg_option *options;
};

struct cfg {
    char *path;
    int section_count;
    struct cfg_section *sections;
};

// Messages about one file, collected so that all are shown in one go: "PATH:LINE: [section] text".
struct diagnostics {
    const char *path;
    int count;
    char *text; // one line each, ends with a newline; NULL while count is 0
};
__attribute__((format(printf, 4, 5)))
void diagnostics_add(struct diagnostics *diagnostics, int line, const char *section, const char *format, ...);
void diagnostics_release(struct diagnostics *diagnostics);

// Reads a file, or text already in memory (`path` is then only a name for messages). Syntax errors
// and duplicate keys go to `diagnostics`; NULL when nothing could be read or on syntax errors.
struct cfg *cfg_read(const char *path, struct diagnostics *diagnostics);
struct cfg *cfg_parse(const char *path, const char *text, size_t length, struct diagnostics *diagnostics);
void cfg_release(struct cfg *cfg);

// One --set argument: "KEY=VALUE", "SECTION.KEY=VALUE" (every section of that name, canonical or alias) or
// "INDEX.KEY=VALUE" (the layer of that index, counted as `summary` prints them: the first section after
// [net] and [data] is 0). A bare KEY goes to the one of [net] and [data] whose option table has it, to [data] if both have it
// and there is such a section; it is refused with the nearest known names if none has. Replaces or adds the option, and
// [data] if the cfg lacks it. A format takes the place of the file's options that it decides (net/mls_options.h).
bool cfg_set(struct cfg *cfg, const char *assignment, struct error *error);

// The cfg as text, with what --set changed (for config.cfg of a run): allocated with malloc.
char *cfg_to_text(const struct cfg *cfg);

// First section with this name (case-sensitive), or NULL.
struct cfg_section *cfg_find_section(const struct cfg *cfg, const char *name);
struct cfg_section *cfg_find_net(const struct cfg *cfg); // [net], or by its other name [network]
const struct cfg_option *cfg_find_option(const struct cfg_section *section, const char *key);
void cfg_remove_option(struct cfg_section *section, const struct cfg_option *option);

#endif
