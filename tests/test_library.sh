#!/usr/bin/env bash
# A program of somebody else's, with the shared and with the static library and include/mlsnet.h alone.
cd "$(dirname "$0")/.." && . tests/testing.bash

if [[ $MLSNET == *sanitized* ]]; then
  echo "[  SKIPPED ] the libraries are not built with sanitizers"
  exit 0
fi
cat >"$work/user.c" <<'END'
#include <mlsnet.h>
#include <stdio.h>

int main(void)
{
    const char *settings[] = {"mls=1"};
    mlsnet_error error;
    mlsnet_network *network = mlsnet_network_open("tests/golden/small_cnn.cfg", settings, 1, 1, 0, &error);
    static float input[3 * 8 * 8], scores[5];
    if (!network || mlsnet_network_predict(network, input, 1, scores, &error) != 0) {
        fprintf(stderr, "%s\n", error.message);
        return 1;
    }
    mlsnet_network_close(network);
    printf("%s\n", mlsnet_version());
    return 0;
}
END
cc=${CC:-cc}
make -s libmlsnet.so libmlsnet.a
check "exports nothing but mlsnet_*" bash -c "! nm -D --defined-only libmlsnet.so | grep -v ' mlsnet_' && ! nm --defined-only --extern-only libmlsnet.a | grep ' [A-Z] ' | grep -v ' mlsnet_'"
check "links with the shared library" "$cc" -Iinclude "$work/user.c" -L. -lmlsnet -o "$work/shared"
check "... and runs" env LD_LIBRARY_PATH=. "$work/shared"
read -ra libraries < <(grep -o -- '-lpng.*-lpthread' include/mlsnet.h)
check "links with the static library, as mlsnet.h says" "$cc" -Iinclude "$work/user.c" libmlsnet.a "${libraries[@]}" -o "$work/static"
check "... and runs" "$work/static"
[ $failures = 0 ]
