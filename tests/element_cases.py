"""Elementwise ops: the float32 expression of the reference, for every kind of target."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from compiling import Case
from torch import Tensor

q, aten = torch.ops.qcompile, torch.ops.aten

# Polynomials and exponentials of ours against torch's: both within some units in the last place of
# the exact value (2^-23 = 1.2e-7 each), a few operations deep.
NEAR = (1e-5, 1e-6)


def floats(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def unary(op: Callable[..., Any], *arguments: Any, **more: Any) -> Callable[..., Any]:
    def function(x: Tensor) -> Any:
        return op(x, *arguments, **more)

    return function


EXACT: dict[str, Callable[..., Any]] = {
    "relu": unary(aten.relu.default),
    "hardtanh": unary(aten.hardtanh.default),
    "relu6": unary(aten.hardtanh.default, 0.0, 6.0),
    "leaky_relu": unary(aten.leaky_relu.default, 0.3),
    "hardsigmoid": unary(aten.hardsigmoid.default),
    "hardswish": unary(aten.hardswish.default),
    "abs": unary(aten.abs.default),
    "neg": unary(aten.neg.default),
    "add scalar": unary(aten.add.Scalar, 1.3),
    "mul scalar": unary(aten.mul.Scalar, -1.1),
    "div by number": unary(aten.div.Tensor, 3.0),
    "sub number": unary(aten.sub.Tensor, 0.3),
    "sign": unary(q.sign.default),
    "quantize": unary(q.quantize.default, 0.11, 3, 0, 255),
    "quantize signed": unary(q.quantize.default, 0.07, 0, -127, 127),
    "quantize ties": unary(q.quantize.default, 2.0, 1, 0, 15),
    "quantize_unit 1": unary(q.quantize_unit.default, 1),
    "quantize_unit 4": unary(q.quantize_unit.default, 4),
}
APPROXIMATED = {
    "sigmoid": unary(aten.sigmoid.default),
    "tanh": unary(aten.tanh.default),
    "silu": unary(aten.silu.default),
    "gelu": unary(aten.gelu.default),
    "gelu tanh": unary(aten.gelu.default, approximate="tanh"),
}


def every_unary() -> list[Case]:
    shapes = [(7,), (33, 4, 5), (1, 5, 5), (70, 3), (3, 9, 9), (2500,)]
    cases = [
        Case(function, [shapes[i % len(shapes)]], name=name, spread=4.0)
        for i, (name, function) in enumerate(EXACT.items())
    ]
    cases += [
        Case(function, [(3, 40)], name=name, spread=spread, tolerance=NEAR)
        for name, function in APPROXIMATED.items()
        for spread in (0.01, 3.0, 30.0)
    ]
    return cases


def levels_where_0_is_0() -> list[Case]:
    """Rounded by an addition: ties, both zeros, and what is far beyond the ends."""

    def function(low: int, high: int, scale: float, kept: bool, clipped: bool) -> Any:
        def of(x: Tensor) -> Any:
            y = aten.relu.default(x) if clipped else x
            levels = q.quantize.default(y, scale, 0, low, high)
            return (y, levels) if kept and clipped else levels

        return of

    cases = []
    for low, high in ((0, 255), (-128, 127), (0, 1), (-8, 7), (-100, -3)):
        for i, scale in enumerate((0.01, 0.25, 3e-5, 1.7)):
            of = function(low, high, scale, i % 2 == 0, low == 0)
            spread = (1.0, 100 * scale, 1e30)[i % 3]
            cases.append(Case(of, [(35, 5)], name=f"{low} {high} {scale}", spread=spread))
    return cases


def few_channels_of_long_rows() -> list[Case]:
    """Read along the row in torch's order, written pixel by pixel, with columns left over."""
    cases = []
    for channels in (1, 2, 3, 5, 7, 8, 9):
        scale = torch.linspace(0.5, 2.0, channels)

        def levels(x: Tensor, a: Tensor) -> Any:
            y = q.quantize.default(q.scale_shift.default(x, a, a), 0.11, 3, 0, 255)
            return aten.max_pool2d.default(q.scale_shift.default(y, a, None), [1, 1]), y

        cases.append(Case(levels, [(channels, 2, 101)], {"a": scale}, name=f"{channels} channels"))
    return cases


def approximated_at_their_ends() -> list[Case]:
    values = torch.tensor([0.0, -0.0, 1e-30, -1e-8, 1e-4, -1e-3, 0.5, 87.0, -87.0, 1e4, -1e4, 20.0])

    def add(x: Tensor, v: Tensor) -> Tensor:
        return aten.add.Tensor(aten.mul.Scalar(x, 0.0), v)

    cases = []
    for name, function in APPROXIMATED.items():

        def at_ends(x: Tensor, v: Tensor, function: Callable[..., Any] = function) -> Any:
            return function(add(x, v))

        cases.append(Case(at_ends, [(12,)], {"v": values}, name=name, tolerance=(1e-5, 1e-7)))
    return cases


def nan_as_sign_and_float() -> Case:
    def nan(x: Tensor) -> Tensor:
        zero = aten.mul.Scalar(x, 0.0)
        return aten.div.Tensor(zero, zero)

    def function(x: Tensor) -> Any:
        y = nan(x)
        return q.sign.default(y), aten.relu.default(y), aten.hardtanh.default(y), y

    return Case(function, [(40,)], name="nan")


def numbers_of_0() -> list[Case]:
    """Infinity times 0 is NaN, and -0 + 0 is +0; of single elements too, which are no vectors."""

    def function(x: Tensor) -> Any:
        infinite = aten.div.Tensor(aten.add.Scalar(aten.abs.default(x), 1.0), 0.0)
        minus_zero = aten.neg.default(aten.relu.default(aten.neg.default(aten.abs.default(x))))
        return (
            aten.mul.Scalar(infinite, 0.0),
            aten.leaky_relu.default(aten.neg.default(infinite), 0.0),
            aten.div.Tensor(infinite, aten.add.Scalar(minus_zero, 0.0)),
        )

    return [Case(function, [(1,)], name="scalar"), Case(function, [(40, 3)], name="vectors")]


def two_operands() -> list[Case]:
    def op(kind: Any) -> Callable[..., Any]:
        def function(x: Tensor, y: Tensor) -> Any:
            return kind(x, y)

        return function

    def by_constant(x: Tensor, c: Tensor) -> Any:
        return aten.add.Tensor(aten.mul.Tensor(x, c), c)

    def with_alpha(x: Tensor, y: Tensor) -> Any:
        return aten.sub.Tensor(x, y, alpha=2.7), aten.add.Scalar(x, 1.3, 0.7)

    def reversed_(x: Tensor, c: Tensor) -> Any:
        return aten.sub.Tensor(c, aten.div.Tensor(c, x))

    def prelu(x: Tensor, c: Tensor) -> Any:
        return aten.prelu.default(x, c)

    def scale(x: Tensor, a: Tensor, b: Tensor) -> Any:
        return q.scale_shift.default(q.scale_shift.default(x, a, b), b, None)

    full = (33, 4, 5)
    cases = [
        Case(op(aten.add.Tensor), [full, full], name="add"),
        # torch may round the product with alpha by itself or not, as its own kernel happens to be.
        Case(with_alpha, [full, full], name="alpha", tolerance=(1e-6, 1e-6)),
        Case(op(aten.mul.Tensor), [full, (33, 1, 1)], name="mul, squeeze and excite"),
        Case(op(aten.mul.Tensor), [(33, 1, 1), full], name="mul, the other way"),
        Case(op(aten.div.Tensor), [full, (1, 4, 5)], name="div by a map"),
        Case(op(aten.add.Tensor), [(9,), (1,)], name="add a column"),
        Case(by_constant, [full], {"c": floats(33, 1, 1, seed=1)}, name="[C,1,1]"),
        Case(by_constant, [full], {"c": floats(4, 5, seed=2)}, name="[H,W]"),
        Case(by_constant, [full], {"c": floats(1, 33, 4, 5, seed=3)}, name="[1,C,H,W]"),
        Case(by_constant, [full], {"c": floats(1, seed=4)}, name="[1]"),
        Case(by_constant, [(10,)], {"c": floats(10, seed=5)}, name="[C]"),
        Case(reversed_, [full], {"c": floats(33, 1, 1, seed=6)}, name="constant first"),
        Case(prelu, [full], {"c": floats(33, seed=7)}, name="prelu by channel"),
        Case(prelu, [(3, 7, 7)], {"c": floats(1, seed=8)}, name="prelu of one slope"),
    ]
    for shape in [(1,), (10,), (33, 4, 5), (3, 8, 9), (1, 6, 6), (32, 7), (5, 2, 3, 4)]:
        constants = {"a": floats(shape[0], seed=9), "b": floats(shape[0], seed=10)}
        cases.append(Case(scale, [shape], constants, name=f"scale_shift {shape}"))
    return cases


def values_that_are_read_twice() -> list[Case]:
    def doubled(x: Tensor) -> Any:
        y = aten.neg.default(x)
        for _ in range(40):
            y = aten.add.Tensor(y, y)
        return y

    def by_channel(x: Tensor, a: Tensor) -> Any:
        y = q.scale_shift.default(x, a, None)
        for _ in range(40):
            y = aten.mul.Scalar(aten.add.Tensor(y, y), -0.75)
        return q.bitpack.default(q.sign.default(y))

    def squares(x: Tensor) -> Any:
        y = aten.max_pool2d.default(x, [2, 2], [1, 1])
        y = aten.mul.Tensor(y, y)
        return aten.mul.Tensor(y, y)

    def squared(x: Tensor) -> Any:
        y = aten.pad.default(x, [1, 1, 1, 1], "reflect")
        for _ in range(40):
            y = aten.hardtanh.default(aten.mul.Tensor(y, y), 0.5, 1.25)
        return y

    scale = floats(33, seed=11)
    cases = [
        Case(doubled, [(33, 4, 5)], name="doubled"),
        Case(by_channel, [(33, 4, 5)], {"a": scale}, name="by channel"),
        Case(squares, [(33, 4, 5)], name="squares"),
        Case(squared, [(33, 4, 5)], name="squared"),
    ]
    return cases


def packed() -> list[Case]:
    def packed(x: Tensor) -> Any:
        return q.bitpack.default(q.sign.default(x))

    def levels(x: Tensor) -> Any:
        levels = q.quantize_unit.default(x, 1)
        return levels, q.bitpack.default(levels)

    shapes = [(1,), (31, 3), (32, 4, 5), (33, 4, 5), (70,), (64, 2, 2, 3)]
    cases = [Case(packed, [shape], name=f"signs {shape}") for shape in shapes]
    cases += [Case(levels, [shape], name=f"levels {shape}") for shape in shapes]
    return cases


def of_products() -> list[Case]:
    def integers(low: int, high: int, *shape: int, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.randint(low, high, shape, dtype=torch.int32, generator=generator)

    def acc(x: Tensor, w: Tensor) -> Tensor:
        levels = q.quantize.default(x, 0.05, 0, -127, 127)
        ones = [1] * (w.dim() - 2)
        return q.conv.default(levels, w, ones, [0, 0] * len(ones), ones, 1, 0, 0)

    def border(x: Tensor, w: Tensor, table: Tensor, **classes: Tensor) -> Any:
        return q.border_correction.default(acc(x, w), table, list(classes.values()))

    def threshold(x: Tensor, w: Tensor, tau: Tensor, direction: Tensor) -> Any:
        return q.threshold.default(acc(x, w), tau, direction, -1)

    def zero_one(x: Tensor, w: Tensor, s: Tensor) -> Any:
        # Twice the same makes every sum even, as zero_one needs.
        return q.zero_one.default(acc(x, w), s)

    cases = []
    for channels, size in itertools.product((7, 33), ((5,), (4, 6))):
        weight = integers(-9, 9, channels, 3, *[1] * len(size), seed=channels).to(torch.int8)
        even = weight // 2 * 2
        table = integers(-50, 50, channels, *[3] * len(size), seed=1)
        classes = {f"c{d}": integers(0, 3, n, seed=d).long() for d, n in enumerate(size)}
        tau = integers(-200, 200, channels, seed=2)
        tau[0], tau[1] = -(2**31), 2**31 - 1
        direction = integers(0, 2, channels, seed=3) * 2 - 1
        sums = integers(-9, 9, channels, seed=4) * 2
        shape = [(3, *size)]
        cases += [
            Case(border, shape, {"w": weight, "table": table, **classes}, name="border"),
            Case(threshold, shape, {"w": weight, "tau": tau, "direction": direction}),
            Case(zero_one, shape, {"w": even, "s": sums}, name="zero_one"),
        ]
    return cases
