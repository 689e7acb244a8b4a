"""Each sample's range, and the scale and zero point that follow from it, on a CPU.

The order in which values are compared does not matter: a sample is read as it lies in memory.
"""

from __future__ import annotations

from tvm.tirx.script import builder as tb

from qcompile.codegen import expr as e
from qcompile.codegen.expr import Expr
from qcompile.codegen.groups import arguments
from qcompile.codegen.kernels.dynamic import SCALE, ZERO_POINT, qparams_of
from qcompile.codegen.schedules.loops import CHUNK, chunks, each_task
from qcompile.codegen.schedules.reduction import Running
from qcompile.codegen.writer import Point, Writer

_WIDE = 4 * CHUNK  # elements at once: comparisons wait for one another for some cycles


def schedule(w: Writer) -> None:
    """Write a dynamic_qparams, one task a sample. The kernel sees samples as flat."""
    source, bits = arguments(w.group.anchor)
    size = w.layout(source).channels
    lanes = min(_WIDE, size)

    def task(n: Expr) -> None:
        # They begin at 0, which the range shall hold: no comparison with NaN or a zero changes it.
        low, high = Running(lanes, 0.0, e.smaller), Running(lanes, 0.0, e.larger)

        def take(first: Expr, count: int) -> None:
            x = e.keep(w.read(source, Point(n, (), first, count)))
            low.add(x)
            high.add(x)

        whole, rest = divmod(size, lanes)
        with tb.serial(whole) as part:
            take(part * lanes, lanes)
        for start, count in chunks(rest):
            take(e.const(whole * lanes + start, "int32"), count)
        scale, zero_point = qparams_of(w, low.whole(), high.whole(), bits)
        w.out.store(Point(n, (), e.const(SCALE, "int32")), scale)
        w.out.store(Point(n, (), e.const(ZERO_POINT, "int32")), zero_point)

    each_task(w, 1, 2 * size, task)
