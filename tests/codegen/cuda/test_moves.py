"""Ops that move values on a GPU: pad, cat, flatten, and patches that are needed as such."""

from __future__ import annotations

from typing import Any

import pool_cases
import pytest
import torch
from compiling import Case
from emulated_gpu import needs_emulator
from running import check
from torch import Tensor

from qcompile.codegen.cuda.build import generate
from qcompile.errors import QCompileError
from qcompile.ir.target import Target

pytestmark = needs_emulator
q, aten = torch.ops.qcompile, torch.ops.aten


def patches(channels: int, groups: int, pad: int, kernel: list[int], *slide: list[int]) -> Case:
    def function(x: Tensor) -> Any:
        bits = q.bitpack.default(q.sign.default(x))
        return q.im2col.default(bits, channels, groups, kernel, *slide, pad)

    size = {1: (9,), 2: (5, 6)}[len(kernel)]
    return Case(function, [(channels, *size)], name=f"patches {channels} {kernel} {slide}")


def test_moves() -> None:
    own = [
        patches(33, 1, -1, [3, 3], [1, 1], [1, 1, 1, 1], [1, 1]),
        patches(64, 2, 1, [2, 3], [2, 1], [0, 1, 2, 0], [1, 2]),
        patches(5, 1, 1, [3], [2], [1, 1], [1]),
    ]
    cases = [*pool_cases.pads(), *pool_cases.pads_that_move_channels()]
    joined = pool_cases.joined_and_flattened()
    inner = pool_cases.between([*pool_cases.pads()[:6], *joined[:4]])
    built = check([*cases, *joined, *inner, *own])
    names = [node for kernel in built.kernels for node in kernel.nodes]
    assert sum(name.startswith("im2col") for name in names) == len(own)


def test_levels_and_signs_are_joined_as_bytes() -> None:
    def function(x: Tensor, y: Tensor) -> Any:
        levels = [q.quantize.default(v, 0.1, 3, 0, 15) for v in (x, y)]
        signs = [q.sign.default(v) for v in (x, y)]
        return aten.cat.default(levels, 1), aten.cat.default([*signs, *signs], 2)

    check([Case(function, [(7, 4, 5), (7, 4, 5)], name="bytes")])


@pytest.mark.parametrize(
    ("op", "message"),
    [
        (lambda x: aten.cat.default([x, x], 0), "cat along the batch"),
        (lambda x: aten.pad.default(x, [0, 0, 0, 0, 1, 0]), "pad of the batch|batch size"),
    ],
)
def test_moves_along_the_batch_are_refused(op: Any, message: str) -> None:
    with pytest.raises(QCompileError, match=message):
        generate(Case(op, [(3, 4)]).graph(), Target("cuda"))
