"""Pooling, means, maxima, softmax, and ops that only move values, for every kind of target."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from compiling import Case
from torch import Tensor

from qcompile.ir.ops import full_word_mask

q, aten = torch.ops.qcompile, torch.ops.aten
# The order of additions differs from torch's: some units in the last place of sums of size 1.
NEAR = (1e-5, 1e-6)


def one(op: Callable[..., Any], *arguments: Any) -> Callable[..., Any]:
    """The op, of an input and these arguments."""

    def function(x: Tensor) -> Any:
        return op(x, *arguments)

    return function


def between(cases: Sequence[Case]) -> list[Case]:
    """The same of values that a kernel gives, for one that follows: they lie as kernels like it."""

    def inner(case: Case) -> Callable[..., Any]:
        def function(*inputs: Tensor, **constants: Tensor) -> Any:
            return aten.neg.default(case.function(*map(aten.neg.default, inputs), **constants))

        return function

    return [replace(c, function=inner(c), name=f"{c.name or c.shapes} between") for c in cases]


def max_pools() -> list[Case]:
    """Of floats; the last one packs."""
    pool = aten.max_pool2d.default

    def then(x: Tensor, a: Tensor, b: Tensor) -> Any:
        y = q.scale_shift.default(pool(x, [2, 2]), a, b)
        return q.bitpack.default(q.sign.default(y))

    constants = {"a": torch.linspace(-1, 1, 40), "b": torch.linspace(1, -1, 40)}
    return [
        Case(one(pool, [2, 2]), [(33, 6, 7)]),
        Case(one(pool, [3, 3], [2, 2], [1, 1]), [(64, 9, 8)]),
        Case(one(pool, [3, 2], [2, 3], [1, 1], [2, 1], True), [(7, 11, 10)]),
        Case(one(pool, [2, 2], [2, 2], [0, 0], [1, 1], True), [(1, 7, 7)]),
        Case(one(pool, [5, 5], [1, 1], [2, 2]), [(3, 7, 6)]),
        Case(one(aten.max_pool1d.default, [3], [2], [1], [1], True), [(10, 12)]),
        Case(one(aten.max_pool3d.default, [2, 3, 2], [2, 1, 2], [1, 1, 0]), [(5, 4, 5, 6)]),
        Case(then, [(40, 6, 6)], constants, name="then packed"),
    ]


def nan_in_maxima() -> Case:
    def function(x: Tensor) -> Any:
        root = aten.div.Tensor(aten.mul.Scalar(x, 0.0), aten.relu.default(x))  # 0/0 below 0
        return aten.max_pool2d.default(root, [2, 2]), aten.amax.default(root, [2, 3])

    return Case(function, [(9, 4, 4)], name="nan")


def nan_at_each_tap() -> Case:
    places = torch.zeros(9, 9, 7, 7)
    for i in range(9):
        places[i, i, 2 + i // 3, 2 + i % 3] = torch.nan

    def one_nan(x: Tensor, **c: Tensor) -> Any:
        return tuple(
            aten.max_pool2d.default(aten.add.Tensor(x, c[f"p{i}"]), [3, 3], [1, 1], [1, 1])
            for i in range(9)
        )

    constants = {f"p{i}": places[i] for i in range(9)}
    return Case(one_nan, [(9, 7, 7)], constants, name="nan at each tap")


def pools_of_products() -> list[Case]:
    """Of what cannot be NaN, and of what overflows to it."""

    def levels(x: Tensor, w: Tensor, a: Tensor, b: Tensor) -> Any:
        acc = q.conv.default(q.sign.default(x), w, [1, 1], [0, 0, 0, 0], [1, 1], 1, 0, 0)
        y = q.scale_shift.default(q.scale_shift.default(acc, a, b), a, b)
        return aten.max_pool2d.default(aten.relu.default(y), [2, 2])

    weight = torch.randint(-9, 9, (6, 5, 1, 1), generator=torch.Generator().manual_seed(0))
    constants = {"w": weight.to(torch.int8), "b": torch.linspace(-1, 1, 6)}
    huge = torch.tensor([1.0, 3e38, -3e38, 0.0, 1e-20, -2.0])
    return [
        Case(levels, [(5, 6, 7)], {**constants, "a": huge}, name="overflows"),
        Case(levels, [(5, 6, 7)], {**constants, "a": torch.linspace(-2, 2, 6)}, name="finite"),
    ]


def average_pools() -> list[Case]:
    pool = aten.avg_pool2d.default
    return [
        Case(one(pool, [2, 2]), [(33, 6, 7)], tolerance=NEAR),
        Case(one(pool, [3, 3], [2, 2], [1, 1], False, True), [(5, 9, 8)], tolerance=NEAR),
        Case(one(pool, [3, 3], [2, 2], [1, 1], True, False), [(5, 8, 8)], tolerance=NEAR),
        Case(one(pool, [3, 2], [2, 2], [1, 1], True, True), [(5, 8, 9)], tolerance=NEAR),
        Case(one(pool, [2, 2], [2, 2], [0, 0], False, True, 3), [(40, 6, 6)], tolerance=NEAR),
        Case(one(aten.avg_pool1d.default, [3], [2], [1], True, False), [(10, 12)], tolerance=NEAR),
        Case(one(aten.avg_pool3d.default, [2, 2, 2], [1, 2, 2]), [(3, 4, 5, 6)], tolerance=NEAR),
    ]


def bit_maxpools() -> list[Case]:
    def pooled(channels: int, *arguments: Any) -> Case:
        def function(x: Tensor, mask: Tensor) -> Any:
            bits = q.bitpack.default(q.sign.default(x))
            return q.bit_maxpool.default(bits, mask, *arguments)

        mask = full_word_mask(channels) & 0x5A5A0FF0
        return Case(function, [(channels, 7, 8)], {"mask": mask}, name=f"{channels} {arguments}")

    return [
        pooled(33, [2, 2], [2, 2], [0, 0, 0, 0], [1, 1], False),
        pooled(64, [3, 3], [2, 2], [1, 1, 1, 1], [1, 1], True),
        pooled(5, [2, 3], [1, 2], [1, 0, 1, 1], [2, 1], False),
    ]


def means_and_maxima() -> list[Case]:
    mean, amax = aten.mean.dim, aten.amax.default
    cases = []
    for shape in [(33, 4, 5), (3, 7, 2)]:
        for dims in ([2, 3], [-1], [2], [1], [1, 2, 3], [1, 3]):
            for keep in (True, False):
                cases.append(
                    Case(one(mean, dims, keep), [shape], name=f"mean {dims}", tolerance=NEAR)
                )
                cases.append(Case(one(amax, dims, keep), [shape], name=f"amax {dims}"))

    def then(x: Tensor) -> Any:
        return aten.relu.default(aten.neg.default(mean(x, [2, 3])))

    return [
        *cases,
        Case(one(mean, [1], True), [(70,)], tolerance=NEAR),
        Case(one(amax, [-1]), [(9,)]),
        Case(then, [(40, 5, 5)], name="then more", tolerance=NEAR),
    ]


def softmaxes() -> list[Case]:
    shapes: list[tuple[tuple[int, ...], int]] = [
        ((10,), 1),
        ((70,), -1),
        ((33, 4, 5), 1),
        ((33, 4, 5), 2),
        ((3, 5), 2),
    ]
    return [
        Case(one(op, dim), [shape], name=f"{op} {shape} {dim}", spread=9.0, tolerance=NEAR)
        for op in (aten.softmax.int, aten.log_softmax.int)
        for shape, dim in shapes
    ]


def pads() -> list[Case]:
    pad = aten.pad.default

    def packed(x: Tensor) -> Any:
        y = pad(x, [0, 0, 0, 0, 3, 5], "constant", -1.0)
        return q.bitpack.default(q.sign.default(y))

    def between(x: Tensor) -> Any:
        return aten.neg.default(pad(aten.relu.default(x), [1, 1, 1, 1], "reflect"))

    return [
        Case(one(pad, [1, 2, 0, 3]), [(33, 4, 5)]),
        Case(one(pad, [1, 2, 0, 3], "constant", 1.5), [(3, 4, 5)]),
        Case(one(pad, [1, 1, 1, 1, 2, 3], "constant", -1.0), [(5, 4, 5)], name="channels"),
        Case(one(pad, [-1, 2, 1, -1], "constant", 0.0), [(5, 4, 5)], name="cropped"),
        Case(one(pad, [2, 1], "constant", 0.5), [(7,)], name="features"),
        Case(one(pad, [2, 1, 1, 2], "reflect"), [(33, 4, 5)]),
        Case(one(pad, [2, 1, 1, 2], "replicate"), [(33, 4, 5)]),
        Case(one(pad, [2, 1, 1, 2], "circular"), [(3, 4, 5)]),
        Case(one(pad, [2, 1], "reflect"), [(3, 9)]),
        Case(packed, [(40, 4, 5)], name="channels, then signs"),
        Case(between, [(33, 4, 5)], name="between"),
    ]


def pads_that_move_channels() -> list[Case]:
    """And leave their number."""
    cases = []
    for before, after in [(1, -1), (-1, 1), (3, -3), (-40, 40)]:
        padding = [0, 0, 0, 0, before, after]
        for shape in [(40, 5, 5), (64, 2, 3), (3, 4, 9)]:
            if min(before, after) >= -shape[0]:
                name = f"{shape} {padding}"
                cases.append(Case(one(aten.pad.default, padding), [shape], name=name))
    return [
        *cases,
        Case(one(aten.pad.default, [1, -1], "constant", 0.5), [(40,)], name="features"),
        Case(one(aten.pad.default, [0, 0, 1, -1], "constant", 0.5), [(40, 7)], name="1d"),
        Case(one(aten.pad.default, [1, 2, -1, 0, 2, -2]), [(40, 5, 5)], name="all dimensions"),
        Case(one(aten.pad.default, [0, 0, 0, 0, -3, -4]), [(40, 5, 5)], name="only cropped"),
    ]


def joined_and_flattened() -> list[Case]:
    """Cat and flatten."""

    def cat(dim: int) -> Callable[..., Any]:
        def function(x: Tensor, y: Tensor) -> Any:
            return aten.cat.default([x, aten.neg.default(y), x], dim)

        return function

    def levels(x: Tensor, y: Tensor) -> Any:
        a, b = q.sign.default(x), q.sign.default(y)
        return q.bitpack.default(aten.cat.default([a, b], 1))

    def flatten(start: int, end: int) -> Callable[..., Any]:
        def function(x: Tensor) -> Any:
            return aten.neg.default(aten.flatten.using_ints(aten.relu.default(x), start, end))

        return function

    def chained(x: Tensor) -> Any:
        y = aten.relu.default(x)
        return aten.flatten.using_ints(aten.flatten.using_ints(y, 2), 1), aten.neg.default(y)

    return [
        Case(cat(1), [(33, 4, 5), (7, 4, 5)], name="channels"),
        Case(cat(-1), [(5, 4, 5), (5, 4, 2)], name="columns"),
        Case(cat(2), [(5, 4, 5), (5, 1, 5)], name="rows"),
        Case(cat(1), [(5,), (9,)], name="features"),
        Case(levels, [(33, 3, 3), (40, 3, 3)], name="packed"),
        Case(flatten(1, -1), [(5, 3, 4)], name="flatten"),
        Case(flatten(2, 3), [(5, 3, 4)], name="flatten pixels"),
        Case(flatten(1, 2), [(5, 3, 4)], name="flatten channels and rows"),
        Case(flatten(1, -1), [(5,)], name="flatten nothing"),
        Case(chained, [(5, 3, 4)], name="flatten twice"),
    ]
