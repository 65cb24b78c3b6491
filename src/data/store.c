#include "data/store.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

struct store {
    int count, bad_count;
    atomic_size_t *room;
    // Guarded by the mutex:
    pthread_mutex_t mutex;
    struct picture *pictures; // [count]; pixels NULL: not kept
    char **reasons;           // [count]; not NULL: the picture is bad
    int *bad;                 // [count], the first bad_count are used
};

struct store *store_create(int count, atomic_size_t *room, struct error *error)
{
    struct store *store = memory_allocate(1, sizeof *store, error);
    if (!store) return NULL;
    *store = (struct store){.count = count, .room = room};
    pthread_mutex_init(&store->mutex, NULL);
    store->pictures = memory_allocate((size_t)count, sizeof *store->pictures, error);
    store->reasons = memory_allocate((size_t)count, sizeof *store->reasons, error);
    store->bad = memory_allocate((size_t)count, sizeof *store->bad, error);
    if (store->pictures && store->reasons && store->bad) return store;
    store_destroy(store);
    return NULL;
}

void store_destroy(struct store *store)
{
    if (!store) return;
    for (int i = 0; i < store->count; i++) {
        if (store->pictures) picture_release(&store->pictures[i]);
        if (store->reasons) free(store->reasons[i]);
    }
    memory_release(store->pictures);
    memory_release(store->reasons);
    memory_release(store->bad);
    pthread_mutex_destroy(&store->mutex);
    memory_release(store);
}

static bool take_room(atomic_size_t *room, size_t bytes)
{
    size_t left = atomic_load(room);
    while (left >= bytes)
        if (atomic_compare_exchange_weak(room, &left, left - bytes)) return true;
    return false;
}

// Two threads may have read the same picture; the first one's stays.
static bool keep(struct store *store, int index, const struct picture *picture)
{
    size_t bytes = (size_t)picture->width * (size_t)picture->height * (size_t)picture->channels;
    pthread_mutex_lock(&store->mutex);
    bool kept = !store->pictures[index].pixels && take_room(store->room, bytes);
    if (kept) store->pictures[index] = *picture;
    pthread_mutex_unlock(&store->mutex);
    return kept;
}

void store_mark_bad(struct split *split, int index, const struct error *error)
{
    struct store *store = split->store;
    pthread_mutex_lock(&store->mutex);
    if (!store->reasons[index] && (store->reasons[index] = strdup(error->message))) store->bad[store->bad_count++] = index;
    pthread_mutex_unlock(&store->mutex);
}

bool store_get(struct split *split, int index, int channels, struct picture *picture, bool *kept, struct error *error)
{
    struct store *store = split->store;
    pthread_mutex_lock(&store->mutex);
    const char *reason = store->reasons[index]; // stays until the store goes
    *picture = store->pictures[index];
    pthread_mutex_unlock(&store->mutex);
    *kept = picture->pixels != NULL;
    if (reason) return error_set(error, "%s", reason);
    if (picture->pixels) return true;
    struct error own = {""};
    if (!picture_load(split->paths[index], channels, picture, &own)) {
        store_mark_bad(split, index, &own);
        return error_set(error, "%s", own.message);
    }
    *kept = keep(store, index, picture);
    return true;
}

int split_skipped(const struct split *split)
{
    if (!split->store) return 0;
    pthread_mutex_lock(&split->store->mutex);
    int count = split->store->bad_count;
    pthread_mutex_unlock(&split->store->mutex);
    return count;
}

const char *split_skipped_text(const struct split *split, int index)
{
    pthread_mutex_lock(&split->store->mutex);
    const char *text = split->store->reasons[split->store->bad[index]];
    pthread_mutex_unlock(&split->store->mutex);
    return text;
}
