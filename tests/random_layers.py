"""Layers for property tests: several on one input, drawn by hypothesis, compared bit for bit.

A `Family` is one input and some layers that read it, of one kind of arithmetic. Its `repr` is all
that it takes to have it again: `check([Binary(...).case()], "cpu:haswell")`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from compiling import Case
from small_nets import generator, levels, normal
from torch import Tensor

from qcompile.ir.borders import border_table
from qcompile.ir.ops import INT32_MAX, INT32_MIN, full_word_mask, output_size, pack_words
from qcompile.ir.stages import aten, dialect


@dataclass(frozen=True)
class Slide:
    """How a kernel slides; padding is `[before, after]` for each dimension."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]

    @property
    def arguments(self) -> list[list[int]]:
        """Stride, padding, dilation as the dialect's ops take them."""
        return [list(self.stride), list(self.padding), list(self.dilation)]


@dataclass(frozen=True)
class Layer:
    """A convolution, or without `slide` a matrix product, and what follows it.

    Attributes:
        end: the epilogue, a key of `ENDS`.
        pad: the value beyond the border.
        inner: whether another kernel reads the result, so that it need not lie in torch's order.
    """

    outputs: int
    slide: Slide | None = None
    groups: int = 1
    pad: int = 0
    end: str = "sums"
    inner: bool = False


@dataclass(frozen=True)
class Family(ABC):
    """Layers that read one input `[N, channels, *size]`; a residual is the second input."""

    channels: int
    size: tuple[int, ...]
    layers: tuple[Layer, ...]
    seed: int = 0

    tolerance = (0.0, 0.0)

    @abstractmethod
    def source(self, x: Tensor) -> Tensor:
        """What the layers read."""

    @abstractmethod
    def weights(self, layer: Layer, shape: tuple[int, ...], seed: int) -> dict[str, Tensor]:
        """The constants of `sums`; `shape` is `[O, C / groups, *kernel]`."""

    @abstractmethod
    def sums(self, source: Tensor, layer: Layer, c: dict[str, Tensor]) -> Tensor:
        """The layer without its end."""

    def case(self) -> Case:
        """All layers side by side."""
        shapes = [(self.channels, *self.size)]
        residual = next((r for r in self.layers if r.end == "residual"), None)
        if residual is not None:
            shapes.append((residual.outputs, *self.places(residual)))
        constants: dict[str, Tensor] = {}
        for i, layer in enumerate(self.layers):
            seed = self.seed + 10 * i
            found = self._constants(layer, seed)
            constants |= {f"{name}{i}": value for name, value in found.items()}

        def function(x: Tensor, *residual: Tensor, **constants: Tensor) -> Any:
            source, results = self.source(x), []
            for i, layer in enumerate(self.layers):
                end = str(i)
                own = {k.removesuffix(end): v for k, v in constants.items() if _index(k) == end}
                acc = self.sums(source, layer, own)
                found = ENDS[layer.end](acc, own, len(self.size), *residual)
                inner = layer.inner and layer.end in _FLOWING
                results += [_moved(value) if inner else value for value in found]
            return tuple(results)

        return Case(
            function, shapes, constants, self.tolerance, name=repr(self), spread=2.0, extreme=True
        )

    def places(self, layer: Layer) -> tuple[int, ...]:
        """Spatial sizes of a layer's result."""
        if layer.slide is None:
            return self.size
        return tuple(output_size(self.size, layer.slide.kernel, *layer.slide.arguments))

    def _constants(self, layer: Layer, seed: int) -> dict[str, Tensor]:
        kernel = layer.slide.kernel if layer.slide else ()
        shape = (layer.outputs, self.channels // layer.groups, *kernel)
        deviation = self.deviation(shape)
        tau = (normal(layer.outputs, seed=seed + 1) * deviation).round().to(torch.int32)
        tau[seed % 5 :: 11] = INT32_MIN
        tau[(seed + 3) % 7 :: 13] = INT32_MAX
        return {
            **self.weights(layer, shape, seed),
            "tau": tau,
            "direction": levels(0, 1, layer.outputs, seed=seed + 2).to(torch.int32) * 2 - 1,
            "scale": normal(layer.outputs, seed=seed + 3) / deviation,
            "shift": normal(layer.outputs, seed=seed + 4),
            "mask": full_word_mask(layer.outputs) & 0x5A5A0FF0,
        }

    def deviation(self, shape: tuple[int, ...]) -> float:
        """About the standard deviation of the sums."""
        return math.prod(shape[1:]) ** 0.5


def _index(name: str) -> str:
    return name[len(name.rstrip("0123456789")) :]


def rows(low: int, high: int, shape: tuple[int, ...], seed: int) -> Tensor:
    """Integers `[O, C, *kernel]`; some rows all at an end, some at both in turn by channel."""
    values = levels(low, high, *shape, seed=seed)
    for o in range(shape[0]):
        how = (o + seed) % 7
        if how < 3:
            values[o] = (high, low, low)[how]
        if how == 2:
            values[o, ::2] = high
    return values


@dataclass(frozen=True)
class Binary(Family):
    """Signs (or with `low` 0 levels 0 and 1) and ±1 weights, packed."""

    low: int = -1

    def source(self, x: Tensor) -> Tensor:
        signs = dialect.sign.default(x) if self.low else dialect.quantize_unit.default(x, 1)
        return dialect.bitpack.default(signs)

    def weights(self, layer: Layer, shape: tuple[int, ...], seed: int) -> dict[str, Tensor]:
        weight = rows(0, 1, shape, seed) * 2 - 1
        made = {"weight": pack_words(weight.movedim(1, -1) > 0).flatten(1)}
        if not self.low:
            made["total"] = weight.flatten(1).sum(1, dtype=torch.int32)
        if self.low and layer.slide and layer.pad == 0:
            table, classes = border_table(weight, self.size, *layer.slide.arguments)
            made["table"] = table
            made |= {f"class_{'abc'[d]}": of_place for d, of_place in enumerate(classes)}
        return made

    def sums(self, source: Tensor, layer: Layer, c: dict[str, Tensor]) -> Tensor:
        k, patches = self.channels // layer.groups, source
        if layer.slide:
            k *= math.prod(layer.slide.kernel)
            # 0 lies below {0, 1}'s middle, and between signs: there the table takes +1 back.
            sign = layer.pad or (1 if self.low else -1)
            kernel, sides = list(layer.slide.kernel), layer.slide.arguments
            patches = dialect.im2col.default(
                source, self.channels, layer.groups, kernel, *sides, sign
            )
        acc = dialect.xnor_matmul.default(patches, c["weight"], k, layer.groups)
        if "total" in c:
            return dialect.zero_one.default(acc, c["total"])
        if "table" in c:
            classes = [c[name] for name in sorted(c) if name.startswith("class_")]
            return dialect.border_correction.default(acc, c["table"], classes)
        return acc


@dataclass(frozen=True)
class Integer(Family):
    """Levels `qmin .. qmax` around a zero point (-1 and 1: signs), and weights up to `reach`.

    With `planes`, weights are odd numbers of so many bits, as DoReFa-Net's: -1 and 1 of one.
    """

    qmin: int = 0
    qmax: int = 255
    zero_point: int = 0
    reach: int = 127
    planes: int = 0

    def source(self, x: Tensor) -> Tensor:
        if (self.qmin, self.qmax) == (-1, 1):
            return dialect.sign.default(x)
        step = 2.0 ** (3 - (self.qmax - self.qmin).bit_length())
        return dialect.quantize.default(x, step, self.zero_point, self.qmin, self.qmax)

    def weights(self, layer: Layer, shape: tuple[int, ...], seed: int) -> dict[str, Tensor]:
        if self.planes:
            return {"weight": 2 * rows(0, 2**self.planes - 1, shape, seed) - 2**self.planes + 1}
        least = -128 if self.reach == 127 else -self.reach
        return {"weight": rows(least, self.reach, shape, seed)}

    def sums(self, source: Tensor, layer: Layer, c: dict[str, Tensor]) -> Tensor:
        if layer.slide is None:
            return dialect.linear.default(source, c["weight"], self.zero_point)
        sides = layer.slide.arguments
        return dialect.conv.default(
            source, c["weight"], *sides, layer.groups, self.zero_point, layer.pad
        )

    def deviation(self, shape: tuple[int, ...]) -> float:
        reach = 2**self.planes - 1 if self.planes else self.reach
        return super().deviation(shape) * reach * max(1, self.qmax - self.qmin) / 4


@dataclass(frozen=True)
class Float(Family):
    """float32, with the rounding that another order of additions leaves."""

    # Half of 2^-24 of a partial sum is lost by each of at most some thousand additions.
    tolerance = (1e-5, 1e-4)

    def source(self, x: Tensor) -> Tensor:
        return aten.hardtanh.default(x, -2.0, 2.0)

    def weights(self, layer: Layer, shape: tuple[int, ...], seed: int) -> dict[str, Tensor]:
        weight = torch.randn(shape, generator=generator(seed)) / self.deviation(shape)
        return {"weight": weight, "bias": normal(layer.outputs, seed=seed + 5)}

    def sums(self, source: Tensor, layer: Layer, c: dict[str, Tensor]) -> Tensor:
        if layer.slide is None:
            return aten.linear.default(source, c["weight"], c["bias"])
        padding, rank = list(layer.slide.padding[::2]), len(self.size)
        stride, dilation = list(layer.slide.stride), list(layer.slide.dilation)
        rest = (dilation, False, [0] * rank, layer.groups)
        return aten.convolution.default(source, c["weight"], c["bias"], stride, padding, *rest)


@dataclass(frozen=True)
class WeightOnly(Family):
    """Floats times levels up to `reach`. The floats are integers up to 8: sums of any order are exact."""

    reach: int = 127

    def source(self, x: Tensor) -> Tensor:
        # Beside 1.5 * 2^23 a float32 has no bits for a fraction.
        shifted = aten.add.Scalar(aten.hardtanh.default(x, -8.0, 8.0), 12582912.0)
        return aten.add.Scalar(shifted, -12582912.0)

    def weights(self, layer: Layer, shape: tuple[int, ...], seed: int) -> dict[str, Tensor]:
        least = -128 if self.reach == 127 else -self.reach
        return {"weight": rows(least, self.reach, shape, seed)}

    def sums(self, source: Tensor, layer: Layer, c: dict[str, Tensor]) -> Tensor:
        if layer.slide is None:
            return dialect.weight_only_linear.default(source, c["weight"])
        sides = layer.slide.arguments
        return dialect.weight_only_conv.default(source, c["weight"], *sides, layer.groups)

    def deviation(self, shape: tuple[int, ...]) -> float:
        return super().deviation(shape) * self.reach * 2


# --- what follows ------------------------------------------------------------------------------


def _threshold(acc: Tensor, c: dict[str, Tensor], low: int) -> Tensor:
    return dialect.threshold.default(acc, c["tau"], c["direction"], low)


def _pooled(kernel: int, stride: int, padding: int, ceil: bool) -> Any:
    def end(acc: Tensor, c: dict[str, Tensor], rank: int, *_: Tensor) -> list[Tensor]:
        bits = dialect.bitpack.default(_threshold(acc, c, -1))
        window = ([kernel] * rank, [stride] * rank, [padding] * 2 * rank, [1] * rank)
        return [dialect.bit_maxpool.default(bits, c["mask"], *window, ceil)]

    return end


def _scaled(acc: Tensor, c: dict[str, Tensor]) -> Tensor:
    return dialect.scale_shift.default(acc, c["scale"], c["shift"])


def _both(acc: Tensor, c: dict[str, Tensor], *_: object) -> list[Tensor]:
    y = _scaled(acc, c)
    return [y, dialect.bitpack.default(dialect.sign.default(y))]


def _largest(kernel: int, stride: int, padding: int, *, bits: bool) -> Any:
    def end(acc: Tensor, c: dict[str, Tensor], rank: int, *_: Tensor) -> list[Tensor]:
        y = _scaled(acc, c) if bits else aten.relu.default(_scaled(acc, c))
        pool = (aten.max_pool1d, aten.max_pool2d, aten.max_pool3d)[rank - 1].default
        y = pool(y, *([size] * rank for size in (kernel, stride, padding)))
        return [dialect.bitpack.default(dialect.sign.default(y)) if bits else y]

    return end


ENDS: dict[str, Any] = {
    "bits": lambda acc, c, *_: [dialect.bitpack.default(_threshold(acc, c, -1))],
    "sums": lambda acc, c, *_: [acc],
    "residual": lambda acc, c, _, y: [aten.relu.default(aten.add.Tensor(_scaled(acc, c), y))],
    "floats": lambda acc, c, *_: [_scaled(acc, c)],
    "floats and bits": _both,
    "pool 2": _pooled(2, 2, 0, False),
    "pool 3": _pooled(3, 2, 1, True),
    "pool floats": _largest(3, 2, 1, bits=False),
    "pool to bits": _largest(2, 2, 0, bits=True),
    "uint8": lambda acc, c, *_: [dialect.quantize.default(_scaled(acc, c), 0.0165, 117, 0, 255)],
    "int8": lambda acc, c, *_: [dialect.quantize.default(_scaled(acc, c), 0.03125, 0, -128, 127)],
    "unit": lambda acc, c, *_: [dialect.quantize_unit.default(_scaled(acc, c), 2)],
    "relu": lambda acc, c, *_: [aten.relu.default(_scaled(acc, c))],
    "unshifted": lambda acc, c, *_: [dialect.scale_shift.default(acc, c["scale"], None)],
    "signs": lambda acc, c, *_: [dialect.bitpack.default(dialect.sign.default(_scaled(acc, c)))],
    "threshold": lambda acc, c, *_: [_threshold(acc, c, -1)],
    "levels": lambda acc, c, *_: [_threshold(acc, c, 0)],
    "level bits": lambda acc, c, *_: [dialect.bitpack.default(_threshold(acc, c, 0))],
}
_PACKED = {"bits", "level bits", "signs", "pool 2", "pool 3", "floats and bits", "pool to bits"}
_FLOWING = ENDS.keys() - _PACKED


def _moved(value: Tensor) -> Tensor:
    """The value as it is, by a kernel of its own."""
    return aten.pad.default(value, [0, 0])
