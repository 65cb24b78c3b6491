#!/usr/bin/env bash
# `mlsnet summary` reads every cfg file that comes with the program, [data] and all. Prints lines as cmocka does. $MLSNET is the program.
set -uo pipefail
cd "$(dirname "$0")/.."
MLSNET=${MLSNET:-./mlsnet}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failures=0

ok() { echo "[       OK ] $1"; }
bad() { echo "[  FAILED  ] $1: ${2:-}"; failures=$((failures + 1)); }
# A batch of one picture spares the memory of the maps.
summary() { "$MLSNET" summary "$1" --set batch=1 --set subdivisions=1 >"$work/out" 2>"$work/err"; }

for cfg in cfg/*.cfg; do
  case $MLSNET:$cfg in
    *sanitized*:cfg/vgg16.cfg) continue ;; # 138 million parameters: takes long to initialize
  esac
  if summary "$cfg" && [ ! -s "$work/err" ] && grep -q softmax "$work/out"; then ok "summary of $cfg"; else bad "summary of $cfg" "$(cat "$work/err")"; fi
  if grep -q '^\[data\]' "$cfg"; then
    sed 's/^\[data\]/&\nmeen=1/' "$cfg" >"$work/wrong.cfg"
  fi
done
# The last one's [data] is read, not passed over.
if ! summary "$work/wrong.cfg" && grep -q '\[data\] .*meen' "$work/err"; then ok "a wrong key in [data]"; else bad "a wrong key in [data]" "$(cat "$work/err")"; fi
[ $failures = 0 ]
