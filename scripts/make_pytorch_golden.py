#!/usr/bin/env python3
"""Makes tests/golden/small_cnn.txt with PyTorch: a small CNN's input, weights, loss, gradients and weights after an SGD step.

usage: scripts/make_pytorch_golden.py > tests/golden/small_cnn.txt      (Debian's python3-torch)

Format: a line "NAME COUNT", then COUNT numbers in hexadecimal floating point, for each array; read by tests/test_pytorch.c,
which needs no PyTorch. The network is the one of tests/golden/small_cnn.cfg.
"""
import torch
import torch.nn.functional as F

torch.manual_seed(1)
torch.set_num_threads(1)


def emit(name, tensor):
    values = tensor.detach().double().flatten().tolist()
    print(name, len(values))
    print(" ".join(value.hex() for value in values))


def main():
    parameters = {
        "layers.0.conv.weight": torch.randn(4, 3, 3, 3) * 0.3,
        "layers.0.batchnorm.scale": torch.rand(4) + 0.5,
        "layers.0.batchnorm.bias": torch.randn(4) * 0.2,
        "layers.1.conv.weight": torch.randn(6, 4, 3, 3) * 0.3,
        "layers.1.batchnorm.scale": torch.rand(6) + 0.5,
        "layers.1.batchnorm.bias": torch.randn(6) * 0.2,
        "layers.3.conv.weight": torch.randn(6, 6, 1, 1) * 0.4,
        "layers.3.conv.bias": torch.randn(6) * 0.1,
        "layers.6.connected.weight": torch.randn(5, 6) * 0.4,
        "layers.6.connected.bias": torch.randn(5) * 0.1,
    }
    p = {name: value.clone().requires_grad_() for name, value in parameters.items()}
    x = torch.randn(4, 3, 8, 8)
    labels = torch.tensor([0, 3, 4, 1])
    statistics = {0: (torch.zeros(4), torch.ones(4)), 1: (torch.zeros(6), torch.ones(6))}

    def norm(z, layer):
        return F.batch_norm(z, *statistics[layer], p[f"layers.{layer}.batchnorm.scale"], p[f"layers.{layer}.batchnorm.bias"],
                            training=True, momentum=0.1, eps=1e-5)

    a = F.relu(norm(F.conv2d(x, p["layers.0.conv.weight"], padding=1), 0))
    b = norm(F.conv2d(a, p["layers.1.conv.weight"], stride=2, padding=1), 1)
    shortcut = F.pad(a[:, :, ::2, ::2], (0, 0, 0, 0, 0, 2))
    s = F.relu(b + shortcut)
    c = F.leaky_relu(F.conv2d(s, p["layers.3.conv.weight"], p["layers.3.conv.bias"]), 0.1)
    m = F.max_pool2d(c, 2)
    logits = F.linear(m.mean(dim=(2, 3)), p["layers.6.connected.weight"], p["layers.6.connected.bias"])
    loss = F.cross_entropy(logits, labels, label_smoothing=0.1)
    loss.backward()

    emit("input", x)
    emit("labels", labels)
    emit("loss", loss)
    for name, value in p.items():
        emit(f"value:{name}", value)
        emit(f"gradient:{name}", value.grad)
    for layer, (mean, variance) in statistics.items():
        emit(f"running:layers.{layer}.batchnorm.running_mean", mean)
        emit(f"running:layers.{layer}.batchnorm.running_variance", variance)
    for nesterov in (False, True):
        q = {name: value.detach().clone() for name, value in p.items()}
        decayed = [name for name in q if name.endswith("weight")]
        groups = [{"params": [q[n] for n in decayed], "weight_decay": 0.01}, {"params": [q[n] for n in q if n not in decayed]}]
        optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9, nesterov=nesterov)
        for name in q:
            q[name].grad = p[name].grad.clone()
        for step in range(2):  # twice, so that the momentum counts
            optimizer.step()
        for name in q:
            emit(f"{'nesterov' if nesterov else 'step'}:{name}", q[name])


main()
