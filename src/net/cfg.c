#include "net/cfg.h"

#include <ctype.h>
#include <stdarg.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "net/layer.h"
#include "net/network.h"

#define LARGEST_FILE (16u << 20)

// ---------------------------------------------------------------------------------------------
// Diagnostics

void diagnostics_add(struct diagnostics *diagnostics, int line, const char *section, const char *format, ...)
{
    char text[1024], place[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    const char *path = diagnostics->path ? diagnostics->path : "cfg";
    if (line > 0)
        snprintf(place, sizeof place, "%s:%d:", path, line);
    else
        snprintf(place, sizeof place, "%s: --set:", path);
    size_t old = diagnostics->text ? strlen(diagnostics->text) : 0;
    size_t size = old + strlen(place) + strlen(text) + (section ? strlen(section) : 0) + 8;
    char *grown = realloc(diagnostics->text, size);
    diagnostics->count++;
    if (!grown) return;
    if (section)
        snprintf(grown + old, size - old, "%s [%s] %s\n", place, section, text);
    else
        snprintf(grown + old, size - old, "%s %s\n", place, text);
    diagnostics->text = grown;
}

void diagnostics_release(struct diagnostics *diagnostics)
{
    free(diagnostics->text);
    diagnostics->text = NULL;
    diagnostics->count = 0;
}

// ---------------------------------------------------------------------------------------------
// Parsing

static char *copy_text(const char *from, size_t length)
{
    char *copy = malloc(length + 1);
    if (!copy) return NULL;
    memcpy(copy, from, length);
    copy[length] = 0;
    return copy;
}

static struct cfg_section *add_section(struct cfg *cfg, const char *name, size_t length, int line)
{
    struct cfg_section *grown = realloc(cfg->sections, ((size_t)cfg->section_count + 1) * sizeof *grown);
    if (!grown) return NULL;
    cfg->sections = grown;
    struct cfg_section *section = &grown[cfg->section_count];
    *section = (struct cfg_section){.name = copy_text(name, length), .line = line};
    if (!section->name) return NULL;
    cfg->section_count++;
    return section;
}

static bool add_option(struct cfg_section *section, const char *key, size_t key_length, const char *value,
                       size_t value_length, int line)
{
    struct cfg_option *grown = realloc(section->options, ((size_t)section->option_count + 1) * sizeof *grown);
    if (!grown) return false;
    section->options = grown;
    struct cfg_option option = {copy_text(key, key_length), copy_text(value, value_length), line, false};
    if (!option.key || !option.value) {
        free(option.key);
        free(option.value);
        return false;
    }
    grown[section->option_count++] = option;
    return true;
}

static void trim(const char **from, size_t *length)
{
    while (*length && isspace((unsigned char)**from)) (*from)++, (*length)--;
    while (*length && isspace((unsigned char)(*from)[*length - 1])) (*length)--;
}

static bool parse_option(struct cfg_section *section, const char *text, size_t length, int line,
                         struct diagnostics *diagnostics)
{
    const char *equals = memchr(text, '=', length);
    if (!section) {
        diagnostics_add(diagnostics, line, NULL, "'%.*s' stands before the first section: expected [net]",
                        (int)(length < 60 ? length : 60), text);
        return true;
    }
    if (!equals) {
        diagnostics_add(diagnostics, line, section->name, "'%.*s': expected KEY=VALUE", (int)(length < 60 ? length : 60), text);
        return true;
    }
    const char *key = text, *value = equals + 1;
    size_t key_length = (size_t)(equals - text), value_length = length - key_length - 1;
    trim(&key, &key_length);
    trim(&value, &value_length);
    if (key_length == 0) {
        diagnostics_add(diagnostics, line, section->name, "a key is missing before '='");
        return true;
    }
    for (int i = 0; i < section->option_count; i++)
        if (strlen(section->options[i].key) == key_length && memcmp(section->options[i].key, key, key_length) == 0) {
            diagnostics_add(diagnostics, line, section->name, "%s is given twice: first in line %d", section->options[i].key,
                            section->options[i].line);
            return true;
        }
    return add_option(section, key, key_length, value, value_length, line);
}

// One line without its comment. false only without memory.
static bool parse_line(struct cfg *cfg, const char *text, size_t length, int line, struct diagnostics *diagnostics)
{
    for (size_t i = 0; i < length; i++)
        if (text[i] == '#' || text[i] == ';') length = i;
    trim(&text, &length);
    if (length == 0) return true;
    if (memchr(text, 0, length)) {
        diagnostics_add(diagnostics, line, NULL, "a NUL byte: not a text file?");
        return true;
    }
    if (text[0] != '[') {
        struct cfg_section *section = cfg->section_count ? &cfg->sections[cfg->section_count - 1] : NULL;
        return parse_option(section, text, length, line, diagnostics);
    }
    if (text[length - 1] != ']') {
        diagnostics_add(diagnostics, line, NULL, "'%.*s': expected [section]", (int)(length < 60 ? length : 60), text);
        return true;
    }
    const char *name = text + 1;
    size_t name_length = length - 2;
    trim(&name, &name_length);
    return add_section(cfg, name, name_length, line) != NULL;
}

struct cfg *cfg_parse(const char *path, const char *text, size_t length, struct diagnostics *diagnostics)
{
    int before = diagnostics->count;
    struct cfg *cfg = calloc(1, sizeof *cfg);
    bool memory = cfg && (cfg->path = copy_text(path, strlen(path)));
    if (length >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0) text += 3, length -= 3;
    int line = 0;
    while (memory && length > 0) {
        const char *newline = memchr(text, '\n', length);
        size_t line_length = newline ? (size_t)(newline - text) : length;
        memory = parse_line(cfg, text, line_length, ++line, diagnostics);
        size_t taken = line_length + (newline ? 1 : 0);
        text += taken;
        length -= taken;
    }
    if (!memory) diagnostics_add(diagnostics, 1, NULL, "out of memory");
    if (diagnostics->count == before) return cfg;
    cfg_release(cfg);
    return NULL;
}

struct cfg *cfg_read(const char *path, struct diagnostics *diagnostics)
{
    diagnostics->path = path;
    FILE *file = fopen(path, "rb");
    char *text = file ? malloc(LARGEST_FILE + 1) : NULL;
    size_t length = text ? fread(text, 1, LARGEST_FILE + 1, file) : 0;
    struct cfg *cfg = NULL;
    if (!file)
        diagnostics_add(diagnostics, 1, NULL, "cannot open the file for reading: %s", strerror(errno));
    else if (!text)
        diagnostics_add(diagnostics, 1, NULL, "out of memory");
    else if (ferror(file))
        diagnostics_add(diagnostics, 1, NULL, "cannot read: not a file?");
    else if (length > LARGEST_FILE)
        diagnostics_add(diagnostics, 1, NULL, "larger than %u bytes: not a cfg", LARGEST_FILE);
    else
        cfg = cfg_parse(path, text, length, diagnostics);
    free(text);
    if (file) fclose(file);
    return cfg;
}

void cfg_release(struct cfg *cfg)
{
    if (!cfg) return;
    for (int i = 0; i < cfg->section_count; i++) {
        for (int j = 0; j < cfg->sections[i].option_count; j++) {
            free(cfg->sections[i].options[j].key);
            free(cfg->sections[i].options[j].value);
        }
        free(cfg->sections[i].options);
        free(cfg->sections[i].name);
    }
    free(cfg->sections);
    free(cfg->path);
    free(cfg);
}

struct cfg_section *cfg_find_section(const struct cfg *cfg, const char *name)
{
    for (int i = 0; i < cfg->section_count; i++)
        if (strcmp(cfg->sections[i].name, name) == 0) return &cfg->sections[i];
    return NULL;
}

struct cfg_section *cfg_find_net(const struct cfg *cfg)
{
    struct cfg_section *section = cfg_find_section(cfg, "net");
    return section ? section : cfg_find_section(cfg, "network");
}

const struct cfg_option *cfg_find_option(const struct cfg_section *section, const char *key)
{
    for (int i = 0; i < section->option_count; i++)
        if (strcmp(section->options[i].key, key) == 0) return &section->options[i];
    return NULL;
}

void cfg_remove_option(struct cfg_section *section, const struct cfg_option *option)
{
    size_t at = (size_t)(option - section->options), last = (size_t)--section->option_count;
    free(section->options[at].key);
    free(section->options[at].value);
    memmove(&section->options[at], &section->options[at + 1], (last - at) * sizeof *section->options);
}

// ---------------------------------------------------------------------------------------------
// --set

static bool set_option(struct cfg_section *section, const char *key, const char *value)
{
    mls_settings_make_way(section, key, value);
    for (int i = 0; i < section->option_count; i++) {
        if (strcmp(section->options[i].key, key) != 0) continue;
        char *copy = copy_text(value, strlen(value));
        if (!copy) return false;
        free(section->options[i].value);
        section->options[i].value = copy;
        section->options[i].line = 0;
        return true;
    }
    return add_option(section, key, strlen(key), value, strlen(value), 0);
}

static bool table_has(const struct option_description *table, const char *key)
{
    for (; table->name; table++)
        if (strcmp(table->name, key) == 0) return true;
    return false;
}

static const struct option_description *const bare_tables[] = {net_option_table, mls_option_table, training_option_table,
                                                               data_option_table};

static bool set_in_data(struct cfg *cfg, const char *key, const char *value, struct error *error)
{
    struct cfg_section *section = cfg_find_section(cfg, "data");
    if (!section) section = add_section(cfg, "data", 4, 0);
    return (section && set_option(section, key, value)) || error_set(error, "out of memory");
}

static bool set_bare(struct cfg *cfg, const char *key, const char *value, struct error *error)
{
    bool in_data = table_has(data_option_table, key), in_net = false;
    for (int i = 0; i < 3; i++) in_net = in_net || table_has(bare_tables[i], key);
    if (in_data && (!in_net || cfg_find_section(cfg, "data"))) return set_in_data(cfg, key, value, error);
    if (in_net) {
        struct cfg_section *section = cfg_find_net(cfg);
        if (!section) return error_set(error, "--set %s: the cfg has no [net] section", key);
        return set_option(section, key, value) || error_set(error, "out of memory");
    }
    const char *names[256];
    int count = 0;
    for (int i = 0; i < 4; i++)
        for (const struct option_description *row = bare_tables[i]; row->name && count < 256; row++) names[count++] = row->name;
    const char *nearest = options_nearest(key, names, count);
    return error_set(error, "--set %s: not an option of [net] or [data]%s%s%s; for one of a layer write SECTION.%s=...", key,
                     nearest ? "; did you mean " : "", nearest ? nearest : "", nearest ? "?" : "", key);
}

static bool same_section(const char *name, const char *wanted)
{
    if (strcmp(name, wanted) == 0) return true;
    if (strcmp(name, "net") == 0 || strcmp(name, "network") == 0)
        return strcmp(wanted, "net") == 0 || strcmp(wanted, "network") == 0;
    const struct layer_type *type = layer_type_find(name);
    return type && type == layer_type_find(wanted);
}

static bool set_in_sections(struct cfg *cfg, const char *wanted, const char *key, const char *value, struct error *error)
{
    char *end;
    long index = strtol(wanted, &end, 10);
    bool by_index = *wanted && *end == 0;
    int layer = 0, changed = 0;
    for (int i = 0; i < cfg->section_count; i++) {
        struct cfg_section *section = &cfg->sections[i];
        bool is_layer = !same_section(section->name, "net") && strcmp(section->name, "data") != 0;
        bool matches = by_index ? is_layer && layer == index : same_section(section->name, wanted);
        if (is_layer) layer++;
        if (!matches) continue;
        if (!set_option(section, key, value)) return error_set(error, "out of memory");
        changed++;
    }
    if (changed) return true;
    if (by_index) return error_set(error, "--set %s.%s: the cfg has layers 0 to %d", wanted, key, layer - 1);
    return error_set(error, "--set %s.%s: the cfg has no section [%s]", wanted, key, wanted);
}

bool cfg_set(struct cfg *cfg, const char *assignment, struct error *error)
{
    char text[512];
    const char *equals = strchr(assignment, '=');
    if (!equals || equals == assignment || strlen(assignment) >= sizeof text)
        return error_set(error, "--set %.100s: expected KEY=VALUE or SECTION.KEY=VALUE", assignment);
    snprintf(text, sizeof text, "%s", assignment);
    char *value = text + (equals - assignment);
    *value++ = 0;
    char *dot = strchr(text, '.');
    if (!dot) return set_bare(cfg, text, value, error);
    *dot = 0;
    return set_in_sections(cfg, text, dot + 1, value, error);
}

char *cfg_to_text(const struct cfg *cfg)
{
    size_t size = 1;
    for (int i = 0; i < cfg->section_count; i++) {
        size += strlen(cfg->sections[i].name) + 5;
        for (int j = 0; j < cfg->sections[i].option_count; j++)
            size += strlen(cfg->sections[i].options[j].key) + strlen(cfg->sections[i].options[j].value) + 3;
    }
    char *text = malloc(size), *to = text;
    if (!text) return NULL;
    *to = 0;
    for (int i = 0; i < cfg->section_count; i++) {
        to += sprintf(to, "%s[%s]\n", i ? "\n" : "", cfg->sections[i].name);
        for (int j = 0; j < cfg->sections[i].option_count; j++)
            to += sprintf(to, "%s=%s\n", cfg->sections[i].options[j].key, cfg->sections[i].options[j].value);
    }
    return text;
}
