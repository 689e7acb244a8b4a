"""A float network as it stands in many tutorials: `qcompile examples/mnist_plain.py --bits 8`.

No stubs, no list of modules to fuse, functional and module spellings mixed: what is quantized, and
that log_softmax stays float, is for the compiler to find out.
"""

import torch
from torch import nn
from torch.nn import functional as F

from qcompile import digits


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 3, 1)
        self.conv2 = nn.Conv2d(32, 64, 3, 1)
        self.dropout1 = nn.Dropout(0.25)
        self.dropout2 = nn.Dropout(0.5)
        self.fc1 = nn.Linear(9216, 128)
        self.fc2 = nn.Linear(128, 10)

    def forward(self, x):
        x = F.relu(self.conv1(x))
        x = F.relu(self.conv2(x))
        x = F.max_pool2d(x, 2)
        x = self.dropout1(x)
        x = torch.flatten(x, 1)
        x = F.relu(self.fc1(x))
        x = self.dropout2(x)
        return F.log_softmax(self.fc2(x), dim=1)


model = Net()
example_inputs = torch.zeros(1, 1, 28, 28)


def train(model, epochs=3, progress=None):
    images, labels = digits.load("train").tensors()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.5)
    steps = epochs * len(range(0, len(images), 64))
    done = 0
    model.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            loss = F.nll_loss(model(images[batch]), labels[batch])
            loss.backward()
            optimizer.step()
            done += 1
            if progress:
                progress(done, steps)


@torch.no_grad()
def evaluate(model):
    model.eval()
    images, labels = digits.load("test").tensors()
    right = sum(
        (model(x).argmax(1) == y).sum().item()
        for x, y in zip(images.split(500), labels.split(500), strict=True)
    )
    return right / len(labels)
