"""What schedules share: parallel loops that small batches do not pay for, and index arithmetic."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

from tvm import tirx
from tvm.tirx.script import builder as tb

from qcompile.codegen import expr as e
from qcompile.codegen.expr import Expr
from qcompile.codegen.writer import Writer

# Starting the threads costs about 3 us: some ten thousand operations on vectors.
PARALLEL_FROM = 1 << 16
CHUNK = 32  # channels that one expression computes: a word of signs, two to eight registers


def each_task(w: Writer, tasks: int, work: int, body: Callable[[Expr], None]) -> None:
    """Run `tasks` for each sample, on all threads where it pays; `work` is scalar operations a sample."""
    extent = w.n * tasks
    if work >= PARALLEL_FROM:
        with tb.parallel(extent) as task:
            body(task)
        return
    with tb.If(w.n * work >= PARALLEL_FROM):
        with tb.Then(), tb.parallel(extent) as task:
            body(task)
        with tb.Else(), tb.serial(extent) as task:
            body(task)


def split(index: Expr, sizes: Sequence[int]) -> list[Expr]:
    """Digits of an index, the last dimension fastest; the first one takes what is left."""
    digits: list[Expr] = []
    for size in reversed(sizes):
        digits.append(e.bind(tirx.floormod(index, size)) if size > 1 else e.const(0, "int32"))
        index = tirx.floordiv(index, size) if size > 1 else index
    return [e.bind(index), *reversed(digits)]


def chunks(channels: int, width: int = CHUNK) -> Iterator[tuple[int, int]]:
    """(start, width) of the pieces of a known number of channels."""
    for start in range(0, channels, width):
        yield start, min(width, channels - start)


def each_chunk(channels: int, body: Callable[[Expr, int], None]) -> None:
    """Call `body(first channel, lanes)` for whole chunks in a loop, and for the rest."""
    whole = channels // CHUNK
    if whole:
        with tb.serial(whole) as chunk:
            body(chunk * CHUNK, CHUNK)
    if channels % CHUNK:
        body(e.const(whole * CHUNK, "int32"), channels % CHUNK)


def product(sizes: Sequence[int]) -> int:
    return math.prod(sizes)
