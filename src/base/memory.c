#include "base/memory.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

void *memory_allocate(size_t count, size_t element_size, struct error *error)
{
    if (element_size != 0 && count > (SIZE_MAX - 64) / element_size) {
        error_set(error, "cannot allocate %zu elements of %zu bytes: the size overflows", count, element_size);
        return NULL;
    }
    size_t bytes = (count * element_size + 63) / 64 * 64;
    if (bytes == 0) bytes = 64;
    void *pointer = aligned_alloc(64, bytes);
    if (!pointer) {
        error_set(error, "out of memory: cannot allocate %zu bytes", bytes);
        return NULL;
    }
    memset(pointer, 0, bytes);
    return pointer;
}

void memory_release(void *pointer)
{
    free(pointer);
}
