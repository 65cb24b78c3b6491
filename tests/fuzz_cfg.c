// libFuzzer: the cfg parser, all option tables and the building of a network.
#include <stdint.h>
#include <stdlib.h>

#include "net/network.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

// Networks that are well-formed but huge would only test the machine's memory.
static int small_enough(const struct cfg *cfg)
{
    static const char *const keys[] = {"batch", "height", "width", "channels", "filters", "output", "size", "groups", "subdivisions"};
    if (cfg->section_count > 12) return 0;
    for (int s = 0; s < cfg->section_count; s++)
        for (int k = 0; k < 9; k++) {
            const struct cfg_option *option = cfg_find_option(&cfg->sections[s], keys[k]);
            if (option && strtod(option->value, NULL) > 64) return 0;
        }
    return cfg_find_option(&cfg->sections[0], "height") && cfg_find_option(&cfg->sections[0], "width");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct thread_pool *pool;
    struct diagnostics diagnostics = {.path = "fuzz.cfg"};
    struct error error;
    if (!pool) pool = thread_pool_create(1, NULL);
    struct cfg *cfg = cfg_parse("fuzz.cfg", (const char *)data, size, &diagnostics);
    if (cfg && cfg->section_count) {
        cfg_set(cfg, "mantissa=3", &error);
        cfg_set(cfg, "1.filters=3", &error);
        struct network_request request = {.for_training = true, .max_images = 2};
        if (small_enough(cfg)) network_destroy(network_create(cfg, &request, pool, &diagnostics));
        free(cfg_to_text(cfg));
    }
    cfg_release(cfg);
    diagnostics_release(&diagnostics);
    return 0;
}
