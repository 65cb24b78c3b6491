#include "train/safetensors.h"

#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "base/file.h"
#include "base/memory.h"

#define LARGEST_HEADER ((size_t)64 << 20)
#define CHECKSUM_KEY "\"checksum\":\""
#define CHECKSUM_DIGITS 8

// ---------------------------------------------------------------------------------------------
// Writing

static struct json_object *header_of(const struct safetensors_tensor *tensors, int count,
                                     const struct safetensors_text *metadata, int metadata_count)
{
    struct json_object *header = json_object_new_object(), *texts = json_object_new_object();
    for (int i = 0; i < metadata_count; i++)
        json_object_object_add(texts, metadata[i].key, json_object_new_string(metadata[i].value));
    json_object_object_add(texts, "checksum", json_object_new_string("00000000"));
    json_object_object_add(header, "__metadata__", texts);
    int64_t offset = 0;
    for (int i = 0; i < count; i++) {
        struct json_object *entry = json_object_new_object(), *shape = json_object_new_array(), *range = json_object_new_array();
        for (int d = 0; d < tensors[i].rank; d++) json_object_array_add(shape, json_object_new_int(tensors[i].dims[d]));
        json_object_array_add(range, json_object_new_int64(offset));
        offset += (int64_t)(tensors[i].count * sizeof(float));
        json_object_array_add(range, json_object_new_int64(offset));
        json_object_object_add(entry, "dtype", json_object_new_string("F32"));
        json_object_object_add(entry, "shape", shape);
        json_object_object_add(entry, "data_offsets", range);
        json_object_object_add(header, tensors[i].name, entry);
    }
    return header;
}

static uint32_t checksum(uint32_t crc, const void *data, size_t size)
{
    return (uint32_t)crc32_z(crc, data, size);
}

bool safetensors_write(const char *path, const struct safetensors_tensor *tensors, int count,
                       const struct safetensors_text *metadata, int metadata_count, struct error *error)
{
    struct json_object *header = header_of(tensors, count, metadata, metadata_count);
    const char *json = json_object_to_json_string_ext(header, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE);
    size_t length = (strlen(json) + 7) / 8 * 8;
    char *text = memory_allocate(length + 1, 1, error);
    struct file_piece *pieces = memory_allocate((size_t)count + 2, sizeof *pieces, error);
    bool good = text && pieces;
    if (good) {
        memset(text, ' ', length);
        memcpy(text, json, strlen(json));
        uint8_t prefix[8];
        for (int i = 0; i < 8; i++) prefix[i] = (uint8_t)((uint64_t)length >> (8 * i));
        uint32_t crc = checksum(0, text, length);
        pieces[0] = (struct file_piece){prefix, sizeof prefix};
        pieces[1] = (struct file_piece){text, length};
        for (int i = 0; i < count; i++) {
            pieces[i + 2] = (struct file_piece){tensors[i].data, tensors[i].count * sizeof(float)};
            crc = checksum(crc, tensors[i].data, tensors[i].count * sizeof(float));
        }
        char digits[CHECKSUM_DIGITS + 1];
        snprintf(digits, sizeof digits, "%08x", crc);
        memcpy(strstr(text, CHECKSUM_KEY "00000000\"") + strlen(CHECKSUM_KEY), digits, CHECKSUM_DIGITS);
        good = file_write_atomically(path, pieces, count + 2, error);
    }
    memory_release(text);
    memory_release(pieces);
    json_object_put(header);
    return good;
}

// ---------------------------------------------------------------------------------------------
// Reading

static bool verify_checksum(const char *name, uint8_t *bytes, size_t header, size_t size, struct error *error)
{
    char *text = (char *)bytes + 8, digits[CHECKSUM_DIGITS + 1] = "", found[CHECKSUM_DIGITS + 1];
    char *at = memmem(text, header, CHECKSUM_KEY, strlen(CHECKSUM_KEY));
    if (!at || (size_t)(at - text) + strlen(CHECKSUM_KEY) + CHECKSUM_DIGITS > header)
        return error_set(error, "%s: no checksum in its metadata: not written by mlsnet, or damaged", name);
    at += strlen(CHECKSUM_KEY);
    memcpy(digits, at, CHECKSUM_DIGITS);
    memset(at, '0', CHECKSUM_DIGITS);
    snprintf(found, sizeof found, "%08x", checksum(0, text, size - 8));
    memcpy(at, digits, CHECKSUM_DIGITS);
    if (memcmp(found, digits, CHECKSUM_DIGITS) == 0) return true;
    return error_set(error, "%s: damaged: its checksum is %s, its content gives %s", name, digits, found);
}

static bool integer_of(struct json_object *array, size_t index, int64_t most, int64_t *value)
{
    struct json_object *item = json_object_array_get_idx(array, index);
    if (!json_object_is_type(item, json_type_int)) return false;
    *value = json_object_get_int64(item);
    return *value >= 0 && *value <= most;
}

static bool parse_tensor(const char *file, const char *name, struct json_object *entry, const uint8_t *data, size_t size,
                         size_t *position, struct safetensors_tensor *tensor, struct error *error)
{
    struct json_object *dtype = NULL, *shape = NULL, *range = NULL;
    int64_t begin, end, dim;
    if (!json_object_is_type(entry, json_type_object) || !json_object_object_get_ex(entry, "dtype", &dtype) ||
        !json_object_object_get_ex(entry, "shape", &shape) || !json_object_object_get_ex(entry, "data_offsets", &range) ||
        !json_object_is_type(dtype, json_type_string) || !json_object_is_type(shape, json_type_array) ||
        !json_object_is_type(range, json_type_array))
        return error_set(error, "%s: tensor %s: expected dtype, shape and data_offsets", file, name);
    if (strcmp(json_object_get_string(dtype), "F32") != 0)
        return error_set(error, "%s: tensor %s: dtype %s: expected F32", file, name, json_object_get_string(dtype));
    if (json_object_array_length(shape) > 4)
        return error_set(error, "%s: tensor %s: more than 4 dimensions", file, name);
    *tensor = (struct safetensors_tensor){.name = name, .rank = (int)json_object_array_length(shape), .count = 1};
    for (int i = 0; i < tensor->rank; i++) {
        if (!integer_of(shape, (size_t)i, INT32_MAX, &dim) || (dim && tensor->count > size / (size_t)dim))
            return error_set(error, "%s: tensor %s: dimension %d is not possible", file, name, i);
        tensor->dims[i] = (int)dim;
        tensor->count *= (size_t)dim;
    }
    if (json_object_array_length(range) != 2 || !integer_of(range, 0, (int64_t)size, &begin) ||
        !integer_of(range, 1, (int64_t)size, &end) || end < begin)
        return error_set(error, "%s: tensor %s: its offsets lie outside the file", file, name);
    if ((size_t)begin != *position)
        return error_set(error, "%s: tensor %s begins at byte %jd: expected %zu, behind the one before", file, name,
                         (intmax_t)begin, *position);
    if ((size_t)(end - begin) != tensor->count * sizeof(float))
        return error_set(error, "%s: tensor %s: %jd bytes do not fit its shape", file, name, (intmax_t)(end - begin));
    tensor->data = (const float *)(const void *)(data + begin);
    *position = (size_t)end;
    return true;
}

static struct json_object *parse_header(const char *name, const char *text, size_t length, struct error *error)
{
    struct json_tokener *tokener = json_tokener_new();
    struct json_object *header = tokener ? json_tokener_parse_ex(tokener, text, (int)length) : NULL;
    bool whole = header && json_tokener_get_error(tokener) == json_tokener_success &&
                 json_object_is_type(header, json_type_object);
    for (size_t i = whole ? json_tokener_get_parse_end(tokener) : length; i < length; i++) whole = whole && text[i] == ' ';
    if (tokener) json_tokener_free(tokener);
    if (whole) return header;
    json_object_put(header);
    error_set(error, "%s: its header is not JSON: not a safetensors file, or damaged", name);
    return NULL;
}

static bool parse_tensors(const char *name, struct safetensors *file, size_t start, size_t size, struct error *error)
{
    struct json_object *header = file->header;
    size_t most = (size_t)json_object_object_length(header), position = 0;
    if (!(file->tensors = memory_allocate(most, sizeof *file->tensors, error))) return false;
    json_object_object_foreach(header, key, entry)
    {
        if (strcmp(key, "__metadata__") == 0) continue;
        if (!parse_tensor(name, key, entry, file->bytes + start, size - start, &position, &file->tensors[file->count], error))
            return false;
        file->count++;
    }
    if (position == size - start) return true;
    return error_set(error, "%s: %zu bytes of tensors: expected %zu", name, size - start, position);
}

bool safetensors_parse(const char *name, uint8_t *bytes, size_t size, struct safetensors *file, struct error *error)
{
    *file = (struct safetensors){.bytes = bytes};
    uint64_t length = 0;
    for (int i = 0; size >= 8 && i < 8; i++) length |= (uint64_t)bytes[i] << (8 * i);
    if (size < 8 || length > size - 8 || length > LARGEST_HEADER || length % 8)
        return error_set(error, "%s: not a safetensors file, nor one of Darknet's .weights, or cut off", name);
    if (!verify_checksum(name, bytes, (size_t)length, size, error)) return false;
    file->header = parse_header(name, (const char *)bytes + 8, (size_t)length, error);
    return file->header && parse_tensors(name, file, 8 + (size_t)length, size, error);
}

bool safetensors_read(const char *path, struct safetensors *file, struct error *error)
{
    size_t size = 0;
    *file = (struct safetensors){0};
    uint8_t *bytes = file_read(path, SAFETENSORS_LARGEST_FILE, &size, error);
    return bytes && safetensors_parse(path, bytes, size, file, error);
}

void safetensors_release(struct safetensors *file)
{
    json_object_put(file->header);
    memory_release(file->tensors);
    memory_release(file->bytes);
    *file = (struct safetensors){0};
}

const struct safetensors_tensor *safetensors_find(const struct safetensors *file, const char *name)
{
    for (int i = 0; i < file->count; i++)
        if (strcmp(file->tensors[i].name, name) == 0) return &file->tensors[i];
    return NULL;
}

const char *safetensors_metadata(const struct safetensors *file, const char *key)
{
    struct json_object *texts = NULL, *value = NULL;
    if (!json_object_object_get_ex(file->header, "__metadata__", &texts) || !json_object_object_get_ex(texts, key, &value))
        return NULL;
    return json_object_is_type(value, json_type_string) ? json_object_get_string(value) : NULL;
}
