"""Ranges of samples on a GPU: the parameters to the bit, found by one block or by many."""

from __future__ import annotations

import pytest
import torch
from compiling import Case
from dynamic_layers import SAMPLES, bits_of, dynamic_levels
from emulated_gpu import needs_emulator
from running import check, emulated

from qcompile.codegen.cuda import sample_range
from qcompile.codegen.cuda.build import generate
from qcompile.ir.target import Target

pytestmark = needs_emulator


@pytest.fixture(params=["pieces", "whole"], autouse=True)
def split(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Whether samples of some hundred elements are gathered in pieces."""
    if request.param == "pieces":
        monkeypatch.setattr(sample_range, "_PIECE", 64)
    return str(request.param)


def test_samples_of_any_values(split: str) -> None:
    """Each alone, and as 1000 elements."""
    several = {"pieces": 3, "whole": 1}[split]
    for repeats, launches in ((1, 1), (200, several)):
        gm = Case(lambda x: dynamic_levels(x, 8), [(5 * repeats,)]).graph()
        built = generate(gm, Target("cuda"))
        assert len([one for one in built.launches if one.kernel == 0]) == launches
        x = torch.tensor(list(SAMPLES.values())).repeat(1, repeats)
        for order in (0, 1):
            run = emulated(gm, built, order=order)
            for got, wanted in zip(run([x]), gm(x), strict=True):
                assert torch.equal(bits_of(got), bits_of(wanted))


def test_ranges_of_any_width_and_size() -> None:
    sizes = [(1,), (63,), (64,), (65,), (3, 5, 7), (7, 20, 20), (4097,)]
    cases = [
        Case(lambda x, bits=2 + i: dynamic_levels(x, bits), [size], name=f"{size}", extreme=True)
        for i, size in enumerate(sizes)
    ]
    check(cases, (1, 3))


def test_few_samples_are_gathered_in_pieces_and_many_by_a_block_each(split: str) -> None:
    case = Case(lambda x: dynamic_levels(x, 4), [(300,)])
    built = check([case], (sample_range._FEW, sample_range._FEW + 1), orders=(1,))
    ends = [(one.least, one.most) for one in built.launches if one.kernel == 0]
    few = sample_range._FEW
    assert ends == ([(1, few), (1, few), (few + 1, 0)] if split == "pieces" else [(1, 0)])
