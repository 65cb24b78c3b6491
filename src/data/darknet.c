#include "data/darknet.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"

#define LARGEST ((size_t)1 << 20)

static char *trimmed(char *text)
{
    text += strspn(text, " \t");
    size_t length = strlen(text);
    while (length && (text[length - 1] == ' ' || text[length - 1] == '\t')) text[--length] = 0;
    return text;
}

static bool store_number(int *to, const char *text)
{
    char *end;
    long number = strtol(text, &end, 10);
    *to = (int)number;
    return end != text && *end == 0 && number >= 1 && number <= 1000000;
}

static bool store(struct darknet_data *data, const char *key, const char *value, const char *place, struct error *error)
{
    const struct {
        const char *key;
        int *number;
        char **text;
    } keys[] = {{"classes", &data->classes, NULL}, {"top", &data->top, NULL}, {"train", NULL, &data->train}, {"valid", NULL, &data->valid},
                {"labels", NULL, &data->labels}, {"names", NULL, &data->names}, {"backup", NULL, &data->backup}};
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        if (strcmp(key, keys[i].key) != 0) continue;
        if (*value == 0) return error_set(error, "%s: %s=: expected a value", place, key);
        if (keys[i].number)
            return store_number(keys[i].number, value) || error_set(error, "%s: %s=%s: expected an integer from 1 to 1000000", place, key, value);
        free(*keys[i].text);
        return (*keys[i].text = strdup(value)) != NULL || error_set(error, "out of memory");
    }
    return true;
}

bool darknet_data_read(const char *path, struct darknet_data *data, struct error *error)
{
    *data = (struct darknet_data){0};
    size_t size;
    char *text = (char *)file_read(path, LARGEST, &size, error), *rest = text, place[4200];
    bool good = text != NULL;
    for (int line = 1; good && rest; line++) {
        char *start = strsep(&rest, "\n"), *equals;
        start[strcspn(start, "\r")] = 0;
        start = trimmed(start);
        snprintf(place, sizeof place, "%s:%d", path, line);
        if (*start == 0 || *start == '#' || *start == ';') continue;
        if (!(equals = strchr(start, '='))) {
            good = error_set(error, "%s: %.200s: expected KEY=VALUE", place, start);
            continue;
        }
        *equals = 0;
        good = store(data, trimmed(start), trimmed(equals + 1), place, error);
    }
    memory_release(text);
    if (good && (!data->train || !data->valid || (!data->labels && !data->names)))
        good = error_set(error, "%s: expected the keys train, valid and labels (or names)", path);
    return good;
}

void darknet_data_release(struct darknet_data *data)
{
    char *texts[] = {data->train, data->valid, data->labels, data->names, data->backup};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) free(texts[i]);
    *data = (struct darknet_data){0};
}
