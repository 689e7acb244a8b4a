"""LeNet on handwritten digits: `qcompile examples/mnist.py --bits 1`.

An ordinary PyTorch file. qcompile trains the network by `train`, then once more with 1-bit weights
and activations, and compiles what came out. A sample of MNIST comes with qcompile; `qcompile digits`
gets the whole set.
"""

import torch
from torch.nn import functional as F

from qcompile import digits
from qcompile.quant.training import centre_weights, clip_weights
from qcompile.zoo.lenet import lenet

model = lenet()
example_inputs = torch.zeros(1, 1, 28, 28)


def train(model, epochs=8, progress=None):
    """Adam, its rate falling to zero; digits are shifted by up to two pixels."""
    images, labels = digits.load("train").tensors()
    images = F.pad(images, (2, 2, 2, 2), value=images.min().item())
    steps = epochs * len(range(0, len(images), 100))
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    clip_weights(optimizer, model)  # these two touch binary layers only
    centre_weights(optimizer, model)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=steps)
    model.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(100):
            top, left = torch.randint(5, (2,)).tolist()
            x = images[batch, :, top : top + 28, left : left + 28]
            loss = F.cross_entropy(model(x), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            if progress:
                progress(schedule.last_epoch, steps)


def calibration_data():
    """A few batches without labels, to measure the range of activations."""
    images, _ = digits.load("train", limit=1000).tensors()
    return images.split(100)


@torch.no_grad()
def evaluate(model, samples=None):
    """Share of the test digits that are recognised, of the first `samples` of them if given."""
    model.eval()
    images, labels = digits.load("test", limit=samples).tensors()
    right = sum(
        (model(x).argmax(1) == y).sum().item()
        for x, y in zip(images.split(500), labels.split(500), strict=True)
    )
    return right / len(labels)
