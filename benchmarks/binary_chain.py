"""Chains of equal binary 3 x 3 convolutions, packed bits to packed bits, in the dialect."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import GraphModule

from qcompile.building import build_program
from qcompile.errors import QCompileError
from qcompile.ir.graph import trace, verify
from qcompile.ir.ops import pack_words
from qcompile.ir.stages import Stage
from qcompile.ir.target import Target
from qcompile.program import Program
from qcompile.rivals.entrant import Unavailable, unavailable_if

_q = torch.ops.qcompile
_GEOMETRY = ([3, 3], [1, 1], [1, 1, 1, 1], [1, 1])


@dataclass(frozen=True)
class Shape:
    """A convolution with as many outputs as channels, stride 1, padded by one zero."""

    channels: int
    size: int

    @property
    def k(self) -> int:
        """Length of a dot product."""
        return 9 * self.channels

    @property
    def macs(self) -> int:
        """Of one image; those of taps beyond the border count, as everywhere."""
        return self.size**2 * self.channels * self.k

    def __str__(self) -> str:
        return f"{self.channels} channels, {self.size} x {self.size}"


class _Layer(nn.Module):
    """Weights, the table that takes padding back, and thresholds, all of them random."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        high = torch.rand(shape.channels, shape.channels, 3, 3) >= 0.5
        self.register_buffer("weight", pack_words(high.movedim(1, -1)).reshape(len(high), -1))
        zeros = torch.zeros(1, shape.channels, 3, 3)
        beyond = F.conv2d(F.pad(zeros, [1] * 4, value=1.0), torch.where(high, 1.0, -1.0))
        self.register_buffer("table", beyond[0].to(torch.int32))
        classes = torch.ones(shape.size, dtype=torch.int64)
        classes[0], classes[-1] = 0, 2
        self.register_buffer("classes", classes)
        spread = int(shape.k**0.5)
        tau = torch.randint(-spread, spread, (shape.channels,), dtype=torch.int32)
        self.register_buffer("tau", tau)
        signs = torch.where(torch.rand(shape.channels) < 0.5, 1, -1)
        self.register_buffer("direction", signs.to(torch.int32))

    def accumulators(self, bits: Tensor) -> Tensor:
        patches = _q.im2col.default(bits, self.shape.channels, 1, *_GEOMETRY, 1)
        return _q.xnor_matmul.default(patches, self.weight, self.shape.k, 1)

    def corrected(self, acc: Tensor) -> Tensor:
        return _q.border_correction.default(acc, self.table, [self.classes, self.classes])

    def packed(self, acc: Tensor) -> Tensor:
        return _q.bitpack.default(_q.threshold.default(acc, self.tau, self.direction, -1))


class _Chain(nn.Module):
    def __init__(self, shape: Shape, count: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([_Layer(shape) for _ in range(count)])

    def forward(self, x: Tensor) -> Tensor:
        bits = _q.bitpack.default(_q.sign.default(x))
        for layer in self.layers:
            bits = layer.packed(layer.corrected(layer.accumulators(bits)))  # type: ignore[operator]
        return bits


class _Split(nn.Module):
    """One convolution; a pad by nothing, which is a kernel of its own, parts it from what follows."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.layer = _Layer(shape)

    def forward(self, x: Tensor) -> Tensor:
        bits = _q.bitpack.default(_q.sign.default(x))
        acc = torch.ops.aten.pad.default(self.layer.accumulators(bits), [0, 0, 0, 0])
        return self.layer.packed(acc)


def chain(shape: Shape, count: int, x: Tensor, target: str, emulate: int | None = None) -> Program:
    """So many convolutions after one another; the input is float, packed by the first kernel.

    Args:
        emulate: the GPU that the CPU is to emulate, as 80 for sm_80.
    """
    torch.manual_seed(count)
    return _program(_Chain(shape, count), x, target, emulate)


def split(shape: Shape, x: Tensor, target: str) -> Program:
    """Packing, the bare convolution to int32, and thresholds with packing: a kernel each."""
    torch.manual_seed(0)
    return _program(_Split(shape), x, target)


def _program(model: nn.Module, x: Tensor, target: str, emulate: int | None = None) -> Program:
    """Compile a graph of the dialect, and compare its result with the graph's.

    Raises:
        Unavailable: this machine cannot run it, or its result is wrong.
    """
    gm: GraphModule = trace(model, [x])
    gm.meta["stage"] = Stage.LOWERED
    verify(gm)
    with unavailable_if(QCompileError):
        program = build_program(gm, gm, Target.parse(target), ())
        if emulate is not None:
            program = program.emulated(emulate)
        got = program(x)
    pairs = zip(_tuple(got), _tuple(gm(x)), strict=True)
    if not all(torch.equal(a, b) for a, b in pairs):
        raise Unavailable("wrong result")
    return program


def _tuple(values: Any) -> tuple[Tensor, ...]:
    return values if isinstance(values, tuple) else (values,)
