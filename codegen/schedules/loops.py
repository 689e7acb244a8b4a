"""What schedules share: loops over tasks, and index arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from tvm import tirx
from tvm.tirx.script import builder as tb

from qcompile.codegen import expr as e
from qcompile.codegen.expr import Expr
from qcompile.codegen.writer import Writer

CHUNK = 32  # channels that one expression computes: a word of signs, two to eight registers


CHUNK = 32  # channels that one expression computes: a word of signs, two to eight registers


def each_task(
    w: Writer, tasks: int, work: int, body: Callable[[Expr], None], samples: Expr | None = None
) -> None:
    """Run `tasks` for each sample, or this call's part of them; `work` is scalar operations a sample.

    Args:
        samples: how many there are, if not the batch.
    """
    count = w.n if samples is None else samples
    if count is w.n:
        w.work += work
    extent = e.bind(count * tasks)
    # The bound tells TVM that indices are not negative.
    first = e.bind(tirx.max(tirx.truncdiv(extent * w.part, w.parts), e.const(0, "int64")))
    last = e.bind(tirx.truncdiv(extent * (w.part + 1), w.parts))
    with tb.serial(last - first) as i:
        body(e.bind(first + i))


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
