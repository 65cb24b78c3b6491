// Files with a class name a line, as Darknet's data/*.names and *.labels.list.
#ifndef CLI_CLASS_NAMES_H
#define CLI_CLASS_NAMES_H

#include "base/error.h"

struct class_names {
    int count;
    char *text;   // the file, cut into lines
    char **items; // [count]
};

// The first `count` lines; the lists that come with Darknet are longer than their networks. Released also after a failure.
bool class_names_read(struct class_names *names, const char *path, int count, struct error *error);
void class_names_release(struct class_names *names);

#endif
