"""What a program for GPUs is called with: arrays on the CPU, which are copied, or on a GPU.

torch and CuPy are looked up among what is loaded, never imported. What lies on a GPU is read in place,
on the current stream of its library, which also allocates the results.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qcompile.arguments import Arguments, check_batches, check_shape, wrong_dtype
from qcompile.errors import QCompileError
from qcompile.program_info import ValueInfo

_ON_A_GPU = (2, 13)  # DLPack's numbers of devices: CUDA's own and managed memory


@dataclass(frozen=True)
class Arrays:
    """One library's arrays in one place.

    Attributes:
        empty: makes an array of a shape and a dtype's name.
        address: where an array lies.
        device: the number of the GPU, or None on the CPU.
        stream: the handle of the current stream there.
    """

    empty: Callable[[tuple[int, ...], str], Any]
    address: Callable[[Any], int]
    device: int | None = None
    stream: Callable[[], int] = int


class GpuArguments:
    """Checks a user's inputs, and says where they lie."""

    def __init__(
        self, inputs: Sequence[ValueInfo], outputs: Sequence[ValueInfo], *, emulated: bool
    ) -> None:
        """`emulated`: whether everything lies on the CPU."""
        self._emulated = emulated
        self._specs = tuple(inputs)
        self._checked = Arguments(inputs, outputs, gpu=not emulated)

    def take(self, inputs: Sequence[Any]) -> tuple[list[Any], Arrays]:
        """The inputs, contiguous and all in one place.

        Raises:
            QCompileError: number, kind, device, dtype or shape are not what the program takes.
        """
        if inputs and not self._emulated and _is_foreign(inputs[0]):
            return self._of_cupy(inputs)
        values = self._checked.check(inputs)
        return values, _numpy() if isinstance(values[0], np.ndarray) else _torch(values[0])

    def _of_cupy(self, inputs: Sequence[Any]) -> tuple[list[Any], Arrays]:
        cupy = sys.modules.get("cupy")
        if cupy is None:
            raise QCompileError(
                f"input {self._specs[0].name} is a {_named(inputs[0])} on a GPU",
                hint="pass torch.from_dlpack(x) or cupy.asarray(x), so that the results can be "
                "tensors or arrays of the same library; or a copy as a numpy array",
            )
        self._checked.check_number(inputs)
        values = []
        for x, spec in zip(inputs, self._specs, strict=True):
            if not _is_foreign(x):
                what = f"input {spec.name} is a {_named(x)}, the first input lies on a GPU"
                raise QCompileError(what, hint="pass all inputs as CuPy arrays of one GPU")
            values.append(_cupy_array(cupy, x, spec, inputs[0]))
        check_batches(values, self._specs)
        return values, _cupy(cupy, values[0].device.id)


def _is_foreign(x: Any) -> bool:
    """Whether it is an array on a GPU of a library other than torch."""
    if isinstance(x, np.ndarray) or type(x).__module__.partition(".")[0] == "torch":
        return False
    if hasattr(x, "__cuda_array_interface__"):
        return True
    return hasattr(x, "__dlpack_device__") and int(x.__dlpack_device__()[0]) in _ON_A_GPU


def _named(x: Any) -> str:
    return f"{type(x).__module__}.{type(x).__qualname__}"


def _cupy_array(cupy: Any, x: Any, spec: ValueInfo, first: Any) -> Any:
    if not isinstance(x, cupy.ndarray):
        interface = hasattr(x, "__cuda_array_interface__")
        try:
            x = cupy.asarray(x) if interface else cupy.from_dlpack(x)
        except (TypeError, ValueError, RuntimeError, BufferError) as error:
            what = f"input {spec.name} cannot be read by CuPy: {error}"
            raise QCompileError(what, hint=f"the program takes {spec}") from error
    if x.dtype != spec.dtype:
        raise wrong_dtype(str(x.dtype), spec, True)
    check_shape(x, spec)
    device = getattr(getattr(first, "device", None), "id", x.device.id)
    if x.device.id != device:
        what = f"input {spec.name} lies on GPU {x.device.id}, the first input on GPU {device}"
        raise QCompileError(what, hint="pass all inputs on one GPU")
    with x.device:
        return cupy.ascontiguousarray(x)


# --- the libraries -------------------------------------------------------------------------------


def current_device() -> int:
    """The GPU for what lies on the CPU: torch's current one where torch uses GPUs, else the first."""
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    return int(cuda.current_device()) if cuda is not None and cuda.is_initialized() else 0


def _numpy() -> Arrays:
    return Arrays(np.empty, lambda x: int(x.ctypes.data))


def _torch(x: Any) -> Arrays:
    torch = sys.modules["torch"]
    device = x.device

    def empty(shape: tuple[int, ...], dtype: str) -> Any:
        return torch.empty(shape, dtype=getattr(torch, dtype), device=device)

    def stream() -> int:
        return int(torch.cuda.current_stream(device).cuda_stream)

    index = None if device.type == "cpu" else device.index
    return Arrays(empty, lambda x: int(x.data_ptr()), index, stream)


def _cupy(cupy: Any, device: int) -> Arrays:
    def empty(shape: tuple[int, ...], dtype: str) -> Any:
        with cupy.cuda.Device(device):
            return cupy.empty(shape, dtype)

    def stream() -> int:
        with cupy.cuda.Device(device):
            return int(cupy.cuda.get_current_stream().ptr)

    return Arrays(empty, lambda x: int(x.data.ptr), device, stream)
