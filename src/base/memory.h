// Checked allocation. Every buffer is zeroed and aligned to 64 bytes (one AVX-512 vector).
#ifndef BASE_MEMORY_H
#define BASE_MEMORY_H

#include <stddef.h>

#include "base/error.h"

// count * element_size bytes, zeroed; at least one byte. NULL with a message on overflow or when
// there is no memory. Released with memory_release.
void *memory_allocate(size_t count, size_t element_size, struct error *error);
void memory_release(void *pointer);

#endif
