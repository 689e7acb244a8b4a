"""A graph's fingerprint: the same for the same function, another for any other."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from qcompile.fingerprint import fingerprint
from qcompile.ir.graph import trace


class Affine(nn.Module):
    scale: Tensor
    shift: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.arange(4.0))
        self.register_buffer("shift", torch.tensor(1.5))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + self.shift


def graph() -> torch.fx.GraphModule:
    return trace(Affine(), (torch.zeros(2, 4),))


def test_same_graph() -> None:
    one = fingerprint(graph())
    assert len(bytes.fromhex(one)) == 32
    assert fingerprint(graph()) == one
    assert fingerprint(copy.deepcopy(graph())) == one


def test_what_is_not_read_does_not_count() -> None:
    other = graph()
    other.register_buffer("unused", torch.ones(3))
    assert fingerprint(other) == fingerprint(graph())


@pytest.mark.parametrize(
    "value",
    [
        torch.tensor([0.0, 1.0, 2.0, 3.0000002]),
        torch.tensor([-0.0, 1.0, 2.0, 3.0]),
        torch.arange(4),
        torch.arange(4.0).reshape(1, 4),
    ],
)
def test_every_bit_type_and_shape_of_a_constant_counts(value: Tensor) -> None:
    other = graph()
    other.scale = value
    assert fingerprint(other) != fingerprint(graph())


def test_how_a_constant_lies_in_memory_does_not_count() -> None:
    other = graph()
    other.scale = torch.arange(8.0).reshape(4, 2).mul(0.5)[:, 0]
    assert torch.equal(other.scale, torch.arange(4.0))
    assert not other.scale.is_contiguous()
    assert fingerprint(other) == fingerprint(graph())


def test_another_op_counts() -> None:
    class Other(Affine):
        def forward(self, x: Tensor) -> Tensor:
            return x * self.scale - self.shift

    assert fingerprint(trace(Other(), (torch.zeros(2, 4),))) != fingerprint(graph())
