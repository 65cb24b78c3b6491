// Darknet's trees of classes for [softmax] tree=FILE: a line "NAME PARENT" for each class, PARENT being the number of an earlier line
// or -1. Neighbouring lines of one parent are a group: the softmax gives the probabilities of its classes given the parent.
#ifndef NET_SOFTMAX_TREE_H
#define NET_SOFTMAX_TREE_H

#include "base/error.h"

struct softmax_tree {
    int classes, groups;
    int *parent;      // [classes], -1: none
    int *group;       // [classes], the group it is in
    int *group_start; // [groups + 1]
    bool *leaf;       // [classes]
};

// false: a message, and nothing to be released.
bool softmax_tree_read(struct softmax_tree *tree, const char *path, int classes, struct error *error);
// The same without a tree: `count` groups of equal size.
bool softmax_tree_split(struct softmax_tree *tree, int classes, int count, struct error *error);
void softmax_tree_release(struct softmax_tree *tree);
// x[classes] from probabilities given the parent to those of the leaves, all others 0.
void softmax_tree_leaves(const struct softmax_tree *tree, float *x);

#endif
