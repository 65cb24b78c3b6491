#!/usr/bin/env python3
"""An evaluation written independently, in plain Python: compares with what `mlsnet eval --json --predictions` said.

usage: evaluate_pictures.py FOLDER CHECKPOINT FIGURES.json PREDICTIONS.csv RESIZE CROPS        CROPS: 1, or 10: their mean

The network is that of tests/test_pictures.sh: a 3x3 convolution with padding and ReLU, mean of each channel, connected, softmax;
12x12 pictures, mean and deviation of ImageNet. PNG files of tests/make_picture_data.py.
"""
import csv
import json
import math
import os
import struct
import sys
import zlib

SIDE = 12
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def read_png(path):
    data = open(path, "rb").read()
    width, height = struct.unpack(">II", data[16:24])
    length = struct.unpack(">I", data[33:37])[0]
    rows = zlib.decompress(data[41:41 + length])
    return [[[rows[y * (3 * width + 1) + 1 + 3 * x + c] for c in range(3)] for x in range(width)] for y in range(height)]


def weights(size, scaled, first):
    """For each of SIDE output pixels from `first` on: (input pixel, weight) of the antialiasing triangle filter."""
    scale = scaled / size
    support = max(1, 1 / scale)
    result = []
    for i in range(first, first + SIDE):
        centre = (i + 0.5) / scale - 0.5
        taps = {}
        for k in range(math.floor(centre - support), math.ceil(centre + support) + 1):
            weight = max(0, 1 - abs(k - centre) / support)
            inside = min(max(k, 0), size - 1)
            taps[inside] = taps.get(inside, 0) + weight
        total = sum(taps.values())
        result.append([(k, w / total) for k, w in taps.items() if w])
    return result


def part(picture, columns, rows):
    planes = []
    for c in range(3):
        plane = [[math.floor(sum(wr * wc * picture[r][k][c] for r, wr in row for k, wc in column) + 0.5) for column in columns] for row in rows]
        planes.append([[(value / 255 - MEAN[c]) / DEVIATION[c] for value in line] for line in plane])
    return planes


def views(picture, resize, crops):
    """The centre, or with 10 crops also the corners, and all these mirrored."""
    height, width = len(picture), len(picture[0])
    if width <= height:
        scaled_width, scaled_height = resize, resize * height // width
    else:
        scaled_width, scaled_height = resize * width // height, resize
    right, bottom = scaled_width - SIDE, scaled_height - SIDE
    corners = [(round(right / 2), round(bottom / 2))] + ([(0, 0), (right, 0), (0, bottom), (right, bottom)] if crops == 10 else [])
    result = [part(picture, weights(width, scaled_width, x), weights(height, scaled_height, y)) for x, y in corners]
    return result + ([[[line[::-1] for line in plane] for plane in planes] for planes in result] if crops == 10 else [])


def tensors(path):
    data = open(path, "rb").read()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + size])
    result = {}
    for name, entry in header.items():
        if name != "__metadata__" and not name.endswith(".momentum"):
            begin, end = entry["data_offsets"]
            result[name] = struct.unpack(f"<{(end - begin) // 4}f", data[8 + size + begin:8 + size + end])
    return result


def probabilities(planes, t):
    filters = len(t["layers.0.conv.bias"])
    means = []
    for f in range(filters):
        total = 0
        for y in range(SIDE):
            for x in range(SIDE):
                value = t["layers.0.conv.bias"][f]
                for c in range(3):
                    for dy in range(3):
                        for dx in range(3):
                            if 0 <= y + dy - 1 < SIDE and 0 <= x + dx - 1 < SIDE:
                                value += t["layers.0.conv.weight"][((f * 3 + c) * 3 + dy) * 3 + dx] * planes[c][y + dy - 1][x + dx - 1]
                total += max(value, 0)
        means.append(total / SIDE / SIDE)
    logits = [b + sum(t["layers.2.connected.weight"][k * filters + f] * means[f] for f in range(filters)) for k, b in enumerate(t["layers.2.connected.bias"])]
    largest = max(logits)
    exponentials = [math.exp(v - largest) for v in logits]
    return [e / sum(exponentials) for e in exponentials]


def main():
    folder, checkpoint, figures_path, predictions_path, resize, crops = sys.argv[1:]
    t = tensors(checkpoint)
    classes = sorted(os.listdir(f"{folder}/train"))
    expected = [(f"{folder}/val/{name}/{file}", name) for name in classes for file in sorted(os.listdir(f"{folder}/val/{name}"))]
    rows = list(csv.DictReader(open(predictions_path, newline="")))
    assert [(row["path"], row["label"]) for row in rows] == expected, rows[:3]
    hits = [0, 0]
    loss = 0
    for row in rows:
        each = [probabilities(planes, t) for planes in views(read_png(row["path"]), int(resize), int(crops))]
        p = [sum(column) / len(each) for column in zip(*each)]
        order = sorted(range(len(classes)), key=lambda k: (-p[k], k))
        for rank, k in enumerate(order[:3]):
            said = float(row[f"probability{rank + 1}"])
            assert abs(p[classes.index(row[f"class{rank + 1}"])] - said) < 2e-3 and abs(p[k] - said) < 2e-3, (row, p)
        rank = order.index(classes.index(row["label"]))
        hits[0] += rank == 0
        hits[1] += rank < 5
        loss -= sum(math.log(q[classes.index(row["label"])]) for q in each) / len(each)
    figures = json.load(open(figures_path))
    assert figures["images"] == len(rows) == 40
    assert abs(figures["top1"] - hits[0] / 40) < 1e-9 and abs(figures["top5"] - hits[1] / 40) < 1e-9, (figures, hits)
    assert abs(figures["loss"] - loss / 40) < 1e-3, (figures, loss)
    print(f"top-1 {hits[0]}/40")


main()
