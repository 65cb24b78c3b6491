#!/usr/bin/env bash
# Picture files from the command line: folders, lists, Darknet's .data files, bad pictures, evaluation against one written
# independently.
cd "$(dirname "$0")/.." && . tests/testing.bash

data=$work/data
python3 tests/make_picture_data.py "$data"
layers="[conv]
filters=6
size=3
pad=1
activation=relu
mls=0
[avgpool]
[connected]
output=4
activation=linear
[softmax]"
cat >"$work/folder.cfg" <<END
[net]
batch=16
channels=3
height=12
width=12
learning_rate=0.1
policy=cosine
epochs=4
[data]
type=imagefolder
path=$data
resize=14
flip=1
crop_scale=0.6,1
saturation=1.2
hue=0.02
$layers
END
cfg=$work/folder.cfg
train() { local folder=$1; shift; "$MLSNET" train "$cfg" --output "$work/$folder" --quiet "$@"; }
same() { cmp -s "$work/$1/last.safetensors" "$work/$2/last.safetensors" && cmp -s "$work/$1/best.safetensors" "$work/$2/best.safetensors"; }

# config and data are part of the checkpoint's cfg, so loader_threads and cache are compared by the weights alone.
weights() { python3 -c "
import json, struct, sys
data = open(sys.argv[1], 'rb').read()
size = struct.unpack('<Q', data[:8])[0]
sys.stdout.buffer.write(data[8 + size:])" "$work/$1/last.safetensors"; }
train whole || bad "training" "exit status $?"
train again --threads 1
check "same bytes with another number of threads" same whole again
for setting in loader_threads=1 loader_threads=3 cache=0; do
  train $setting --set $setting
  check "same weights with $setting" cmp -s <(weights whole) <(weights $setting)
done
train stopped --stop-after 17 2>/dev/null
train stopped --resume
check "stopped and resumed: same bytes" same whole stopped
cp -r "$data" "$work/moved"
check "resumed where the pictures have moved" train stopped --resume --data "$work/moved"
picture=$(find "$work/moved/train" -type f | head -n 1)
mv "$picture" "$(dirname "$picture")/x$(basename "$picture")"
refused "... not where one has another name" 1 "trained on other data" train stopped --resume --data "$work/moved"
check "another crop, another result" bash -c "$MLSNET train $cfg --output $work/crop --quiet --set crop_scale=0.2,1 && ! cmp -s $work/crop/last.safetensors $work/whole/last.safetensors"
sed 's/^width=12/width=12\nflip=0\nhue=0.3/' "$cfg" >"$work/both.cfg"
cfg=$work/both.cfg train both
check "[data] goes before [net]" cmp -s <(weights whole) <(weights both)
sed '/^flip/d' "$cfg" >"$work/noflip.cfg"
cfg=$work/noflip.cfg train noflip0
train noflip1 --set flip=0
check "no flip unless asked for" cmp -s <(weights noflip0) <(weights noflip1)
check "... which makes a difference" bash -c "! cmp -s $work/whole/last.safetensors $work/noflip0/last.safetensors"
check "the log has the waited share" python3 - "$work/whole/log.csv" <<'END'
import csv, sys
rows = list(csv.DictReader(open(sys.argv[1])))
assert len(rows) == 4 and all(0 <= float(row["waited"]) <= 1 for row in rows), rows
END

# Evaluation.
checkpoint=$work/whole/last.safetensors
for resize in 12 14 19; do
  "$MLSNET" eval "$cfg" "$checkpoint" --json --predictions "$work/predictions.csv" --top 3 --set resize=$resize >"$work/figures.json"
  check "eval equals an independent evaluation, resize=$resize" python3 tests/evaluate_pictures.py "$data" "$checkpoint" "$work/figures.json" "$work/predictions.csv" $resize 1
done
"$MLSNET" eval "$cfg" "$checkpoint" --json --predictions "$work/ten.csv" --set crops=10 >"$work/ten.json"
check "ten crops equal an independent evaluation" python3 tests/evaluate_pictures.py "$data" "$checkpoint" "$work/ten.json" "$work/ten.csv" 14 10
"$MLSNET" eval "$cfg" "$checkpoint" --json --predictions "$work/all.csv" --confusion "$work/confusion.csv" >"$work/all.json"
check "confusion matrix, precision and recall are those of the predictions" python3 - "$work" <<'END'
import csv, json, sys
rows = list(csv.DictReader(open(f"{sys.argv[1]}/all.csv", newline="")))
matrix = list(csv.DictReader(open(f"{sys.argv[1]}/confusion.csv", newline="")))
names = ["apple", "cat", "dog, brown", "zebra"]
assert [line["label"] for line in matrix] == names and list(matrix[0]) == ["label"] + names, matrix
for line, figures in zip(matrix, json.load(open(f"{sys.argv[1]}/all.json"))["classes"]):
    label = line["label"]
    of_label = [row["class1"] for row in rows if row["label"] == label]
    of_class = [row["label"] for row in rows if row["class1"] == label]
    assert [int(line[name]) for name in names] == [of_label.count(name) for name in names], line
    assert abs(figures["recall"] - of_label.count(label) / len(of_label)) < 1e-9, figures
    assert abs(figures["precision"] - (of_class.count(label) / len(of_class) if of_class else 0)) < 1e-9, figures
END
refused "a confusion matrix that cannot be written" 1 "$work/none/x.csv: cannot create: No such file" "$MLSNET" eval "$cfg" "$checkpoint" --confusion "$work/none/x.csv"
mkdir "$work/only"
ln -s "$data/val" "$work/only/val"
"$MLSNET" eval "$cfg" "$checkpoint" --data "$work/only" --json >"$work/only.json"
check "eval needs no folder of training pictures" cmp "$work/all.json" "$work/only.json"
refused "... training does" 1 "only: expected the folders train and val" "$MLSNET" train "$cfg" --data "$work/only" --output "$work/none"

# Lists, and Darknet's .data file with its cfg, which has no [data].
cat >"$work/list.cfg" <<END
[net]
batch=16
channels=3
height=12
width=12
[data]
type=list
train=$data/train.list
valid=$data/val.list
names=$work/names
resize=14
$layers
END
head -4 "$data/labels.list" >"$work/names"
"$MLSNET" eval "$work/list.cfg" "$checkpoint" --predictions "$work/list.csv" --top 3 >/dev/null
"$MLSNET" eval "$cfg" "$checkpoint" --predictions "$work/folder.csv" --top 3 >/dev/null
check "a list gives what its folder gives" cmp -s <(sort "$work/list.csv") <(sort "$work/folder.csv")
{ sed -n '1,/^epochs/p' "$cfg"; printf 'max_crop=16\nmin_crop=12\naspect=.9\nangle=5\nhue=.1\nsaturation=.75\nexposure=.75\n%s\n' "$layers"; } >"$work/darknet.cfg"
"$MLSNET" train "$work/darknet.cfg" --data "$data/tiny.data" --quiet
check "a .data file: backup is where runs go" [ -s "$data/backup/darknet/best.safetensors" ]
"$MLSNET" train "$work/darknet.cfg" --data "$data/tiny.data" --quiet --output "$work/noflip" --set flip=0
check "... flip is on" bash -c "! cmp -s $data/backup/darknet/last.safetensors $work/noflip/last.safetensors"
"$MLSNET" train "$work/darknet.cfg" --data "$data/tiny.data" --quiet --output "$work/noangle" --set angle=0
check "... angle of [net] counts" bash -c "! cmp -s $data/backup/darknet/last.safetensors $work/noangle/last.safetensors"
{ sed -n '1,/^epochs/p' "$cfg"; echo "$layers"; } >"$work/plain.cfg"
cfg=$work/plain.cfg train plain --data "$data/tiny.data"
cfg=$work/plain.cfg train plain2 --data "$data/tiny.data" --set min_crop=12 --set max_crop=24 --set flip=1
check "... crops of width to 2 width are the default" cmp -s <(weights plain) <(weights plain2)
"$MLSNET" eval "$work/darknet.cfg" "$data/backup/darknet/last.safetensors" --data "$data/tiny.data" --predictions "$work/darknet.csv" >/dev/null
check "... top is the number of classes in predictions" grep -q '^path,label,class1,probability1,class2,probability2$' "$work/darknet.csv"
check "... eval: lists keep their order" cmp -s <(python3 -c "import csv, sys; print(*(r['path'] for r in csv.DictReader(open(sys.argv[1], newline=''))), sep='\n')" "$work/darknet.csv") "$data/val.list"
rm "$data/train.list"
first=$(head -1 "$data/val.list")
check "... predict needs the names alone, and says what eval says" python3 - <("$MLSNET" predict "$work/darknet.cfg" "$data/backup/darknet/last.safetensors" --data "$data/tiny.data" "$first" --json) "$work/darknet.csv" <<'END'
import csv, json, sys
said, row = json.load(open(sys.argv[1]))[0]["predictions"], next(csv.DictReader(open(sys.argv[2], newline="")))
assert len(said) == 2 and said[0]["class"] == row["class1"] and abs(said[0]["probability"] - float(row["probability1"])) < 1e-5, (said, row)
END
refused "a .data file without its lists" 1 "train.list: No such file" "$MLSNET" train "$work/darknet.cfg" --data "$data/tiny.data" --output "$work/none"

# Bad pictures.
for i in 1 2; do echo "no picture" >"$data/train/cat/bad$i.png"; done
refused "more than 1 % of bad pictures stop the run" 1 "2 of 162 pictures cannot be read, more than 1 %" train bad
check "... and are listed" [ "$(wc -l <"$work/bad/skipped.txt")" = 2 ]
rm "$data/train/cat/bad2.png"
train skip
check "one is counted" grep -q '"skipped":1,' "$work/skip/summary.json"
check "one is skipped and listed once" [ "$(cat "$work/skip/skipped.txt")" = "$data/train/cat/bad1.png: not a JPEG or PNG picture" ]
train skip3 --stop-after 33 2>/dev/null
train skip3 --resume
check "... the same when resumed" bash -c "cmp -s $work/skip/last.safetensors $work/skip3/last.safetensors && cmp -s $work/skip/skipped.txt $work/skip3/skipped.txt"
for class in "$data"/val/*; do # 120 pictures, of which one more may be bad
  mkdir -p "$work/many/val/$(basename "$class")"
  for copy in 1 2 3; do cp -r "$class" "$work/many/val/$(basename "$class")/$copy"; done
done
echo "no picture" >"$work/many/val/cat/2/000.png"
"$MLSNET" eval "$cfg" "$checkpoint" --data "$work/many" --json >"$work/many.json" 2>"$work/err"
check "eval goes on without a bad picture" python3 - "$work" <<'END'
import json, sys
many, once = (json.load(open(f"{sys.argv[1]}/{name}.json")) for name in ("many", "all"))
assert many["images"] == 120 and many["skipped"] == 1 and many["top1"] == once["top1"] and abs(many["loss"] - once["loss"]) < 1e-5, (many, once)
END
check "... and says which it was" grep -q "skipped .*/cat/2/000.png: not a JPEG or PNG picture" "$work/err"
MLSNET_DATA=$work/many "$MLSNET" eval "$cfg" "$checkpoint" --json >"$work/environment.json" 2>/dev/null
check "MLSNET_DATA goes before path" cmp "$work/many.json" "$work/environment.json"
MLSNET_DATA=$work/many "$MLSNET" eval "$cfg" "$checkpoint" --data "$data" --json >"$work/argument.json"
check "... and --data before it" cmp "$work/all.json" "$work/argument.json"
"$MLSNET" predict "$cfg" "$checkpoint" "$work/many/val/cat/2/000.png" "$first" "$work/none.png" "$first" >"$work/out" 2>"$work/err"
check "predict classifies the pictures that it can read, and fails" [ "$? $(wc -l <"$work/out") $(wc -l <"$work/err")" = "1 2 2" ]
refused "on_bad_image=stop" 1 "bad1.png: not a JPEG or PNG picture" train stop --set on_bad_image=stop

# Options that do not go together.
refused "two random crops" 2 "crop_scale: expected without min_crop" "$MLSNET" train "$cfg" --output "$work/none" --set min_crop=12
refused "crop_scale in the wrong order" 2 "crop_scale: expected two numbers, the least first" "$MLSNET" train "$cfg" --output "$work/none" --set crop_scale=1,0.5
refused "crops" 2 "crops=3: expected 1 or 10" "$MLSNET" eval "$cfg" "$checkpoint" --set crops=3
refused "resize below the network's size" 1 "resize=11: expected at least the network's 12 x 12" "$MLSNET" eval "$cfg" "$checkpoint" --set resize=11
[ $failures = 0 ]
