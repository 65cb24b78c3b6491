#!/usr/bin/env python3
"""Writes a tiny data set of PNG files below FOLDER: {train,val}/CLASS/*.JPEG (the suffix lies), lists and a .data file.

usage: make_picture_data.py FOLDER      4 classes: which corner is bright, in a colour of the class; pictures of 13 to 20 pixels a side
"""
import os
import random
import struct
import sys
import zlib

CLASSES = ("apple", "cat", "zebra", "dog, brown")


def png(width, height, rgb):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    rows = b"".join(b"\0" + bytes(rgb[3 * width * y:3 * width * (y + 1)]) for y in range(height))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def picture(rng, label):
    width, height = rng.randrange(13, 21), rng.randrange(13, 21)
    pixels = []
    for y in range(height):
        for x in range(width):
            bright = (y >= height // 2) * 2 + (x >= width // 2) == label
            pixels += [min(255, rng.randrange(90) + (120 if bright else 0) + (40 if c == label % 3 else 0)) for c in range(3)]
    return png(width, height, pixels)


def main():
    folder = sys.argv[1]
    for split, count, seed in (("train", 160, 1), ("val", 40, 2)):
        rng = random.Random(seed)
        paths = []
        for i in range(count):
            label = rng.randrange(4)
            path = f"{folder}/{split}/{CLASSES[label]}/{i:03d}.JPEG"
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb") as file:
                file.write(picture(rng, label))
            paths.append(path)
        with open(f"{folder}/{split}.list", "w") as file:
            file.write("\n".join(paths) + "\n")
    with open(f"{folder}/labels.list", "w") as file:
        file.write("\n".join(sorted(CLASSES) + ["more", "classes"]) + "\n")
    with open(f"{folder}/tiny.data", "w") as file:
        file.write(f"classes=4\ntrain  = {folder}/train.list\nvalid  = {folder}/val.list\nbackup = {folder}/backup/\nlabels = {folder}/labels.list\ntop=2\n")


main()
