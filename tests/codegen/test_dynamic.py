"""Dynamic quantization compiled: ranges, levels and products of each sample, bit for bit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from compiling import Case, check, loaded
from emulating import emulated, needs_emulator
from hypothesis import given
from hypothesis import strategies as st
from layer_strategies import after_nothing, rounds
from machines import TARGETS, runnable
from random_layers import rows
from small_nets import levels, normal
from torch import Tensor

from qcompile.codegen.build import build
from qcompile.ir.stages import aten, dialect
from qcompile.ir.target import Target
from qcompile.runtime import use_threads

INF, NAN = float("inf"), float("nan")
on_every_target = pytest.mark.parametrize("target", TARGETS)


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
def _dynamic(draw: st.DrawFn) -> Dynamic:
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


_LAYERS = after_nothing(st.lists(_dynamic(), min_size=4, max_size=4))


@on_every_target
@rounds(1)
@given(layers=_LAYERS)
def test_dynamic_layers(target: str, layers: list[Dynamic]) -> None:
    if layers:
        check([layer.case() for layer in layers], runnable(target), range(1, 6))


@on_every_target
def test_every_width_in_batches_worth_code_of_their_own(target: str) -> None:
    cases = [Dynamic(260, 70, bits, after="relu", seed=bits).case() for bits in range(2, 9)]
    built = check(cases, runnable(target), (1, 2, 7, 33))
    kinds = [kernel.kind for kernel in built.kernels]
    # The product, its scales and the relu are one kernel.
    assert sorted(kinds) == ["elementwise"] * 7 + ["int8"] * 7 + ["range"] * 7


@needs_emulator
@pytest.mark.parametrize("arch", ["cortex-a72", "cortex-a76"])
def test_dynamic_layers_on_aarch64(arch: str) -> None:
    layers = [
        Dynamic(300, 37, 8, after="levels"),
        Dynamic(66, 10, 4, before="map", after="relu"),
        Dynamic(5, 1, 2, reach=255, shifted=False),
        Dynamic(129, 64, 7, before="relu", after="signs"),
    ]
    check([layer.case() for layer in layers], f"cpu:{arch}", (1, 3), emulated)


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


@on_every_target
@pytest.mark.parametrize("repeats", [1, 40])
def test_samples_of_any_values(target: str, repeats: int) -> None:
    """Each alone, and as 200 elements: vectors and what is left of them."""
    case = Case(lambda x: dynamic_levels(x, 8), [(5 * repeats,)])
    gm = case.graph()
    run = loaded(gm, build(gm, Target.parse(runnable(target))))
    x = torch.tensor(list(SAMPLES.values())).repeat(1, repeats)
    for got, wanted in zip(run([x]), gm(x), strict=True):
        assert torch.equal(bits_of(got), bits_of(wanted))


def test_a_sample_has_the_same_result_in_every_batch_and_with_any_threads() -> None:
    case = Dynamic(300, 40, 6, after="relu").case()
    gm = case.graph()
    run = loaded(gm, build(gm, Target()))
    x = case.inputs(9, 1)[0] * torch.arange(1, 10)[:, None]
    wanted = gm(x)[-1]
    for count in (1, 2, 4, 9):
        use_threads(count)
        assert torch.equal(run([x])[-1], wanted)
    for i in range(9):
        assert torch.equal(run([x[i : i + 1]])[-1], wanted[i : i + 1])


def test_levels_of_given_parameters_join_the_kernel_that_computes_the_values() -> None:
    """Parameters of another value: nothing is to be waited for."""

    def function(x: Tensor, y: Tensor) -> Tensor:
        qparams = dialect.dynamic_qparams.default(y, 4)
        return dialect.dynamic_quantize.default(aten.relu.default(x), qparams, 4)

    built = check([Case(function, [(3, 4, 5), (7,)])])
    assert [kernel.kind for kernel in built.kernels] == ["range", "elementwise"]


def test_equal_weights_give_equal_rows() -> None:
    """All rows have one weight: what they give is the same to the bit, in vectors and their rest."""
    weight = levels(-7, 7, 1, 90).expand(35, 90).contiguous()
    layer = Dynamic(90, 35, 4)
    case = layer.case()
    case.constants |= {
        "weight": weight,
        "total": weight.sum(1, dtype=torch.int32),
        "scale": torch.full((1,), 0.3),
        "shift": torch.full((1,), 0.1),
    }
    check([case], batches=(1, 4))
