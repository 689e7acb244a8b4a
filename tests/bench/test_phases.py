"""The parts of kernels: a timed library computes the same bits, and its shares are what is done."""

from __future__ import annotations

import platform

import numpy as np
import pytest
import torch
from compiling import load
from torch import Tensor, nn
from torch.fx import GraphModule

from qcompile import Recipe, api, kernels
from qcompile.bench.phases import phases
from qcompile.codegen import laps
from qcompile.codegen.build import Choose, build
from qcompile.codegen.built import Built
from qcompile.constants import expanded
from qcompile.errors import QCompileError
from qcompile.ir.target import Target
from qcompile.runtime import Library

CPU = Target.parse("cpu")
needs_counter = pytest.mark.skipif(
    platform.machine() not in laps.FAMILIES,
    reason="programs may not read the counter of cycles here",
)


class Net(nn.Module):
    """Deep sums, few sums, and a pooling that is fused."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 64, 3, padding=1)
        self.deep = nn.Conv2d(64, 64, 3, padding=1)
        self.norm = nn.BatchNorm2d(64)
        self.last = nn.Linear(64 * 16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.deep(self.first(x))))
        return self.last(nn.functional.max_pool2d(x, 2).flatten(1))


@pytest.fixture(scope="module")
def lowered() -> tuple[GraphModule, Choose]:
    torch.manual_seed(0)
    prepared = api.prepare(Net().train(), torch.randn(4, 3, 8, 8), Recipe(1, method="xnor"))
    prepared(torch.randn(4, 3, 8, 8))
    selection, found = kernels.lower(api.convert(prepared.eval()), (CPU,), None)
    return found, selection.choose()


@pytest.fixture(scope="module")
def plain(lowered: tuple[GraphModule, Choose]) -> Built:
    return build(lowered[0], CPU, lowered[1])


@pytest.fixture(scope="module")
def timed(lowered: tuple[GraphModule, Choose]) -> Built:
    return build(lowered[0], CPU, lowered[1], timed=True)


@needs_counter
def test_a_timed_library_gives_the_same_bits(plain: Built, timed: Built) -> None:
    wanted, counting = load(plain), load(timed)
    for batch in (1, 3):
        x = torch.randn(batch, 3, 8, 8)
        assert torch.equal(wanted([x])[0], counting([x])[0])


@needs_counter
def test_shares_are_of_what_is_done(lowered: tuple[GraphModule, Choose], timed: Built) -> None:
    found = phases(lowered[0], CPU, lowered[1], [torch.randn(2, 3, 8, 8)], 0.05)
    assert len(found) == len(timed.kernels)
    for kernel, parts in zip(timed.kernels, found, strict=True):
        assert parts.total == pytest.approx(1)
        if kernel.kind == "xnor-popcount":
            assert parts.matmul > 0.3
        if not kernel.macs:
            assert parts.other == 1
    assert any(parts.epilogue > 0.02 for parts in found)
    assert any(parts.pack > 0 for parts in found)


@needs_counter
def test_what_was_counted_is_read_once(timed: Built) -> None:
    library = Library(timed.library, timed.workspace, expanded(timed.constants))
    counters = np.zeros(2 * laps.PARTS, np.int64)
    library.function("empty")(7)
    library.function("laps")(counters.ctypes.data)
    assert counters[laps.PARTS + laps.OTHER] == 7
    assert counters[laps.OTHER] > 0
    library.function("laps")(counters.ctypes.data)
    assert not counters.any()


@needs_counter
def test_a_program_has_no_counters(plain: Built, timed: Built) -> None:
    assert b"__tvm_ffi_laps" in timed.library
    assert b"__tvm_ffi_laps" not in plain.library


def test_where_the_counter_may_not_be_read(lowered: tuple[GraphModule, Choose]) -> None:
    with pytest.raises(QCompileError, match="kernels for aarch64 cannot be timed from within") as e:
        build(lowered[0], Target.parse("cpu:neoverse-n1"), timed=True)
    assert "x86_64" in str(e.value)
