"""Random layers on every target: equal to the dialect's reference, integers bit for bit.

HYPOTHESIS_PROFILE=deep pytest --timeout 0 tests/codegen/test_properties.py  draws other layers
each time, a hundred times as many.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from compiling import check, forced
from hypothesis import given
from hypothesis import strategies as st
from layer_strategies import binaries, floats, integers, rounds, weight_only
from machines import TARGETS, runnable
from random_layers import Binary, Family, Float, Integer, Layer, Slide, WeightOnly
from torch.fx import GraphModule

from qcompile.codegen.build import Choose
from qcompile.codegen.groups import Group
from qcompile.codegen.machine import Machine
from qcompile.codegen.schedules.tile import Choice
from qcompile.codegen.tuning.space import choices_of, is_tunable

_BATCHES = (1, 3)
on_every_target = pytest.mark.parametrize("target", TARGETS)


def _check(families: Sequence[Family], target: str) -> None:
    if families:
        check([family.case() for family in families], runnable(target), _BATCHES)


@on_every_target
@rounds(1)
@given(families=binaries)
def test_binary_layers(target: str, families: list[Binary]) -> None:
    _check(families, target)


@on_every_target
@rounds(1)
@given(families=integers)
def test_integer_layers(target: str, families: list[Integer]) -> None:
    _check(families, target)


@on_every_target
@rounds(1)
@given(families=floats)
def test_float_layers(target: str, families: list[Float]) -> None:
    _check(families, target)


@on_every_target
@rounds(1)
@given(families=weight_only)
def test_weight_only_layers(target: str, families: list[WeightOnly]) -> None:
    _check(families, target)


def _anyhow(seed: int) -> Choose:
    """Every method and tile that tuning may take, not only what is taken without it."""
    rng = random.Random(seed)

    def choose(gm: GraphModule, group: Group, machine: Machine) -> Choice | None:
        if not is_tunable(gm, group, machine):
            return None
        choices = choices_of(gm, group, machine)
        method = rng.choice(sorted({choice.method or "" for choice in choices}))
        return rng.choice([choice for choice in choices if (choice.method or "") == method])

    return choose


@on_every_target
@rounds(1)
@given(families=binaries, seed=st.integers(0, 999))
def test_binary_layers_in_other_ways(target: str, families: list[Binary], seed: int) -> None:
    if families:
        cases = [family.case() for family in families]
        built = check(cases, runnable(target), _BATCHES, choose=_anyhow(seed))
        assert all(k.tuned for k in built.kernels if k.kind == "xnor-popcount")


@on_every_target
@rounds(1)
@given(families=integers, seed=st.integers(0, 999))
def test_integer_layers_in_other_ways(target: str, families: list[Integer], seed: int) -> None:
    if families:
        cases = [family.case() for family in families]
        check(cases, runnable(target), _BATCHES, choose=_anyhow(seed))


@on_every_target
@rounds(1)
@given(families=weight_only, seed=st.integers(0, 999))
def test_weight_only_layers_in_other_tiles(
    target: str, families: list[WeightOnly], seed: int
) -> None:
    if families:
        cases = [family.case() for family in families]
        check(cases, runnable(target), _BATCHES, choose=_anyhow(seed))


def _slide(kernel: int, padding: int) -> Slide:
    return Slide((kernel,) * 2, (1, 1), (padding,) * 4, (1, 1))


_ODD = Slide((3, 2), (1, 2), (0, 1, 2, 0), (2, 1))
_SAME = _slide(3, 1)
FEW_LEVELS = {  # by the method that they are for
    "lookup": [
        Integer(30, (7, 9), (Layer(33, _SAME), Layer(70, _ODD, end="bits")), 0, 0, 3, 1, planes=1),
        Integer(
            64, (6, 5), (Layer(64, _SAME, end="uint8"), Layer(130, _ODD, 2)), 1, -8, 7, -3, planes=1
        ),
        Integer(6, (8, 8), (Layer(20, _SAME, 2, end="pool floats"),), 2, 0, 15, 15, planes=1),
        Integer(9, (11,), (Layer(5, Slide((3,), (2,), (1, 0), (2,))),), 3, 0, 7, 7, planes=1),
        Integer(
            90, (4, 4), (Layer(37, _slide(4, 0)), Layer(8, _SAME, pad=-1)), 4, -1, 1, 0, planes=1
        ),
        Integer(333, (), (Layer(40), Layer(260, end="signs")), 5, -4, 3, 2, planes=1),
    ],
    "bit-planes": [
        Integer(30, (7, 9), (Layer(33, _SAME), Layer(70, _ODD, end="bits")), 0, -1, 1, 0, planes=2),
        Integer(64, (6, 5), (Layer(64, _SAME, pad=1), Layer(130, _ODD, 2)), 1, -1, 1, 0, planes=2),
        Integer(
            40, (8, 8), (Layer(20, _SAME, 2, -1, "pool floats"), Layer(33, _ODD)), 2, -1, 1, 0, 1
        ),
        Integer(70, (5, 6), (Layer(20, _SAME, end="uint8"), Layer(9, _ODD, pad=1)), 3, 0, 1, 0, 1),
        Integer(9, (11,), (Layer(5, Slide((3,), (2,), (1, 0), (2,))),), 4, 0, 1, 1, planes=2),
        Integer(
            3, (3, 4, 5), (Layer(9, Slide((2,) * 3, (1,) * 3, (1,) * 6, (1,) * 3)),), 5, -1, 1, 0, 1
        ),
        Integer(
            64, (4, 4), (Layer(37, _slide(4, 0)), Layer(8, _slide(1, 0))), 6, 0, 1, 0, planes=1
        ),
        Integer(333, (), (Layer(40), Layer(260, end="signs")), 7, -1, 1, 0, planes=2),
    ],
}


@on_every_target
@pytest.mark.parametrize("method", FEW_LEVELS)
def test_products_of_few_levels(method: str, target: str) -> None:
    cases = [family.case() for family in FEW_LEVELS[method]]
    check(cases, runnable(target), (1, 9), choose=forced(method))


_LONG_SUMS = [
    Binary(512, (3, 3), (Layer(19, _slide(5, 2), end="bits", pad=-1),)),
    Binary(4096, (2, 2), (Layer(33, _slide(1, 0)),)),
    Binary(40000, (), (Layer(5),)),
    Binary(8191, (), (Layer(64, end="signs"),), low=0),
    Integer(40000, (), (Layer(33),)),
    Integer(512, (3, 3), (Layer(17, _slide(5, 2)),), qmin=-128, qmax=127),
    Integer(40000, (), (Layer(33),), qmin=0, qmax=15, zero_point=3, planes=1),
    Integer(512, (3, 3), (Layer(18, _slide(5, 2), 2, pad=-1),), qmin=-2, qmax=1, planes=1),
    Integer(40000, (), (Layer(33),), qmin=-1, qmax=1, planes=2),
    Integer(512, (3, 3), (Layer(18, _slide(5, 2), 2, pad=-1),), qmin=-1, qmax=1, reach=1),
]


@on_every_target
def test_sums_of_many_products(target: str) -> None:
    """Counters of a few bits have to be emptied in time, also where all places differ, or none."""
    check([family.case() for family in _LONG_SUMS], runnable(target), (4,))


@on_every_target
def test_sums_of_many_products_by_the_next_best_method(target: str) -> None:
    def choose(gm: GraphModule, group: Group, machine: Machine) -> Choice | None:
        if not is_tunable(gm, group, machine):
            return None
        choices = choices_of(gm, group, machine)
        return next((c for c in choices if c.method != choices[0].method), choices[0])

    longest = [_LONG_SUMS[i].case() for i in (0, 2, 6, 7, 8, 9)]
    check(longest, runnable(target), (4,), choose=choose)
