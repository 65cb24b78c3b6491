#!/usr/bin/env bash
# `mlsnet stats` and `mlsnet probe` from end to end: their forms of output agree, settings and operands reach them, bad input is one
# line. Prints lines as cmocka does, so that scripts/run-tests counts them. $MLSNET is the program.
cd "$(dirname "$0")/.." && . tests/testing.bash
MLSNET=$(realpath "${MLSNET:-./mlsnet}")

mkdir "$work/data"
python3 tests/make_tiny_data.py "$work/data"
cat >"$work/tiny.cfg" <<END
[net]
batch=16
channels=1
height=8
width=8
learning_rate=0.05
epochs=1
[data]
type=idx
path=$work/data
[conv]
mls=0
filters=8
size=3
pad=1
batch_normalize=1
activation=relu
[conv]
filters=20
size=3
pad=1
batch_normalize=1
activation=relu
[conv]
filters=20
size=3
pad=1
batch_normalize=1
activation=linear
[shortcut]
from=-2
activation=relu
[avgpool]
[connected]
output=4
activation=linear
[softmax]
END
cfg=$work/tiny.cfg weights=$work/run/last.safetensors
"$MLSNET" train "$cfg" --output "$work/run" --quiet --set mls=0 || bad "training" "status $?"
cp "$weights" "$work/before"
probe() { "$MLSNET" probe "$cfg" "$weights" --batches 2 --seeds 3 "$@"; }
stats() { "$MLSNET" stats "$cfg" "$weights" --batches 2 "$@"; }

# Probe
probe --over mls=0,1 --over mantissa=1,4 --json --csv "$work/probe.csv" --threads 1 >"$work/probe.json" || bad "probe" "status"
probe --over mls=0,1 --over mantissa=1,4 --json --threads 2 >"$work/threads.json" || bad "probe" "status"
probe --json --operand all,errors >"$work/errors.json" || bad "probe of an operand" "status"
probe --json --set rounding=nearest >"$work/nearest.json" || bad "probe, nearest" "status"
probe >"$work/probe.txt" || bad "probe, text" "status"
check "probe: any number of threads" cmp "$work/probe.json" "$work/threads.json"
probe_agrees() {
  python3 - "$work" <<'END'
import csv, json, math, sys
folder = sys.argv[1]
load = lambda name: json.load(open(f"{folder}/{name}.json"))["settings"]
close = lambda a, b: math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-9)
settings = {row["setting"]: row for row in load("probe")}
assert list(settings) == ["mls=0 mantissa=1", "mls=0 mantissa=4", "mls=1 mantissa=1", "mls=1 mantissa=4"], list(settings)
keys = ("error", "bias", "noise", "cosine", "slope")
for name, row in settings.items():
    counted = [layer for layer in row["layers"] if layer["counted"]]
    assert [layer["layer"] for layer in counted] == [1, 2] and len(row["layers"]) == 4
    for key in keys:
        assert close(row["mean"][key], sum(layer[key] for layer in counted) / 2), (name, key)
    for part in [row["mean"], row["network"]] + row["layers"]:
        assert close(part["error"], part["bias"] + part["noise"])
for mantissa in (1, 4):
    plain = settings[f"mls=0 mantissa={mantissa}"]
    assert all(part["error"] == 0 and close(part["cosine"], 1) and close(part["slope"], 1) for part in plain["layers"]), plain
    assert plain["loss_difference"] == 0
assert settings["mls=1 mantissa=1"]["mean"]["error"] > 4 * settings["mls=1 mantissa=4"]["mean"]["error"] > 0
rows = list(csv.DictReader(open(f"{folder}/probe.csv")))
assert len(rows) == 4 * 6
for row in rows:
    setting = settings[row["setting"]]
    part = setting[row["layer"]] if row["layer"] in ("mean", "network") else next(p for p in setting["layers"] if p["layer"] == int(row["layer"]))
    assert all(close(float(row[key]), part[key]) for key in keys), row
    assert not row["loss"] or close(float(row["loss_difference"]), setting["loss_difference"])
whole, errors = load("errors")
assert (whole["quantized"], errors["quantized"]) == ("all", "errors")
assert 0 < errors["mean"]["error"] < whole["mean"]["error"] and abs(errors["loss_difference"]) < 1e-6 < abs(whole["loss_difference"])
assert all(layer["noise"] == 0 and layer["bias"] > 0 for layer in load("nearest")[0]["layers"][1:3])
text = open(f"{folder}/probe.txt").read()
assert f"{whole['network']['error']:.4f}" in text and "the 2 low-bit layers" in text, text
END
}
check "probe: JSON, CSV and text agree, fp32 is perfect" probe_agrees
refused "probe: a key of training" 2 "--over batch: not an option of the number format" probe --over batch=8
refused "probe: an unknown layer" 2 "--over" probe --over 99.mls=1
refused "probe: a wrong operand" 2 "--operand inputs: expected some of all, weights" probe --operand inputs
refused "probe: no seeds" 2 "--batches 4 --seeds 0: expected 1 to 10000" "$MLSNET" probe "$cfg" "$weights" --seeds 0
refused "probe: another network" 1 "a checkpoint of another network" probe --set conv.filters=24
refused "probe: no checkpoint" 1 "not a safetensors file" "$MLSNET" probe "$cfg" "$cfg"
refused "probe: a file that cannot be made" 1 "cannot write" probe --batches 1 --seeds 1 --csv /proc/nothing

# Stats
stats --json --csv "$work/stats.csv" --threads 1 >"$work/stats.json" || bad "stats" "status"
stats --json --threads 2 >"$work/threads.json" || bad "stats" "status"
stats --json --set 2.mantissa=4 >"$work/finer.json" || bad "stats, a finer layer" "status"
stats >"$work/stats.txt" || bad "stats, text" "status"
check "stats: any number of threads" cmp "$work/stats.json" "$work/threads.json"
stats_agree() {
  python3 - "$work" <<'END'
import csv, json, math, sys
folder = sys.argv[1]
rows = json.load(open(f"{folder}/stats.json"))["operands"]
assert [(r["layer"], r["operand"]) for r in rows] == [(i, o) for i in (1, 2) for o in ("weights", "activations", "errors")]
for row in rows:
    assert math.isclose(row["snr_db"], -20 * math.log10(row["relative_error"]), rel_tol=1e-6)
    assert row["element_bits"] == (3 if row["operand"] == "activations" else 4)
    assert 0 <= row["above_xmax"] <= row["at_xmax"] < 1 and 0 <= row["underflows"] + row["zeros"] <= 1
    assert row["elements"] == 2 * {"weights": 20 * (8 if row["layer"] == 1 else 20) * 9,
                                   "activations": 16 * (8 if row["layer"] == 1 else 20) * 64, "errors": 16 * 20 * 64}[row["operand"]]
finer = json.load(open(f"{folder}/finer.json"))["operands"]
assert all(b["snr_db"] > a["snr_db"] + 10 for a, b in zip(rows[3:5], finer[3:5]))
table = list(csv.DictReader(open(f"{folder}/stats.csv")))
assert len(table) == len(rows)
for a, b in zip(table, rows):
    assert all(math.isclose(float(a[key]), b[key], rel_tol=1e-6, abs_tol=1e-12) for key in a if key not in ("type", "operand", "format"))
    assert a["format"] == b["format"], a
text = open(f"{folder}/stats.txt").read()
assert all(f"{row['snr_db']:.2f}" in text for row in rows)
END
}
check "stats: JSON, CSV and text agree" stats_agree
stats --json --set format=mxfp4 --set error_format=fp8_e5m2 >"$work/formats.json" || bad "stats, other formats" "status"
stats --set format=mxfp4 --set error_format=fp8_e5m2 >"$work/formats.txt" || bad "stats, other formats" "status"
check "stats: other formats" python3 - "$work" <<'END'
import json, sys
rows = json.load(open(f"{sys.argv[1]}/formats.json"))["operands"]
assert [r["format"] for r in rows] == 2 * ["mxfp4", "mxfp4", "fp8_e5m2"]
assert [r["element_bits"] for r in rows] == 2 * [4, 4, 8]
assert [r["groups"] for r in rows[:3]] == [2 * 20 * 9, 2 * 16 * 64, 2] and rows[2]["above_xmax"] == 0 < rows[0]["above_xmax"]
text = open(f"{sys.argv[1]}/formats.txt").read()
assert text.count(" mxfp4 nearest ") == 4 and text.count(" fp8_e5m2 nearest ") == 2, text
END
if command -v gnuplot >/dev/null; then
  stats --plot "$work/s.png" >/dev/null && stats --plot "$work/s.svg" >/dev/null || bad "stats: pictures" "status"
  check "stats: a PNG" bash -c "head -c 4 '$work/s.png' | grep -q PNG"
  check "stats: an SVG with its labels" grep -q "signal-to-noise" "$work/s.svg"
  check "stats: no other picture but the script" [ "$(cd "$work" && echo s.*)" = "s.gnuplot s.png s.svg" ]
  mkdir "$work/names"
  for name in "it's.png" "-e.png" '|touch hit; : .png' '`touch hit`.svg'; do # gnuplot's ways to run a command, and an option
    (cd "$work/names" && "$MLSNET" stats "$cfg" "$weights" --batches 1 --plot "$name") >"$work/out" 2>&1 || bad "picture $name" "$(cat "$work/out")"
    check "a picture with the name $name" [ -s "$work/names/$name" ]
  done
  check "... runs no command" [ ! -e "$work/names/hit" ]
  refused "stats: no folder for the picture" 1 "nowhere/s.gnuplot" stats --batches 1 --plot "$work/nowhere/s.png"
else
  echo "[  SKIPPED ] stats: pictures"
  echo "skipped: stats: pictures: gnuplot is not installed"
fi
mkdir "$work/bin" # without gnuplot in the path
refused "stats: no gnuplot" 1 "--plot: gnuplot is not installed" env PATH="$work/bin" "$MLSNET" stats "$cfg" "$weights" --batches 1 --plot "$work/none.png"
refused "stats: a path with a control character" 2 "control character" stats --plot "$work/a"$'\n'"set output 'b'.png"
refused "stats: a picture of another kind" 2 "s.jpg: expected a name that ends with .png or .svg" stats --plot "$work/s.jpg"
refused "stats: a CSV file that cannot be made" 1 "cannot create: No such file or directory" \
  stats --batches 1 --csv "$work/nowhere/s.csv"
refused "stats: nothing is low-bit" 1 "nothing is quantized" stats --set mls=0
refused "stats: another network" 1 "a checkpoint of another network" stats --set conv.filters=24
refused "stats: no batches" 2 "--batches 0: expected 1 to 10000" "$MLSNET" stats "$cfg" "$weights" --batches 0
check "the checkpoint is as it was" cmp "$work/before" "$weights"
[ $failures = 0 ]
