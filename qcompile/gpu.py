"""A variant for GPUs, ready to be called: loaded once for each GPU, or on the CPU's emulator."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np

from qcompile.arguments import check_part
from qcompile.constants import Bytes
from qcompile.cuda.driver import LIBCUDA, Context, driver
from qcompile.cuda.host import Host
from qcompile.cuda.library import Code, GpuLibrary, Shape
from qcompile.gpu_arguments import GpuArguments, current_device
from qcompile.program_info import ProgramInfo, Variant


class Machine(Protocol):
    """What has GPUs.

    Attributes:
        emulated: whether they are the CPU.
    """

    emulated: bool

    def context(self, device: int) -> Context:
        """Of one of its GPUs."""

    def prepare(self) -> None:
        """Called before work is given to it."""


class Native:
    """This machine's own GPUs."""

    emulated = False

    def __init__(self, path: str = LIBCUDA) -> None:
        """`path`: of the driver's library."""
        self._path = path

    def context(self, device: int) -> Context:
        return Context(driver(self._path), device)

    def prepare(self) -> None:
        return


class Gpu:
    """The code of a variant on the GPUs of a machine; any number of threads may call it."""

    def __init__(
        self, info: ProgramInfo, variant: Variant, code: Code, constants: Bytes, machine: Machine
    ) -> None:
        """Nothing is loaded yet.

        Args:
            constants: what the kernels read, see `qcompile.constants.expanded`.
        """
        self._code, self._constants, self._machine = code, constants, machine
        self._kernels = variant.kernels
        self._outputs = [(value.shape, value.dtype) for value in info.outputs]
        self._arguments = GpuArguments(info.inputs, info.outputs, emulated=machine.emulated)
        self._shape = Shape(
            variant.launches,
            tuple(value.nbytes for value in info.inputs),
            tuple(value.nbytes for value in info.outputs),
            variant.workspace,
            variant.samples,
        )
        self._lock = threading.Lock()
        self._libraries: dict[int, GpuLibrary] = {}
        self._idle: dict[int, list[Host]] = {}

    def load(self) -> None:
        """Make the current GPU ready.

        Raises:
            QCompileError: the code cannot be loaded or compiled, or there is too little memory.
        """
        self._library(self._current())

    def call(self, inputs: Sequence[Any]) -> list[Any]:
        """The outputs, of the inputs' kind and in their place; on a GPU, when its stream gets there.

        Raises:
            QCompileError: the inputs are not what the program takes, or the GPU fails.
        """
        values, arrays = self._arguments.take(inputs)
        n = values[0].shape[0]
        results = [arrays.empty((n, *shape), dtype) for shape, dtype in self._outputs]
        device = self._current() if arrays.device is None else arrays.device
        library = self._library(device)
        self._machine.prepare()  # after loading, which sets the emulator back
        given, wanted = ([arrays.address(x) for x in xs] for xs in (values, results))
        if arrays.device is None:
            with self._host(device) as host:
                host.run(given, wanted, n)
        else:
            # Its allocator gives it to others no sooner than this stream has come so far.
            workspace = arrays.empty((library.workspace(n),), "uint8")
            library.run(given, wanted, n, arrays.address(workspace), arrays.stream())
        return results

    def steps(self, inputs: Sequence[Any]) -> Callable[[int], dict[str, Bytes]]:
        """What runs the kernel of a number, on what those before it left, and gives what it stores.

        Args:
            inputs: of at most `samples` samples; what lies on a GPU is copied.

        Raises:
            QCompileError: the inputs are not what the program takes, or of more samples.
        """
        values, arrays = self._arguments.take(inputs)
        if arrays.device is not None:
            copies = [x.cpu() if hasattr(x, "cpu") else x.get() for x in values]
            values, arrays = self._arguments.take(copies)
        size = values[0].shape[0]
        check_part(size, self._shape.samples)
        host = Host(self._library(self._current()))
        host.write([arrays.address(x) for x in values], size)
        host.wait()

        def run(number: int) -> dict[str, Bytes]:
            stored = self._kernels[number].results
            found = {v.node: np.empty((size, v.size), np.uint8) for v in stored}
            self._machine.prepare()
            host.launch(number)
            for v in stored:
                host.read(found[v.node].ctypes.data, v.output, v.offset, size * v.size)
            host.wait()
            return found

        return run

    def _current(self) -> int:
        return 0 if self._machine.emulated else current_device()

    def _library(self, device: int) -> GpuLibrary:
        if (found := self._libraries.get(device)) is not None:
            return found
        with self._lock:
            if device not in self._libraries:
                context = self._machine.context(device)
                library = GpuLibrary(context, self._code, self._constants, self._shape)
                self._libraries[device] = library
            return self._libraries[device]

    @contextmanager
    def _host(self, device: int) -> Iterator[Host]:
        """For this call alone; kept for later ones, unless it fails."""
        library = self._library(device)
        idle = self._idle.setdefault(device, [])
        try:
            host = idle.pop()  # atomic
        except IndexError:
            host = Host(library)
        yield host
        idle.append(host)
