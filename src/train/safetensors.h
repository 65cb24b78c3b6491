// safetensors files: 8 bytes little-endian header length, a JSON header, the tensors' bytes. Any Python tool opens
// them. Reading is strict: sizes, offsets, overlaps, duplicate names and our checksum are verified.
#ifndef TRAIN_SAFETENSORS_H
#define TRAIN_SAFETENSORS_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

#define SAFETENSORS_LARGEST_FILE ((size_t)16 << 30) // bytes; more is not read

struct safetensors_tensor {
    const char *name;
    int rank, dims[4];
    const float *data; // F32
    size_t count;
};

struct safetensors_text { // an entry of __metadata__
    const char *key, *value;
};

// A "checksum" (CRC-32 of header and data, with the checksum itself as zeros) is added to the metadata.
bool safetensors_write(const char *path, const struct safetensors_tensor *tensors, int count,
                       const struct safetensors_text *metadata, int metadata_count, struct error *error);

struct safetensors {
    uint8_t *bytes;
    void *header; // json-c object
    int count;
    struct safetensors_tensor *tensors;
};
// All tensors must be F32 of rank 0 to 4. Released with safetensors_release, also after a failure.
bool safetensors_read(const char *path, struct safetensors *file, struct error *error);
// The same from memory, which is taken over (memory_allocate); `name` is for messages.
bool safetensors_parse(const char *name, uint8_t *bytes, size_t size, struct safetensors *file, struct error *error);
void safetensors_release(struct safetensors *file);
const struct safetensors_tensor *safetensors_find(const struct safetensors *file, const char *name);
const char *safetensors_metadata(const struct safetensors *file, const char *key); // NULL: not there

#endif
