// Fetching ahead: a thread asks for what it will read next while it computes, a few lines at a time, so that it need not wait for
// memory (or for the cache of another core). A core has some twenty requests under way; who asks for more waits, so kernels ask at each tile.
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
    size_t rate;  // to fetch at each turn, in bytes / 256
    size_t due;   // what is to be fetched now, likewise
    int region;   // where it is
    size_t at;
};

static inline void fetch_add(struct fetch *fetch, const void *from, size_t bytes, size_t stride, int pieces)
{
    fetch->regions[fetch->count++] = (struct fetch_region){from, bytes, stride, pieces};
}

// To be done in `turns` turns of the work. `most` bytes at most; beyond that nothing is fetched.
static inline void fetch_spread(struct fetch *fetch, size_t turns, size_t most)
{
    size_t total = 0;
    for (int i = 0; i < fetch->count; i++) total += fetch->regions[i].bytes * (size_t)fetch->regions[i].pieces;
    if (total > most) fetch->count = 0;
    fetch->rate = (total << 8) / (turns ? turns : 1) + 1;
}

// After some turns: to the second cache.
static inline void fetch_some(struct fetch *fetch, int turns)
{
    for (fetch->due += (size_t)turns * fetch->rate; fetch->due >= FETCH_LINE << 8 && fetch->region < fetch->count; fetch->due -= FETCH_LINE << 8) {
        struct fetch_region *region = &fetch->regions[fetch->region];
        __builtin_prefetch(region->from + fetch->at, 0, 2);
        fetch->at += FETCH_LINE;
        if (fetch->at < region->bytes) continue;
        fetch->at = 0;
        region->from += region->stride;
        fetch->region += --region->pieces == 0;
    }
}

#endif
