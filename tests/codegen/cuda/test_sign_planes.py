"""Products of few levels as products of signs: equal to the dialect's reference, bit for bit."""

from __future__ import annotations

from functools import cache

import pytest
from compiling import Case, compare, joined
from emulated_gpu import needs_emulator
from random_layers import Integer, Layer, Slide
from running import emulated
from torch.fx import GraphModule

from qcompile.codegen.built import Built
from qcompile.codegen.cuda.build import generate
from qcompile.ir.target import Target

pytestmark = needs_emulator

_BATCHES = (1, 3)


def _slide(kernel: int, padding: int) -> Slide:
    return Slide((kernel,) * 2, (1, 1), (padding,) * 4, (1, 1))


_SAME, _POINT, _WHOLE = _slide(3, 1), _slide(1, 0), _slide(4, 0)
_ODD = Slide((3, 2), (1, 2), (0, 1, 2, 0), (2, 1))
# Seed, lowest and highest level, zero point, then what weights there are.
_TAKEN = (
    # 1 bit times -3, -1, 1, 3, and times -1, 0, 1
    Integer(30, (7, 9), (Layer(33, _SAME, pad=-1), Layer(70, _ODD, pad=1)), 0, -1, 1, 0, planes=2),
    Integer(64, (6, 5), (Layer(64, _SAME, end="bits"),), 1, 0, 1, 0, planes=2),
    Integer(40, (5, 5), (Layer(20, _SAME, pad=1), Layer(9, _POINT)), 2, -1, 1, 0, 1),
    Integer(70, (5, 6), (Layer(20, _SAME, end="uint8"),), 3, 0, 1, 1, 1),
    Integer(333, (), (Layer(40), Layer(260, end="signs")), 4, 0, 1, 1, planes=2),
    # 2 bits times -1, 1
    Integer(33, (7, 9), (Layer(33, _SAME), Layer(70, _ODD, end="bits")), 5, 0, 3, 1, planes=1),
    Integer(128, (6, 5), (Layer(64, _SAME, pad=1, end="uint8"),), 6, -2, 1, -1, planes=1),
    Integer(9, (11,), (Layer(5, Slide((3,), (2,), (1, 0), (2,))),), 7, 0, 3, 3, planes=1),
    Integer(90, (4, 4), (Layer(37, _WHOLE), Layer(8, _SAME, end="signs")), 8, 0, 3, 0, planes=1),
    Integer(200, (), (Layer(10), Layer(96, end="bits")), 9, 0, 3, 2, planes=1),
)
_LEFT = (
    Integer(40, (5, 5), (Layer(20, _SAME),), 10, -1, 1, 0, planes=2),  # nothing there is no sign
    Integer(40, (5, 5), (Layer(20, _SAME, groups=2, pad=1),), 11, -1, 1, 0, planes=2),
    Integer(40, (5, 5), (Layer(20, _POINT),), 12, 0, 3, 0, planes=2),  # nine products of signs
    Integer(40, (5, 5), (Layer(20, _POINT),), 13, 0, 7, 0, planes=1),  # seven
    Integer(40, (5, 5), (Layer(20, _SAME, pad=9),), 14, 0, 3, 0, planes=1),  # no level of four
)


@cache
def _built(arch: str | None) -> tuple[list[Case], GraphModule, Built]:
    cases = [family.case() for family in (*_TAKEN, *_LEFT)]
    gm = joined(cases)
    return cases, gm, generate(gm, Target("cuda", arch))


def _products(arch: str | None) -> list[str]:
    layers = sum(len(family.layers) for family in (*_TAKEN, *_LEFT))
    kinds = [k.kind for k in _built(arch)[2].kernels if k.kind in ("bit-planes", "int8")]
    assert len(kinds) == layers
    return kinds


@pytest.mark.parametrize(("arch", "order"), [(75, 1), (80, 0), (90, 3)])
def test_layers(arch: int, order: int) -> None:
    cases, gm, built = _built(f"sm_{arch}")
    compare(cases, emulated(gm, built, arch, order), _BATCHES)


def test_few_levels_are_signs_where_tensor_cores_multiply_bits() -> None:
    taken = sum(len(family.layers) for family in _TAKEN)
    assert _products("sm_80") == ["bit-planes"] * taken + ["int8"] * len(_LEFT)


@pytest.mark.parametrize("arch", [None, "sm_120"])
def test_where_some_emulate_that_they_stay_bytes(arch: str | None) -> None:
    assert set(_products(arch)) == {"int8"}


def test_the_method_says_what_is_multiplied() -> None:
    methods = {k.method for k in _built("sm_86")[2].kernels if k.kind == "bit-planes"}
    assert all(m.startswith("b1 mma ") and "packed first" in m for m in methods)


def test_a_plane_is_stored_once() -> None:
    family = Integer(64, (6, 5), (Layer(32, _POINT),), 6, 0, 3, 0, planes=1)
    built = generate(joined([family.case()]), Target("cuda", "sm_80"))
    [weights] = [k.weights for k in built.kernels if k.weights is not None]
    assert weights.values.nbytes == 32 * 64 // 8
    assert weights.form.nbytes >= 3 * weights.values.nbytes
