#!/usr/bin/env bash
# scripts/results-training and scripts/summarize-experiment on a tiny data set: runs, restarts, failures, the table.
# Prints lines as cmocka does, so that scripts/run-tests counts them. $MLSNET is the program.
cd "$(dirname "$0")/.." && . tests/testing.bash
export MLSNET
MLSNET=$(realpath "${MLSNET:-./mlsnet}")

export MLSNET_DATA=$work
mkdir "$work/tiny-imagenet-32"
python3 tests/make_picture_data.py "$work/tiny-imagenet-32"
train() { # FOLDER ARGUMENTS...: two steps of two pictures
  local folder=$1; shift
  scripts/results-training tiny-imagenet --results "$work/$folder" --epochs 1 --set connected.output=4 --set batch=2 --set max_batches=2 \
    "$@" >"$work/out" 2>"$work/err"
}
says() { grep -qF -- "$1" "$work/out" "$work/err"; }
last() { sha256sum <"$work/$1/tiny-imagenet/$2/seed$3/last.safetensors"; }
chosen=(--only 'mls-2-4*' --only mxfp6_e2m3 --only fp32)

begins() {
  train all "${chosen[@]}" --seeds "1 2" && says "6 finished of 6 runs" && [ ! -e "$work/all/tiny-imagenet/mls-2-1-size16" ] &&
    [ ! -e "$work/all/tiny-imagenet/mls-2-4-size1" ] && [ -s "$work/all/tiny-imagenet/summary.md" ]
}
check "the chosen settings are trained, without those of --full" begins

table() {
  python3 - "$work/all/tiny-imagenet/summary.md" <<'END'
import sys
rows = [[cell.strip() for cell in line.strip("|\n").split("|")] for line in open(sys.argv[1])]
assert rows[0] == ["setting", "bits: weights / activations / errors", "seeds", "epochs", "test top-1, %", "lost, points ± standard error",
                   "energy, fp32 / this", "train loss, last epoch", "images/s"], rows[0]
found = {row[0]: row for row in rows[2:]}
assert list(found) == ["mls-2-4-size16", "fp32", "mxfp6_e2m3"], found
assert [found[name][1] for name in found] == ["7 / 6 / 7", "32 / 32 / 32", "6 / 6 / 6"]
assert all(row[2:4] == ["2", "1"] for row in rows[2:])
assert found["fp32"][5] == "" and found["fp32"][6] == "1.00" and float(found["mls-2-4-size16"][6]) > float(found["mxfp6_e2m3"][6]) > 1
END
}
check "the table has their bits, seeds and energy" table

again() {
  local before; before=$(find "$work/all" -name '*.safetensors' -printf '%p %T@\n' | sort)
  train all "${chosen[@]}" --seeds "1 2" && ! says "==" && [ "$before" = "$(find "$work/all" -name '*.safetensors' -printf '%p %T@\n' | sort)" ]
}
check "finished runs are not run again" again

# As the repository has them: the cfg and the log. A log that is too short is no finished run.
from_logs() {
  local setting
  for setting in mls-2-4-size16 fp32; do
    mkdir -p "$work/logs/tiny-imagenet/$setting/seed1"
    cp "$work/all/tiny-imagenet/$setting/seed1/"{config.cfg,log.csv} "$work/logs/tiny-imagenet/$setting/seed1"
  done
  sed -i 1q "$work/logs/tiny-imagenet/fp32/seed1/log.csv"
  train logs --only mls-2-4-size16 --only fp32 && says "== $work/logs/tiny-imagenet/fp32/seed1" && ! says "== $work/logs/tiny-imagenet/mls-2-4-size16" &&
    says "2 finished of 2 runs" && [ "$(last logs fp32 1)" = "$(last all fp32 1)" ]
}
check "runs of which only the log was kept are not run again" from_logs

resumed() {
  local folder=$work/part/tiny-imagenet/mls-2-4-size16/seed1
  "$MLSNET" train cfg/resnet18-tiny-imagenet.cfg --data "$work/tiny-imagenet-32" --output "$folder" --seed 1 --quiet --stop-after 1 \
    --set epochs=1 --set exponent=2 --set mantissa=4 --set group_size=16 --set connected.output=4 --set batch=2 --set max_batches=2 2>/dev/null
  [ $? = 130 ] && train part --only mls-2-4-size16 && says "1 finished of 1 runs" && [ "$(last part mls-2-4-size16 1)" = "$(last all mls-2-4-size16 1)" ]
}
check "an interrupted run goes on, to the same bytes" resumed

failing() {
  mkdir -p "$work/bad/tiny-imagenet/mls-2-4-size16/seed1"
  echo "no checkpoint" >"$work/bad/tiny-imagenet/mls-2-4-size16/seed1/last.safetensors"
  ! train bad --only mls-2-4-size16 --only fp32 && says "1 failed, 1 finished of 2 runs" && says "failed: $work/bad/tiny-imagenet/mls-2-4-size16/seed1"
}
check "a failed run does not stop the rest" failing

at_work() {
  mkdir -p "$work/two/tiny-imagenet/fp32/seed1"
  (flock 9 && train two --only fp32) 9>"$work/two/tiny-imagenet/fp32/seed1/run.lock" && says "1 at work of 1 runs" && ! says "=="
}
check "a run that is at work elsewhere is left alone" at_work

others() { ! train all --only fp32 --epochs 2 && says "a run of 1 epochs is there, not 2"; }
check "a run of another length is not taken for it" others

# Mean, spread and standard error of made-up accuracies: fp32 80 and 82, mls 78 and 79; one seed of mxfp6 at 70.
figures() {
  local setting seed
  cp -r "$work/all/tiny-imagenet" "$work/figures"
  rm -r "$work/figures/mxfp6_e2m3/seed2"
  for setting in fp32:1:0.80 fp32:2:0.82 mls-2-4-size16:1:0.78 mls-2-4-size16:2:0.79 mxfp6_e2m3:1:0.70; do
    IFS=: read -r setting seed top1 <<<"$setting"
    printf 'epoch,train_loss,top1,top5,images_per_second\n1,1.5,%s,0.9,100\n' "$top1" >"$work/figures/$setting/seed$seed/log.csv"
  done
  scripts/summarize-experiment "$work/figures" >"$work/out" && says "| fp32 | 32 / 32 / 32 | 2 | 1 | 81.00 ± 1.41 (80.00 to 82.00) |  |" &&
    says "| 78.50 ± 0.71 (78.00 to 79.00) | 2.50 ± 1.12 |" && says "| 70.00 | 11.00 ± 1.50 |" # one seed: the pooled variance, 1.25
}
check "mean, spread and standard error" figures

[ "$failures" = 0 ]
