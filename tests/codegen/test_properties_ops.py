"""Random pools, reductions, moves and chains on every target, equal to plain PyTorch."""

from __future__ import annotations

import pytest
from compiling import check
from hypothesis import given
from layer_strategies import rounds
from machines import TARGETS, runnable
from random_ops import Ops, ops

on_every_target = pytest.mark.parametrize("target", TARGETS)


@on_every_target
@rounds(1)
@given(families=ops)
def test_ops(target: str, families: list[Ops]) -> None:
    if families:
        check([family.case() for family in families], runnable(target), (1, 3))
