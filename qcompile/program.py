"""Compiled programs: run, saved, loaded. Imports neither torch nor the compiler."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final

import numpy as np

from qcompile.arguments import Arguments
from qcompile.constants import Bytes, Constant
from qcompile.errors import QCompileError
from qcompile.files import PathLike, read, write
from qcompile.machine import choose, runnable
from qcompile.program_file import Archive, unpack
from qcompile.program_info import KernelInfo, ProgramInfo, Variant
from qcompile.program_summary import Summary
from qcompile.runtime import Library, cores, default_threads, use_threads

_ALL = -1  # kernels, for `run`


class Program:
    """A compiled network.

    Call it with torch tensors or numpy arrays, as many as the model took; it gives the same kind
    back. The batch, dimension 0, may have any size from 1 up. Nothing is recorded for autograd. A
    NaN that meets a quantizer gives its lowest level, so sign(NaN) is -1. Any number of threads may
    call it at once.

    Attributes:
        arch: the variant that was asked for, None for the best that the machine can run.
    """

    def __init__(self, archive: Archive, arch: str | None = None) -> None:
        """Wrap a program's file; a variant is chosen and its library loaded at the first call.

        Args:
            archive: the file, see `qcompile.program_file`.
            arch: the variant to run; if None, the best that this machine can.
        """
        self._archive = archive
        self.arch: Final = arch
        self._arguments = Arguments(archive.info.inputs, archive.info.outputs)
        self._loaded: Library | None = None
        self._lock = threading.Lock()
        self._num_threads = default_threads()

    def __call__(self, *inputs: Any) -> Any:
        """Run the network.

        Returns:
            A tensor, or a tuple of them where the model gave a tuple.

        Raises:
            QCompileError: the inputs are not what the program takes.
        """
        library = self._loaded or self.library()
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
        variant, library = self.variant, self.library()
        arguments = self._arguments.check(inputs)
        size = inputs[0].shape[0]
        if size > variant.samples:
            raise QCompileError(
                f"{size} samples cannot be run kernel by kernel",
                hint=f"pass at most {variant.samples}, the variant's `samples`",
            )
        outputs = [np.empty((size, *value.shape), value.dtype) for value in self.info.outputs]
        workspace = library.memory()
        address = workspace.ctypes.data
        memory = [workspace, *(y.view(np.uint8).reshape(-1) for y in outputs)]

        def run(number: int) -> dict[str, Bytes]:
            library.run(*arguments, *outputs, address, 1, number)
            stored = variant.kernels[number].results
            places = ((memory[v.output + 1][v.offset :], v) for v in stored)
            return {v.node: m[: size * v.size].reshape(size, v.size) for m, v in places}

        for number, kernel in enumerate(variant.kernels):
            yield kernel, partial(run, number)

    def library(self) -> Library:
        """The loaded library of the chosen variant; the others are not even unpacked.

        Raises:
            QCompileError: this machine cannot run the program, the file is damaged, or TVM's
                runtime is missing.
        """
        with self._lock:
            if self._loaded is None:
                variant, archive = self.variant, self._archive
                code, constants = archive.library(variant), archive.memory(variant)
                self._loaded = Library(code, variant.workspace, constants)
        return self._loaded

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
        return choose(self.info, self.arch, self._archive.where)

    def runnable(self) -> tuple[Program, ...]:
        """The program as each variant that this machine can run, the best first.

        Raises:
            QCompileError: there is none.
        """
        if self.arch is not None:
            return (self,)
        first = self.variant
        others = (v.arch for v in runnable(self.info) if v != first)
        return (self, *(self.as_variant(arch) for arch in others))

    def as_variant(self, arch: str) -> Program:
        """The same program, run as the variant of this name."""
        program = Program(self._archive, arch)
        program.num_threads = self._num_threads
        return program

    @property
    def library_bytes(self) -> bytes:
        """The chosen variant's library, unpacked."""
        return self._archive.library(self.variant)

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
        """How many threads a call may use; TVM_NUM_THREADS, or all cores, unless set."""
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
        return Summary(self.info, self.size)

    def save(self, path: PathLike) -> None:
        """Write the program to one file (by convention `.qcp`), at once or not at all.

        Raises:
            QCompileError: the file cannot be written; one that was there is untouched.
        """
        write(path, self._archive.data)

    def __repr__(self) -> str:
        info = self.info
        takes, gives = (", ".join(map(str, values)) for values in (info.inputs, info.outputs))
        return f"<Program {info.model}: {takes} -> {gives}, {info.target}, {self.size:,} bytes>"


def load(path: PathLike, *, arch: str | None = None) -> Program:
    """Read a program that `save` wrote, and make it ready to run.

    The file holds machine code. It is checked for damage, not for malice: load what you trust.

    Args:
        arch: the variant to run, by the name of its processor ("haswell"); if None, the best that
            this machine can. `program.info.variants` are all of them.

    Raises:
        QCompileError: there is no such file, it is damaged or no program, it has no such variant,
            or this machine lacks the instructions that it was compiled for.
    """
    program = Program(unpack(read(path), str(path)), arch)
    program.library()
    return program
