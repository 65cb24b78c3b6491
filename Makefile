# mlsnet. `make help` lists the targets.
VERSION = 0.1.0
CC = gcc
BUILD = build
SANITIZE =

WARNINGS = -Wall -Wextra -Werror -Wno-psabi
# No contraction and no fast math: MLS results are the same on every machine.
ALL_CFLAGS = -std=gnu11 -D_GNU_SOURCE -O3 -g -fPIC -fvisibility=hidden -ffp-contract=off -fno-math-errno $(WARNINGS) $(SANITIZE) $(CFLAGS) \
	-Isrc -Iinclude -DMLSNET_VERSION='"$(VERSION)"'
ALL_LDFLAGS = $(SANITIZE) $(LDFLAGS)
LIBRARIES = -lpng -ljson-c -lz -lm -lpthread

LIBRARY_SOURCES := $(filter-out src/cli/%,$(wildcard src/*.c src/*/*.c src/*/*/*.c))
PROGRAM_SOURCES := $(wildcard src/cli/*.c)
ifneq ($(filter x86_64-%,$(shell $(CC) -dumpmachine)),)
ALL_CFLAGS += -DMLSNET_X86
# gcc copies vectors that are longer than a processor's own (base/vector.h) 8 bytes at a time unless told otherwise (gcc 12 and later can be).
ALL_CFLAGS += $(shell $(CC) -mmove-max=256 -mstore-max=256 -E - < /dev/null > /dev/null 2>&1 && echo -mmove-max=256 -mstore-max=256)
else
LIBRARY_SOURCES := $(filter-out %_avx2.c %_avx512.c %_avx512vnni.c,$(LIBRARY_SOURCES))
endif
LIBRARY_OBJECTS := $(LIBRARY_SOURCES:%.c=$(BUILD)/%.o)
PROGRAM_OBJECTS := $(PROGRAM_SOURCES:%.c=$(BUILD)/%.o)
TEST_PROGRAMS := $(patsubst tests/%.c,$(BUILD)/tests/%,$(wildcard tests/test_*.c))
FUZZ_PROGRAMS := $(patsubst tests/%.c,$(BUILD)/tests/%,$(wildcard tests/fuzz_*.c))

all: mlsnet libmlsnet.a libmlsnet.so

help:
	@echo "make             build ./mlsnet, libmlsnet.a and libmlsnet.so"
	@echo "make quickstart  install what is missing, build, train a small CNN in MLS <2,1>, evaluate it"
	@echo "make test        install what is missing, build, pass the whole test suite, also under sanitizers"
	@echo "make bench       images/s beside PyTorch (installs python3-torch; needs CIFAR-10, see MLSNET_DATA)"
	@echo "make fuzz        every fuzz target for FUZZ_SECONDS (default 60) seconds"
	@echo "make clean       remove what was built"

# Instruction sets by the file's name.
$(BUILD)/src/kernels/%_avx512vnni.o: ISA = -mavx512f -mavx512bw -mavx512vl -mavx512cd -mavx512dq -mavx512vbmi -mavx512vnni -mfma
$(BUILD)/src/kernels/%_avx512.o: ISA = -mavx512f -mavx512bw -mavx512vl -mavx512cd -mavx512dq -mfma
$(BUILD)/src/kernels/%_avx2.o: ISA = -mavx2 -mfma

# stb_image shifts by too much and overflows on damaged files, without harm to memory; that is left to wrap.
$(BUILD)/src/data/jpeg.o: ISA = -fwrapv -fno-sanitize=shift,signed-integer-overflow

$(BUILD)/%.o: %.c Makefile
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) $(ISA) -MMD -MP -c $< -o $@

$(BUILD)/objects.a: $(LIBRARY_OBJECTS)
	@rm -f $@
	ar rcs $@ $^

$(BUILD)/mlsnet: $(PROGRAM_OBJECTS) $(BUILD)/objects.a
	$(CC) $(ALL_LDFLAGS) $^ $(LIBRARIES) -o $@

# The libraries export what include/mlsnet.h declares and nothing else.
libmlsnet.so: $(LIBRARY_OBJECTS) include/libmlsnet.map
	$(CC) -shared $(ALL_LDFLAGS) $(LIBRARY_OBJECTS) $(LIBRARIES) -Wl,-soname,$@.0 -Wl,--version-script=include/libmlsnet.map -o $@
	ln -sf $@ $@.0
libmlsnet.a: $(LIBRARY_OBJECTS)
	ld -r $^ -o $(BUILD)/libmlsnet.o
	objcopy --wildcard --keep-global-symbol='mlsnet_*' $(BUILD)/libmlsnet.o
	@rm -f $@
	ar rcs $@ $(BUILD)/libmlsnet.o

mlsnet: $(BUILD)/mlsnet
	cp $< $@

$(BUILD)/tests/test_%: $(BUILD)/tests/test_%.o $(BUILD)/objects.a
	$(CC) $(ALL_LDFLAGS) $^ -lcmocka $(TEST_LIBRARIES) $(LIBRARIES) -o $@
# These write JPEG files.
$(BUILD)/tests/test_pictures $(BUILD)/tests/test_folders: TEST_LIBRARIES = -ljpeg

programs: $(BUILD)/mlsnet $(TEST_PROGRAMS)

test:
	scripts/install-dependencies build
	-scripts/install-dependencies plot # without it the tests of pictures are skipped
	$(MAKE) --no-print-directory -j2 programs mlsnet
	$(MAKE) --no-print-directory -j2 programs BUILD=build/sanitized SANITIZE="-fsanitize=address,undefined -fno-sanitize-recover=all"
	scripts/run-tests build build/sanitized

quickstart:
	scripts/install-dependencies build data
	$(MAKE) --no-print-directory -j2 mlsnet
	scripts/quickstart

bench: mlsnet
	scripts/install-dependencies bench
	scripts/bench

FUZZ_SECONDS = 60
$(BUILD)/tests/fuzz_%: $(BUILD)/tests/fuzz_%.o $(BUILD)/objects.a
	$(CC) $(ALL_LDFLAGS) -fsanitize=fuzzer $^ $(LIBRARIES) -o $@
fuzz-programs: $(FUZZ_PROGRAMS)
fuzz:
	scripts/install-dependencies build fuzz
	$(MAKE) --no-print-directory -j2 fuzz-programs CC=clang BUILD=build/fuzz SANITIZE="-fsanitize=address,undefined,fuzzer-no-link -fno-sanitize-recover=all"
	scripts/run-fuzz build/fuzz $(FUZZ_SECONDS)

clean:
	rm -rf build mlsnet libmlsnet.a libmlsnet.so

.PHONY: all help programs test quickstart bench fuzz fuzz-programs clean
.SECONDARY:
-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)
