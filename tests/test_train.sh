#!/usr/bin/env bash
# End to end: training, threads, kernels, stop and resume, SIGKILL at random moments, bad input.
cd "$(dirname "$0")/.." && . tests/testing.bash

mkdir "$work/data"
python3 tests/make_tiny_data.py "$work/data"
cat >"$work/tiny.cfg" <<END
[net]
batch=16
subdivisions=2
channels=1
height=8
width=8
learning_rate=0.05
policy=cosine
epochs=3
label_smoothing=0.05
[data]
type=idx
path=$work/data
pad_crop=1
flip=0
cutout=2
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
stride=2
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
[dropout]
probability=0.1
[avgpool]
[connected]
output=4
activation=linear
[softmax]
END
cfg=$work/tiny.cfg
train() { local folder=$1; shift; "$MLSNET" train "$cfg" --output "$work/$folder" --quiet "$@"; }
same() { cmp -s "$work/$1/last.safetensors" "$work/$2/last.safetensors" && cmp -s "$work/$1/best.safetensors" "$work/$2/best.safetensors"; }

train whole --threads 2 || bad "training" "exit status $?"
check "it learns" python3 - "$work/whole/log.csv" <<'END'
import csv, sys
rows = list(csv.DictReader(open(sys.argv[1])))
assert len(rows) == 3 and [int(r["epoch"]) for r in rows] == [1, 2, 3]
assert float(rows[-1]["top1"]) > 0.6, rows[-1]
END
for threads in 1 3; do
  train threads$threads --threads $threads
  check "same bytes with 2 and $threads threads" same whole threads$threads
done
for kernel in $("$MLSNET" kernels | awk '$2 == "supported" {print $1}'); do
  train "kernel-$kernel" --kernel "$kernel"
  check "same bytes with $kernel kernels" same whole "kernel-$kernel"
done
train other --seed 2
check "another seed, another result" bash -c "! cmp -s $work/whole/last.safetensors $work/other/last.safetensors"

# Stop anywhere and go on.
for stop in 1 7 10 13; do
  train stop$stop --stop-after $stop 2>/dev/null
  train stop$stop --resume
  check "stopped after $stop steps and resumed: same bytes" same whole stop$stop
done
check "the log of a resumed run has each epoch once" bash -c "[ \$(cut -d, -f1 $work/stop13/log.csv | sort -u | wc -l) = 4 ] && [ \$(wc -l <$work/stop13/log.csv) = 4 ]"
check "a finished run resumed says so" bash -c "$MLSNET train $cfg --output $work/whole --resume | grep -q 'already finished'"

# SIGKILL at random moments (a fixed seed), saving at every step, until it is done.
train long --set epochs=12
RANDOM=12345
kills=0
for round in 1 2 3; do
  resume=() tries=0
  while :; do
    "$MLSNET" train "$cfg" --output "$work/killed$round" --quiet --set epochs=12 --save-minutes 0 "${resume[@]}" & # $! is no shell's
    pid=$!
    tries=$((tries + 1))
    if [ $tries -le 12 ]; then
      sleep "0.$(printf %03d $((RANDOM % 90 + 5)))"
      kill -9 $pid 2>/dev/null && kills=$((kills + 1))
    fi
    wait $pid 2>/dev/null && break
    if [ -e "$work/killed$round/last.safetensors" ]; then resume=(--resume); else resume=(); fi
    [ $tries -lt 20 ] || break
  done
  check "killed and resumed, round $round: same bytes" same long killed$round
done 2>/dev/null
check "the kills hit ($kills)" [ $kills -ge 3 ]

# SIGTERM finishes the step, saves and says how to go on.
"$MLSNET" train "$cfg" --output "$work/term" --quiet --set epochs=2000 --set policy=constant 2>"$work/term.err" &
pid=$!
sleep 1
kill -TERM $pid
wait $pid
check "SIGTERM: status 130" [ $? = 130 ]
check "SIGTERM: says how to resume" grep -q -- "mlsnet train --resume $cfg --output $work/term --quiet --set epochs=2000 --set policy=constant" "$work/term.err"
check "SIGTERM: saved" [ -s "$work/term/last.safetensors" ]

# The command that is printed goes on with the run that was begun.
train begun --set mantissa=4 --seed 3 --set 'data.mean=0.25' --stop-after=5 2>"$work/begun.err"
train begun-whole --set mantissa=4 --seed 3 --set 'data.mean=0.25'
eval "$(sed "s|.*Go on with: mlsnet |\"$MLSNET\" |" "$work/begun.err")"
check "the printed command goes on, to the same bytes" same begun-whole begun
check "a hangup saves" bash -c "env --default-signal=HUP $MLSNET train $cfg --output $work/hangup --quiet --set epochs=2000 --set policy=constant 2>/dev/null & pid=\$!; sleep 1; kill -HUP \$pid; wait \$pid; [ \$? = 130 ] && [ -s $work/hangup/last.safetensors ]"

# Two trainings in one folder: the second is refused, the first goes on.
"$MLSNET" train "$cfg" --output "$work/shared" --quiet --set epochs=2000 --set policy=constant 2>/dev/null &
pid=$!
sleep 1
refused "a folder in which another training is at work" 1 "another training is at work" "$MLSNET" train "$cfg" --output "$work/shared"
kill -TERM $pid
wait $pid
check "... which goes on" [ $? = 130 ]

# Evaluation, prediction of a picture, summary.
check "eval agrees with the log" bash -c "$MLSNET eval $cfg $work/whole/last.safetensors --json --confusion $work/confusion.csv | python3 -c '
import csv, json, sys
figures = json.load(sys.stdin)
rows = list(csv.DictReader(open(\"$work/whole/log.csv\")))
assert abs(figures[\"top1\"] - float(rows[-1][\"top1\"])) < 1e-5 and abs(figures[\"loss\"] - float(rows[-1][\"test_loss\"])) < 1e-4
matrix = [list(map(int, row[1:])) for row in list(csv.reader(open(\"$work/confusion.csv\")))[1:]]
assert sum(map(sum, matrix)) == figures[\"images\"] == 40
assert sum(matrix[i][i] for i in range(4)) == round(figures[\"top1\"] * 40)
'"
python3 - "$work/picture.png" <<'END'
import struct, sys, zlib
def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
rows = b"".join(b"\0" + bytes([230 if x < 8 and y < 8 else 40 for x in range(16)]) for y in range(16))
open(sys.argv[1], "wb").write(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 16, 16, 8, 0, 0, 0, 0)) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))
END
check "predict names a class" bash -c "$MLSNET predict $cfg $work/whole/last.safetensors $work/picture.png --json | python3 -c '
import json, sys
top = json.load(sys.stdin)[0][\"predictions\"]
assert abs(sum(p[\"probability\"] for p in top) - 1) < 1e-4 and len(top) == 4'"
check "bench: the parts are the whole step" bash -c "$MLSNET bench $cfg --random --layers --json --rounds 1 --steps 3 | python3 -c '
import json, sys
bench = json.load(sys.stdin)
assert bench[\"images_per_second\"] > 0 and 95 <= bench[\"parts_percent\"] <= 101, bench
assert any(row[\"part\"] == \"weight gradient\" for row in bench[\"layers\"])'"
check "bench: what is done on the way has no rate of its own" bash -c "$MLSNET bench cfg/quickstart.cfg --random --evaluation --layers --json --rounds 1 --steps 1 --set batch=2 | python3 -c '
import json, sys
rows = json.load(sys.stdin)[\"layers\"]
assert len(rows) > 5 and not any(row[\"rate\"] for row in rows if \"shortcut\" in row[\"layer\"]), rows'"
check "bench: evaluation of a network with subdivisions" bash -c "$MLSNET bench $cfg --evaluation --json --rounds 1 --steps 2 | grep -q '\"batch\": 8,'"
check "a finished run resumed with --json prints its summary" bash -c "$MLSNET train $cfg --output $work/whole --resume --json | python3 -c 'import json, sys; assert json.load(sys.stdin)[\"finished\"]'"
check "summary" bash -c "$MLSNET summary $cfg | grep -q 'MLS <2,1> nc 16'"

# A loss that is not a number stops the run; the last good checkpoint stays.
cp "$work/whole/last.safetensors" "$work/before"
mkdir "$work/nan"
"$MLSNET" train "$cfg" --output "$work/nan" --quiet --set learning_rate=1000000 --set policy=constant 2>"$work/nan.err"
check "NaN: status 1" [ $? = 1 ]
check "NaN: names the step" grep -q "step [0-9]*: .*finite" "$work/nan.err"

# Bad input: one line on stderr, the right status, nothing saved is lost.
refused "unknown command" 2 "did you mean train" "$MLSNET" trian "$cfg"
refused "unknown option" 2 "did you mean --threads" "$MLSNET" train "$cfg" --thread 2
refused "missing argument" 2 "CFG" "$MLSNET" train
refused "no cfg" 2 "cannot open" "$MLSNET" train /nonexistent.cfg
refused "a folder as cfg" 2 "cannot read" "$MLSNET" train /tmp
refused "no data" 1 "dataset-fashion-mnist" "$MLSNET" train "$cfg" --data /nonexistent
refused "a kernel that is not there" 2 "kernel=no" "$MLSNET" train "$cfg" --kernel no
refused "a folder that holds a run" 1 "go on with --resume" "$MLSNET" train "$cfg" --output "$work/whole"
refused "resume of nothing" 1 "is not there" "$MLSNET" train "$cfg" --output "$work/new" --resume
refused "another network" 1 "a checkpoint of another network" "$MLSNET" train "$cfg" --output "$work/whole" --resume --set conv.filters=24
cp "$work/whole/config.cfg" "$work/config.before"
resume() { "$MLSNET" train "$cfg" --output "$work/whole" --resume "$@"; }
refused "resume in another format" 1 "config.cfg:1: [net] has no mantissa, now mantissa=4: give the options" resume --set mantissa=4
refused "resume with another batch" 1 "config.cfg:2: [net] batch=16, now 8" resume --set batch=8
refused "resume without an option" 1 "[net] mantissa=4, now not given" "$MLSNET" train "$cfg" --output "$work/begun" --resume --seed 3 --set data.mean=0.25
refused "resume with another layer" 1 "[dropout] probability=0.1, now 0.2" resume --set dropout.probability=0.2
mkdir "$work/other-data"
python3 tests/make_tiny_data.py "$work/other-data" 160 48
refused "resume on other data" 1 "trained on other data (160 + 40 pictures of 4 classes, checksum " resume --data "$work/other-data"
sed 's/\x50/\x51/' "$work/data/train-images-idx3-ubyte" >"$work/other-data/train-images-idx3-ubyte"
cp "$work"/data/t10k-* "$work/data/train-labels-idx1-ubyte" "$work/other-data"
refused "resume where a picture is another" 1 "now 160 + 40 pictures of 4 classes, checksum " resume --data "$work/other-data"
cp "$work"/data/train-* "$work/other-data"
check "resume where the data has moved" resume --data "$work/other-data"
check "config.cfg is as it was" cmp -s "$work/whole/config.cfg" "$work/config.before"
refused "a negative seed" 2 "seed=-5: expected an integer from 0" "$MLSNET" train "$cfg" --output "$work/new" --seed -5
refused "a negative number of steps" 2 "--stop-after -1" "$MLSNET" train "$cfg" --output "$work/new" --stop-after -1
refused "no name of a folder" 1 "expected a folder's name" "$MLSNET" train "$cfg" --output ""
refused "output that cannot be written" 1 "the output cannot be written" bash -c "$MLSNET summary $cfg >/dev/full"
"$MLSNET" convert "$work/whole/best.safetensors" "$work/nan.weights" --cfg "$cfg" 2>/dev/null
python3 -c 'import struct, sys; f = open(sys.argv[1], "r+b"); f.seek(-40, 2); f.write(struct.pack("<4f", *[float("nan")] * 4))' "$work/nan.weights"
refused "predict with weights that are not numbers" 1 "is not a finite number" "$MLSNET" predict "$cfg" "$work/nan.weights" "$work/picture.png"
refused "another seed" 1 "was trained with seed=1" "$MLSNET" train "$cfg" --output "$work/whole" --resume --seed 3
refused "an output that cannot be made" 1 "cannot create" "$MLSNET" train "$cfg" --output /proc/nothing/here
refused "eval of a file that is no checkpoint" 1 "not a safetensors file" "$MLSNET" eval "$cfg" "$cfg"
refused "predict: not a picture" 1 "not a JPEG or PNG" "$MLSNET" predict "$cfg" "$work/whole/last.safetensors" "$cfg"
refused "threads" 2 "1 to 256" "$MLSNET" train "$cfg" --threads 1000
check "what was saved is still there" cmp -s "$work/before" "$work/whole/last.safetensors"

# quantize and conv: all kernel sets give the same bytes; the simulated path nearly the same numbers.
python3 - "$work" <<'END'
import random, struct, sys
def save(name, dims):
    rng, count = random.Random(name), 1
    for d in dims: count *= d
    header = "{'descr': '<f4', 'fortran_order': False, 'shape': (%s), }" % ", ".join(map(str, dims))
    header += " " * (63 - (10 + len(header)) % 64) + "\n"
    with open(f"{sys.argv[1]}/{name}.npy", "wb") as file:
        file.write(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + struct.pack(f"<{count}f", *(rng.gauss(0, 1) for _ in range(count))))
save("a", (2, 20, 9, 9)), save("w", (12, 20, 3, 3)), save("e", (2, 12, 5, 5))
END
conv() { "$MLSNET" conv "$@" --stride 2 --pad 1 >/dev/null; }
for pass in forward input-error weight-gradient; do
  case $pass in
  forward) in=("$work/a.npy" "$work/w.npy") more=() ;;
  input-error) in=("$work/e.npy" "$work/w.npy") more=(--input-size 9x9) ;;
  weight-gradient) in=("$work/a.npy" "$work/e.npy") more=(--kernel-size 3x3) ;;
  esac
  conv --pass $pass "${in[@]}" "$work/reference.npy" --kernel reference "${more[@]}"
  for kernel in $("$MLSNET" kernels | awk '$2 == "supported" {print $1}'); do
    conv --pass $pass "${in[@]}" "$work/out.npy" --kernel "$kernel" "${more[@]}"
    check "conv $pass by $kernel equals the reference" cmp -s "$work/reference.npy" "$work/out.npy"
  done
  conv --pass $pass "${in[@]}" "$work/simulated.npy" --simulated "${more[@]}"
  check "conv $pass simulated" python3 - "$work/reference.npy" "$work/simulated.npy" <<'END'
import array, sys
a, b = (array.array("f", open(p, "rb").read()[128:]) for p in sys.argv[1:])
assert len(a) == len(b) > 100 and sum((x - y) ** 2 for x, y in zip(a, b)) < 1e-10 * sum(x * x for x in a)
END
done
"$MLSNET" quantize "$work/a.npy" "$work/q.npy" --codes "$work/codes.npy" --group-scales "$work/scales.npy" --group-size 8 >"$work/q.txt"
check "quantize: value = St * Sg * I / 16" python3 - "$work" <<'END'
import array, re, sys
folder = sys.argv[1]
def load(name, kind): return array.array(kind, open(f"{folder}/{name}.npy", "rb").read()[128:])
q, codes, scales = load("q", "f"), load("codes", "i"), load("scales", "f")
st = float.fromhex(re.search(r"\((0x[^)]*)\)", open(f"{folder}/q.txt").read()).group(1))
assert len(q) == len(codes) == 2 * 20 * 81 and len(scales) == 2 * 3 and set(map(abs, codes)) <= {0, 1, 2, 3, 4, 6, 8, 12}
single = lambda x: array.array("f", [x])[0]
for i, value in enumerate(q):
    n, c = i // 1620, i // 81 % 20
    assert value == single(single(st * scales[n * 3 + c // 8]) * (codes[i] / 16)), i
END
refused "conv: shapes that do not fit" 1 "expected [2, 12, 9, 9]" "$MLSNET" conv --pass weight-gradient "$work/a.npy" "$work/e.npy" "$work/out.npy" --pad 1 --kernel-size 3x3
refused "conv: a stride beyond all" 2 "--stride 2147483647: expected 1 to 1024" "$MLSNET" conv --pass input-error "$work/e.npy" "$work/w.npy" "$work/out.npy" --stride 2147483647
refused "conv: groups beyond all" 1 "--groups 2147483647: expected 1 to 52428" "$MLSNET" conv --pass forward "$work/a.npy" "$work/w.npy" "$work/out.npy" --groups 2147483647
refused "quantize: bad format" 2 "mantissa=9: expected 0 to 7" "$MLSNET" quantize "$work/a.npy" "$work/out.npy" --mantissa 9
check "the README lists the options" env MLSNET="$MLSNET" scripts/update-readme --check
[ $failures = 0 ]
