#include "base/memory.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define HUGE_PAGE ((size_t)2 << 20) // large arrays are read faster with fewer entries in the address tables

void *memory_allocate(size_t count, size_t element_size, struct error *error)
{
    if (element_size != 0 && count > (SIZE_MAX - HUGE_PAGE) / element_size) {
        error_set(error, "cannot allocate %zu elements of %zu bytes: the size overflows", count, element_size);
        return NULL;
    }
    size_t alignment = count * element_size >= 4 * HUGE_PAGE ? HUGE_PAGE : 64;
    size_t bytes = (count * element_size + alignment - 1) / alignment * alignment;
    if (bytes == 0) bytes = alignment;
    void *pointer = aligned_alloc(alignment, bytes);
    if (!pointer) {
        error_set(error, "out of memory: cannot allocate %zu bytes", bytes);
        return NULL;
    }
#ifdef MADV_HUGEPAGE
    if (alignment == HUGE_PAGE) madvise(pointer, bytes, MADV_HUGEPAGE); // only a wish
#endif
    memset(pointer, 0, bytes);
    return pointer;
}

void memory_release(void *pointer)
{
    free(pointer);
}
