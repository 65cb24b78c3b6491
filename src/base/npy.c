#include "base/npy.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"

#define LARGEST_FILE ((size_t)16 << 30)

// The text behind 'key': in the header's Python dictionary, or NULL.
static const char *find_key(const char *header, const char *key)
{
    char quoted[32];
    snprintf(quoted, sizeof quoted, "'%s'", key);
    const char *at = strstr(header, quoted);
    if (!at) return NULL;
    at += strlen(quoted);
    while (isspace((unsigned char)*at)) at++;
    if (*at++ != ':') return NULL;
    while (isspace((unsigned char)*at)) at++;
    return at;
}

static bool parse_shape(const char *name, const char *text, struct npy *array, struct error *error)
{
    array->rank = 0;
    array->count = 1;
    if (!text || *text++ != '(') return error_set(error, "%s: its header has no shape", name);
    for (;;) {
        while (isspace((unsigned char)*text) || *text == ',') text++;
        if (*text == ')') return true;
        char *end;
        long dim = strtol(text, &end, 10);
        if (end == text || dim < 0 || dim > 2147483647L) return error_set(error, "%s: its header has a bad shape", name);
        if (array->rank == 8) return error_set(error, "%s: more than 8 dimensions", name);
        if (dim && array->count > (LARGEST_FILE / sizeof(float)) / (size_t)dim)
            return error_set(error, "%s: its shape is too large", name);
        array->dims[array->rank++] = (int)dim;
        array->count *= (size_t)dim;
        text = end;
    }
}

static bool parse_header(const char *name, const char *header, struct npy *array, struct error *error)
{
    const char *type = find_key(header, "descr"), *order = find_key(header, "fortran_order");
    if (!type || strncmp(type, "'<f4'", 5) != 0) {
        int length = type ? (int)strcspn(type, ",}") : 0;
        return error_set(error, "%s: dtype %.*s: expected little-endian fp32 ('<f4')", name, type ? (length < 40 ? length : 40) : 7,
                         type ? type : "missing");
    }
    if (!order || strncmp(order, "False", 5) != 0)
        return error_set(error, "%s: Fortran order: expected C order (numpy.ascontiguousarray)", name);
    return parse_shape(name, find_key(header, "shape"), array, error);
}

bool npy_parse(const char *name, const uint8_t *bytes, size_t size, struct npy *array, struct error *error)
{
    *array = (struct npy){0};
    if (size < 12 || memcmp(bytes, "\x93NUMPY", 6) != 0) return error_set(error, "%s: not a .npy file", name);
    int version = bytes[6];
    if (version < 1 || version > 3) return error_set(error, "%s: .npy version %d: expected 1 to 3", name, version);
    size_t start = version == 1 ? 10 : 12, length = (size_t)bytes[8] | (size_t)bytes[9] << 8;
    if (version > 1) length |= (size_t)bytes[10] << 16 | (size_t)bytes[11] << 24;
    if (length > size - start || length > 65536) return error_set(error, "%s: its header is cut off or too long", name);
    char *header = memory_allocate(length + 1, 1, error);
    if (!header) return false;
    memcpy(header, bytes + start, length);
    bool good = parse_header(name, header, array, error);
    memory_release(header);
    if (!good) return false;
    size_t left = size - start - length;
    if (left != array->count * sizeof(float))
        return error_set(error, "%s: %zu bytes of data: expected %zu for its shape", name, left, array->count * sizeof(float));
    array->values = memory_allocate(array->count, sizeof(float), error);
    if (array->values) memcpy(array->values, bytes + start + length, left);
    return array->values != NULL;
}

bool npy_read(const char *path, struct npy *array, struct error *error)
{
    size_t size = 0;
    *array = (struct npy){0};
    uint8_t *bytes = file_read(path, LARGEST_FILE, &size, error);
    bool good = bytes && npy_parse(path, bytes, size, array, error);
    memory_release(bytes);
    return good;
}

void npy_release(struct npy *array)
{
    memory_release(array->values);
    array->values = NULL;
}

static bool npy_write(const char *path, const char *type, int rank, const int *dims, const void *values, size_t element,
                      struct error *error)
{
    char header[512] = "\x93NUMPY\x01";
    size_t count = 1;
    int used = 10 + snprintf(header + 10, sizeof header - 10, "{'descr': '%s', 'fortran_order': False, 'shape': (", type);
    for (int i = 0; i < rank; i++) {
        used += snprintf(header + used, sizeof header - (size_t)used, "%d,%s", dims[i], i + 1 < rank ? " " : "");
        count *= (size_t)dims[i];
    }
    used += snprintf(header + used, sizeof header - (size_t)used, "), }");
    while (used % 64 != 63) header[used++] = ' ';
    header[used++] = '\n';
    header[6] = 1;
    header[7] = 0;
    header[8] = (char)((used - 10) & 255);
    header[9] = (char)((used - 10) >> 8);
    const struct file_piece pieces[2] = {{header, (size_t)used}, {values, count * element}};
    return file_write_atomically(path, pieces, 2, error);
}

bool npy_write_float(const char *path, int rank, const int *dims, const float *values, struct error *error)
{
    return npy_write(path, "<f4", rank, dims, values, sizeof *values, error);
}

bool npy_write_int(const char *path, int rank, const int *dims, const int32_t *values, struct error *error)
{
    return npy_write(path, "<i4", rank, dims, values, sizeof *values, error);
}
