// libFuzzer: the .weights reader. The input as it is, and cut or filled up to the lengths that headers may ask for.
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "net/network.h"
#include "train/darknet_weights.h"

#define NUMBERS 96 // of the network below, with the two biases of its [batchnorm]

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char text[] = "[net]\nheight=3\nwidth=3\nchannels=2\n[conv]\nfilters=3\nsize=2\nbatch_normalize=1\n[conv]\nfilters=2\nflipped=1\n"
                           "[batchnorm]\n[connected]\noutput=3\nbatch_normalize=1\n[connected]\noutput=2\n[softmax]\n";

static struct network *make_network(void)
{
    struct diagnostics diagnostics = {.path = "fuzz.cfg"};
    struct network_request request = {.max_images = 1};
    static struct cfg *cfg; // the network reads it later, too
    cfg = cfg_parse("fuzz.cfg", text, sizeof text - 1, &diagnostics);
    struct network *network = cfg ? network_create(cfg, &request, thread_pool_create(1, NULL), &diagnostics) : NULL;
    if (!network) abort();
    return network;
}

static void parse(struct network *network, const uint8_t *data, size_t size)
{
    struct darknet_header header;
    struct error error;
    uint8_t *copy = memory_allocate(size, 1, NULL);
    memcpy(copy, data, size);
    if (darknet_weights_parse("fuzz", copy, size, network, 1 + (int)(size % 6), &header, &error) && !darknet_weights_recognized(copy, size)) abort();
    memory_release(copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct network *network;
    if (!network) network = make_network();
    parse(network, data, size);
    static const size_t headers[] = {16, 20};
    for (int k = 0; k < 2; k++)
        for (size_t numbers = NUMBERS - 2; numbers <= NUMBERS; numbers += 2) {
            uint8_t whole[20 + 4 * NUMBERS] = {0};
            size_t length = headers[k] + 4 * numbers;
            memcpy(whole, data, size < length ? size : length);
            parse(network, whole, length);
        }
    return 0;
}
