#!/usr/bin/env bash
# Formats by name on the command line: quantize, conv, summary, energy. Prints lines as cmocka does. $MLSNET is the program.
cd "$(dirname "$0")/.." && . tests/testing.bash

quantize() { "$MLSNET" quantize "$@"; }
conv() { "$MLSNET" conv --pass forward "$work/a.npy" "$work/w.npy" "$@"; }
summary() { "$MLSNET" summary cfg/resnet20.cfg "$@"; }

python3 - "$work" <<'END'
import struct, sys
def npy(name, shape, values):
    head = "{'descr': '<f4', 'fortran_order': False, 'shape': %s, }" % (tuple(shape),)
    head += " " * (63 - (len(head) + 10) % 64) + "\n"
    open(sys.argv[1] + "/" + name, "wb").write(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head.encode() +
                                               struct.pack("<%df" % len(values), *values))
def numbers(count):
    return [((i * 7919) % 1009 - 500) / 77 for i in range(count)]
npy("a.npy", (2, 40, 3, 3), numbers(720))
npy("w.npy", (4, 40, 3, 3), numbers(1440))
npy("one.npy", (1, 4, 1, 1), [7.9, -3, 0.4, 0.2])
END

quantize "$work/one.npy" "$work/q.npy" --format mxfp4 --codes "$work/c.npy" --group-scales "$work/s.npy" >"$work/text" ||
  bad "quantize" "status"
check "quantize mxfp4: values, codes and scales" python3 - "$work" <<'END'
import struct, sys
def read(name, kind):
    data = open(sys.argv[1] + "/" + name, "rb").read()
    body = data[10 + struct.unpack("<H", data[8:10])[0]:]
    return list(struct.unpack("<%d%s" % (len(body) // 4, kind), body))
assert read("q.npy", "f") == [6, -3, 0.5, 0], read("q.npy", "f")
assert read("c.npy", "i") == [7, 13, 1, 0], read("c.npy", "i")
assert read("s.npy", "f") == [1], read("s.npy", "f")
END
check "quantize mxfp4: text" grep -q "^mxfp4, 1 scale; the first is 1 (0x1p+0)$" "$work/text"
for format in fixed4 bfp8 fp8_e5m2 mxint8; do
  check "quantize $format --json" quantize "$work/a.npy" "$work/q.npy" --format $format --json
done
check "conv in mxfp8_e4m3" conv "$work/z.npy" --pad 1 --format mxfp8_e4m3
check "conv in formats that differ" conv "$work/z.npy" --weight-format bfp8 --activation-format fp8_e4m3
conv "$work/x.npy" --format bfp8 >"$work/text"
conv "$work/y.npy" --format bfp8 --kernel reference >>"$work/text"
check "conv in bfp8: kernels equal the reference" cmp "$work/x.npy" "$work/y.npy"
check "conv in bfp8 is no simulation" bash -c "! grep simulated $work/text"
refused "quantize: unknown format" 2 "--format mxfp5: expected one of: mls fixed2" quantize "$work/a.npy" "$work/q.npy" --format mxfp5
refused "quantize: contradiction" 2 "exponent 2 contradicts the format mxfp4" quantize "$work/a.npy" "$work/q.npy" --format mxfp4 --exponent 2
refused "conv: contradiction" 2 "group_size 4 contradicts the format fixed8" conv "$work/z.npy" --format fixed8 --weight-group-size 4
refused "conv: an unknown pass" 2 "--pass up: expected forward" "$MLSNET" conv "$work/a.npy" "$work/w.npy" "$work/z.npy" --pass up
refused "conv: an unknown kernel" 2 "--kernel no: unknown" conv "$work/z.npy" --kernel no
refused "conv: a stride that is none" 2 "--stride 0: expected 1" conv "$work/z.npy" --stride 0
refused "conv: no such file" 1 "none.npy: No such file" "$MLSNET" conv "$work/none.npy" "$work/w.npy" "$work/z.npy" --pass forward
refused "quantize: an unknown operand" 2 "--operand input: expected weight" quantize "$work/a.npy" "$work/q.npy" --operand input
refused "quantize: no such file" 1 "none.npy: No such file" quantize "$work/none.npy" "$work/q.npy"

summary --set format=mxfp6_e3m2 >"$work/summary"
check "a shipped cfg in mxfp6_e3m2" grep -q "3x3/1 mxfp6_e3m2 simulated" "$work/summary"
summary --set format=bfp4 >"$work/summary"
check "a shipped cfg in bfp4" grep -q "3x3/1 bfp4 nc 16$" "$work/summary"
refused "summary: unknown format" 2 "format=fp4: expected one of: mls" summary --set format=fp4
refused "summary: contradiction" 2 "--set: [net] mantissa=1 contradicts format=mxint8" summary \
  --set format=mxint8 --set mantissa=1

"$MLSNET" energy cfg/resnet20.cfg --set format=mxfp4 --against mxfp4,bfp4,fixed8,fp8,fp8_e4m3 --json >"$work/energy"
check "energy: formats by name" python3 - "$work/energy" <<'END'
import json, sys
report = json.load(open(sys.argv[1]))
rows = {row["name"]: row for row in report["against"]}
assert abs(rows["mxfp4"]["training_ratio"] - 1) < 1e-9, rows["mxfp4"]
assert rows["bfp4"]["training_ratio"] < rows["fixed8"]["training_ratio"] < rows["fp8"]["training_ratio"], rows
assert abs(rows["fp8_e4m3"]["training_ratio"] / rows["fp8"]["training_ratio"] - 1) < 0.05, rows
END
[ "$failures" = 0 ]
