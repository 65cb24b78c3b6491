#!/usr/bin/env python3
"""Writes tests/golden/microscaling.txt with microsoft/microxcaling (not part of this repository) and PyTorch.

usage: scripts/make_microscaling_golden.py MICROXCALING_FOLDER > tests/golden/microscaling.txt

The library computes in float64 here, so that its floor(log2 x) is right next to powers of two; all results are fp32 numbers.
Each case: a line "x D0 D1 H W", a line with the bits of the tensor's fp32 numbers in hexadecimal; then for each format its name and
a line with what the library makes of them, blocks of 32 along D1, rounded to nearest with ties to even.
"""
import importlib
import random
import struct
import sys
import types

import torch

# mx/__init__.py wants packages that are not needed here; the modules below it are enough.
package = types.ModuleType("mx")
package.__path__ = [sys.argv[1] + "/mx"]
sys.modules["mx"] = package
quantize_mx = importlib.import_module("mx.mx_ops")._quantize_mx

FORMATS = {"mxfp4": "fp4_e2m1", "mxfp6_e2m3": "fp6_e2m3", "mxfp6_e3m2": "fp6_e3m2", "mxfp8_e4m3": "fp8_e4m3",
           "mxfp8_e5m2": "fp8_e5m2", "mxint8": "int8"}


def fp32(x):
    return struct.unpack("f", struct.pack("f", x))[0]


def next_to(x, steps):
    return struct.unpack("f", struct.pack("I", struct.unpack("I", struct.pack("f", x))[0] + steps))[0]


def bits(x):
    return "%x" % struct.unpack("I", struct.pack("f", x))[0]


def case(dims, values):
    x = torch.tensor([fp32(v) for v in values], dtype=torch.float64).reshape(dims)
    print("x", *dims)
    print(*[bits(v) for v in x.flatten().tolist()])
    for name, element in FORMATS.items():
        y = quantize_mx(x.clone(), 8, element, axes=[1], block_size=32, round="even")
        assert bool(torch.isfinite(y).all()) and bool((y == y.float().double()).all())
        print(name)
        print(*[bits(v) for v in y.flatten().tolist()])


def ladder(top):
    """Blocks with the maximum `top`, in [1, 2), and smaller values of 6 bits in every binade: numbers and ties of every element."""
    values = []
    for binade in range(0, 36):
        for k in range(32, 64, 2 if binade < 22 else 4):
            values.append(k / 32 * 2.0 ** -binade * (-1) ** (k // 2) if k / 32 <= top else 0)
    while len(values) % 31:
        values.append(0)
    blocks = []
    for i in range(0, len(values), 31):
        blocks += [top] + values[i:i + 31]
    return blocks


random.seed(1)
case((2, 64, 2, 1), [random.gauss(0, 1) * 2 ** random.randint(-3, 3) for _ in range(256)])
case((1, 40, 1, 3), [random.gauss(0, 1) * 10 ** random.uniform(-6, 2) for _ in range(120)])
edges = []
for top in (1.0, 2.0, 2.0 ** 10, 2.0 ** -10, 3e38, 2.0 ** -126, 2.0 ** -140, 1e-45, 0.0, 6.0, 7.0, 7.9):
    for steps in (-1, 0, 1):
        near = next_to(top, steps) if top > 1e-44 else top
        edges += [near, -near, near / 2, near / 3, near * 0.9375, near * 0.96875, near * 0.875, near / 16, near * 2 ** -6,
                  near * 2 ** -7 * 1.5, near * 2 ** -9, near * 0.4, near * 0.3, near * 0.21, near * 0.1, near * 0.05]
case((len(edges) // 16, 16, 1, 1), edges)
blocks = ladder(1.9375)
case((len(blocks) // 32, 32, 1, 1), blocks)
