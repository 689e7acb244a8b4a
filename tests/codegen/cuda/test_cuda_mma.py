"""Products on tensor cores: equal to the dialect's reference, on every generation, bit for bit."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache

import pytest
from compiling import Case, compare, joined
from emulated_gpu import needs_emulator
from hypothesis import given
from layer_strategies import binaries, integers, rounds
from layers import GEOMETRIES, int_cases, int_conv, xnor_cases, xnor_conv
from random_layers import Family
from running import emulated
from torch.fx import GraphModule

from qcompile.codegen.built import Built
from qcompile.codegen.cuda import tensor_cores
from qcompile.codegen.cuda.build import generate
from qcompile.codegen.cuda.matrices import Matrix
from qcompile.codegen.cuda.tiles import TILES, Division
from qcompile.ir.target import Target

pytestmark = needs_emulator

_BATCHES = (1, 5)
_SMALL = (0, 1, 2)  # samples of a small batch, at most


@contextmanager
def divided(first: int) -> Iterator[None]:
    """Every product is divided in another way: all tiles, parts, and limits of small batches."""
    numbers = itertools.count(first)

    def divisions(matrix: Matrix, *, packs: bool) -> tuple[Division, Division, int]:
        ways = [t for t in TILES if not packs or t.columns % 32 == 0 or matrix.columns <= t.columns]
        i = next(numbers)
        small, large = ways[(7 * i + 3) % len(ways)], ways[i % len(ways)]
        parts = min((1, 2, 1, 3, 5)[i % 5], matrix.steps), min((1, 2, 1)[i % 3], matrix.steps)
        return Division(small, parts[0]), Division(large, parts[1]), _SMALL[i % 3]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tensor_cores, "divisions", divisions)
        patch.setattr(tensor_cores, "_FEWEST", 1)
        yield


def _signs() -> list[Case]:
    same, strided, point = GEOMETRIES[0], GEOMETRIES[2], GEOMETRIES[1]
    large = ((7, 7), (2, 2), (3, 3, 3, 3), (1, 1))
    return [
        *xnor_cases(),
        xnor_conv(300, 200, *point, tail="pack", size=(5, 3), seed=50),  # words copied in pairs
        xnor_conv(129, 130, *same, pad_value=-1, tail="pack", size=(6, 5), seed=51),
        xnor_conv(128, 64, *same, pad_value=-1, tail="pack", size=(8, 8), seed=52),
        xnor_conv(100, 96, *strided, pad_value=-1, tail="threshold", seed=53),
        xnor_conv(40, 24, *large, pad_value=-1, tail="residual", size=(13, 9), seed=54),
        xnor_conv(384, 96, *same, groups=3, tail="pack", size=(5, 4), seed=55),
        xnor_conv(512, 70, *same, size=(3, 3), seed=56),
    ]


def _bytes() -> list[Case]:
    same, strided, point = GEOMETRIES[0], GEOMETRIES[2], GEOMETRIES[1]
    large = ((7, 7), (2, 2), (3, 3, 3, 3), (1, 1))
    return [
        *(case for case in int_cases() if "int16" not in case.name),
        int_conv(3, 64, *large, zero_point=114, tail="quantize", size=(15, 13), seed=60),
        int_conv(64, 130, *same, zero_point=255, tail="pack", size=(6, 5), seed=61),
        int_conv(96, 48, *strided, source="int8", tail="quantize", seed=62),
        int_conv(300, 33, *point, source="sign", pad_value=-1, size=(4, 3), seed=63),
        int_conv(80, 80, *same, groups=5, zero_point=9, tail="quantize", size=(4, 5), seed=64),
        int_conv(200, 16, *same, zero_point=1, size=(5, 2), seed=65),
    ]


_LAYERS: dict[str, Callable[[], list[Case]]] = {"signs": _signs, "bytes": _bytes}


@cache
def _built(kind: str) -> tuple[list[Case], GraphModule, Built]:
    cases = _LAYERS[kind]()
    gm = joined(cases)
    with divided(len(kind)):
        return cases, gm, generate(gm, Target("cuda"))


@pytest.mark.parametrize("kind", list(_LAYERS))
@pytest.mark.parametrize(("arch", "orders"), [(75, (1,)), (80, (0, 3)), (90, (2,)), (100, (0,))])
def test_layers(kind: str, arch: int, orders: Sequence[int]) -> None:
    cases, gm, built = _built(kind)
    for order in orders:
        compare(cases, emulated(gm, built, arch, order), _BATCHES)


@pytest.mark.parametrize("kind", list(_LAYERS))
def test_all_of_them_are_on_tensor_cores(kind: str) -> None:
    names = {"signs": ("b1",), "bytes": ("s8", "u8")}[kind]
    methods = [k.method for k in _built(kind)[2].kernels if k.kind in ("xnor-popcount", "int8")]
    assert (
        len(methods) >= len(_LAYERS[kind]()) - 2
    )  # where each channel is a group, there is no matrix
    assert sum(m.startswith(tuple(f"{n} mma " for n in names)) for m in methods) >= len(methods) - 3


@rounds(2)
@given(families=binaries)
def test_random_layers_of_signs(families: list[Family]) -> None:
    _check(families, arch=80)


@rounds(2)
@given(families=integers)
def test_random_layers_of_integers(families: list[Family]) -> None:
    _check(families, arch=75)


def _check(families: Sequence[Family], arch: int) -> None:
    if not families:
        return
    cases = [family.case() for family in families]
    gm = joined(cases)
    with divided(len(str(families))):
        built = generate(gm, Target("cuda"))
    compare(cases, emulated(gm, built, arch, order=1), (1, 3))
