#!/usr/bin/env python3
"""Writes a tiny IDX data set (8x8 pictures, 4 classes: which corner is bright).  usage: make_tiny_data.py FOLDER [TRAIN [TEST]]"""
import random
import struct
import sys


def write(folder, prefix, count, seed):
    rng = random.Random(seed)
    pixels, labels = bytearray(), bytearray()
    for _ in range(count):
        label = rng.randrange(4)
        top, left = label // 2 * 4, label % 2 * 4
        for y in range(8):
            for x in range(8):
                inside = top <= y < top + 4 and left <= x < left + 4
                pixels.append(min(255, rng.randrange(120) + (110 if inside else 0)))
        labels.append(label)
    with open(f"{folder}/{prefix}-images-idx3-ubyte", "wb") as file:
        file.write(struct.pack(">IIII", 0x803, count, 8, 8) + pixels)
    with open(f"{folder}/{prefix}-labels-idx1-ubyte", "wb") as file:
        file.write(struct.pack(">II", 0x801, count) + labels)


folder = sys.argv[1]
write(folder, "train", int(sys.argv[2]) if len(sys.argv) > 2 else 160, 1)
write(folder, "t10k", int(sys.argv[3]) if len(sys.argv) > 3 else 40, 2)
