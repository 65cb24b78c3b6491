// The program: a table of commands.
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "cli/command.h"
#include "net/options.h"

#ifndef MLSNET_VERSION
#define MLSNET_VERSION "unknown"
#endif

static const struct command commands[] = {
    {"train", "CFG", "train a network", command_train},
    {"eval", "CFG CHECKPOINT", "top-1, top-5, loss, per-class figures over the test set", command_eval},
    {"predict", "CFG CHECKPOINT PICTURE...", "classify picture files", command_predict},
    {"convert", "IN OUT --cfg CFG", "weights between Darknet's .weights and safetensors", command_convert},
    {"summary", "CFG", "layers, shapes, parameters, multiply-adds, MLS settings, memory", command_summary},
    {"bench", "CFG", "images/s of complete training steps, or of evaluation", command_bench},
    {"energy", "CFG", "operations and energy of a training step and of inference, beside other formats", command_energy},
    {"sweep", "CFG --over KEY=V1,V2", "all combinations of options as runs, with tables and pictures", command_sweep},
    {"plot", "RUN...", "pictures of runs and sweeps", command_plot},
    {"stats", "CFG CHECKPOINT", "what quantization does to the tensors of each layer on real data", command_stats},
    {"probe", "CFG CHECKPOINT", "how good the weight gradient is in a number format, against fp32, without training", command_probe},
    {"quantize", "IN.npy OUT.npy", "one tensor in a number format", command_quantize},
    {"conv", "A.npy B.npy OUT.npy", "one low-bit convolution, any of the three passes", command_conv},
    {"kernels", "", "the kernel sets and which of them this processor supports", command_kernels},
    {"options", "", "all options of cfg files", command_options},
};
#define COMMANDS ((int)(sizeof commands / sizeof commands[0]))

static void print_help(void)
{
    puts("mlsnet: training of CNNs in few bits, with integer convolutions in the MLS format\n\nusage: mlsnet COMMAND ...\n");
    for (int i = 0; i < COMMANDS; i++) printf("  %-9s %-26s %s\n", commands[i].name, commands[i].arguments, commands[i].help);
    puts("\nmlsnet COMMAND --help tells a command's options; mlsnet --version the version.");
}

static int unknown_command(const char *name)
{
    const char *names[COMMANDS];
    for (int i = 0; i < COMMANDS; i++) names[i] = commands[i].name;
    const char *nearest = options_nearest(name, names, COMMANDS);
    fprintf(stderr, "mlsnet: unknown command %s%s%s; see mlsnet --help\n", name, nearest ? "; did you mean " : "", nearest ? nearest : "");
    return 2;
}

// The exit status, but 1 if what was printed could not be written.
static int written(int status)
{
    if (fflush(stdout) == 0 && !ferror(stdout)) return status;
    fprintf(stderr, "mlsnet: the output cannot be written: %s\n", strerror(errno));
    return status ? status : 1;
}

int main(int argc, char **argv)
{
    if (argc < 2 || strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 || strcmp(argv[1], "help") == 0) {
        print_help();
        return argc < 2 ? 2 : 0;
    }
    if (strcmp(argv[1], "--version") == 0) {
        puts("mlsnet " MLSNET_VERSION);
        return 0;
    }
    for (int i = 0; i < COMMANDS; i++)
        if (strcmp(argv[1], commands[i].name) == 0) return written(commands[i].run(argc - 1, argv + 1));
    return unknown_command(argv[1]);
}
