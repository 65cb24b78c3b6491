#include "net/softmax_tree.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"

#define LARGEST_FILE ((size_t)16 << 20)

static bool allocate(struct softmax_tree *tree, int classes, struct error *error)
{
    size_t count = (size_t)classes;
    *tree = (struct softmax_tree){.classes = classes};
    tree->parent = memory_allocate(count, sizeof(int), error);
    tree->group = memory_allocate(count, sizeof(int), error);
    tree->group_start = memory_allocate(count + 1, sizeof(int), error);
    tree->leaf = memory_allocate(count, sizeof(bool), error);
    if (tree->parent && tree->group && tree->group_start && tree->leaf) return true;
    softmax_tree_release(tree);
    return false;
}

void softmax_tree_release(struct softmax_tree *tree)
{
    memory_release(tree->parent);
    memory_release(tree->group);
    memory_release(tree->group_start);
    memory_release(tree->leaf);
    *tree = (struct softmax_tree){0};
}

static void begin_group(struct softmax_tree *tree, int class)
{
    tree->group_start[tree->groups++] = class;
}

// Groups and leaves from the parents.
static void finish(struct softmax_tree *tree)
{
    for (int i = 0; i < tree->classes; i++) {
        tree->leaf[i] = true;
        if (tree->parent[i] >= 0) tree->leaf[tree->parent[i]] = false;
    }
    tree->group_start[tree->groups] = tree->classes;
    for (int g = 0; g < tree->groups; g++)
        for (int i = tree->group_start[g]; i < tree->group_start[g + 1]; i++) tree->group[i] = g;
}

static bool parse(struct softmax_tree *tree, const char *path, char *text, struct error *error)
{
    int count = 0;
    char *rest = text;
    for (char *line; (line = strtok_r(rest, "\r\n", &rest)); count++) {
        char *space = strrchr(line, ' '), *end = NULL;
        long parent = space ? strtol(space, &end, 10) : 0;
        if (!space || end == space || *end != 0 || parent < -1 || parent >= count)
            return error_set(error, "%s: line %d: '%.60s': expected NAME PARENT, the number of an earlier line or -1", path, count + 1, line);
        if (count == tree->classes) return error_set(error, "%s: more classes than the %d of the layer", path, tree->classes);
        if (count == 0 || parent != tree->parent[count - 1]) begin_group(tree, count);
        tree->parent[count] = (int)parent;
    }
    return count == tree->classes || error_set(error, "%s: %d classes, the layer has %d", path, count, tree->classes);
}

bool softmax_tree_read(struct softmax_tree *tree, const char *path, int classes, struct error *error)
{
    size_t size = 0;
    char *text = (char *)file_read(path, LARGEST_FILE, &size, error);
    if (!text) return false;
    bool good = allocate(tree, classes, error);
    if (good && !parse(tree, path, text, error)) {
        softmax_tree_release(tree);
        good = false;
    }
    if (good) finish(tree);
    memory_release(text);
    return good;
}

bool softmax_tree_split(struct softmax_tree *tree, int classes, int count, struct error *error)
{
    if (classes % count != 0) return error_set(error, "%d inputs are not divisible by groups=%d", classes, count);
    if (!allocate(tree, classes, error)) return false;
    for (int i = 0; i < classes; i++) tree->parent[i] = -1;
    for (int g = 0; g < count; g++) begin_group(tree, g * (classes / count));
    finish(tree);
    return true;
}

void softmax_tree_leaves(const struct softmax_tree *tree, float *x)
{
    for (int i = 0; i < tree->classes; i++)
        if (tree->parent[i] >= 0) x[i] *= x[tree->parent[i]];
    for (int i = 0; i < tree->classes; i++)
        if (!tree->leaf[i]) x[i] = 0;
}
