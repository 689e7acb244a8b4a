"""Each sample's range, and the scale and zero point that follow from it, on a GPU.

A block gathers a sample; of few and large samples, several blocks gather pieces, and another one
what they have found.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from tvm import tirx
from tvm.tirx.script import builder as tb

from qcompile.codegen import expr as e
from qcompile.codegen.cuda import teams
from qcompile.codegen.cuda.teams import WARPS, Running, Team, warps_for
from qcompile.codegen.cuda.writer import WARP, CudaKernel, CudaWriter, Part
from qcompile.codegen.expr import Expr
from qcompile.codegen.groups import SAMPLE_RANGE, arguments
from qcompile.codegen.kernels.dynamic import SCALE, ZERO_POINT, qparams_of
from qcompile.codegen.layout import layout_of
from qcompile.codegen.schedules.loops import split
from qcompile.codegen.writer import Point

_PIECE = 1 << 13  # elements of a piece
_PIECES = 256  # of a sample, at most
_FEW = 64  # samples; more of them keep a GPU busy with a block for each
_ENDS = "ends"  # [n, low and high, pieces]


def sample_range(w: CudaWriter) -> CudaKernel | None:
    """A dynamic_qparams. Samples are seen as flat: the order of their elements does not matter."""
    if w.group.anchor.target is not SAMPLE_RANGE:
        return None
    size = layout_of(arguments(w.group.anchor)[0]).size
    pieces = min(_PIECES, -(-size // _PIECE))
    if pieces == 1:
        return w.kernel(Part(_whole), flat=True)
    return w.kernel(
        Part(partial(_pieces, pieces=pieces), most=_FEW),
        Part(partial(_joined, pieces=pieces), most=_FEW),
        Part(_whole, least=_FEW + 1),
        flat=True,
        scratch={_ENDS: ("float32", 2 * pieces)},
    )


def _whole(w: CudaWriter) -> None:
    """A team for each sample."""
    source = w.group.inputs[0]
    size = w.layout(source).channels
    warps = warps_for(-(-size // WARP))
    with w.launch(teams.grid(1, warps)) as t:
        team = Team(w, t, 1, warps)
        ends = _ends(w, team, size, lambda at: (w.read(source, Point(team.row, (), at)),) * 2)
        _store(w, team, *ends)


def _pieces(w: CudaWriter, pieces: int) -> None:
    """A block for each piece of a sample."""
    source = w.group.inputs[0]
    size = w.layout(source).channels
    piece = -(-size // pieces)
    with w.launch(teams.grid(pieces, WARPS)) as t:
        team = Team(w, t, pieces, WARPS)
        n, number = split(team.row, [pieces])

        def element(at: Expr) -> tuple[Expr, Expr]:
            # Beyond the end it is the last one again, which no range minds.
            last = e.const(size - 1, "int32")
            x = e.keep(w.read(source, Point(n, (), tirx.min(number * piece + at, last))))
            return x, x

        found = _ends(w, team, piece, element)
        with tb.If(team.leads), tb.Then():
            for which, value in enumerate(found):
                at = (n * 2 + which) * pieces + number
                tb.buffer_store(w.scratch(_ENDS), value, [at])


def _joined(w: CudaWriter, pieces: int) -> None:
    """A team for what the blocks of a sample have found."""
    warps = warps_for(-(-pieces // WARP))
    with w.launch(teams.grid(1, warps)) as t:
        team = Team(w, t, 1, warps)
        memory, first = w.scratch(_ENDS), team.row * (2 * pieces)
        ends = _ends(w, team, pieces, lambda i: (memory[first + i], memory[first + pieces + i]))
        _store(w, team, *ends)


def _ends(
    w: CudaWriter, team: Team, count: int, element: Callable[[Expr], tuple[Expr, Expr]]
) -> tuple[Expr, Expr]:
    """The lowest and the highest of what `element` gives, and of 0.

    They begin at 0, which the range shall hold: no comparison with NaN or a zero changes it, so that
    any order of comparisons gives the same bits.
    """
    low, high = Running(w, 0.0, e.smaller), Running(w, 0.0, e.larger)

    def add(number: Expr) -> None:
        lowest, highest = element(number)
        low.add(lowest)
        high.add(highest)

    team.each(count, add)
    return team.joined(low.value, e.smaller), team.joined(high.value, e.larger)


def _store(w: CudaWriter, team: Team, low: Expr, high: Expr) -> None:
    scale, zero_point = qparams_of(w, low, high, arguments(w.group.anchor)[1])
    with tb.If(team.leads), tb.Then():
        w.out.store(Point(team.row, (), e.const(SCALE, "int32")), scale)
        w.out.store(Point(team.row, (), e.const(ZERO_POINT, "int32")), zero_point)
