#include "cli/combinations.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "net/mls_options.h"

static bool has_key(const struct combinations *combinations, const char *key, size_t length)
{
    for (int k = 0; k < combinations->key_count; k++)
        if (strlen(combinations->keys[k].key) == length && strncmp(combinations->keys[k].key, key, length) == 0) return true;
    return false;
}

// "KEY=" and one value, which is new.
static bool add_value(struct over *over, const char *value, size_t length, struct error *error)
{
    size_t key_length = strlen(over->key), size = key_length + length + 2;
    char *assignment = memory_allocate(size, 1, error);
    if (!assignment) return false;
    snprintf(assignment, size, "%s=%.*s", over->key, (int)length, value);
    for (int i = 0; i < over->value_count; i++) {
        if (strcmp(over->assignments[i], assignment) != 0) continue;
        error_set(error, "--over %.100s: the value is given twice", assignment);
        memory_release(assignment);
        return false;
    }
    over->assignments[over->value_count++] = assignment;
    return length > 0 || error_set(error, "--over %s: a value is empty: expected KEY=V1,V2,...", over->key);
}

static bool parse_one(const char *text, struct combinations *combinations, struct error *error)
{
    const char *equals = strchr(text, '=');
    if (!equals || equals == text) return error_set(error, "--over %.100s: expected KEY=V1,V2,...", text);
    size_t length = (size_t)(equals - text), values = 1;
    for (const char *p = text; *p; p++) // settings are names in tables, CSV files and scripts of pictures
        if ((unsigned char)*p < ' ' || *p == '"' || *p == '|')
            return error_set(error, "--over %.*s: a value has a control character, \" or |: expected none", (int)length, text);
    if (has_key(combinations, text, length)) return error_set(error, "--over %.*s: given twice", (int)length, text);
    for (const char *p = equals; *p; p++) values += *p == ',';
    struct over *over = &combinations->keys[combinations->key_count++];
    over->key = memory_allocate(length + 1, 1, error);
    over->assignments = memory_allocate(values, sizeof *over->assignments, error);
    if (!over->key || !over->assignments) return false;
    memcpy(over->key, text, length);
    for (const char *value = equals + 1;; value++) {
        size_t value_length = strcspn(value, ",");
        if (!add_value(over, value, value_length, error)) return false;
        value += value_length;
        if (!*value) break;
    }
    if (over->value_count > MOST_COMBINATIONS / combinations->count)
        return error_set(error, "--over: more than %d combinations", MOST_COMBINATIONS);
    combinations->count *= over->value_count;
    return true;
}

bool over_is_of_format(const struct over *over)
{
    const char *dot = strrchr(over->key, '.'), *name = dot ? dot + 1 : over->key;
    for (const struct option_description *row = mls_option_table; row->name; row++)
        if (strcmp(row->name, name) == 0) return true;
    return false;
}

bool combinations_parse(const struct argument_list *over, struct combinations *combinations, struct error *error)
{
    *combinations = (struct combinations){.count = 1};
    combinations->keys = memory_allocate((size_t)over->count, sizeof *combinations->keys, error);
    if (!combinations->keys) return false;
    for (int i = 0; i < over->count; i++)
        if (!parse_one(over->items[i], combinations, error)) return false;
    return true;
}

void combinations_release(struct combinations *combinations)
{
    for (int k = 0; k < combinations->key_count; k++) {
        for (int i = 0; i < combinations->keys[k].value_count; i++) memory_release(combinations->keys[k].assignments[i]);
        memory_release(combinations->keys[k].assignments);
        memory_release(combinations->keys[k].key);
    }
    memory_release(combinations->keys);
    *combinations = (struct combinations){0};
}

const char *combination_assignment(const struct combinations *combinations, int index, int key)
{
    for (int k = combinations->key_count - 1; k > key; k--) index /= combinations->keys[k].value_count;
    return combinations->keys[key].assignments[index % combinations->keys[key].value_count];
}

void combination_name(const struct combinations *combinations, int index, char *text, size_t size)
{
    size_t length = 0;
    if (size) *text = 0;
    for (int k = 0; k < combinations->key_count && length < size; k++)
        length += (size_t)snprintf(text + length, size - length, "%s%s", k ? " " : "", combination_assignment(combinations, index, k));
}

bool combination_apply(const struct combinations *combinations, int index, struct cfg *cfg, struct error *error)
{
    struct error problem;
    for (int k = 0; k < combinations->key_count; k++) {
        if (cfg_set(cfg, combination_assignment(combinations, index, k), &problem)) continue;
        const char *text = problem.message; // that of cfg_set names the option it knows
        return error_set(error, "--over%s", strncmp(text, "--set", 5) == 0 ? text + 5 : text);
    }
    return true;
}
