"""Compiled programs: run, saved, loaded. Imports neither torch nor the compiler."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from qcompile.arguments import Arguments, check_part
from qcompile.constants import Bytes, Constant
from qcompile.cuda.library import Code
from qcompile.emulation import Emulated
from qcompile.errors import QCompileError
from qcompile.files import PathLike, read, write
from qcompile.gpu import Gpu, Native
from qcompile.machine import choose, choose_emulated, runnable
from qcompile.program_file import Archive, unpack
from qcompile.program_info import CUDA, KernelInfo, ProgramInfo, Variant
from qcompile.program_summary import Summary
from qcompile.runtime import Library, cores, default_threads, use_threads

if TYPE_CHECKING:
    from qcompile.profile_report import Profile

_ALL = -1  # kernels, for `run`


class Program:
    """A compiled network.

    Call it with torch tensors or numpy arrays, as many as the model took; it gives the same kind
    back. The batch, dimension 0, may have any size from 1 up. Nothing is recorded for autograd. A
    NaN that meets a quantizer gives its lowest level, so sign(NaN) is -1. Any number of threads may
    call it at once.

    On a GPU, tensors there are read in place on torch's current stream, and the results are tensors
    there; what lies on the CPU is copied to the GPU and back.

    Attributes:
        arch: the variant that was asked for, None for the best that the machine can run.
    """

    def __init__(
        self, archive: Archive, arch: str | None = None, *, emulated: Emulated | None = None
    ) -> None:
        """Wrap a program's file; a variant is chosen and its library loaded at the first call.

        Args:
            archive: the file, see `qcompile.program_file`.
            arch: the variant to run; if None, the best that this machine can.
            emulated: the GPU that the CPU emulates, which runs a variant for GPUs.
        """
        self._archive = archive
        self.arch: Final = arch
        self._emulated: Final = emulated
        self._arguments = Arguments(archive.info.inputs, archive.info.outputs)
        self._loaded: Library | Gpu | None = None
        self._lock = threading.Lock()
        self._num_threads = default_threads()

    def __call__(self, *inputs: Any) -> Any:
        """Run the network.

        Returns:
            A tensor, or a tuple of them where the model gave a tuple.

        Raises:
            QCompileError: the inputs are not what the program takes.
        """
        library = self._loaded or self._opened()
        if isinstance(library, Gpu):
            results = library.call(inputs)
        else:
            threads = self._num_threads
            if threads > 1:
                use_threads(threads)
            results = self._arguments.call(
                library.run, inputs, library.workspace(threads), threads, _ALL
            )
        return tuple(results) if self.info.returns_tuple else results[0]

    def steps(self, *inputs: Any) -> Iterator[tuple[KernelInfo, Callable[[], dict[str, Bytes]]]]:
        """The kernels in their order, each with what runs it: on one thread, on what those before it
        left, and giving what it stores, by the names of nodes.

        Values are uint8 `[N, bytes of a sample]`, and good until the next kernel runs.

        Args:
            inputs: of at most `variant.samples` samples.

        Raises:
            QCompileError: the inputs are not what the program takes, or of more samples.
        """
        library = self.library()
        run = library.steps(inputs) if isinstance(library, Gpu) else self._steps(library, inputs)
        for number, kernel in enumerate(self.variant.kernels):
            yield kernel, partial(run, number)

    def _steps(self, library: Library, inputs: Sequence[Any]) -> Callable[[int], dict[str, Bytes]]:
        variant = self.variant
        arguments = self._arguments.check(inputs)
        size = inputs[0].shape[0]
        check_part(size, variant.samples)
        outputs = [np.empty((size, *value.shape), value.dtype) for value in self.info.outputs]
        workspace = library.memory()
        address = workspace.ctypes.data
        memory = [workspace, *(y.view(np.uint8).reshape(-1) for y in outputs)]

        def run(number: int) -> dict[str, Bytes]:
            library.run(*arguments, *outputs, address, 1, number)
            stored = variant.kernels[number].results
            places = ((memory[v.output + 1][v.offset :], v) for v in stored)
            return {v.node: m[: size * v.size].reshape(size, v.size) for m, v in places}

        return run

    def profile(self, *inputs: Any, seconds: float = 1.0) -> Profile:
        """Time each kernel on these inputs, on one thread; print it, or open its Chrome trace.

        Args:
            inputs: as for a call.
            seconds: how long to measure, about.

        Raises:
            QCompileError: the program runs on a GPU, or the inputs are not what it takes.
        """
        from qcompile.profiling import profile

        return profile(self, inputs, seconds)

    def library(self) -> Library | Gpu:
        """The loaded library of the chosen variant; the others are not even unpacked.

        Raises:
            QCompileError: this machine cannot run the program, the file is damaged, or TVM's
                runtime is missing; or, on a GPU, NVRTC is.
        """
        library = self._opened()
        if isinstance(library, Gpu):
            library.load()
        return library

    def _opened(self) -> Library | Gpu:
        """The same, but on no GPU yet: that of the inputs counts."""
        with self._lock:
            if self._loaded is None:
                variant, archive = self.variant, self._archive
                if variant.machine == CUDA:
                    self._loaded = self._on_gpu(variant)
                else:
                    code, constants = archive.library(variant), archive.memory(variant)
                    self._loaded = Library(code, variant.workspace, constants)
        return self._loaded

    def _on_gpu(self, variant: Variant) -> Gpu:
        archive, emulated = self._archive, self._emulated
        source, constants = archive.source(variant), archive.memory(variant)
        if emulated is not None:
            code = Code(emulated.image(source), "")
        else:
            code = Code(archive.library(variant), source, variant.features)
        return Gpu(archive.info, variant, code, constants, emulated or Native())

    @property
    def info(self) -> ProgramInfo:
        """Inputs, outputs, layers, variants, target, versions."""
        return self._archive.info

    @property
    def variant(self) -> Variant:
        """The variant that runs here.

        Raises:
            QCompileError: this machine can run none, or not the one that was asked for.
        """
        if self._emulated is not None:
            where = self._archive.where
            return choose_emulated(self.info, self.arch, where, self._emulated.arch)
        return choose(self.info, self.arch, self._archive.where)

    def runnable(self) -> tuple[Program, ...]:
        """The program as each variant that this machine can run, the best first.

        Raises:
            QCompileError: there is none.
        """
        if self.arch is not None or self._emulated is not None:
            return (self,)
        first = self.variant
        others = (v.arch for v in runnable(self.info) if v != first)
        return (self, *(self.as_variant(arch) for arch in others))

    def as_variant(self, arch: str) -> Program:
        """The same program, run as the variant of this name."""
        program = Program(self._archive, arch, emulated=self._emulated)
        program.num_threads = self._num_threads
        return program

    def emulated(self, arch: int | str = 80, *, order: int = 0) -> Program:
        """The same program on the CPU, which emulates a GPU: as the source says, and slow.

        Args:
            arch: architecture of the GPU: 80 or "sm_80".
            order: in which blocks, warps and copies take their turns, where the GPU may choose.

        Raises:
            QCompileError: the program has no variant for that GPU, or there is no such GPU.
        """
        gpu = Emulated.of(arch, order)
        program = Program(self._archive, self.arch, emulated=gpu)
        choose_emulated(self.info, self.arch, self._archive.where, gpu.arch)
        program.num_threads = self._num_threads
        return program

    @property
    def emulates(self) -> int | None:
        """Compute capability of the GPU that the CPU emulates (80 for 8.0), None if it does not."""
        return self._emulated.arch if self._emulated is not None else None

    @property
    def library_bytes(self) -> bytes:
        """The chosen variant's library, unpacked; on a GPU its fatbin."""
        return self._archive.library(self.variant)

    @property
    def source(self) -> str:
        """The chosen variant's CUDA source, "" on a CPU."""
        return self._archive.source(self.variant)

    @property
    def constants(self) -> tuple[Constant, ...]:
        """What the chosen variant's library reads, unpacked."""
        return self._archive.constants(self.variant)

    @property
    def size(self) -> int:
        """Size of the program's file, in bytes."""
        return len(self._archive.data)

    @property
    def num_threads(self) -> int:
        """How many threads a call may use; TVM_NUM_THREADS, or all cores, unless set.

        It says nothing of a GPU.
        """
        return self._num_threads

    @num_threads.setter
    def num_threads(self, count: int) -> None:
        if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= cores():
            raise QCompileError(
                f"num_threads is {count!r}",
                hint=f"a number from 1 to {cores()}, the cores this process may use",
            )
        self._num_threads = count

    def summary(self) -> Summary:
        """A table of the layers: bits, kernel, size before and after. Print it."""
        return Summary(self.info, self._archive.sizes)

    def save(self, path: PathLike) -> None:
        """Write the program to one file (by convention `.qcp`), at once or not at all.

        Raises:
            QCompileError: the file cannot be written; one that was there is untouched.
        """
        write(path, self._archive.data)

    def __repr__(self) -> str:
        info = self.info
        takes, gives = (", ".join(map(str, values)) for values in (info.inputs, info.outputs))
        target = info.target
        if self._emulated is not None:
            target += f" emulated as sm_{self._emulated.arch}"
        return f"<Program {info.model}: {takes} -> {gives}, {target}, {self.size:,} bytes>"


def load(path: PathLike, *, arch: str | None = None, emulate: int | str | None = None) -> Program:
    """Read a program that `save` wrote, and make it ready to run.

    The file holds machine code. It is checked for damage, not for malice: load what you trust.

    Args:
        arch: the variant to run, by the name of its processor ("haswell"), or "cuda"; if None, the
            best that this machine can. `program.info.variants` are all of them.
        emulate: architecture of a GPU (80 or "sm_80") that the CPU is to emulate, which runs the
            variant for it slowly where there is none.

    Raises:
        QCompileError: there is no such file, it is damaged or no program, it has no such variant,
            or this machine lacks the instructions that it was compiled for.
    """
    emulated = None if emulate is None else Emulated.of(emulate)
    program = Program(unpack(read(path), str(path)), arch, emulated=emulated)
    program.library()
    return program
