#include "cli/class_names.h"

#include <string.h>

#include "base/file.h"
#include "base/memory.h"

#define LARGEST_FILE ((size_t)16 << 20)

bool class_names_read(struct class_names *names, const char *path, int count, struct error *error)
{
    size_t size = 0;
    *names = (struct class_names){.text = (char *)file_read(path, LARGEST_FILE, &size, error)};
    if (!names->text || !(names->items = memory_allocate((size_t)count, sizeof *names->items, error))) return false;
    char *rest = names->text;
    for (char *line; names->count < count && (line = strtok_r(rest, "\r\n", &rest));) names->items[names->count++] = line;
    return names->count == count || error_set(error, "%s: %d names, the network has %d classes", path, names->count, count);
}

void class_names_release(struct class_names *names)
{
    memory_release(names->text);
    memory_release(names->items);
    *names = (struct class_names){0};
}
