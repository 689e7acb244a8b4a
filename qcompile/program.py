"""Compiled programs: run, saved, loaded. Imports neither torch nor the compiler."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from qcompile.arguments import Arguments
from qcompile.errors import QCompileError
from qcompile.machine import check_machine
from qcompile.program_file import PathLike, pack, read, unpack, write
from qcompile.program_info import ProgramInfo
from qcompile.program_summary import Summary
from qcompile.runtime import Library, cores, default_threads, use_threads


class Program:
    """A compiled network.

    Call it with torch tensors or numpy arrays, as many as the model took; it gives the same kind
    back. The batch, dimension 0, may have any size from 1 up. Nothing is recorded for autograd. A
    NaN that meets a quantizer gives its lowest level, so sign(NaN) is -1. Any number of threads may
    call it at once.
    """

    def __init__(self, info: ProgramInfo, library: bytes, *, file: bytes | None = None) -> None:
        """Wrap a compiled library; it is loaded at the first call.

        Args:
            info: what is known about the program.
            library: the shared object.
            file: the program's file, where it comes from one.
        """
        self._info = info
        self._code = library
        self._file = pack(info, library) if file is None else file
        self._arguments = Arguments(info.inputs)
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
        arguments, to_result = self._arguments.check(inputs)
        library = self._loaded or self.library()
        library.note_size(inputs[0].shape[0])
        use_threads(self._num_threads)
        result = library.main(*arguments)
        if self._info.returns_tuple:
            return tuple([to_result(y) for y in result])
        return to_result(result)

    def run_instrumented(self, instrument: Callable[..., Any], *inputs: Any) -> None:
        """Run once, in a virtual machine of its own, with a look at every function it calls.

        Args:
            instrument: called before and after each with (function, name, whether it is before,
                result, *arguments); a kernel's last tensor is the one that it writes.
        """
        arguments, _ = self._arguments.check(inputs)
        machine = self.library().machine()
        machine["set_instrument"](instrument)
        use_threads(self._num_threads)
        machine["main"](*arguments)

    def library(self) -> Library:
        """The loaded library.

        Raises:
            QCompileError: the program is for another machine, or TVM's runtime is missing.
        """
        with self._lock:
            if self._loaded is None:
                check_machine(self._info)
                self._loaded = Library(self._code)
        return self._loaded

    @property
    def info(self) -> ProgramInfo:
        """Inputs, outputs, layers, kernels, target, versions."""
        return self._info

    @property
    def library_bytes(self) -> bytes:
        """The compiled library, as it lies in the program's file."""
        return self._code

    @property
    def size(self) -> int:
        """Size of the program's file, in bytes."""
        return len(self._file)

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
        return Summary(self._info, self.size)

    def save(self, path: PathLike) -> None:
        """Write the program to one file (by convention `.qcp`), at once or not at all.

        Raises:
            QCompileError: the file cannot be written; one that was there is untouched.
        """
        write(path, self._file)

    def __repr__(self) -> str:
        info = self._info
        takes, gives = (", ".join(map(str, values)) for values in (info.inputs, info.outputs))
        return f"<Program {info.model}: {takes} -> {gives}, {info.target}, {self.size:,} bytes>"


def load(path: PathLike) -> Program:
    """Read a program that `save` wrote, and make it ready to run.

    The file holds machine code. It is checked for damage, not for malice: load what you trust.

    Raises:
        QCompileError: there is no such file, it is damaged or no program, or it was compiled for
            another kind of machine.
    """
    data = read(path)
    info, library = unpack(data, str(path))
    check_machine(info, str(path))
    program = Program(info, library, file=data)
    program.library()
    return program
