// libFuzzer: the safetensors reader. The input is a header's JSON and the data, split at the first NUL; length and checksum
// are filled in so that the parser behind them is reached.
#include <stdio.h>
#include <string.h>
#include <zlib.h>

#include "base/memory.h"
#include "train/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void parse(const uint8_t *bytes, size_t size)
{
    uint8_t *copy = memory_allocate(size, 1, NULL);
    struct safetensors file;
    struct error error;
    memcpy(copy, bytes, size);
    if (safetensors_parse("fuzz", copy, size, &file, &error)) {
        safetensors_metadata(&file, "cfg");
        for (int i = 0; i < file.count; i++)
            if (file.tensors[i].count && file.tensors[i].data[file.tensors[i].count - 1] == 1.5f) safetensors_find(&file, "x");
    }
    safetensors_release(&file);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size > 60000) return 0;
    parse(data, size);
    static const char metadata[] = "{\"__metadata__\":{\"checksum\":\"00000000\"}";
    const uint8_t *split = memchr(data, 0, size);
    size_t json = split ? (size_t)(split - data) : size, rest = split ? size - json - 1 : 0;
    size_t header = (sizeof metadata - 1 + json + 7) / 8 * 8;
    uint8_t *bytes = memory_allocate(8 + header + rest, 1, NULL);
    for (int i = 0; i < 8; i++) bytes[i] = (uint8_t)(header >> (8 * i));
    memset(bytes + 8, ' ', header);
    memcpy(bytes + 8, metadata, sizeof metadata - 1);
    memcpy(bytes + 8 + sizeof metadata - 1, data, json);
    if (rest) memcpy(bytes + 8 + header, split + 1, rest);
    char digits[9];
    snprintf(digits, sizeof digits, "%08lx", crc32_z(0, bytes + 8, header + rest));
    memcpy(strstr((char *)bytes + 8, "00000000"), digits, 8);
    parse(bytes, 8 + header + rest);
    memory_release(bytes);
    return 0;
}
