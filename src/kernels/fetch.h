// Fetching ahead: a thread asks for what it will read next while it computes, some lines at a time, so that it need not wait for
// memory (or for the cache of another core).
#ifndef KERNELS_FETCH_H
#define KERNELS_FETCH_H

#include <stdbool.h>
#include <stddef.h>

#define FETCH_LINE 64 // bytes

// `pieces` of `bytes` each, `stride` bytes apart.
struct fetch_region {
    const char *from;
    size_t bytes, stride;
    int pieces;
};

struct fetch {
    struct fetch_region regions[4];
    int count;    // of regions
    size_t step;  // bytes to fetch at a time
    int region;   // where it is
    size_t at;
};

static inline void fetch_add(struct fetch *fetch, const void *from, size_t bytes, size_t stride, int pieces)
{
    fetch->regions[fetch->count++] = (struct fetch_region){from, bytes, stride, pieces};
}

// To be done in `calls` calls of fetch_some. `most` bytes at most; beyond that nothing is fetched.
static inline void fetch_spread(struct fetch *fetch, int calls, size_t most)
{
    size_t total = 0;
    for (int i = 0; i < fetch->count; i++) total += fetch->regions[i].bytes * (size_t)fetch->regions[i].pieces;
    if (total > most) fetch->count = 0;
    fetch->step = total / (size_t)calls + 1;
}

// The next `step` bytes, to the first cache (near) or the second one.
static inline void fetch_some(struct fetch *fetch, const bool near)
{
    for (size_t done = 0; done < fetch->step && fetch->region < fetch->count; done += FETCH_LINE) {
        struct fetch_region *region = &fetch->regions[fetch->region];
        if (near)
            __builtin_prefetch(region->from + fetch->at, 0, 3);
        else
            __builtin_prefetch(region->from + fetch->at, 0, 2);
        fetch->at += FETCH_LINE;
        if (fetch->at < region->bytes) continue;
        fetch->at = 0;
        region->from += region->stride;
        fetch->region += --region->pieces == 0;
    }
}

#endif
