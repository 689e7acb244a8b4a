"""Means, maxima and softmax on a GPU: teams of one to eight warps."""

from __future__ import annotations

from collections.abc import Callable

import pool_cases
import pytest
import torch
from compiling import Case
from emulated_gpu import needs_emulator
from pool_cases import NEAR, one
from running import check
from torch import Tensor

from qcompile.codegen.cuda.build import generate
from qcompile.codegen.cuda.teams import WARPS, warps_for
from qcompile.errors import QCompileError
from qcompile.ir.target import Target

q, aten = torch.ops.qcompile, torch.ops.aten
pytestmark = needs_emulator


def test_means_and_maxima() -> None:
    cases = pool_cases.means_and_maxima()
    check([*cases, *pool_cases.between(cases)])


def test_teams_of_every_size() -> None:
    """Of places, with channels side by side or apart, and of channels; the last threads idle."""

    def inner(op: Callable[..., Tensor], dim: int) -> Callable[[Tensor], Tensor]:
        return lambda x: op(aten.neg.default(x), [dim])

    cases = []
    for op in (aten.mean.dim, aten.amax.default):
        for places in (1, 8, 9, 17, 33, 63, 64, 65):
            cases += [
                Case(inner(op, 2), [(37, places)], name=f"{op} {places}", tolerance=NEAR),
                Case(one(op, [2]), [(5, places)], name=f"{op} {places} apart", tolerance=NEAR),
            ]
        for channels in (255, 257, 513, 1025, 2049):
            name = f"{op} {channels} channels"
            cases += [
                Case(of, [(channels, 3)], name=name, tolerance=NEAR)
                for of in (one(op, [1]), inner(op, 1))
            ]
    check(cases, (1, 3))


def test_what_follows_a_mean_is_packed_by_the_warp_that_found_it() -> None:
    def function(x: Tensor, a: Tensor) -> tuple[Tensor, ...]:
        y = aten.amax.default(aten.neg.default(x), [2, 3])
        y = q.scale_shift.default(y, a, a)
        return y, q.bitpack.default(q.sign.default(y))

    def kept(x: Tensor) -> tuple[Tensor, ...]:
        y = aten.amax.default(aten.neg.default(x), [2, 3], True)
        return (q.bitpack.default(q.sign.default(y)),)

    cases = [
        Case(function, [(c, 3, 5)], {"a": torch.linspace(-1, 1, c)}, name=f"{c}")
        for c in (1, 31, 32, 33, 100)
    ]
    built = check([*cases, Case(kept, [(70, 5, 5)], name="kept")])
    pools = [kernel for kernel in built.kernels if kernel.kind == "pool"]
    assert [len(kernel.results) for kernel in pools] == [2] * 5 + [1]


def test_softmaxes() -> None:
    sizes = [
        Case(one(op, 1), [(channels, 3)], name=f"{op} {channels}", spread=9.0, tolerance=NEAR)
        for op in (aten.softmax.int, aten.log_softmax.int)
        for channels in (1, 257, 1000, 2500)
    ]
    cases = [*pool_cases.softmaxes(), *sizes]
    check([*cases, *pool_cases.between(cases)])


def test_softmax_of_infinities_and_nan() -> None:
    values = torch.tensor([0.0, -torch.inf, 1e4, -1e4, 3.0])

    def function(x: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        y = aten.add.Tensor(aten.mul.Scalar(x, 0.0), v)
        infinite = aten.sub.Tensor(y, torch.inf)
        return aten.softmax.int(y, 1), aten.softmax.int(infinite, 1)

    check([Case(function, [(5,)], {"v": values}, tolerance=NEAR)], (2,))


@pytest.mark.parametrize(("count", "warps"), [(1, 1), (8, 1), (9, 2), (64, 8), (65, 8), (9999, 8)])
def test_more_warps_share_more_values(count: int, warps: int) -> None:
    assert warps_for(count) == warps <= WARPS


@pytest.mark.parametrize(
    ("op", "arguments"),
    [
        (aten.softmax.int, [0]),
        (aten.mean.dim, [[0, 2]]),
        (aten.amax.default, [[0]]),
    ],
)
def test_what_is_over_the_batch_is_refused(op: object, arguments: list[object]) -> None:
    gm = Case(one(op, *arguments), [(3, 4)]).graph()  # type: ignore[arg-type]
    with pytest.raises(QCompileError, match="is not compiled"):
        generate(gm, Target("cuda"))
