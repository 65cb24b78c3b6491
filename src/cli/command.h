// The commands of the program: one file each, one row in the table of main.c.
#ifndef CLI_COMMAND_H
#define CLI_COMMAND_H

// argv[0] is the command's name. Returns the exit status: 0 success, 1 failure while working, 2 bad usage or
// a bad cfg. Every command prints its options and their defaults with --help.
struct command {
    const char *name;
    const char *arguments; // "CFG [options]"
    const char *help;      // one line
    int (*run)(int argc, char **argv);
};

int command_train(int argc, char **argv);
int command_eval(int argc, char **argv);
int command_predict(int argc, char **argv);
int command_convert(int argc, char **argv);
int command_summary(int argc, char **argv);
int command_quantize(int argc, char **argv);
int command_conv(int argc, char **argv);
int command_kernels(int argc, char **argv);
int command_options(int argc, char **argv);
int command_bench(int argc, char **argv);
int command_energy(int argc, char **argv);
int command_sweep(int argc, char **argv);
int command_plot(int argc, char **argv);
int command_stats(int argc, char **argv);
int command_probe(int argc, char **argv);

#endif
