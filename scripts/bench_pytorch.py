#!/usr/bin/env python3
"""images/s of PyTorch on the networks of scripts/bench, data already in memory. One JSON line for each line read from stdin.

stdin: lines "MODEL PRECISION LAYOUT THREADS TASK STEPS", such as "resnet20 bf16 channels_last 2 train 5"; each is one round
(after one warming step when the setting is first seen).
"""
import json
import sys
import time

import torch
import torch.nn as nn
import torch.nn.functional as F


def conv_norm(inputs, outputs, stride=1):
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs))


class Block(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.first, self.second = conv_norm(inputs, outputs, stride), conv_norm(outputs, outputs)
        self.missing, self.stride = outputs - inputs, stride

    def forward(self, x):
        y = self.second(F.relu(self.first(x)))
        if self.missing or self.stride > 1:
            x = F.pad(x[:, :, ::self.stride, ::self.stride], (0, 0, 0, 0, 0, self.missing))
        return F.relu(x + y)


def resnet20():
    layers, channels = [conv_norm(3, 16), nn.ReLU()], 16
    for width in (16, 32, 64):
        for i in range(3):
            layers.append(Block(channels, width, 2 if i == 0 and width > 16 else 1))
            channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def vgg16():
    layers, channels = [], 3
    for stage in ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512)):
        for width in stage:
            layers += [conv_norm(channels, width), nn.ReLU()]
            channels = width
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(512, 10))


class Projected(nn.Module):
    """A block of ResNet-18, with a projection where the shape changes."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.first, self.second = conv_norm(inputs, outputs, stride), conv_norm(outputs, outputs)
        self.projection = nn.Identity()
        if stride > 1 or inputs != outputs:
            self.projection = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x):
        return F.relu(self.projection(x) + self.second(F.relu(self.first(x))))


def resnet18():
    layers = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    channels = 64
    for width in (64, 128, 256, 512):
        layers += [Projected(channels, width, 2 if width > 64 else 1), Projected(width, width, 1)]
        channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 1000))


# builder, batch, side of the picture, classes
MODELS = {"resnet20": (resnet20, 128, 32, 10), "vgg16": (vgg16, 128, 32, 10), "resnet18": (resnet18, 32, 224, 1000)}


class Setting:
    def __init__(self, model, precision, layout):
        build, self.batch, side, classes = MODELS[model]
        layout = {"channels_last": torch.channels_last, "nchw": torch.contiguous_format}[layout]
        self.model = build().to(memory_format=layout)
        self.bf16 = precision == "bf16"
        self.x = torch.randn(self.batch, 3, side, side).contiguous(memory_format=layout)
        self.y = torch.randint(0, classes, (self.batch,))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)

    def step(self, task):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.bf16):
            if task == "evaluate":
                self.model.eval()
                with torch.no_grad():
                    return self.model(self.x).argmax(1).sum().item()
            self.model.train()
            loss = F.cross_entropy(self.model(self.x).float(), self.y)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()


def main():
    settings = {}
    for line in sys.stdin:
        model, precision, layout, threads, task, steps = line.split()
        torch.set_num_threads(int(threads))
        key = (model, precision, layout)
        if key not in settings:
            settings[key] = Setting(*key)
        settings[key].step(task)
        start = time.monotonic()
        for _ in range(int(steps)):
            settings[key].step(task)
        print(json.dumps({"images_per_second": settings[key].batch * int(steps) / (time.monotonic() - start)}), flush=True)


main()
