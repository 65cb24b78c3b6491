#!/usr/bin/env bash
# `mlsnet sweep` and `mlsnet plot` from end to end: all combinations, tables, stop and resume, failures, bad input, pictures.
# Prints lines as cmocka does, so that scripts/run-tests counts them. $MLSNET is the program.
cd "$(dirname "$0")/.." && . tests/testing.bash
MLSNET=$(realpath "${MLSNET:-./mlsnet}")

refuses() { # NAME STATUS TEXT ARGUMENTS...: and nothing is written
  refused "$1" "$2" "$3" "$MLSNET" sweep "$cfg" --output "$work/refused" "${@:4}"
  check "... and nothing is written" [ ! -e "$work/refused" ]
}

mkdir "$work/data" "$work/other-data"
python3 tests/make_tiny_data.py "$work/data"
cfg=$work/tiny.cfg
cat >"$cfg" <<END
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
filters=12
size=3
stride=2
pad=1
batch_normalize=1
activation=linear
[conv]
filters=20
size=3
pad=1
batch_normalize=1
activation=relu
[avgpool]
[connected]
output=4
activation=linear
[softmax]
END
sweep() { local folder=$1; shift; "$MLSNET" sweep "$cfg" --output "$work/$folder" --no-pictures "$@"; }
state_of() { (cd "$work/$1" && find . -path './*/*' -type f -printf '%p %T@ %s ' -exec md5sum {} \; | sort); }

# All combinations, and what the tables say.
sweep all --over mantissa=1,2 --over exponent=0,2 --seeds 2 --jobs 2 --set activation_mantissa=3 >"$work/all.out" 2>"$work/all.err" || bad "sweep" "$(cat "$work/all.err")"
tables() {
  python3 - "$work" "$MLSNET" "$cfg" <<'END'
import csv, json, pathlib, statistics, subprocess, sys
work, mlsnet, cfg = sys.argv[1:]
root = pathlib.Path(work) / "all"
rows = list(csv.DictReader(open(root / "sweep.csv")))
names = ["fp32"] + [f"mantissa={m} exponent={e}" for m in (1, 2) for e in (0, 2)]
assert [r["setting"] for r in rows] == names
close = lambda a, b, by=1.1e-6: abs(float(a) - b) <= by
mean = {}
for row in rows:
    logs = [list(csv.DictReader(open(root / row["folder"] / f"seed{s}" / "log.csv"))) for s in (1, 2)]
    assert all(len(log) == 1 for log in logs)
    top1 = [float(log[-1]["top1"]) for log in logs]
    mean[row["setting"]] = statistics.mean(top1)
    assert close(row["top1"], statistics.mean(top1)) and close(row["top1_spread"], statistics.stdev(top1))
    assert close(row["top1_least"], min(top1)) and close(row["top1_most"], max(top1))
    assert close(row["images_per_second"], statistics.median(float(r["images_per_second"]) for log in logs for r in log), 0.051)
    assert (row["seeds"], row["finished"], row["failed"]) == ("2", "2", "0")
    sets = ["mls=0"] if row["setting"] == "fp32" else row["setting"].split()
    command = [mlsnet, "energy", cfg, "--json", "--against", "fp32", "--set", "activation_mantissa=3"]
    energy = json.loads(subprocess.run(command + [a for s in sets for a in ("--set", s)], capture_output=True, text=True, check=True).stdout)
    assert close(row["energy_uj"], energy["training"]["pj"] / 1e6, 1e-5 * float(row["energy_uj"]))
    assert close(row["energy_ratio"], energy["against"][0]["training_ratio"], 1e-5 * float(row["energy_ratio"]))
    assert all(s in (root / row["folder"] / "seed2" / "config.cfg").read_text() for s in sets + ["seed=2", "activation_mantissa=3"])
# Elements of both convolutions: the first's input follows a ReLU, 8 x 8 x 8 numbers; the second's does not, 12 x 4 x 4.
for m in (1, 2):
    for e in (0, 2):
        row = rows[names.index(f"mantissa={m} exponent={e}")]
        assert float(row["weight_bits"]) == float(row["error_bits"]) == 1 + e + m
        assert close(row["activation_bits"], e + 3 + 12 * 16 / (12 * 16 + 8 * 64), 1e-4), row
        assert close(row["top1_lost"], mean["fp32"] - mean[row["setting"]], 1.6e-6)
assert all(float(rows[0][c]) == 32 for c in ("weight_bits", "activation_bits", "error_bits", "bits")) and float(rows[0]["energy_ratio"]) == 1
# The front, by its definition.
points = {r["setting"]: (float(r["energy_uj"]), float(r["top1"])) for r in rows}
for row in rows:
    e, a = points[row["setting"]]
    beaten = any(f <= e and b >= a and (f, b) != (e, a) for f, b in points.values())
    assert row["pareto"] == ("0" if beaten else "1"), row
lines = (root / "sweep.md").read_text().splitlines()
assert [line.split("|")[1].strip() for line in lines[2:7]] == names and "%.2f ± " % (100 * mean["fp32"]) in lines[2]
END
}
check "all combinations ran; sweep.csv and sweep.md agree with log.csv and mlsnet energy" tables
check "progress as plain lines, with time left" grep -qE 'seed [12]: top-1 [0-9.]+ %, .* [0-9]+ of 10 runs finished, [0-9]+:[0-9][0-9]:[0-9][0-9] left' "$work/all.out"
state_of all >"$work/before"
sweep all --over mantissa=1,2 --over exponent=0,2 --seeds 2 --set activation_mantissa=3 >/dev/null 2>&1
check "finished runs are left alone" bash -c "[ \$(wc -l <$work/before) -ge 50 ] && diff $work/before <(cd $work/all && $(declare -f state_of); work=$work; state_of all)"
sweep all --over mantissa=1,2 --over exponent=0,2 --seeds 3 --set activation_mantissa=3 >/dev/null 2>&1
check "one more seed: ten old runs, five new" bash -c "[ \$(ls -d $work/all/*/seed* | wc -l) = 15 ] && state=\$(cd $work/all && find . -path './*/seed[12]/*' -type f -printf '%p %T@ %s ' -exec md5sum {} \; | sort) && [ \"\$state\" = \"\$(cat $work/before)\" ]"
sweep all --over mantissa=1,2 --over exponent=0,2 --seeds 3 >"$work/out" 2>"$work/err"
check "a folder with other runs is refused" bash -c "[ $? = 1 ] && [ \$(wc -l <$work/err) = 1 ] && grep -q 'the run there is another' $work/err"

python3 tests/make_tiny_data.py "$work/other-data" 160 48
sweep all --over mantissa=1,2 --over exponent=0,2 --seeds 2 --set activation_mantissa=3 --data "$work/other-data" >"$work/out" 2>"$work/err"
check "a folder with runs of other data is refused" bash -c "[ $? = 1 ] && [ \$(wc -l <$work/err) = 1 ] && grep -q 'of other data (160 + 40 pictures of 4 classes, .*, now 160 + 48 ' $work/err"
sweep sets --over "path=$work/data,$work/other-data" --no-fp32 >/dev/null 2>&1
sweep sets --over "path=$work/other-data,$work/data" --no-fp32 >"$work/out" 2>"$work/err"
check "... unless the sweep is over data sets" grep -q "2 of 2 runs finished\|every run is finished" "$work/out"

# What the fp32 runs are: one for each combination of what is not the format.
sweep rates --over learning_rate=0.05,0.1 --over group_size=1,4 --threads 6 --jobs 2 >/dev/null 2>&1
check "runs at once share the threads" [ "$(cat "$work"/rates/*/seed1/output.log | grep -c 'threads: 3;')" = 6 ]
check "fp32 with each learning rate" python3 - "$work/rates" <<'END'
import csv, sys
rows = list(csv.DictReader(open(f"{sys.argv[1]}/sweep.csv")))
assert [r["setting"] for r in rows][:2] == ["fp32 learning_rate=0.05", "fp32 learning_rate=0.1"] and len(rows) == 6
for r in rows[2:]:
    assert r["reference"] == "fp32 " + r["setting"].split()[0]
    assert abs(float(r["top1_lost"]) - (float(next(q for q in rows if q["setting"] == r["reference"])["top1"]) - float(r["top1"]))) < 2e-6
END

# SIGKILL of the sweep, and SIGINT: the runs save; the same command goes on to the same bytes.
long=(--over mantissa=1,2 --epochs 120)
sweep whole "${long[@]}" >/dev/null 2>&1
same() { for run in fp32 mantissa=1 mantissa=2; do cmp -s "$work/whole/$run/seed1/last.safetensors" "$work/$1/$run/seed1/last.safetensors" || return 1; done; }
is_running() { [ "$(sed 's/.*) \(.\).*/\1/' "/proc/$1/stat" || echo Z)" != Z ]; } # not there or a zombie: it has ended
wait_for_epochs() { # of sweep $1, process $2: until the run in the middle has some, however slow this machine is
  while is_running "$2" && ! [ "$(wc -l <"$work/$1/mantissa=1/seed1/log.csv")" -gt 5 ]; do sleep 0.01; done
}
for signal in KILL INT; do
  "$MLSNET" sweep "$cfg" --output "$work/$signal" --no-pictures "${long[@]}" >"$work/out" 2>"$work/$signal.err" & # a function would be a shell
  pid=$!
  wait_for_epochs $signal $pid 2>/dev/null
  kill -$signal $pid
  wait $pid
  status=$?
  check "SIG$signal hit the second run" bash -c "[ -e $work/$signal/fp32/seed1/summary.json ] && [ ! -e $work/$signal/mantissa=2 ] && ! grep -qs '\"finished\":true' $work/$signal/mantissa=1/seed1/summary.json"
  md5sum "$work/$signal/fp32/seed1/"* >"$work/first"
  sweep $signal "${long[@]}" >"$work/out" 2>"$work/err"
  check "SIG$signal: it goes on, to the same bytes" same $signal
  check "SIG$signal: the second run was resumed, the first untouched" bash -c "grep -q 'mantissa=1 seed 1: goes on' $work/err && grep -q 'mantissa=2 seed 1: begins' $work/err && md5sum --quiet -c $work/first"
  [ $signal = INT ] && check "SIGINT: status 130, and what goes on is said" bash -c "[ $status = 130 ] && grep -q 'the same command goes on' $work/INT.err"
done 2>/dev/null
check "a stopped sweep has its table" bash -c "sed -n 2p $work/INT/sweep.csv | grep -q '^fp32,fp32,,32,32,32,32,1,1,0,'"

# A run that fails.
sweep failing --over learning_rate=0.05,1000000 --over mantissa=1,2 --no-fp32 >"$work/out" 2>"$work/err"
check "a failed run: status 1" [ $? = 1 ]
check "... is reported with its reason" grep -qE 'failed: learning_rate=1000000 mantissa=1 seed 1: .*finite.* see .*output.log' "$work/err"
check "... and the rest was done" python3 - "$work/failing" <<'END'
import csv, sys
rows = {r["setting"]: r for r in csv.DictReader(open(f"{sys.argv[1]}/sweep.csv"))}
assert len(rows) == 4
for name, row in rows.items():
    failed = name.startswith("learning_rate=1000000")
    assert (row["finished"], row["failed"]) == (("0", "1") if failed else ("1", "0")), row
    assert (row["top1"] == "") == failed and row["top1_lost"] == "" and (row["pareto"] == "") == failed
END

# A run that is killed from outside, by the system when memory runs out for example.
"$MLSNET" sweep "$cfg" --output "$work/killed" --no-pictures --no-fp32 "${long[@]}" >"$work/out" 2>"$work/err" &
pid=$!
wait_for_epochs killed $pid 2>/dev/null
kill -KILL $(cat /proc/$pid/task/$pid/children)
wait $pid
check "a killed run: status 1, said, and the rest was done" bash -c "[ $? = 1 ] && [ -e $work/killed/mantissa=2/seed1/summary.json ] &&
  grep -q 'failed: mantissa=1 seed 1: ended by signal 9; see' $work/err"
sweep killed --no-fp32 "${long[@]}" >"$work/out" 2>"$work/err"
check "... and it goes on, to the same bytes" cmp "$work/killed/mantissa=1/seed1/last.safetensors" "$work/whole/mantissa=1/seed1/last.safetensors"

# Bad input: one line, before anything runs.
refuses "no --over" 2 "--over is missing"
refuses "an unknown key" 2 "--over mantisa: not an option of [net] or [data]; did you mean mantissa?" --over mantisa=1,2
refuses "an unknown key of a layer" 2 "--over 17.mantissa: the cfg has layers 0 to 5" --over 17.mantissa=1,2
refuses "the same key twice" 2 "--over mantissa: given twice" --over mantissa=1 --over exponent=1 --over mantissa=2
refuses "the same value twice" 2 "--over mantissa=1: the value is given twice" --over mantissa=1,2,1
refuses "an empty value" 2 "--over mantissa: a value is empty" --over mantissa=1,,2
refuses "a value that would break tables and scripts" 2 "--over data.names: a value has a control character" --over "data.names=a"$'\n'b
refuses "no values" 2 "expected KEY=V1,V2,..." --over mantissa
refuses "the seed among the options" 2 "the seeds are 1 to N of --seeds N" --over seed=1,2
refuses "the seed with --set" 2 "the seeds are 1 to N of --seeds N" --over mantissa=1 --set seed=3
refuses "seeds" 2 "--seeds 0: expected 1 to 100" --over mantissa=1 --seeds 0
refuses "jobs" 2 "--jobs 0: expected 1 to 256" --over mantissa=1 --jobs 0
many=(); for i in $(seq 255); do many+=(--set decay=$i); done
refuses "more options than a run takes" 2 "--over, --set: too many together" --over mantissa=1 --over exponent=2 "${many[@]}"
refuses "no data" 1 "nowhere" --over mantissa=1 --data "$work/nowhere"
sweep invalid --over mantissa=0,1 --over exponent=0,2 >"$work/out" 2>"$work/err"
check "invalid combinations are named before anything runs" bash -c "[ $? = 2 ] && [ ! -e $work/invalid ] && grep -qE 'mantissa=0 exponent=0: .*tiny.cfg:[0-9]+: ' $work/err && grep -q '1 of 5 settings cannot be run' $work/err"
sweep invalid --over mantissa=0,1 --over exponent=0,2 --skip-invalid >"$work/out" 2>"$work/err"
check "--skip-invalid runs the others" bash -c "[ $? = 0 ] && [ \$(wc -l <$work/invalid/sweep.csv) = 5 ] && ! grep -q '^mantissa=0 exponent=0,' $work/invalid/sweep.csv"

# An fp32 setting that is left out, too: the others keep theirs. Layers that say mls=1 themselves are fp32 in it.
sweep valid --over learning_rate=-1,0.05 --over mantissa=1,2 --set 1.mls=1 --skip-invalid >"$work/out" 2>"$work/err"
check "--skip-invalid: each setting is compared with its own fp32, which is fp32 in all layers" python3 - "$work/valid" <<'END'
import csv, pathlib, sys
rows = list(csv.DictReader(open(f"{sys.argv[1]}/sweep.csv")))
names = [f"learning_rate=0.05 mantissa={m}" for m in (1, 2)]
assert [(r["setting"], r["reference"]) for r in rows] == [("fp32 learning_rate=0.05", "")] + [(n, "fp32 learning_rate=0.05") for n in names], rows
assert float(rows[0]["energy_ratio"]) == 1 < 4 < float(rows[1]["energy_ratio"]) and float(rows[0]["bits"]) == 32
config = (pathlib.Path(sys.argv[1]) / rows[0]["folder"] / "seed1/config.cfg").read_text()
assert config.count("mls=0") == 4 and "mls=1" not in config, config
END

# One sweep at a time in a folder.
(exec 9>"$work/rates/sweep.lock" && flock 9 && timeout -s KILL 3 "$MLSNET" sweep "$cfg" --output "$work/rates" --no-pictures --over group_size=1,4 >"$work/out" 2>"$work/err") 2>/dev/null
check "a second sweep in a folder waits" bash -c "grep -qF 'waiting for the runs of another sweep in $work/rates' $work/err && ! grep -q 'runs finished' $work/out"

# The Pareto front of a made-up table: b and c and e are on it, d is as good as c but dearer, f equals e, g has no accuracy.
mkdir "$work/made-up"
cat >"$work/made-up/sweep.csv" <<END
setting,weight_bits,activation_bits,error_bits,top1,energy_uj,fp32_energy_uj
fp32,32,32,32,0.95,100,100
a=1,2,2,2,0.60,12,100
b=1,2,2,2,0.70,10,100
c=1,3,3,3,0.80,20,100
d=1,3,3,3,0.80,21,100
e=1,4,4,4,0.90,30,100
f=1,4,4,4,0.90,30,100
g=1,4,4,4,,5,100
END
"$MLSNET" plot "$work/made-up" >"$work/out" 2>&1
check "Pareto front of a made-up sweep" grep -qxF "$work/made-up: Pareto front: fp32; b=1; c=1; e=1; f=1" "$work/out"
refused "plot of nothing" 2 "an argument is missing: RUN" "$MLSNET" plot
refused "plot of a folder without a run" 1 "neither a run (log.csv) nor a sweep (sweep.csv)" "$MLSNET" plot "$work/data"
mkdir "$work/damaged" && sed '3s/,100$//' "$work/made-up/sweep.csv" >"$work/damaged/sweep.csv"
mkdir "$work/other-log" && printf 'epoch,loss\n1,0.5\n' >"$work/other-log/log.csv"
refused "plot of another program's log" 1 "log.csv: no column train_loss: expected the log.csv of a run" "$MLSNET" plot "$work/other-log"
mkdir "$work/begun" && head -n 1 "$work/whole/fp32/seed1/log.csv" >"$work/begun/log.csv"
refused "plot of a run before its first epoch" 1 "no run has finished an epoch: nothing to draw" "$MLSNET" plot "$work/begun"
refused "plot of a damaged table" 1 "sweep.csv:3: expected 7 cells" "$MLSNET" plot "$work/damaged"

# Without gnuplot: the tables, and a word about the pictures.
PATH=/nonexistent "$MLSNET" sweep "$cfg" --output "$work/rates" --over learning_rate=0.05,0.1 --over group_size=1,4 >"$work/out" 2>"$work/err"
check "without gnuplot: status 0, said clearly" bash -c "[ $? = 0 ] && grep -qF 'the pictures are missing: gnuplot is not installed (Debian' $work/err && [ -s $work/rates/sweep.md ]"
PATH=/nonexistent "$MLSNET" plot "$work/whole/fp32/seed1" >"$work/out" 2>"$work/err"
check "plot without gnuplot: status 1, said clearly" bash -c "[ $? = 1 ] && [ \$(wc -l <$work/err) = 1 ] && grep -qF 'gnuplot is not installed' $work/err"
pictures() { # FOLDER NAME TEXT...: a PNG, and an SVG with these texts
  local picture=$1/$2; shift 2
  [ "$(head -c 8 "$picture.png" | od -An -tx1 | tr -d ' \n')" = 89504e470d0a1a0a ] && [ "$(wc -c <"$picture.png")" -gt 5000 ] || return 1
  for text in "$@"; do grep -qF -- "$text" "$picture.svg" || return 1; done
}
if command -v gnuplot >/dev/null; then
  "$MLSNET" plot "$work/all" >"$work/out" 2>&1 || bad "plot" "$(cat "$work/out")"
  for name in accuracy-bits accuracy-energy learning-curves; do
    check "picture $name" pictures "$work/all" $name fp32 "mantissa=2 exponent=0" "test top-1, %"
  done
  # As a repository keeps a sweep: the table and the logs.
  kept() {
    local log
    mkdir "$work/kept" && cp "$work/all/sweep.csv" "$work/kept" || return 1
    (cd "$work/all" && find . -name log.csv) | while read -r log; do
      mkdir -p "$work/kept/$(dirname "$log")" && cp "$work/all/$log" "$work/kept/$log"
    done
    "$MLSNET" plot "$work/kept" >"$work/out" && grep -qF "$work/kept: learning-curves" "$work/out" &&
      cmp "$work/kept/learning-curves.gnuplot" "$work/all/learning-curves.gnuplot"
  }
  check "plot of a sweep of which the logs were kept" kept
  without_logs() { "$MLSNET" plot "$work/made-up" >"$work/out" && grep -qF accuracy-bits "$work/out" && ! grep -qF learning-curves "$work/out"; }
  check "plot of a table without runs does not tell of learning curves" without_logs
  front=$(sed -n '/^\$front/,/^end/p' "$work/made-up/accuracy-energy.gnuplot" | tr '\n' ';')
  check "the front is marked in the picture" [ "$front" = '$front << end;10 70;20 80;30 90;30 90;end;' ]
  (cd "$work" && "$MLSNET" plot "$work/whole/fp32/seed1" all/fp32 whole/mantissa=2 --output "$work/three") >"$work/out" 2>&1
  check "plot of a run and of folders of seeds" pictures "$work/three" learning-curves "train loss" "all/fp32" "whole/mantissa=2"
  curves=$work/three/learning-curves.gnuplot
  last=$(tail -n 1 "$work/whole/mantissa=2/seed1/log.csv" | cut -d, -f7)
  check "the legend has the last top-1, the last epochs a panel" bash -c "grep -qF \"whole/mantissa=2: \$(awk 'BEGIN {printf \"%.2f\", 100 * $last}') %\" $curves &&
    [ \$(grep -c 'ylabel .test top-1 of the last epochs, %' $curves) = 2 ] && [ \$(grep -cF 'set xrange [80:120]' $curves) = 2 ]"
  # Of nine epochs the last from 6 on: of five curves, one far below, the range is 90 down to three times as far as 87; of two all.
  for top1 in 0.9 0.89 0.88 0.87 0.5; do
    mkdir -p "$work/flat/$top1" && (echo epoch,train_loss,top1 && for e in $(seq 9); do echo $e,$e,$top1; done) >"$work/flat/$top1/log.csv"
  done
  range() { "$MLSNET" plot "$@" --output "$work/flat" >/dev/null && grep -m 1 'set yrange' "$work/flat/learning-curves.gnuplot"; }
  check "the range of the last epochs" [ "$(cd "$work/flat" && range 0.9 0.89 0.88 0.87 0.5)" = "set yrange [80.55:90.45]" ]
  check "... is that of all few curves" [ "$(cd "$work/flat" && range 0.9 0.5)" = "set yrange [48:92]" ]
  check "... from two thirds of the epochs on" grep -qxF "set xrange [6:9]" "$work/flat/learning-curves.gnuplot"
  check "marks of curves stand at different epochs" bash -c "grep -qF 'every 15::0 with' $curves && grep -qF 'every 15::3 with' $curves"
  check "curves and points have shapes of their own" [ "$(grep -o 'pt [0-9]*.*title .mantissa=' "$work/all/accuracy-bits.gnuplot" | cut -d' ' -f2 | sort -u | wc -l)" = 4 ]
else
  echo "[  SKIPPED ] pictures of sweeps and runs"
  echo "skipped: pictures of sweeps and runs: gnuplot is not installed"
fi
[ "$failures" = 0 ]
