#!/usr/bin/env bash
# `mlsnet energy` from end to end: its three forms of output agree, options reach it, bad input is one line and status 2.
cd "$(dirname "$0")/.." && . tests/testing.bash

refuses() { # NAME TEXT ARGUMENTS...: and nothing on stdout
  refused "$1" 2 "$2" "$MLSNET" energy "${@:3}"
  check "... and nothing on stdout" [ ! -s "$work/out" ]
}

cat >"$work/net.cfg" <<'END'
[net]
batch=4
height=10
width=10
mantissa=4
[conv]
mls=0
filters=8
size=3
pad=1
batch_normalize=1
activation=relu
[conv]
filters=8
size=3
pad=1
batch_normalize=1
activation=linear
[shortcut]
from=-2
activation=relu
[avgpool]
[connected]
output=3
activation=linear
[softmax]
END
energy() { "$MLSNET" energy "$work/net.cfg" "$@"; }
energy --against all --memory --json >"$work/a.json" || bad "json" "status"
energy --memory --csv >"$work/a.csv" || bad "csv" "status"
energy --memory >"$work/a.txt" || bad "text" "status"
energy --json --set rounding=nearest >"$work/nearest.json"
energy --json --set mls=0 --set 0.mls=0 >"$work/fp32.json"
energy --json --set batch=8 >"$work/batch.json"

compare() {
  python3 - "$work" <<'END'
import csv, json, math, sys
folder = sys.argv[1]
load = lambda name: json.load(open(f"{folder}/{name}.json"))
close = lambda a, b: math.isclose(a, b, rel_tol=1e-6)
a = load("a")
rows = list(csv.DictReader(open(f"{folder}/a.csv")))
for run in ("training", "inference"):
    part = a[run]
    assert close(part["pj"], sum(o["pj"] for o in part["operations"]))
    assert close(part["pj"], sum(k["pj"] for k in part["kinds"].values()))
    assert all(close(o["pj"], o["count"] * sum(u["pj"] for u in o["units"])) for o in part["operations"])
    arithmetic = [r for r in rows if r["run"] == run and not r["kind"].startswith("memory")]
    assert close(part["pj"], sum(float(r["picojoules"]) for r in arithmetic))
    moved = [r for r in rows if r["run"] == run and r["kind"].startswith("memory")]
    assert close(part["memory"]["dram_pj"], sum(float(r["picojoules"]) for r in moved))
names = {row["name"]: row for row in a["against"]}
assert {"fp32", "fp8", "fp16", "bf16", "int8"} <= set(names)
for row in names.values():
    assert close(row["training_ratio"], row["training"]["pj"] / a["training"]["pj"])
assert names["fp32"]["training_ratio"] > names["fp16"]["training_ratio"] > names["fp8"]["training_ratio"] > 1
fp32 = load("fp32")
assert close(fp32["training"]["pj"], names["fp32"]["training"]["pj"])
assert "element multiply" not in fp32["training"]["kinds"]
assert "quantize: random bits" in a["training"]["kinds"] and "quantize: random bits" not in load("nearest")["training"]["kinds"]
assert "quantize: random bits" not in a["inference"]["kinds"]
# A larger batch shares the quantization of the weights and the optimizer among more images; inference is the same.
assert load("batch")["training"]["pj"] < a["training"]["pj"]
assert close(load("batch")["inference"]["pj"], a["inference"]["pj"])
assert close(load("batch")["training"]["kinds"]["optimizer"]["pj"], a["training"]["kinds"]["optimizer"]["pj"] / 2)
total = next(line for line in open(f"{folder}/a.txt") if line.split()[:1] == ["total"])
assert abs(float(total.split()[-2]) - a["training"]["pj"] / 1e6) < 6e-4
END
}
check "JSON, CSV and text agree; options reach the counts" compare
check "the table of kinds" grep -q '^accumulate in a group ' "$work/a.txt"
check "the comparison with FP8" grep -q '^fp8 ' "$work/a.txt"
check "memory traffic by bits" grep -Eq '^activations +6 ' "$work/a.txt"
tables() { for t in cfg/energy/*nm.cfg; do energy --table "$t" >/dev/null || return 1; done; }
check "every table of cfg/energy is read" tables
refuses "an unknown format" "such format; expected all, or some of fp32" "$work/net.cfg" --against fp32,fp9
refuses "no table" "nowhere.cfg:1: cannot open" "$work/net.cfg" --table "$work/nowhere.cfg"
refuses "no formats" "nowhere.cfg:1: cannot open" "$work/net.cfg" --formats "$work/nowhere.cfg"
sed 's/^random_bit=.*/random_bit=much/' cfg/energy/horowitz-45nm.cfg >"$work/bad.cfg"
refuses "a price that is none" "random_bit=much: expected a number" "$work/net.cfg" --table "$work/bad.cfg"
refuses "a wrong cfg" "filtres" "$work/net.cfg" --set 0.filtres=3
printf '[format]\nname=fp32\nexponent=8\nmantissa=23\n' >>"$work/bad.cfg"
sed -i 's/^random_bit=.*/random_bit=1/' "$work/bad.cfg"
refuses "the same format twice" "second format with name=fp32" "$work/net.cfg" --table "$work/bad.cfg"
[ "$failures" = 0 ]
