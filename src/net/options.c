#include "net/options.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// ---------------------------------------------------------------------------------------------
// Numbers

static bool parse_number(const char *text, bool integer, double *number)
{
    char *end;
    errno = 0;
    *number = strtod(text, &end);
    while (*end == ' ' || *end == '\t') end++;
    if (end == text || *end != 0 || errno == ERANGE || !isfinite(*number)) return false;
    for (const char *p = text; *p; p++)
        if (*p == 'x' || *p == 'X') return false; // no hexadecimal numbers
    return !integer || (*number == floor(*number) && fabs(*number) <= 2147483647.0);
}

static bool in_range(const struct option_description *row, double number)
{
    return (row->minimum == 0 && row->maximum == 0) || (number >= row->minimum && number <= row->maximum);
}

static void describe_range(const struct option_description *row, bool integer, char *text, size_t size)
{
    const char *kind = integer ? "an integer" : "a number";
    if (row->minimum == 0 && row->maximum == 0)
        snprintf(text, size, "%s", kind);
    else
        snprintf(text, size, "%s from %.10g to %.10g", kind, row->minimum, row->maximum);
}

static bool is_integer(enum option_type type)
{
    return type == OPTION_INT || type == OPTION_INT_LIST || type == OPTION_BOOL;
}

// ---------------------------------------------------------------------------------------------
// One value into the settings. `problem` gets what was expected.

static bool read_number(const struct option_description *row, const char *text, void *to, char *problem, size_t size)
{
    double number;
    if (!parse_number(text, is_integer(row->type), &number) || !in_range(row, number)) {
        describe_range(row, is_integer(row->type), problem, size);
        return false;
    }
    if (row->type == OPTION_INT)
        *(int *)to = (int)number;
    else
        *(float *)to = (float)number;
    return true;
}

static bool read_list(const struct option_description *row, const char *text, struct option_list *list, char *problem,
                      size_t size)
{
    bool integers = row->type == OPTION_INT_LIST;
    size_t most = 1;
    for (const char *p = text; *p; p++) most += *p == ',';
    *list = (struct option_list){0};
    list->integers = integers ? calloc(most, sizeof(int)) : NULL;
    list->floats = integers ? NULL : calloc(most, sizeof(float));
    snprintf(problem, size, "out of memory");
    if (!list->integers && !list->floats) return false;
    while (*text) {
        char item[64];
        size_t length = strcspn(text, ",");
        double number;
        snprintf(item, sizeof item, "%.*s", (int)(length < 63 ? length : 63), text);
        if (length >= 63 || !parse_number(item, integers, &number) || !in_range(row, number)) {
            char range[96];
            describe_range(row, integers, range, sizeof range);
            snprintf(problem, size, "a list with commas, each %s", range);
            return false;
        }
        if (integers)
            list->integers[list->count++] = (int)number;
        else
            list->floats[list->count++] = (float)number;
        text += length;
        if (*text == ',') text++;
    }
    return true;
}

static bool read_choice(const struct option_description *row, const char *text, int *to, char *problem, size_t size)
{
    const char *p = row->choices;
    for (int index = 0; *p; index++) {
        size_t length = strcspn(p, " ");
        if (strlen(text) == length && memcmp(text, p, length) == 0) {
            *to = index;
            return true;
        }
        p += length;
        while (*p == ' ') p++;
    }
    snprintf(problem, size, "one of: %s", row->choices);
    return false;
}

static bool read_value(const struct option_description *row, const char *text, void *settings, char *problem, size_t size)
{
    void *to = (char *)settings + row->offset;
    if (*text == 0 && row->type != OPTION_IGNORED) {
        snprintf(problem, size, "a value");
        return false;
    }
    switch (row->type) {
    case OPTION_INT:
    case OPTION_FLOAT: return read_number(row, text, to, problem, size);
    case OPTION_BOOL:
        if (strcmp(text, "0") == 0 || strcmp(text, "1") == 0) {
            *(int *)to = text[0] - '0';
            return true;
        }
        snprintf(problem, size, "0 or 1");
        return false;
    case OPTION_STRING:
        snprintf(problem, size, "out of memory");
        free(*(char **)to);
        return (*(char **)to = strdup(text)) != NULL;
    case OPTION_CHOICE: return read_choice(row, text, to, problem, size);
    case OPTION_INT_LIST:
    case OPTION_FLOAT_LIST: return read_list(row, text, to, problem, size);
    case OPTION_IGNORED: return true;
    }
    return false;
}

static void set_unset(const struct option_description *row, void *settings)
{
    void *to = (char *)settings + row->offset;
    if (row->type == OPTION_INT || row->type == OPTION_BOOL || row->type == OPTION_CHOICE)
        *(int *)to = OPTION_UNSET;
    else if (row->type == OPTION_FLOAT)
        *(float *)to = NAN;
}

bool options_read(const struct option_description *table, struct cfg_section *section, void *settings,
                  struct diagnostics *diagnostics)
{
    bool good = true;
    for (const struct option_description *row = table; row->name; row++) {
        struct cfg_option *option = section ? (struct cfg_option *)(size_t)cfg_find_option(section, row->name) : NULL;
        char problem[256];
        if (option) option->used = true;
        if (!option && !row->default_text) {
            set_unset(row, settings);
        } else if (!read_value(row, option ? option->value : row->default_text, settings, problem, sizeof problem)) {
            good = false;
            diagnostics_add(diagnostics, option ? option->line : section ? section->line : 1, section ? section->name : NULL,
                            "%s=%s: expected %s", row->name, option ? option->value : row->default_text, problem);
        }
    }
    return good;
}

void options_release(const struct option_description *table, void *settings)
{
    for (const struct option_description *row = table; row->name; row++) {
        void *at = (char *)settings + row->offset;
        if (row->type == OPTION_STRING) {
            free(*(char **)at);
            *(char **)at = NULL;
        } else if (row->type == OPTION_INT_LIST || row->type == OPTION_FLOAT_LIST) {
            struct option_list *list = at;
            free(list->integers);
            free(list->floats);
            *list = (struct option_list){0};
        }
    }
}

// ---------------------------------------------------------------------------------------------
// Unknown names

static size_t edit_distance(const char *a, const char *b)
{
    size_t row[64], n = strlen(b);
    if (n >= 63 || strlen(a) >= 63) return 63;
    for (size_t j = 0; j <= n; j++) row[j] = j;
    for (size_t i = 1; a[i - 1]; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= n; j++) {
            size_t change = diagonal + (a[i - 1] != b[j - 1]);
            diagonal = row[j];
            size_t least = row[j] < row[j - 1] ? row[j] + 1 : row[j - 1] + 1;
            row[j] = change < least ? change : least;
        }
    }
    return row[n];
}

const char *options_nearest(const char *name, const char *const *candidates, int count)
{
    const char *best = NULL;
    size_t least = strlen(name) / 2 + 1;
    for (int i = 0; i < count; i++) {
        size_t distance = edit_distance(name, candidates[i]);
        if (distance < least) least = distance, best = candidates[i];
    }
    return best;
}

void options_report_unknown(const struct cfg_section *section, const struct option_description *const *tables,
                            struct diagnostics *diagnostics)
{
    const char *names[256];
    int count = 0;
    for (; *tables; tables++)
        for (const struct option_description *row = *tables; row->name && count < 256; row++) names[count++] = row->name;
    for (int i = 0; i < section->option_count; i++) {
        const struct cfg_option *option = &section->options[i];
        if (option->used) continue;
        const char *nearest = options_nearest(option->key, names, count);
        diagnostics_add(diagnostics, option->line, section->name, "unknown option %s%s%s%s", option->key,
                        nearest ? "; did you mean " : "", nearest ? nearest : "", nearest ? "?" : "");
    }
}
