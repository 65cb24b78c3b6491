// mlsnet kernels: the kernel sets.
#include "kernels/kernels.h"

#include <stdio.h>

#include "cli/arguments.h"
#include "cli/command.h"

int command_kernels(int argc, char **argv)
{
    bool json = false;
    const struct argument table[] = {{"--json", ARGUMENT_FLAG, &json, "print as JSON"}, {0}};
    enum arguments_result result = arguments_parse(argc, argv, "[options]", table);
    if (result != ARGUMENTS_GO_ON) return (int)result;
    const struct kernel_set *best = kernel_set_find(NULL);
    if (json) putchar('[');
    for (int i = 0; kernel_sets[i]; i++) {
        const struct kernel_set *set = kernel_sets[i];
        bool supported = set->supported();
        if (json)
            printf("%s{\"name\": \"%s\", \"supported\": %s, \"default\": %s}", i ? ", " : "", set->name, supported ? "true" : "false",
                   set == best ? "true" : "false");
        else
            printf("%-12s %-14s %s%s\n", set->name, supported ? "supported" : "not supported", set->help,
                   set == best ? " (chosen by default)" : "");
    }
    if (json) puts("]");
    return 0;
}
