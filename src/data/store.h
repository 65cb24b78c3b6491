// What is remembered about a split's picture files: decoded pictures, as far as they fit, and which cannot be read.
#ifndef DATA_STORE_H
#define DATA_STORE_H

#include <stdatomic.h>

#include "data/data.h"
#include "data/picture.h"

// Both splits share the bound: `room` is what is left, in bytes.
struct store *store_create(int count, atomic_size_t *room, struct error *error);
void store_destroy(struct store *store);

// The picture of this index, from memory or its file. `kept`: it belongs to the store; otherwise the caller releases it.
// false with a message: it cannot be read; a picture that failed once is not tried again. From any thread.
bool store_get(struct split *split, int index, int channels, struct picture *picture, bool *kept, struct error *error);

// From now on the picture counts as one that cannot be read.
void store_mark_bad(struct split *split, int index, const struct error *error);

#endif
