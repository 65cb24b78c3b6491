#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include "base/memory.h"

bool file_exists(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0 && S_ISREG(info.st_mode);
}

bool file_join(char *path, size_t size, const char *folder, const char *name)
{
    int length = snprintf(path, size, "%s/%s", folder, name);
    return length >= 0 && (size_t)length < size;
}

bool file_path(char path[4096], const char *folder, const char *name, struct error *error)
{
    return file_join(path, 4096, folder, name) || error_set(error, "%s/%s: the path is too long", folder, name);
}

uint8_t *file_read(const char *path, size_t limit, size_t *size, struct error *error)
{
    struct stat info;
    FILE *file = fopen(path, "rb");
    if (!file) {
        error_set(error, "%s: %s", path, strerror(errno));
        return NULL;
    }
    uint8_t *data = NULL;
    if (fstat(fileno(file), &info) != 0 || !S_ISREG(info.st_mode)) {
        error_set(error, "%s: not a file", path);
    } else if ((uintmax_t)info.st_size > limit) {
        error_set(error, "%s: %jd bytes: expected at most %zu", path, (intmax_t)info.st_size, limit);
    } else if ((data = memory_allocate((size_t)info.st_size + 1, 1, error))) {
        *size = fread(data, 1, (size_t)info.st_size, file);
        if (*size != (size_t)info.st_size) {
            error_set(error, "%s: cannot read: %s", path, ferror(file) ? strerror(errno) : "it became shorter");
            memory_release(data);
            data = NULL;
        }
    }
    fclose(file);
    return data;
}

// gzread also passes plain files through. The buffer doubles, so that a small file claims little.
static uint8_t *unpack(gzFile file, const char *path, size_t limit, size_t *size, struct error *error)
{
    size_t capacity = 1 << 16, used = 0;
    uint8_t *data = memory_allocate(capacity, 1, error);
    while (data) {
        int taken = gzread(file, data + used, (unsigned)(capacity - used < 1 << 20 ? capacity - used : 1 << 20));
        int code = Z_OK;
        const char *text = gzerror(file, &code);
        if (taken < 0 || (code != Z_OK && code != Z_STREAM_END)) {
            error_set(error, "%s: damaged gzip data: %s", path, text);
            break;
        }
        used += (size_t)taken;
        if (used > limit) {
            error_set(error, "%s: more than %zu bytes when unpacked", path, limit);
            break;
        }
        if (taken == 0) {
            *size = used;
            return data;
        }
        if (used < capacity) continue;
        uint8_t *grown = memory_allocate(capacity * 2, 1, error);
        if (grown) memcpy(grown, data, used);
        memory_release(data);
        data = grown;
        capacity *= 2;
    }
    memory_release(data);
    return NULL;
}

uint8_t *file_read_gzip(const char *path, size_t limit, size_t *size, struct error *error)
{
    gzFile file = gzopen(path, "rb");
    if (!file) {
        error_set(error, "%s: %s", path, strerror(errno));
        return NULL;
    }
    uint8_t *data = unpack(file, path, limit, size, error);
    gzclose(file);
    return data;
}

static bool write_all(int file, const struct file_piece *pieces, int count)
{
    for (int i = 0; i < count; i++) {
        const char *from = pieces[i].data;
        size_t left = pieces[i].size;
        while (left > 0) {
            ssize_t written = write(file, from, left);
            if (written < 0 && errno == EINTR) continue;
            if (written <= 0) return false;
            from += written;
            left -= (size_t)written;
        }
    }
    return fsync(file) == 0;
}

static void sync_folder(const char *path)
{
    char folder[4096];
    snprintf(folder, sizeof folder, "%s", path);
    char *slash = strrchr(folder, '/');
    if (slash)
        *slash = 0;
    else
        snprintf(folder, sizeof folder, ".");
    int handle = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (handle < 0) return;
    fsync(handle);
    close(handle);
}

bool file_write_atomically(const char *path, const struct file_piece *pieces, int count, struct error *error)
{
    char temporary[4096];
    int length = snprintf(temporary, sizeof temporary, "%s.tmp", path);
    if (length < 0 || (size_t)length >= sizeof temporary) return error_set(error, "%s: the path is too long", path);
    int file = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (file < 0) return error_set(error, "%s: cannot create: %s", temporary, strerror(errno));
    bool good = write_all(file, pieces, count);
    int reason = errno;
    if (close(file) != 0 && good) good = false, reason = errno;
    if (good && rename(temporary, path) != 0) good = false, reason = errno;
    if (!good) {
        unlink(temporary);
        return error_set(error, "%s: cannot write: %s; what was there before is kept", path, strerror(reason));
    }
    sync_folder(path);
    return true;
}
