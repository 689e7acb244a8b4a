"""Elementwise ops on a GPU: the float32 expression of the reference, to the bit where it is exact."""

from __future__ import annotations

import element_cases
from emulated_gpu import needs_emulator
from hypothesis import given
from layer_strategies import rounds
from random_ops import Ops, ops
from running import check

pytestmark = needs_emulator


def test_one_operand() -> None:
    cases = [
        *element_cases.every_unary(),
        *element_cases.few_channels_of_long_rows(),
        *element_cases.approximated_at_their_ends(),
        *element_cases.packed(),
    ]
    check(cases)


def test_levels_where_0_is_0() -> None:
    check(element_cases.levels_where_0_is_0(), (1, 3))


def test_several_operands_and_numbers() -> None:
    cases = [
        *element_cases.two_operands(),
        *element_cases.numbers_of_0(),
        element_cases.nan_as_sign_and_float(),
    ]
    check(cases)


def test_a_value_that_is_read_twice_is_computed_once() -> None:
    built = check(element_cases.values_that_are_read_twice(), (1, 3))
    assert [len(kernel.nodes) for kernel in built.kernels] == [41, 83, 3, 81]
    assert len(built.source) < 100_000


def test_thresholds_borders_and_halves_of_products() -> None:
    check(element_cases.of_products())


@rounds(3)
@given(families=ops)
def test_random_ops(families: list[Ops]) -> None:
    if families:
        check([family.case() for family in families], (1, 3), orders=(1,))
