"""Elementwise ops: the float32 expression of the reference, to the bit where no function is approximated."""

from __future__ import annotations

from typing import Any

import element_cases
import pytest
import torch
from compiling import Case, check
from element_cases import EXACT
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor

from qcompile.codegen.groups import ELEMENTWISE
from qcompile.codegen.kernels.dynamic import RULES as DYNAMIC_RULES
from qcompile.codegen.kernels.elementwise import RULES

q, aten = torch.ops.qcompile, torch.ops.aten


def test_every_elementwise_op_has_a_rule() -> None:
    assert RULES.keys() | DYNAMIC_RULES.keys() == ELEMENTWISE


def test_unary() -> None:
    check(element_cases.every_unary())


@pytest.mark.parametrize("target", ["cpu", "cpu:haswell", "cpu:x86-64-v2"])
def test_levels_where_0_is_0(target: str) -> None:
    check(element_cases.levels_where_0_is_0(), target, (1, 3))


def test_few_channels_of_long_rows() -> None:
    check(element_cases.few_channels_of_long_rows())


def test_approximated_functions_at_their_ends() -> None:
    check(element_cases.approximated_at_their_ends())


def test_nan_gives_minus_one_as_a_sign_and_stays_nan_in_floats() -> None:
    check([element_cases.nan_as_sign_and_float()])


def test_a_number_of_0_takes_no_shortcut() -> None:
    check(element_cases.numbers_of_0())


def test_two_operands_and_constants() -> None:
    check(element_cases.two_operands())


def test_a_value_that_is_read_twice_is_computed_once() -> None:
    built = check(element_cases.values_that_are_read_twice())
    assert [len(k.nodes) for k in built.kernels] == [41, 83, 3, 81]


def test_broadcasting_makes_a_new_group() -> None:
    def function(x: Tensor, y: Tensor) -> Any:
        return aten.relu.default(aten.add.Tensor(aten.neg.default(x), y))

    built = check([Case(function, [(1, 5), (6, 5)], name="grows")])
    assert [k.nodes for k in built.kernels] == [
        ("neg_default",),
        ("add_tensor", "relu_default"),
    ]


@settings(max_examples=4, deadline=None, database=None, derandomize=True, phases=[Phase.generate])
@given(st.data())
def test_random_chains_are_exact(data: st.DataObject) -> None:
    cases = []
    for _ in range(4):
        names = data.draw(st.lists(st.sampled_from(list(EXACT)[:12]), min_size=1, max_size=5))
        last = data.draw(st.sampled_from(["sign", "quantize", "pack", "neg"]))
        shape = tuple(data.draw(st.lists(st.integers(1, 9), min_size=0, max_size=2)))
        channels = data.draw(st.sampled_from([1, 3, 31, 32, 33, 70]))

        def chain(x: Tensor, names: list[str] = names, last: str = last) -> Any:
            for name in names:
                x = EXACT[name](x)
            return q.bitpack.default(q.sign.default(x)) if last == "pack" else EXACT[last](x)

        cases.append(Case(chain, [(channels, *shape)], name=f"{names} {last} {channels} {shape}"))
    check(cases)


@pytest.mark.parametrize("target", ["cpu", "cpu:haswell", "cpu:x86-64-v2"])
def test_bitpack(target: str) -> None:
    check(element_cases.packed(), target)


def test_threshold_zero_one_and_border_correction() -> None:
    check(element_cases.of_products())
