"""Where the time of a call goes: each kernel of a program timed by itself, beside whole calls.

A round is a whole call, a call of no kernel, and every kernel in turn: each finds in the caches what the
ones before it left there, as in a whole call. What calling a kernel from here takes is measured right
before it, by a call of none, and subtracted. Each round is at another address in memory: some kernels take
twice as long where the stack and their operands lie unluckily, and a whole call is lucky elsewhere.

The clock is the processor time of this thread, so a busy machine disturbs the caches but not the sums.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from qcompile.arguments import Arguments
from qcompile.constants import ALIGNMENT, aligned
from qcompile.errors import QCompileError
from qcompile.gpu import Gpu
from qcompile.profile_report import KernelTime, Profile, Spread
from qcompile.program_info import CUDA, KernelInfo, ProgramInfo, Variant
from qcompile.runtime import Library

if TYPE_CHECKING:
    from qcompile.program import Program

SECONDS = 1.0
_LEAST, _MOST = 5, 10_000  # rounds
_ALL, _NONE = -1, (1 << 31) - 1  # numbers of kernels, for `run`
_PLACES = 4096 // ALIGNMENT  # of a workspace in a page
_STEP = 37  # has no factor in common with them
_COPY = KernelInfo("copy_result", (), kind="copy")


def profile(program: Program, inputs: Sequence[Any], seconds: float = SECONDS) -> Profile:
    """Time a program's kernels on some inputs.

    Args:
        inputs: as for a call; of any number of samples.
        seconds: how long to measure, about; five rounds at least.

    Raises:
        QCompileError: the program runs on a GPU, the inputs are not what it takes, or `seconds` is no
            time.
    """
    number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
    if not (number and math.isfinite(seconds) and seconds > 0):
        raise QCompileError(f"seconds is {seconds!r}", hint="a number above zero")
    library = program.library()
    if isinstance(library, Gpu):
        raise _on_gpu(program)
    samples = _Samples(_Calls(program.info, program.variant, library, inputs))
    end = time.perf_counter() + seconds
    while samples.rounds < _LEAST or (samples.rounds < _MOST and time.perf_counter() < end):
        samples.add()
    return samples.profile()


def _on_gpu(program: Program) -> QCompileError:
    others = [v.arch for v in program.info.variants if v.machine != CUDA]
    hint = "for its launches, run NVIDIA's Nsight Systems: nsys profile python ..."
    if others:
        hint = f'profile its code for a processor: load(path, arch="{others[0]}"); or, {hint}'
    emulated = "" if program.emulates is None else ", here on an emulation of one"
    return QCompileError(
        f"kernels are timed one by one on processors, and this code is for GPUs{emulated}",
        hint=hint,
    )


class _Calls:
    """What is timed, on one thread.

    Attributes:
        kernels: of the variant; then a copy for each result that no kernel stores.
        size: samples.
    """

    def __init__(
        self, info: ProgramInfo, variant: Variant, library: Library, inputs: Sequence[Any]
    ) -> None:
        self.info, self.variant = info, variant
        self._run, self._inputs = library.run, inputs
        self._arguments = Arguments(info.inputs, info.outputs)
        self._memory = aligned(variant.workspace + _PLACES * ALIGNMENT)
        self._address = self._memory.ctypes.data
        given = self._arguments.check(inputs)
        self.size = int(given[0].shape[0])
        results = [np.empty((self.size, *v.shape), v.dtype) for v in info.outputs]
        starts = range(0, self.size, variant.samples)
        self._parts = [[x[i : i + variant.samples] for x in (*given, *results)] for i in starts]
        stored = {v.output for kernel in variant.kernels for v in kernel.results if v.output >= 0}
        self.kernels = (*variant.kernels, *[_COPY] * (len(info.outputs) - len(stored)))

    def move(self, round_: int) -> None:
        """Put the workspace to another place in its page."""
        place = round_ * _STEP % _PLACES
        self._address = self._memory.ctypes.data + place * ALIGNMENT

    def whole(self) -> None:
        """A call as the program's own."""
        self._arguments.call(self._run, self._inputs, self._address, 1, _ALL)

    def nothing(self) -> None:
        """A call that runs no kernel."""
        self._arguments.call(self._run, self._inputs, self._address, 1, _NONE)

    def each(self, clock: Callable[[], float]) -> list[float]:
        """Run the kernels in their order; gives the seconds of each."""
        run, taken = self._run, [0.0] * len(self.kernels)
        for arrays in self._parts:
            part = (*arrays, self._address, 1)
            for number in range(len(taken)):
                run(*part, _NONE)  # brings near what the next two calls need alike
                start = clock()
                run(*part, _NONE)
                middle = clock()
                run(*part, number)
                taken[number] += (clock() - middle) - (middle - start)
        return taken


@dataclass
class _Samples:
    """Seconds of what was measured, a number a round."""

    calls: _Calls
    whole: list[float] = field(default_factory=list)
    clock: list[float] = field(default_factory=list)
    nothing: list[float] = field(default_factory=list)
    kernels: list[list[float]] = field(default_factory=list)

    @property
    def rounds(self) -> int:
        return len(self.whole)

    def add(self) -> None:
        """Measure a round."""
        calls = self.calls
        calls.move(self.rounds)
        calls.whole()  # not counted, as with all that is timed: a call finds what a call left
        began = time.perf_counter()
        self.whole.append(_timed(calls.whole))
        self.clock.append(time.perf_counter() - began)
        calls.nothing()
        self.nothing.append(_timed(calls.nothing))
        self.kernels.append(calls.each(time.thread_time))

    def profile(self) -> Profile:
        calls = self.calls
        seconds = map(_spread, zip(*self.kernels, strict=True))
        return Profile(
            model=calls.info.model,
            arch=calls.variant.arch,
            batch=calls.size,
            rounds=self.rounds,
            call=_spread(self.whole),
            clock=float(np.median(self.clock)),
            calling=_spread(self.nothing),
            kernels=tuple(
                KernelTime.of(kernel, took, calls.size)
                for kernel, took in zip(calls.kernels, seconds, strict=True)
            ),
        )


def _timed(call: Callable[[], object]) -> float:
    start = time.thread_time()
    call()
    return time.thread_time() - start


def _spread(samples: Sequence[float]) -> Spread:
    """Median and quartiles; what is less than nothing, by noise, is nothing."""
    low, middle, high = np.maximum(np.percentile(samples, [25, 50, 75]), 0.0)
    return Spread(float(middle), float(low), float(high))
