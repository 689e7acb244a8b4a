"""Dynamic quantization: layers, and samples of any values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from compiling import Case
from hypothesis import strategies as st
from random_layers import rows
from small_nets import normal
from torch import Tensor

from qcompile.ir.stages import aten, dialect

INF, NAN = float("inf"), float("nan")


@dataclass(frozen=True)
class Dynamic:
    """A dynamic linear layer, and what stands before and behind it.

    Attributes:
        before: "" for the input itself, "relu" for values of one sign, "map" for a feature map
            whose parameters and levels are taken before it is flattened.
        after: "" for the float result, else what follows in the same kernel.
    """

    features: int
    outputs: int
    bits: int
    reach: int = 127
    before: str = ""
    after: str = ""
    shifted: bool = True
    seed: int = 0

    def case(self) -> Case:
        weight = rows(-self.reach, self.reach, (self.outputs, self.features), self.seed)
        deviation = self.features**0.5 * self.reach
        constants = {
            "weight": weight,
            "total": weight.to(torch.int32).sum(1, dtype=torch.int32),
            "scale": normal(self.outputs, seed=self.seed + 3) / deviation,
            "shift": normal(self.outputs, seed=self.seed + 4),
        }
        shape = (self.features // 6, 2, 3) if self.before == "map" else (self.features,)
        return Case(self._layer, [shape], constants, name=repr(self), spread=3.0)

    def _layer(self, x: Tensor, **c: Tensor) -> Any:
        if self.before:
            x = aten.relu.default(x)
        qparams = dialect.dynamic_qparams.default(x, self.bits)
        q = dialect.dynamic_quantize.default(x, qparams, self.bits)
        if self.before == "map":
            q = aten.flatten.using_ints(q, 1)
        acc = dialect.linear.default(q, c["weight"], 0)
        shift = c["shift"] if self.shifted else None
        y = dialect.dynamic_scale_shift.default(acc, qparams, c["total"], c["scale"], shift)
        return qparams, q, *_AFTER[self.after](y)


_AFTER: dict[str, Any] = {
    "": lambda y: [y],
    "relu": lambda y: [aten.relu.default(y)],
    "levels": lambda y: [y, dialect.quantize.default(y, 0.0165, 117, 0, 255)],
    "signs": lambda y: [dialect.bitpack.default(dialect.sign.default(y))],
    "twice": lambda y: [
        dialect.dynamic_quantize.default(y, dialect.dynamic_qparams.default(y, 3), 3)
    ],
}


@st.composite
def dynamic(draw: st.DrawFn) -> Dynamic:
    before = draw(st.sampled_from(("", "relu", "map")))
    features = draw(st.one_of(st.sampled_from((64, 32, 1, 33, 128, 5)), st.integers(1, 700)))
    return Dynamic(
        6 * -(-features // 6) if before == "map" else features,
        draw(st.one_of(st.sampled_from((16, 10, 32, 1, 70)), st.integers(1, 130))),
        draw(st.integers(2, 8)),
        draw(st.sampled_from((127, 7, 1, 255))),
        before,
        draw(st.sampled_from(tuple(_AFTER))),
        draw(st.booleans()),
        draw(st.integers(0, 99)),
    )


SAMPLES = {
    "zeros": [0.0, -0.0, 0.0, 0.0, -0.0],
    "minus zeros": [-0.0] * 5,
    "constant": [2.5] * 5,
    "constant below 0": [-2.5] * 5,
    "narrow": [1e-44, -1e-44, 1e-44, 0.0, 0.0],
    "above 0": [1.0, 2.0, 3.0, 4.0, 5.0],
    "ties": [-1.0, 0.5, 1.0, 2.5, 127.5],
    "one NaN": [NAN, 1.0, -1.0, 2.0, 3.0],
    "last NaN": [0.0, 1.0, -1.0, 2.0, NAN],
    "all NaN": [NAN] * 5,
    "infinite": [INF, 1.0, -1.0, 2.0, 3.0],
    "infinite below 0": [0.0, 1.0, -INF, 2.0, 3.0],
    "infinite both ways": [INF, 1.0, -INF, NAN, 3.0],
    "too wide": [3e38, -3e38, 1.0, 0.0, -1.0],
}


def dynamic_levels(x: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    qparams = dialect.dynamic_qparams.default(x, bits)
    return qparams, dialect.dynamic_quantize.default(x, qparams, bits)


def bits_of(x: Tensor) -> Tensor:
    return x.view(torch.int32) if x.dtype is torch.float32 else x
