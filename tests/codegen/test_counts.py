"""Thresholds of products, said of the counts of differing signs."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from qcompile.codegen.dots.methods import methods, sign_dot
from qcompile.codegen.kernels.counts import limits
from qcompile.codegen.machine import machine_of
from qcompile.ir.target import Target

INT32 = torch.iinfo(torch.int32)


@given(
    base=st.integers(-50, 60),
    tau=st.one_of(st.integers(-80, 80), st.sampled_from([INT32.min + 1, INT32.max])),
    direction=st.sampled_from([1, -1]),
)
def test_a_limit_decides_as_the_threshold_does(base: int, tau: int, direction: int) -> None:
    limit, down = limits(
        torch.tensor([base]),
        torch.tensor([tau], dtype=torch.int32),
        torch.tensor([direction], dtype=torch.int32),
    )
    counts = torch.arange(70, dtype=torch.int32)
    expected = direction * (base - 2 * counts.to(torch.int64)) >= tau
    assert torch.equal((counts ^ down) <= limit, expected)
    assert limit.dtype == down.dtype == torch.int32


def test_limits_of_places_at_the_border_have_a_row_for_each_channel() -> None:
    base = torch.tensor([[9, 8, 9], [9, 5, 9]])  # two channels, three classes
    tau = torch.tensor([1, -2], dtype=torch.int32)
    direction = torch.tensor([1, -1], dtype=torch.int32)
    limit, down = limits(base, tau, direction)
    assert limit.tolist() == [[4, 3, 4], [~4, ~2, ~4]]
    assert down.tolist() == [0, -1]


def best(arch: str, words: int) -> str:
    return methods(machine_of(Target("cpu", arch)), words)[0]


def test_each_processor_has_its_way_to_count() -> None:
    assert best("icelake-server", 18) == "carry-save"
    assert best("cascadelake", 18) == "carry-save-bytes"
    assert best("haswell", 36) == "lookup"
    assert best("x86-64", 36) == "popcount"
    for arch in ("icelake-server", "cascadelake", "haswell", "x86-64"):
        assert methods(machine_of(Target("cpu", arch)), 5000)[-1] == "popcount"


def test_tables_do_not_count_more_than_16_bits_hold() -> None:
    assert "lookup" not in methods(machine_of(Target("cpu", "haswell")), 2048)


def test_a_method_makes_its_dot() -> None:
    machine = machine_of(Target("cpu", "cascadelake"))
    dots = [sign_dot(name, torch.zeros(2), 64) for name in methods(machine, 18)]
    assert all(dot.k == 64 for dot in dots)
    assert len({(type(dot), getattr(dot, "planes", 0)) for dot in dots}) == len(dots)
