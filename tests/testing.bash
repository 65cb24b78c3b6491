# What the command-line tests share; each begins with `. tests/testing.bash` from the top folder. $MLSNET is the program, $work a
# folder that is removed at the end. Cases are printed as cmocka does, so that scripts/run-tests counts them.
set -uo pipefail
MLSNET=${MLSNET:-./mlsnet}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failures=0
unset MLSNET_DATA

ok() { echo "[       OK ] $1"; }
bad() { echo "[  FAILED  ] $1: ${2:-}"; failures=$((failures + 1)); }
check() { # NAME COMMAND...
  local name=$1; shift
  if "$@" >"$work/log" 2>&1; then ok "$name"; else bad "$name" "$*: $(cat "$work/log")"; fi
}
refused() { # NAME STATUS TEXT COMMAND...: that status, and one line on stderr with the text
  local name=$1 status=$2 text=$3; shift 3
  "$@" >"$work/out" 2>"$work/err"
  local found=$?
  if [ $found = "$status" ] && [ "$(wc -l <"$work/err")" = 1 ] && grep -qF -- "$text" "$work/err"; then
    ok "$name"
  else
    bad "$name" "status $found, $(cat "$work/err")"
  fi
}
