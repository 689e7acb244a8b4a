"""A variant's code on a GPU: its kernels, its constants, and what they are launched with."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import c_int32, c_uint64, c_void_p
from dataclasses import dataclass
from typing import Any

from qcompile.constants import Bytes
from qcompile.cuda.code_cache import kept
from qcompile.cuda.driver import NOT_FOR_THIS_GPU, Context, Memory, Stream
from qcompile.cuda.launches import Launch
from qcompile.cuda.nvrtc import OPTIONS, nvrtc
from qcompile.errors import QCompileError

ALL = -1  # kernels, for `run`


@dataclass(frozen=True)
class Code:
    """A variant's code, as its file has it.

    Attributes:
        image: a fatbin, may be empty.
        source: CUDA C, compiled where the image holds nothing for a GPU; "" if the image is all.
        features: what the image holds ("sm_80", "compute_90").
    """

    image: bytes
    source: str
    features: tuple[str, ...] = ()


@dataclass(frozen=True)
class Shape:
    """What a variant launches, and how large its values are.

    Attributes:
        inputs, outputs: bytes of a sample of each.
        workspace: bytes per sample.
        samples: the most that one pass takes.
    """

    launches: tuple[Launch, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    workspace: int
    samples: int


class GpuLibrary:
    """Kernels of one GPU that are ready to run; any number of threads may run them at once.

    Attributes:
        context: of the GPU.
        shape: of what it runs.
    """

    def __init__(self, context: Context, code: Code, constants: Bytes, shape: Shape) -> None:
        """Load the code and copy the constants to the GPU, where they stay.

        Raises:
            QCompileError: the code cannot be loaded, or compiled; or there is too little memory.
        """
        self.context, self.shape = context, shape
        self._driver = context.driver
        self._parameters: list[_Parameters] = []
        self._constants = Memory(context, constants.size)
        stream = Stream(context)
        with context:
            module = _loaded(context, code)
            # Work that is under way still needs code and constants, which go after this.
            context.keep(self, ("cuCtxSynchronize",), ("cuModuleUnload", module))
            self._functions = {n.symbol: self._function(module, n.symbol) for n in shape.launches}
            stream.write(self._constants.address, constants.ctypes.data, constants.size)
            stream.wait()

    def _function(self, module: int, symbol: str) -> int:
        found = c_void_p()
        if self._driver.try_("cuModuleGetFunction", ctypes.byref(found), module, symbol.encode()):
            what = f"the program's code has no kernel {symbol}"
            raise QCompileError(what, hint="compile the model again")
        return found.value or 0

    def workspace(self, n: int) -> int:
        """Bytes that a call of n samples needs for values between kernels."""
        return min(n, self.shape.samples) * self.shape.workspace

    def run(
        self,
        inputs: Sequence[int],
        outputs: Sequence[int],
        n: int,
        workspace: int,
        stream: int,
        only: int = ALL,
    ) -> None:
        """Put the launches for n samples into a stream; they are not waited for.

        Args:
            inputs, outputs: addresses on the GPU, contiguous, aligned as their elements.
            workspace: the address of `workspace(n)` bytes that nothing else uses until the stream
                has come so far, a multiple of 256.
            only: the number of the kernel whose launches alone are run.

        Raises:
            CudaError: a kernel cannot be launched, or one before it failed.
        """
        try:
            parameters = self._parameters.pop()  # atomic: each call has its own
        except IndexError:
            parameters = _Parameters(self.shape, self._functions, self._constants.address)
        shape, launch = self.shape, self._driver.launch
        with self.context:
            for start in range(0, n, shape.samples):
                size = min(n - start, shape.samples)
                places = {
                    "input": [x + start * b for x, b in zip(inputs, shape.inputs, strict=True)],
                    "output": [y + start * b for y, b in zip(outputs, shape.outputs, strict=True)],
                }
                parameters.fill(places, workspace, size, stream)
                for kernel, symbol, call in parameters.calls(size):
                    if (only == ALL or kernel == only) and (code := launch(*call)):
                        raise self._driver.error(code, f"launching {symbol}")
        self._parameters.append(parameters)


def _loaded(context: Context, code: Code) -> int:
    """The module: from the image, or else from the source; in the current context."""
    driver = context.driver
    module, refused = c_void_p(), 0
    if code.image:
        refused = driver.try_("cuModuleLoadData", ctypes.byref(module), code.image)
        if not refused:
            return module.value or 0
        if refused not in NOT_FOR_THIS_GPU or not code.source:
            raise driver.error(refused, "loading the program's code")
    version = ".".join(map(str, driver.version))
    arch = driver.arch(context.device)
    gpu = f"{driver.name(context.device)} (sm_{arch}, with a driver for CUDA {version})"
    try:
        compiler = nvrtc(driver.version)
    except QCompileError as error:
        holds = ", ".join(code.features) or "CUDA source alone"
        why = f": {driver.describe(refused)}" if refused else ""
        what = f"the program holds {holds}, nothing for {gpu}{why}; and {error.what}"
        raise QCompileError(what, hint=error.hint) from error
    parts = (code.source, str(arch), compiler.named, *OPTIONS)
    image = kept(parts, lambda: compiler.compile(code.source, arch))
    if refused := driver.try_("cuModuleLoadData", ctypes.byref(module), image):
        what = f"{gpu} does not take the code of NVRTC {compiler.named}: {driver.describe(refused)}"
        hint = "install a newer NVIDIA driver; or, for drivers before R580, nvidia-cuda-nvrtc-cu12"
        raise QCompileError(what, hint=hint)
    return module.value or 0


class _Parameters:
    """What launches pass to their kernels, in memory of its own: of one call at a time."""

    def __init__(self, shape: Shape, functions: dict[str, int], constants: int) -> None:
        self._pointers = sorted({(a.kind, a.at) for n in shape.launches for a in n.arguments})
        self._values = (c_uint64 * len(self._pointers))()
        self._constants = constants
        self._n, self._stream = c_int32(), c_void_p()
        first, size = ctypes.addressof(self._values), ctypes.sizeof(c_uint64)
        places = {pointer: first + i * size for i, pointer in enumerate(self._pointers)}
        self._launches = []
        for launch in shape.launches:
            addresses = [places[a.kind, a.at] for a in launch.arguments]
            addresses.append(ctypes.addressof(self._n))
            parameters = (c_void_p * len(addresses))(*addresses)
            self._launches.append((launch, functions[launch.symbol], parameters))
        self._calls_for = 0
        self._calls: list[tuple[int, str, tuple[Any, ...]]] = []

    def fill(self, places: dict[str, list[int]], workspace: int, n: int, stream: int) -> None:
        """Set the addresses, the number of samples and the stream."""
        values: list[int | c_uint64] = []
        for kind, at in self._pointers:
            if kind == "workspace":
                values.append(workspace + at * n)
            elif kind == "constants":
                values.append(self._constants + at)
            else:
                values.append(places[kind][at])
        self._values[:] = values
        self._n.value, self._stream.value = n, stream

    def calls(self, n: int) -> list[tuple[int, str, tuple[Any, ...]]]:
        """For n samples: each launch's kernel and symbol, and the arguments of cuLaunchKernel."""
        if n != self._calls_for:
            self._calls_for = n
            self._calls = [
                (one.kernel, one.symbol, self._call(one, function, parameters, n))
                for one, function, parameters in self._launches
                if one.runs(n)
            ]
        return self._calls

    def _call(self, launch: Launch, function: int, parameters: Any, n: int) -> tuple[Any, ...]:
        block = (launch.threads, 1, 1)
        return (c_void_p(function), *launch.grid(n), *block, 0, self._stream, parameters, None)
