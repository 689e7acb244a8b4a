"""Teams: warps of a block that gather values together, and join what their threads have found."""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx
from tvm.tirx.script import builder as tb

from qcompile.codegen import expr as e
from qcompile.codegen.cuda.places import element
from qcompile.codegen.cuda.writer import ALL_LANES, WARP, CudaWriter, Grid, Here
from qcompile.codegen.expr import Expr

WARPS = 8  # of a block
_EACH = 8  # values that a thread gathers before a team is given more warps
Take = Callable[[Expr, Expr], Expr]


def warps_for(count: int) -> int:
    """How many warps gather `count` values, or rows of values; a power of two."""
    warps = 1
    while warps < WARPS and count > warps * _EACH:
        warps *= 2
    return warps


def grid(rows: int, warps: int) -> Grid:
    """Blocks of teams of so many warps, a team for each of a sample's rows."""
    return Grid(rows, WARPS // warps, threads=WARPS * WARP)


def joined_lanes(w: CudaWriter, value: Expr, take: Take) -> Expr:
    """What the lanes of a warp have found, known to each. All of them come here."""
    lanes = e.const(ALL_LANES, "uint32")
    for apart in (16, 8, 4, 2, 1):
        steps = e.const(apart, "int32")
        other = w.value_of("__shfl_xor_sync", e.dtype(value), lanes, value, steps)
        value = e.keep(take(value, other))
    return value


class Running:
    """A running value of one thread."""

    def __init__(self, w: CudaWriter, start: float, take: Take) -> None:
        self._take, self._buffer = take, w.registers(1, "float32")
        self._set(e.const(start, "float32"))

    @property
    def value(self) -> Expr:
        return self._buffer[0]

    def add(self, x: Expr) -> None:
        self._set(self._take(self.value, x))

    def _set(self, value: Expr) -> None:
        tb.buffer_store(self._buffer, value, [e.const(0, "int32")])


class Team:
    """The threads that gather one row, or 32 rows side by side, in a launch of `grid`.

    Attributes:
        row: which of the batch's rows it is; another one's where it is not valid.
        valid: whether there is such a row.
        lane: number of the thread in its warp.
        rank: number of the thread among those that gather the same row.
        size: how many they are.
    """

    def __init__(
        self, w: CudaWriter, here: Here, rows: int, warps: int, *, abreast: bool = False
    ) -> None:
        """
        Args:
            rows, warps: as of the grid.
            abreast: each lane has a row of its own; else all lanes gather one.
        """
        self._w, self._warps, self._abreast = w, warps, abreast
        self._warp = e.bind(tirx.floordiv(here.thread, WARP))
        self.lane = e.bind(tirx.floormod(here.thread, WARP))
        number = here.x * (WARPS // warps) + tirx.floordiv(self._warp, warps)
        self.row, self.valid = element(w.n * rows, number)
        in_team = tirx.floormod(self._warp, warps)
        self.rank = e.bind(in_team if abreast else in_team * WARP + self.lane)
        self.size = warps if abreast else warps * WARP

    @property
    def leads(self) -> Expr:
        """Whether this thread is the one that stores a row's result."""
        return tirx.all(self.valid, self.rank < 1)

    def each(self, count: int, body: Callable[[Expr], None]) -> None:
        """Call `body(number)` for this thread's share of `count` values, in steps of the team."""
        whole, rest = divmod(count, self.size)
        if whole:
            with tb.serial(whole) as step:
                body(step * self.size + self.rank)
        if rest:
            with tb.If(self.rank < rest), tb.Then():
                body(whole * self.size + self.rank)

    def joined(self, value: Expr, take: Take) -> Expr:
        """What all threads of a row have found, known to each. All threads of a block come here."""
        if not self._abreast:
            value = joined_lanes(self._w, value, take)
        return value if self._warps == 1 else self._of_warps(value, take)

    def _of_warps(self, value: Expr, take: Take) -> Expr:
        columns = WARP if self._abreast else 1
        found = self._w.shared(WARPS * columns, e.dtype(value))
        column = self.lane if self._abreast else e.const(0, "int32")
        with tb.If(self.lane < (WARP if self._abreast else 1)), tb.Then():
            tb.buffer_store(found, value, [self._warp * columns + column])
        self._w.barrier()
        first = self._warp - tirx.floormod(self._warp, self._warps)
        total = found[first * columns + column]
        for warp in range(1, self._warps):
            total = e.keep(take(total, found[(first + warp) * columns + column]))
        return total
