// Lists of picture files: a path a line, and behind a space the label, a number from 0 or a class label; without it the label
// is a folder of the path, or the file's name without its suffix, that equals a class label. Relative paths are those of the
// working folder, as in Darknet, or of the list's folder if the first picture is not there.
//
// With settings->darknet also a part of the file's name may be the label, between dots or underscores, as Darknet's own lists
// have it (ILSVRC2012_val_00000001.n01751748.JPEG, 0_frog.png); lists of names and labels may be longer than `classes`; and
// pixels are not normalized.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "data/data.h"

#define LARGEST ((size_t)1 << 30)

// ---------------------------------------------------------------------------------------------
// Lines of a text

struct lines {
    char *text, **items;
    int *numbers; // of the items in the file, from 1
    int count;
};

static void lines_release(struct lines *lines)
{
    memory_release(lines->text);
    memory_release(lines->items);
    memory_release(lines->numbers);
}

// The text without blanks and carriage returns at its ends.
static char *trimmed(char *text)
{
    text += strspn(text, " \t\r");
    size_t length = strlen(text);
    while (length && strchr(" \t\r", text[length - 1])) text[--length] = 0;
    return text;
}

// Trimmed, without empty ones.
static bool lines_read(const char *path, struct lines *lines, struct error *error)
{
    size_t size, most = 1;
    *lines = (struct lines){0};
    if (!(lines->text = (char *)file_read(path, LARGEST, &size, error))) return false;
    if (memchr(lines->text, 0, size)) return error_set(error, "%s: a zero byte: expected a text file", path);
    for (size_t i = 0; i < size; i++) most += lines->text[i] == '\n';
    if (most > 0x7fffffff) return error_set(error, "%s: too many lines", path);
    lines->items = memory_allocate(most, sizeof *lines->items, error);
    lines->numbers = memory_allocate(most, sizeof *lines->numbers, error);
    if (!lines->items || !lines->numbers) return false;
    char *rest = lines->text;
    for (int number = 1; rest; number++) {
        char *line = trimmed(strsep(&rest, "\n"));
        if (*line == 0) continue;
        lines->numbers[lines->count] = number;
        lines->items[lines->count++] = line;
    }
    return lines->count > 0 || error_set(error, "%s: no line with text", path);
}

// ---------------------------------------------------------------------------------------------
// Labels

struct label {
    const char *text;
    int class;
};

static int by_label(const void *a, const void *b)
{
    return strcmp(((const struct label *)a)->text, ((const struct label *)b)->text);
}

struct labels {
    int count;
    struct label *sorted; // [count], by text
    bool parts_of_names;
};

// The class with this label, or -1.
static int find_label(const struct labels *labels, const char *text, size_t length)
{
    char copy[256];
    if (length >= sizeof copy) return -1;
    memcpy(copy, text, length);
    copy[length] = 0;
    const struct label wanted = {copy, 0};
    const struct label *found = bsearch(&wanted, labels->sorted, (size_t)labels->count, sizeof wanted, by_label);
    return found ? found->class : -1;
}

// From parts of the file's name; -2 if they name several classes.
static int class_of_name(const struct labels *labels, const char *name)
{
    int class = -1;
    for (const char *separators = "._"; *separators && class == -1; separators++) {
        char separator[2] = {*separators, 0};
        for (const char *part = name; *part;) {
            size_t length = strcspn(part, *separators == '_' ? "._" : separator);
            int found = find_label(labels, part, length);
            if (found >= 0) class = class == -1 || class == found ? found : -2;
            part += length;
            if (*part) part++;
        }
    }
    return class;
}

// The folder nearest to the file counts.
static int class_of_path(const struct labels *labels, const char *path)
{
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path, *dot = strrchr(name, '.');
    for (const char *end = slash; end && end > path;) {
        const char *start = end;
        while (start > path && start[-1] != '/') start--;
        int class = find_label(labels, start, (size_t)(end - start));
        if (class >= 0) return class;
        end = start > path ? start - 1 : NULL;
    }
    int class = find_label(labels, name, dot ? (size_t)(dot - name) : strlen(name));
    return class < 0 && labels->parts_of_names ? class_of_name(labels, name) : class;
}

// The label behind the last space, which is cut off; -1: none.
static int explicit_label(const struct labels *labels, char *line, bool *is_number)
{
    char *space = strrchr(line, ' '), *end, *tab = strrchr(line, '\t');
    if (!space || (tab && tab > space)) space = tab;
    *is_number = false;
    if (!space) return -1;
    long number = strtol(space + 1, &end, 10);
    *is_number = end != space + 1 && *end == 0;
    int class = find_label(labels, space + 1, strlen(space + 1));
    if (class < 0 && *is_number) class = number >= 0 && number < labels->count ? (int)number : -2;
    if (class == -1) return -1; // the space belongs to the path
    while (space > line && (space[-1] == ' ' || space[-1] == '\t')) space--;
    *space = 0;
    return class;
}

// ---------------------------------------------------------------------------------------------
// Splits

// The label of line i, which is cut off from it. `list`: the file, for messages.
static bool label_line(const struct labels *labels, const char *list, const struct lines *lines, int i, int *class, struct error *error)
{
    bool is_number;
    char whole[512], *line = lines->items[i];
    snprintf(whole, sizeof whole, "%s", line);
    *class = explicit_label(labels, line, &is_number);
    if (*class == -2 && is_number)
        return error_set(error, "%s:%d: %s: the label is not one of the classes 0 to %d", list, lines->numbers[i], whole, labels->count - 1);
    if (*class == -1) *class = class_of_path(labels, line);
    if (*class >= 0) return true;
    return error_set(error, *class == -2 ? "%s:%d: %s: several class labels in the path"
                                         : "%s:%d: %s: no label behind a space, and no folder of the path equals a class label",
                     list, lines->numbers[i], whole);
}

// The folder of the list with its slash, if the first picture is there and not in the working folder; else "".
static void find_base(const char *list, const char *first, char base[4096])
{
    char path[8192];
    const char *slash = strrchr(list, '/');
    base[0] = 0;
    if (first[0] == '/' || file_exists(first) || !slash || slash - list >= 4095) return;
    snprintf(path, sizeof path, "%.*s%s", (int)(slash - list + 1), list, first);
    if (file_exists(path)) snprintf(base, 4096, "%.*s", (int)(slash - list + 1), list);
}

static bool read_split(const struct labels *labels, const char *list, struct split *split, struct error *error)
{
    struct lines lines;
    char base[4096] = "";
    bool good = lines_read(list, &lines, error) && split_allocate_files(split, lines.count, error);
    for (int i = 0; good && i < lines.count; i++) {
        good = label_line(labels, list, &lines, i, &split->labels[i], error);
        if (good && i == 0) find_base(list, lines.items[0], base);
        size_t size = good ? strlen(base) + strlen(lines.items[i]) + 1 : 0;
        if (good && !(split->paths[i] = malloc(size))) good = error_set(error, "out of memory");
        if (good && lines.items[i][0] == '/')
            snprintf(split->paths[i], size, "%s", lines.items[i]);
        else if (good)
            snprintf(split->paths[i], size, "%s%s", base, lines.items[i]);
    }
    lines_release(&lines);
    return good;
}

static bool sort_labels(struct labels *labels, const char *path, struct error *error)
{
    qsort(labels->sorted, (size_t)labels->count, sizeof *labels->sorted, by_label);
    for (int i = 1; i < labels->count; i++)
        if (strcmp(labels->sorted[i - 1].text, labels->sorted[i].text) == 0)
            return error_set(error, "%s: the class label %s is there twice", path, labels->sorted[i].text);
    return true;
}

static bool set_labels(struct dataset *dataset, const char *path, const struct lines *lines, struct labels *labels, struct error *error)
{
    const struct data_settings *s = &dataset->settings;
    int classes = s->classes ? s->classes : lines->count;
    if (lines->count < classes || (lines->count > classes && !s->darknet))
        return error_set(error, "%s: %d class labels: expected %d", path, lines->count, classes);
    *labels = (struct labels){classes, memory_allocate((size_t)classes, sizeof *labels->sorted, error), s->darknet};
    if (!labels->sorted) return false;
    for (int i = 0; i < classes; i++) labels->sorted[i] = (struct label){lines->items[i], i};
    dataset->classes = classes;
    return dataset_set_names(dataset, (const char *const *)lines->items, classes, error) && sort_labels(labels, path, error);
}

static bool read(struct dataset *dataset, const char *folder, struct error *error)
{
    const struct data_settings *s = &dataset->settings;
    char paths[3][4096];
    const char *labels_path = s->labels ? s->labels : s->names;
    struct lines lines = {0};
    struct labels labels = {0};
    if ((!s->train && !s->without_train) || (!s->valid && !s->without_test))
        return error_set(error, "[data] type=list: expected train= and valid=, files with the paths of pictures");
    if (!labels_path) return error_set(error, "[data] type=list: expected labels= or names=, a file with a class label a line");
    dataset_use_imagenet_mean(dataset);
    for (int c = 0; s->darknet && c < dataset->channels; c++) dataset->mean[c] = 0, dataset->std[c] = 1;
    labels_path = dataset_find_file(folder, labels_path, paths[0]);
    bool good = lines_read(labels_path, &lines, error) && set_labels(dataset, labels_path, &lines, &labels, error);
    if (good && !s->without_train)
        good = read_split(&labels, dataset_find_file(folder, s->train, paths[1]), &dataset->train, error);
    if (good && !s->without_test) good = read_split(&labels, dataset_find_file(folder, s->valid, paths[2]), &dataset->test, error);
    memory_release(labels.sorted);
    lines_release(&lines);
    return good;
}

const struct data_source list_source = {
    "list", "text files with the paths of JPEG and PNG files (train=, valid=, labels=)", NULL, "lists of pictures", NULL, read,
};
