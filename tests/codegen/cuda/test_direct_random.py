"""Random layers without tensor cores: equal to the dialect's reference, integers bit for bit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
from dynamic_layers import Dynamic, dynamic
from emulated_gpu import needs_emulator
from hypothesis import given
from hypothesis import strategies as st
from layer_strategies import after_nothing, binaries, floats, integers, rounds, weight_only
from random_layers import Family
from running import check

from qcompile.codegen.cuda import direct, rules

pytestmark = needs_emulator


@contextmanager
def threads_alone(blocks: int) -> Iterator[None]:
    """All products by `direct`, whose tiles are large ones as soon as there are so many."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rules, "RULES", (direct.direct, *rules.RULES))
        patch.setattr(direct, "_BLOCKS", blocks)
        yield


def _check(families: Sequence[Family | Dynamic], blocks: int) -> None:
    if families:
        with threads_alone(blocks):
            check([family.case() for family in families], (1, 3), orders=(1,))


@rounds(1)
@given(families=binaries, blocks=st.sampled_from((1, 216)))
def test_binary_layers(families: list[Family], blocks: int) -> None:
    _check(families, blocks)


@rounds(1)
@given(families=integers, blocks=st.sampled_from((1, 216)))
def test_integer_layers(families: list[Family], blocks: int) -> None:
    _check(families, blocks)


@rounds(1)
@given(families=floats, blocks=st.sampled_from((1, 216)))
def test_float_layers(families: list[Family], blocks: int) -> None:
    _check(families, blocks)


@rounds(1)
@given(families=weight_only, blocks=st.sampled_from((1, 216)))
def test_weight_only_layers(families: list[Family], blocks: int) -> None:
    _check(families, blocks)


@rounds(1)
@given(layers=after_nothing(st.lists(dynamic(), min_size=2, max_size=2)))
def test_dynamic_layers(layers: list[Dynamic]) -> None:
    _check(layers, 216)
