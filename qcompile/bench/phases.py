"""What the time inside each kernel goes to: packing, products, or what follows them.

The network is compiled once more, with kernels that count cycles between these parts (`codegen.laps`).
What counting takes is measured, and subtracted. Shares are the result, not times: how long a kernel takes,
the program itself says.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from torch import Tensor
from torch.fx import GraphModule

from qcompile.bench.results import Parts
from qcompile.codegen import laps
from qcompile.codegen.build import Choose, build
from qcompile.codegen.built import Built
from qcompile.constants import aligned, expanded
from qcompile.ir.target import Target
from qcompile.runtime import Library

_LEAST, _MOST = 5, 2000  # rounds
_EMPTY = 1000  # laps of nothing


def phases(
    lowered: GraphModule,
    target: Target,
    choose: Choose,
    inputs: Sequence[Tensor],
    seconds: float = 0.5,
) -> tuple[Parts, ...]:
    """Shares of each kernel, in the order in which they run.

    Args:
        target: one processor: this machine's, or one whose code it runs.
        choose: as for `build`, of the program that is asked about.
        inputs: tensors of any number of samples, of which the first is used.
        seconds: to measure, about; five rounds at least.

    Returns:
        Shares that sum to 1. What is no product is `other` as a whole: its kind says what it is.

    Raises:
        QCompileError: kernels of this target cannot be timed from within; or as of `build`.
    """
    timed = _Timed(build(lowered, target, choose, timed=True), inputs)
    rounds: list[np.ndarray[tuple[int, int], np.dtype[np.float64]]] = []
    end = time.perf_counter() + seconds
    while len(rounds) < _LEAST or (len(rounds) < _MOST and time.perf_counter() < end):
        rounds.append(timed.round())
    return tuple(map(_shares, np.median(rounds, axis=0)))


def _shares(cycles: np.ndarray[tuple[int], np.dtype[np.float64]]) -> Parts:
    total = float(cycles.sum())
    if not total:
        return Parts(other=1.0)
    other, pack, matmul, epilogue = (float(value) / total for value in cycles)
    return Parts(pack, matmul, epilogue, other)


class _Timed:
    """A timed library and a sample."""

    def __init__(self, built: Built, inputs: Sequence[Tensor]) -> None:
        self._library = Library(built.library, built.workspace, expanded(built.constants))
        self._laps, self._empty = map(self._library.function, ("laps", "empty"))
        self._kernels = len(built.kernels)
        self._memory = aligned(max(built.workspace, 1))
        results = [np.empty((1, *shape), dtype) for shape, dtype in built.outputs]
        given = [np.ascontiguousarray(x[:1].detach().numpy()) for x in inputs]
        self._arguments = (*given, *results, self._memory.ctypes.data, 1)
        self._counters = np.zeros(2 * laps.PARTS, np.int64)

    def round(self) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
        """Cycles of each kernel's parts, float64 `[kernels, PARTS]`; all kernels run once before."""
        self._library.run(*self._arguments, -1)
        cost = self._counted(partial(self._empty, _EMPTY))[0] / _EMPTY
        found = []
        for number in range(self._kernels):
            self._counted(partial(self._library.run, *self._arguments, number))
            counts = self._counters[laps.PARTS :]
            found.append(np.maximum(self._counters[: laps.PARTS] - cost * counts, 0.0))
        return np.stack(found)

    def _counted(self, call: Callable[[], object]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """Cycles of the parts of what a call ran; the counters hold them, and the laps, until the next."""
        self._laps(self._counters.ctypes.data)
        call()
        self._laps(self._counters.ctypes.data)
        return self._counters[: laps.PARTS]
