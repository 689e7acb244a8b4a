"""The CUDA driver's API, as far as programs need it: libcuda.so.1, or the emulator's library.

Kernels run in the primary context of a GPU, which torch and CuPy use too, so memory and streams are
shared with them. A context is current only while a call of this module lasts.
"""

from __future__ import annotations

import ctypes
import os
import threading
import weakref
from collections.abc import Callable
from ctypes import POINTER, c_char_p, c_int, c_size_t, c_uint, c_uint64, c_void_p
from typing import Any

from qcompile.errors import QCompileError

LIBCUDA = "libcuda.so.1"

OUT_OF_MEMORY, NOT_INITIALIZED, NO_DEVICE = 2, 3, 100
# What cuModuleLoadData says of code that is not for this GPU, or too new for this driver.
NOT_FOR_THIS_GPU = (36, 200, 209, 218, 221, 222, 223, 300)

_NON_BLOCKING = 1  # of streams: they do not wait for the default stream
_MAJOR, _MINOR = 75, 76  # attributes of a device: its compute capability

_Pointer = c_uint64  # CUdeviceptr
_FUNCTIONS: dict[str, tuple[Any, ...]] = {
    "cuInit": (c_uint,),
    "cuDriverGetVersion": (POINTER(c_int),),
    "cuGetErrorName": (c_int, POINTER(c_char_p)),
    "cuGetErrorString": (c_int, POINTER(c_char_p)),
    "cuDeviceGetCount": (POINTER(c_int),),
    "cuDeviceGet": (POINTER(c_int), c_int),
    "cuDeviceGetName": (c_char_p, c_int, c_int),
    "cuDeviceGetAttribute": (POINTER(c_int), c_int, c_int),
    "cuDevicePrimaryCtxRetain": (POINTER(c_void_p), c_int),
    "cuDevicePrimaryCtxRelease_v2": (c_int,),
    "cuCtxPushCurrent_v2": (c_void_p,),
    "cuCtxPopCurrent_v2": (POINTER(c_void_p),),
    "cuCtxSynchronize": (),
    "cuModuleLoadData": (POINTER(c_void_p), c_char_p),
    "cuModuleUnload": (c_void_p,),
    "cuModuleGetFunction": (POINTER(c_void_p), c_void_p, c_char_p),
    "cuMemAlloc_v2": (POINTER(_Pointer), c_size_t),
    "cuMemFree_v2": (_Pointer,),
    "cuMemcpyHtoDAsync_v2": (_Pointer, c_void_p, c_size_t, c_void_p),
    "cuMemcpyDtoHAsync_v2": (c_void_p, _Pointer, c_size_t, c_void_p),
    "cuStreamCreate": (POINTER(c_void_p), c_uint),
    "cuStreamDestroy_v2": (c_void_p,),
    "cuStreamSynchronize": (c_void_p,),
}

_LOST = (
    "a kernel failed, of this call or of an earlier one of this process, which cannot use the GPU "
    "any more: start it again; `compute-sanitizer python ...` names the kernel"
)
_HINTS = {
    OUT_OF_MEMORY: "pass a smaller batch, or end what else uses the GPU's memory (nvidia-smi)",
    NOT_INITIALIZED: "a process that was forked cannot use the GPU that its parent used: start "
    "processes with multiprocessing's `spawn`, or load the program after the fork",
    46: "another process has the GPU for itself (nvidia-smi -q -d COMPUTE)",
    **dict.fromkeys((700, 702, 710, 714, 715, 716, 717, 718, 719), _LOST),
}


def _missing(*_: Any) -> int:
    return 500  # CUDA_ERROR_NOT_FOUND


class CudaError(QCompileError):
    """A function of the driver failed.

    Attributes:
        code: the driver's number of the error.
    """

    def __init__(self, what: str, code: int, *, hint: str | None = None) -> None:
        self.code = code
        super().__init__(what, hint=hint or _HINTS.get(code))


class Driver:
    """The functions of a driver, each of which raises where it fails.

    Attributes:
        launch: cuLaunchKernel, which gives its error's number. It takes pointers as objects of
            ctypes alone: looking at what it is given would take longer than the launch.
    """

    def __init__(self, path: str = LIBCUDA) -> None:
        """Load the library; `init` makes it ready.

        Raises:
            OSError: it cannot be loaded.
        """
        self.path = path
        self.library = ctypes.CDLL(path)
        self._functions = {name: self._function(name, _FUNCTIONS[name]) for name in _FUNCTIONS}
        self.launch: Callable[..., int] = self._untyped("cuLaunchKernel")

    def _untyped(self, name: str) -> Callable[..., int]:
        try:
            return self.library[name]
        except AttributeError:
            return _missing

    def _function(self, name: str, types: tuple[Any, ...]) -> Callable[..., int]:
        try:
            function = getattr(self.library, name)
        except AttributeError:
            return _missing
        function.argtypes, function.restype = types, c_int
        return function

    def try_(self, name: str, *arguments: Any) -> int:
        """Call a function; its error's number, 0 for none."""
        return self._functions[name](*arguments)

    def call(self, name: str, *arguments: Any, doing: str = "") -> None:
        """Call a function.

        Args:
            doing: what it is done for, for the message.

        Raises:
            CudaError: it failed.
        """
        if code := self._functions[name](*arguments):
            raise self.error(code, doing or name.removesuffix("_v2"))

    def error(self, code: int, doing: str) -> CudaError:
        """What to raise where the driver gave this number."""
        return CudaError(f"{doing} failed on the GPU: {self.describe(code)}", code)

    def describe(self, code: int) -> str:
        """An error as the driver calls it: "CUDA_ERROR_OUT_OF_MEMORY (out of memory)"."""
        message = self._message()  # before another call fails
        name, text = c_char_p(), c_char_p()
        self.try_("cuGetErrorName", code, ctypes.byref(name))
        self.try_("cuGetErrorString", code, ctypes.byref(text))
        said = (name.value or b"").decode() or f"error {code}"
        why = message.decode() or (text.value or b"").decode()
        return f"{said} ({why})" if why else said

    def _message(self) -> bytes:
        """What the emulator says of the call that failed last."""
        try:
            function = self.library.qc_emulator_message
        except AttributeError:
            return b""
        function.restype = c_char_p
        return bytes(function())

    def number(self, name: str, *arguments: Any) -> int:
        """What a function gives that takes a pointer to an int first."""
        found = c_int()
        self.call(name, ctypes.byref(found), *arguments)
        return found.value

    def init(self) -> None:
        """Make the driver ready.

        Raises:
            CudaError: it finds no GPU, or does not work.
        """
        self.call("cuInit", 0)

    @property
    def version(self) -> tuple[int, int]:
        """The CUDA that the driver knows, major and minor."""
        version = self.number("cuDriverGetVersion")
        return version // 1000, version % 1000 // 10

    @property
    def devices(self) -> int:
        """How many GPUs there are."""
        return self.number("cuDeviceGetCount")

    def name(self, device: int) -> str:
        """A GPU, as NVIDIA calls it."""
        text = ctypes.create_string_buffer(256)
        self.call("cuDeviceGetName", text, len(text), self.number("cuDeviceGet", device))
        return text.value.decode(errors="replace")

    def arch(self, device: int) -> int:
        """A GPU's compute capability: 86 for 8.6."""
        handle = self.number("cuDeviceGet", device)
        major, minor = (self.number("cuDeviceGetAttribute", a, handle) for a in (_MAJOR, _MINOR))
        return 10 * major + minor


class Context:
    """The primary context of a GPU, current within `with`; given back when it is collected."""

    def __init__(self, driver: Driver, device: int = 0) -> None:
        """Make the context, unless the process has it already.

        Raises:
            CudaError: there is no such GPU, or it cannot be used.
        """
        self.driver, self.device = driver, device
        number = driver.number("cuDeviceGet", device)
        found = c_void_p()
        driver.call("cuDevicePrimaryCtxRetain", ctypes.byref(found), number)
        self.handle = found.value
        release = "cuDevicePrimaryCtxRelease_v2"
        weakref.finalize(self, _if_own, os.getpid(), driver.try_, release, number)

    def __enter__(self) -> None:
        self.driver.call("cuCtxPushCurrent_v2", self.handle)

    def __exit__(self, *_: object) -> None:
        self.driver.call("cuCtxPopCurrent_v2", ctypes.byref(c_void_p()))

    def keep(self, owner: object, *calls: tuple[Any, ...]) -> None:
        """Call functions when an object is collected; what they say is nobody's concern then.

        Args:
            calls: names with their arguments.
        """
        weakref.finalize(owner, _if_own, os.getpid(), self._quietly, *calls)

    def _quietly(self, *calls: tuple[Any, ...]) -> None:
        if self.driver.try_("cuCtxPushCurrent_v2", self.handle) == 0:
            for name, *arguments in calls:
                self.driver.try_(name, *arguments)
            self.driver.try_("cuCtxPopCurrent_v2", ctypes.byref(c_void_p()))


def _if_own(process: int, function: Callable[..., object], *arguments: Any) -> None:
    """In a forked process the driver is not to be touched."""
    if os.getpid() == process:
        function(*arguments)


class Memory:
    """Memory of a GPU, freed when it is collected.

    Attributes:
        address: a multiple of 256.
    """

    def __init__(self, context: Context, size: int) -> None:
        """Not initialized; `size` in bytes.

        Raises:
            CudaError: there is not so much.
        """
        self.size = size
        found = _Pointer()
        with context:
            doing = f"allocating {size:,} bytes"
            context.driver.call("cuMemAlloc_v2", ctypes.byref(found), max(size, 1), doing=doing)
        self.address = found.value
        context.keep(self, ("cuMemFree_v2", self.address))


class Stream:
    """A queue of work, which waits for no other; destroyed when it is collected."""

    def __init__(self, context: Context) -> None:
        self.context = context
        found = c_void_p()
        with context:
            context.driver.call("cuStreamCreate", ctypes.byref(found), _NON_BLOCKING)
        self.handle = found.value or 0
        context.keep(self, ("cuStreamDestroy_v2", self.handle))

    def write(self, address: int, source: int, size: int) -> None:
        """Copy so many bytes to the GPU, from an address in this process."""
        if size:
            driver = self.context.driver
            driver.call("cuMemcpyHtoDAsync_v2", address, source, size, self.handle, doing=_TO)

    def read(self, target: int, address: int, size: int) -> None:
        """Copy so many bytes from the GPU, to an address in this process."""
        if size:
            driver = self.context.driver
            driver.call("cuMemcpyDtoHAsync_v2", target, address, size, self.handle, doing=_FROM)

    def wait(self) -> None:
        """Until all is done.

        Raises:
            CudaError: something of it failed.
        """
        self.context.driver.call("cuStreamSynchronize", self.handle, doing="running the program")


_TO, _FROM = "copying to its memory", "copying from its memory"
_lock = threading.Lock()
_drivers: dict[str, Driver] = {}


def driver(path: str = LIBCUDA) -> Driver:
    """The driver, loaded and ready; one for each path.

    Raises:
        OSError: it cannot be loaded.
        CudaError: it finds no GPU, or does not work.
    """
    with _lock:
        if path not in _drivers:
            made = Driver(path)
            made.init()
            _drivers[path] = made
        return _drivers[path]
