// Files read whole, with a limit, and files written so that the old one is never lost.
#ifndef BASE_FILE_H
#define BASE_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

// The whole file in memory (memory_release), one zero byte behind it. More than `limit` bytes is an error.
uint8_t *file_read(const char *path, size_t limit, size_t *size, struct error *error);
// The same, unpacked if it is gzip; `limit` bounds the unpacked size.
uint8_t *file_read_gzip(const char *path, size_t limit, size_t *size, struct error *error);
// Written to a temporary file in the same folder, synced, renamed: after a crash there is the old or the new file,
// whole. Several pieces are written one after the other.
struct file_piece {
    const void *data;
    size_t size;
};
bool file_write_atomically(const char *path, const struct file_piece *pieces, int count, struct error *error);
bool file_exists(const char *path);
// "folder/name"; false if it does not fit.
bool file_join(char *path, size_t size, const char *folder, const char *name);
// The same with a message.
bool file_path(char path[4096], const char *folder, const char *name, struct error *error);

#endif
