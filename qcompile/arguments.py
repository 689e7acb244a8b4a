"""What a program is called with: checked, and copied where a kernel could not read it in place.

Kernels take contiguous tensors at multiples of 64 bytes and do not look: a slice would crash the
process. So every call looks, and copies exactly the inputs that need it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from qcompile.errors import QCompileError
from qcompile.program_info import ValueInfo
from qcompile.runtime import ALIGNMENT, ffi

_MISALIGNED = ALIGNMENT - 1


class Arguments:
    """Turns a call's inputs into the library's arguments, and its results into the same kind."""

    def __init__(self, specs: Sequence[ValueInfo]) -> None:
        self._specs = tuple(specs)
        self._dtypes = [np.dtype(spec.dtype) for spec in specs]
        self._torch_dtypes: list[Any] = []

    def check(self, inputs: Sequence[Any]) -> tuple[list[Any], Callable[[Any], Any]]:
        """The arguments, and what turns a result into a tensor of the inputs' kind.

        Raises:
            QCompileError: number, kind, device, dtype or shape are not what the program takes.
        """
        specs = self._specs
        if len(inputs) != len(specs):
            takes = ", ".join(f"{s.name}: {s}" for s in specs)
            raise QCompileError(
                f"the program takes {len(specs)} input{'s'[: len(specs) != 1]}, got {len(inputs)}",
                hint=f"call program({takes})",
            )
        tensor = getattr(sys.modules.get("torch"), "Tensor", None)
        if tensor is not None and isinstance(inputs[0], tensor):
            if not self._torch_dtypes:
                torch = sys.modules["torch"]
                self._torch_dtypes = [getattr(torch, spec.dtype) for spec in specs]
            each, dtypes, result = _torch_argument, self._torch_dtypes, _torch_result
        else:
            tensor, each, dtypes, result = np.ndarray, _array_argument, self._dtypes, _array_result
        arguments = []
        for x, spec, dtype in zip(inputs, specs, dtypes, strict=True):
            if not isinstance(x, tensor):
                raise _wrong_kind(x, spec, inputs[0])
            arguments.append(each(x, spec, dtype))
        if len(specs) > 1:
            _check_batches(inputs, specs)
        return arguments, result


def _check_shape(x: Any, spec: ValueInfo) -> None:
    shape = x.shape
    if len(shape) - 1 != len(spec.shape) or shape[1:] != spec.shape:
        raise _wrong_shape(tuple(shape), spec, isinstance(x, np.ndarray))
    if shape[0] < 1:
        raise QCompileError(f"input {spec.name} is an empty batch", hint="pass at least one sample")


def _check_batches(inputs: Sequence[Any], specs: Sequence[ValueInfo]) -> None:
    sizes = [x.shape[0] for x in inputs]
    if len(set(sizes)) > 1:
        each = ", ".join(f"{spec.name}: {size}" for spec, size in zip(specs, sizes, strict=True))
        raise QCompileError(
            f"the inputs have batches of different sizes ({each})",
            hint="dimension 0 is the batch, of one size for all inputs",
        )


# --- torch ---------------------------------------------------------------------------------------


def _torch_argument(x: Any, spec: ValueInfo, dtype: Any) -> Any:
    if not x.is_cpu:
        raise QCompileError(
            f"input {spec.name} lies on {x.device}, the program runs on the CPU",
            hint="pass x.cpu()",
        )
    if x.layout is not sys.modules["torch"].strided:
        raise QCompileError(
            f"input {spec.name} is a tensor of layout {x.layout}", hint="pass x.to_dense()"
        )
    if x.dtype is not dtype:
        raise _wrong_dtype(str(x.dtype).removeprefix("torch."), spec, False)
    _check_shape(x, spec)
    if x.requires_grad:
        x = x.detach()
    if not x.is_contiguous() or x.data_ptr() & _MISALIGNED or x.is_neg():
        fresh = x.new_empty(x.shape)  # torch aligns what it allocates
        fresh.copy_(x)
        return fresh
    return x


def _torch_result(y: Any) -> Any:
    torch = sys.modules["torch"]
    return y if isinstance(y, torch.Tensor) else torch.from_dlpack(y)


# --- numpy ---------------------------------------------------------------------------------------


def _array_argument(x: Any, spec: ValueInfo, dtype: Any) -> Any:
    if x.dtype != dtype:
        raise _wrong_dtype(str(x.dtype), spec, True)
    _check_shape(x, spec)
    flags = x.flags
    if flags.c_contiguous and flags.writeable:  # DLPack has no word for a read-only array
        tensor = ffi().from_dlpack(x)
        if not tensor.data_ptr() & _MISALIGNED:
            return tensor
    return ffi().from_dlpack(_aligned_copy(x))


def _aligned_copy(x: Any) -> Any:
    memory = np.empty(x.nbytes + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    fresh = memory[start : start + x.nbytes].view(x.dtype).reshape(x.shape)
    fresh[...] = x
    return fresh


def _array_result(y: Any) -> Any:
    return np.from_dlpack(y)


# --- refusals ------------------------------------------------------------------------------------


def _wrong_kind(x: object, spec: ValueInfo, first: object) -> QCompileError:
    if isinstance(first, np.ndarray) or type(first).__module__.startswith("torch"):
        others = f"the first input of type {type(first).__name__}"
        if x is not first:
            return QCompileError(
                f"input {spec.name} is of type {type(x).__name__}, {others}",
                hint="pass all inputs as torch tensors, or all as numpy arrays",
            )
    return QCompileError(
        f"input {spec.name} is of type {type(x).__name__}, the program takes {spec}",
        hint=f"pass a torch tensor, or numpy.asarray(x, dtype={spec.dtype!r})",
    )


def _wrong_dtype(got: str, spec: ValueInfo, array: bool) -> QCompileError:
    cast = f"x.astype({spec.dtype!r})" if array else f"x.to(torch.{spec.dtype})"
    if not array and spec.dtype == "float32":
        cast = "x.float()"
    what = f"input {spec.name} is {got}, the program takes {spec}"
    return QCompileError(what, hint=f"pass {cast}")


def _wrong_shape(shape: tuple[int, ...], spec: ValueInfo, array: bool) -> QCompileError:
    what = f"input {spec.name} has the shape {list(shape)}, the program takes {spec}"
    hint = "only the size of the batch, dimension 0, may differ from what was compiled"
    if shape == spec.shape:
        hint = f"the batch dimension is missing: pass {'x[None]' if array else 'x.unsqueeze(0)'}"
    elif len(shape) > 2 and (*shape[-1:], *shape[1:-1]) == spec.shape:
        order = ", ".join(map(str, [0, len(shape) - 1, *range(1, len(shape) - 1)]))
        call = f"x.transpose({order})" if array else f"x.permute({order})"
        hint = f"the channels come last, they belong behind the batch: pass {call}"
    return QCompileError(what, hint=hint)
