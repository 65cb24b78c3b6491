#!/usr/bin/env bash
# Darknet's files on the command line: convert both ways, eval, predict and train from .weights.
cd "$(dirname "$0")/.." && . tests/testing.bash
golden=tests/golden/darknet

convert() { "$MLSNET" convert "$@"; }

for name in layers trunk trunk-0.2.5; do
  cfg=$golden/${name%-0.2.5}.cfg
  convert $golden/$name.weights "$work/$name.safetensors" --cfg $cfg
  convert "$work/$name.safetensors" "$work/$name.weights" --cfg $cfg
  check "$name: the same bytes after safetensors" cmp $golden/$name.weights "$work/$name.weights"
  "$MLSNET" predict $cfg $golden/$name.weights $golden/${name%-0.2.5}.png --set mls=0 --json --top 100 >"$work/weights.json"
  "$MLSNET" predict $cfg "$work/$name.safetensors" $golden/${name%-0.2.5}.png --set mls=0 --json --top 100 >"$work/safetensors.json"
  check "$name: the same predictions" cmp "$work/weights.json" "$work/safetensors.json"
  check "$name: Darknet's numbers" python3 - "$work/weights.json" $golden/$name.f32 <<'END'
import array, json, sys
rows, expected = json.load(open(sys.argv[1]))[0]["predictions"], array.array("f", open(sys.argv[2], "rb").read())
assert len(rows) == len(expected)
assert all(abs(row.get("probability", row.get("score")) - expected[int(row["class"])]) < 1e-4 for row in rows)
END
done
check "a header is chosen with --header" bash -c "$MLSNET convert $golden/trunk.weights $work/old.weights --cfg $golden/trunk.cfg --header 0.1 &&
  [ \$(stat -c %s $work/old.weights) = \$((\$(stat -c %s $golden/trunk.weights) - 4)) ]"
check "a note where the cfg does not choose fp32" bash -c "$MLSNET predict $golden/layers.cfg $golden/layers.weights $golden/layers.png 2>&1 >/dev/null | grep -q 'set mls=0' &&
  ! $MLSNET predict $golden/layers.cfg $golden/layers.weights $golden/layers.png --set mls=0 2>&1 >/dev/null | grep -q note"
seq 4 >"$work/few"
seq 10 | sed 's/^/name-/' >"$work/names"
check "names of classes" bash -c "$MLSNET predict $golden/layers.cfg $golden/layers.weights $golden/layers.png --set mls=0 --names $work/names | grep -q ': name-9 27'"
check "summary of a cfg without loss" bash -c "$MLSNET summary $golden/trunk.cfg | grep -q '18 x 2 x 2'"

# Darknet's cfg, which has no [data], its .data file and its .weights; a picture of the network's size is not filtered, so the numbers
# are those of $golden.
layers=$golden/layers.cfg weights=$golden/layers.weights picture=$PWD/$golden/layers.png
seq 12 | sed 's/^/label-/' >"$work/labels"
seq 12 | sed 's/^/long name /' >"$work/long"
echo "$picture 3" >"$work/one.list"
printf 'classes=10\ntrain=%s\nvalid=%s\nlabels=%s\nnames=%s\ntop=3\n' "$work/none.list" "$work/one.list" "$work/labels" "$work/names" >"$work/one.data"
golden_rows() { # JSON-OR-CSV PREFIX NUMBER-OF-FIRST COUNT: the likeliest classes, PREFIX and a number each, are Darknet's
  python3 - "$@" $golden/layers.f32 <<'END'
import array, csv, json, sys
path, prefix, first, count, golden = sys.argv[1:]
expected = array.array("f", open(golden, "rb").read())
if path.endswith(".csv"):
    row, = csv.DictReader(open(path, newline=""))
    rows = [(row[f"class{k}"], float(row[f"probability{k}"])) for k in range(1, len(row) // 2)]
    assert row["label"] == prefix + str(3 + int(first)), row
else:
    rows = [(row["class"], row["probability"]) for row in json.load(open(path))[0]["predictions"]]
best = sorted(range(len(expected)), key=lambda c: -expected[c])
assert [name for name, _ in rows] == [prefix + str(c + int(first)) for c in best[:int(count)]], rows
assert all(abs(p - expected[c]) < 1e-4 for (_, p), c in zip(rows, best)), rows
END
}
predict() { local to=$1; shift; "$MLSNET" predict "$layers" "$weights" "$picture" --set mls=0 --json "$@" >"$work/$to"; }
predict plain.json --top 10
check "predict without data: classes are numbers" golden_rows "$work/plain.json" "" 0 10
predict names.json --names "$work/long" --top 4
check "... or have the names of a list, which may be longer" golden_rows "$work/names.json" "long name " 1 4
MLSNET_DATA=$work/nowhere predict nowhere.json --top 10
check "... wherever MLSNET_DATA is" cmp "$work/plain.json" "$work/nowhere.json"
predict data.json --data "$work/one.data"
check "predict with .data: names and top, without the lists" golden_rows "$work/data.json" name- 1 3
predict both.json --data "$work/one.data" --names "$work/long" --top 10
check "... --names and --top go before them" golden_rows "$work/both.json" "long name " 1 10
"$MLSNET" eval "$layers" "$weights" --set mls=0 --data "$work/one.data" --predictions "$work/eval.csv" --json >"$work/eval.json" 2>"$work/err"
check "eval with .data and .weights" golden_rows "$work/eval.csv" name- 1 3
check "... without a note in fp32" [ ! -s "$work/err" ]
check "... of the picture's label" python3 -c "
import json, sys
figures = json.load(open(sys.argv[1]))
assert figures['images'] == 1 and [c['name'] for c in figures['classes']] == [f'name-{i}' for i in range(1, 11)]" "$work/eval.json"
check "a note in MLS, from eval, too" bash -c "$MLSNET eval $layers $weights --data $work/one.data 2>&1 >/dev/null | grep -q 'set mls=0'"
printf '\n[data]\ntype=list\ntrain=none\nvalid=none\nclasses=10\nnames=%s\nmean=0\nstd=1\n' "$work/short" | cat $layers - >"$work/layers.cfg"
head -10 "$work/labels" >"$work/short"
layers=$work/layers.cfg predict section.json --top 10
check "predict with [data]" golden_rows "$work/section.json" label- 1 10
layers=$work/layers.cfg predict section-names.json --top 10 --names "$work/long"
check "... --names goes before its names" golden_rows "$work/section-names.json" "long name " 1 10
layers=$work/layers.cfg predict normalized.json --top 10 --set mean=0.5
check "... its mean counts" bash -c "! cmp -s $work/normalized.json $work/section.json"
refused "predict with too few names for [data]" 1 "few: 4 names: expected 10" "$MLSNET" predict "$work/layers.cfg" $weights "$picture" --set mls=0 --names "$work/few"

# Weights of our own training go to Darknet and back; training begins with weights of either kind.
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
filters=8
size=3
pad=1
batch_normalize=1
activation=leaky
[maxpool]
size=2
stride=2
[connected]
output=4
activation=linear
[softmax]
END
cfg=$work/tiny.cfg
"$MLSNET" train "$cfg" --output "$work/a" --quiet
convert "$work/a/last.safetensors" "$work/a.weights" --cfg "$cfg"
check "weights of our own get the successors' header" bash -c "[ \$(od -An -tu4 -N12 $work/a.weights | tr -d ' \n') = 025 ]"
"$MLSNET" eval "$cfg" "$work/a/last.safetensors" --json >"$work/a.json"
"$MLSNET" eval "$cfg" "$work/a.weights" --json >"$work/b.json" 2>/dev/null
check "eval of .weights" cmp "$work/a.json" "$work/b.json"
convert "$work/a.weights" "$work/b.safetensors" --cfg "$cfg"
"$MLSNET" train "$cfg" --output "$work/b" --quiet --weights "$work/a.weights"
"$MLSNET" train "$cfg" --output "$work/c" --quiet --weights "$work/b.safetensors"
check "training from either kind: the same bytes" cmp "$work/b/last.safetensors" "$work/c/last.safetensors"
check "training from weights is not training from nothing" bash -c "! cmp -s $work/a/last.safetensors $work/b/last.safetensors"
convert "$work/a.weights" "$work/d.safetensors" --cfg "$cfg" --set batch_norm_epsilon=deviation
"$MLSNET" train "$cfg" --output "$work/d" --quiet --weights "$work/d.safetensors"
check "Darknet's epsilon goes on to the checkpoints" grep -aq '"batch_norm_epsilon":"deviation"' "$work/d/last.safetensors"
convert "$work/d/last.safetensors" "$work/d.weights" --cfg "$cfg"
check "... and to a .weights file, whose header is then the original's" bash -c "[ \$(od -An -tu4 -N12 $work/d.weights | tr -d ' \n') = 020 ]"
check "... and only where it was asked for" bash -c "! grep -aq batch_norm_epsilon $work/b/last.safetensors"

# Parts of a network's weights: what Darknet's `partial` writes, and training that begins with them.
sed 's/^\[connected\]/[connected]\noutput=5\n[connected]/' "$cfg" >"$work/other.cfg" # the same first two layers
convert "$work/a.weights" "$work/part.weights" --cfg "$cfg" --layers 2
check "a part: header without pictures seen, then the first layers" python3 - "$work" <<'END'
import sys
whole, part = (open(f"{sys.argv[1]}/{name}.weights", "rb").read() for name in ("a", "part"))
assert len(part) == 20 + 4 * (4 * 8 + 8 * 9) and part[:12] == whole[:12] and part[12:20] == bytes(8) and part[20:] == whole[20:len(part)]
END
convert $golden/layers.weights "$work/layers5.weights" --cfg $golden/layers.cfg --layers 5
check "... nothing was seen of pictures, whatever the whole file says" bash -c "[ \$(od -An -tu4 -j12 -N8 $work/layers5.weights | tr -d ' \n') = 00 ] &&
  [ \$(od -An -tu4 -j12 -N8 $golden/layers.weights | tr -d ' \n') != 00 ]"
check "a part is a part" bash -c "$MLSNET convert $work/part.weights $work/again.weights --cfg $cfg --layers 1 && cmp $work/part.weights $work/again.weights"
start() { local folder=$1 cfg=$2; shift 2; "$MLSNET" train "$cfg" --output "$work/$folder" --quiet --stop-after 1 "$@" 2>/dev/null; [ $? = 130 ]; }
convert "$work/part.weights" "$work/filled.safetensors" --cfg "$cfg" --layers 2
start part "$cfg" --weights "$work/part.weights" --layers 2
start filled "$cfg" --weights "$work/filled.safetensors"
start first "$cfg" --weights "$work/a.weights" --layers 2
check "... the other layers are as initialized" cmp "$work/part/last.safetensors" "$work/filled/last.safetensors"
check "... a whole file gives its part, too" cmp "$work/part/last.safetensors" "$work/first/last.safetensors"
start all "$cfg" --weights "$work/a.weights"
check "... which is not the whole" bash -c "! cmp -s $work/part/last.safetensors $work/all/last.safetensors"
start none "$cfg"
check "... nor nothing" bash -c "! cmp -s $work/part/last.safetensors $work/none/last.safetensors"
start other "$work/other.cfg" --weights "$work/part.weights" --layers 2
start other2 "$work/other.cfg" --weights "$work/a/last.safetensors" --layers 2
check "training begins with the first layers of another network" cmp "$work/other/last.safetensors" "$work/other2/last.safetensors"
refused "a part without --layers" 1 "part.weights: ends before layer 2 [connected]: weights of the first 2 layers alone" "$MLSNET" eval "$cfg" "$work/part.weights"
{ cat "$work/part.weights"; head -c 20 /dev/zero; } >"$work/more.weights"
refused "a part that is too long" 1 "20 bytes too many" "$MLSNET" convert "$work/more.weights" "$work/x.safetensors" --cfg "$cfg" --layers 2
refused "more layers than there are" 2 "--layers 9: expected 1 to 4, the layers of the cfg" "$MLSNET" convert "$work/part.weights" "$work/x.safetensors" --cfg "$cfg" --layers 9
refused "--layers without --weights" 2 "expected both" "$MLSNET" train "$cfg" --output "$work/x" --layers 2
refused "safetensors of another network" 1 "layers.2.connected.weight has shape" "$MLSNET" train "$work/other.cfg" --output "$work/x" --weights "$work/a/last.safetensors" --layers 3

head -c 4000 $golden/layers.weights >"$work/short.weights"
cat $golden/layers.weights /dev/zero 2>/dev/null | head -c 9000 >"$work/long.weights"
refused "too short" 1 "ends within layer 8 [convolutional]: layers.8.conv.weight" "$MLSNET" convert "$work/short.weights" "$work/x.safetensors" --cfg $golden/layers.cfg
refused "too long" 1 "bytes too many behind the last layer with weights, layer 16" "$MLSNET" convert "$work/long.weights" "$work/x.safetensors" --cfg $golden/layers.cfg
check "nothing was written" [ ! -e "$work/x.safetensors" ]
refused "convert without --cfg" 2 "--cfg is missing" "$MLSNET" convert $golden/layers.weights "$work/x.safetensors"
refused "convert to an unknown kind" 2 "ends in .weights or .safetensors" "$MLSNET" convert $golden/layers.weights "$work/x.bin" --cfg $golden/layers.cfg
refused "convert with a wrong header" 2 "expected a version" "$MLSNET" convert $golden/layers.weights "$work/x.weights" --cfg $golden/layers.cfg --header new
refused "weights and resume" 2 "only one of them" "$MLSNET" train "$cfg" --output "$work/a" --resume --weights "$work/a.weights"
refused "too few names" 1 "few: 4 names: expected 10" "$MLSNET" predict $golden/layers.cfg $golden/layers.weights $golden/layers.png --names "$work/few"
refused "xnor" 2 "xnor=1 are not supported" "$MLSNET" summary $golden/trunk.cfg --set convolutional.xnor=1
[ $failures = 0 ]
