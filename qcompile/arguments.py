"""What a program is called with: checked, and copied where the library could not read it in place.

A CPU's library looks at number, dtypes, shapes and strides itself, faster than could be done here, and
refuses what it cannot read. So every call tries, and looks more closely only if it was refused.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from qcompile.errors import QCompileError
from qcompile.program_info import ValueInfo

# What the library, or the conversion to its tensors, raises where it refuses.
_REFUSED = (TypeError, ValueError, RuntimeError, BufferError)


class Arguments:
    """Calls a library with a user's inputs, and gives results of the same kind."""

    def __init__(
        self, inputs: Sequence[ValueInfo], outputs: Sequence[ValueInfo], *, gpu: bool = False
    ) -> None:
        """`gpu`: whether torch tensors may lie on a GPU, all on the same, as well as on the CPU."""
        self._place = _on_one_device if gpu else _on_cpu
        self._specs = tuple(inputs)
        self._dtypes = [np.dtype(spec.dtype) for spec in inputs]
        self._outputs = [(spec.shape, np.dtype(spec.dtype)) for spec in outputs]
        self._torch_dtypes: list[Any] = []
        # Known once torch is loaded: its tensors, and what makes one for each output.
        self._tensor: Any = None
        self._new: list[tuple[Callable[..., Any], tuple[int, ...]]] = []

    def call(self, run: Callable[..., None], inputs: Sequence[Any], *numbers: int) -> list[Any]:
        """The outputs of `run(*inputs, *outputs, *numbers)`.

        Raises:
            QCompileError: number, kind, device, dtype or shape are not what the program takes.
        """
        size = self._size(inputs)
        arguments = inputs if size else self.check(inputs)
        size = size or inputs[0].shape[0]
        if isinstance(inputs[0], np.ndarray):
            results = [np.empty((size, *shape), dtype) for shape, dtype in self._outputs]
        else:
            results = [new(size, *shape) for new, shape in self._new or self._of_torch()]
        try:
            run(*arguments, *results, *numbers)
        except _REFUSED:
            looked = self.check(inputs)
            if all(x is y for x, y in zip(arguments, looked, strict=True)):
                raise
            run(*looked, *results, *numbers)
        return results

    def _size(self, inputs: Sequence[Any]) -> int:
        """The size of the batch, or 0 if the inputs may have something that the library cannot see."""
        if not inputs:
            return 0
        kind = type(inputs[0])
        if kind is np.ndarray:
            for x in inputs:
                if type(x) is not kind or not x.flags.aligned:
                    return 0
        elif kind is self._tensor or self._is_tensor(kind):
            for x in inputs:
                if type(x) is not kind or x.is_neg():
                    return 0
        else:
            return 0
        shape = inputs[0].shape
        return shape[0] if shape else 0

    def _is_tensor(self, kind: type) -> bool:
        """Whether it is torch's class itself: others may do anything."""
        self._tensor = getattr(sys.modules.get("torch"), "Tensor", None)
        return kind is self._tensor

    def _of_torch(self) -> list[tuple[Callable[..., Any], tuple[int, ...]]]:
        torch = sys.modules["torch"]
        dtypes = [getattr(torch, str(dtype)) for _, dtype in self._outputs]
        makers = [torch.empty(0, dtype=dtype, device="cpu").new_empty for dtype in dtypes]
        self._new = [(new, shape) for new, (shape, _) in zip(makers, self._outputs, strict=True)]
        return self._new

    def check(self, inputs: Sequence[Any]) -> list[Any]:
        """The inputs, copied where the library cannot read them.

        Raises:
            QCompileError: number, kind, device, dtype or shape are not what the program takes.
        """
        specs = self._specs
        self.check_number(inputs)
        tensor = getattr(sys.modules.get("torch"), "Tensor", None)
        if tensor is not None and isinstance(inputs[0], tensor):
            if not self._torch_dtypes:
                torch = sys.modules["torch"]
                self._torch_dtypes = [getattr(torch, spec.dtype) for spec in specs]
            self._place([x if isinstance(x, tensor) else None for x in inputs], specs)
            each, dtypes = _torch_argument, self._torch_dtypes
        else:
            tensor, each, dtypes = np.ndarray, _array_argument, self._dtypes
        arguments: list[Any] = []
        for x, spec, dtype in zip(inputs, specs, dtypes, strict=True):
            if not isinstance(x, tensor):
                raise _wrong_kind(x, spec, inputs[0])
            arguments.append(each(x, spec, dtype))
        if len(specs) > 1:
            check_batches(inputs, specs)
        return arguments

    def check_number(self, inputs: Sequence[Any]) -> None:
        """Refuse inputs that are not as many as the program takes."""
        specs = self._specs
        if len(inputs) != len(specs):
            takes = ", ".join(f"{s.name}: {s}" for s in specs)
            raise QCompileError(
                f"the program takes {len(specs)} input{'s'[: len(specs) != 1]}, got {len(inputs)}",
                hint=f"they are given by position: {takes}",
            )


def check_shape(x: Any, spec: ValueInfo) -> None:
    """Refuse an array of another shape, or of no samples."""
    shape = x.shape
    if len(shape) - 1 != len(spec.shape) or shape[1:] != spec.shape:
        raise _wrong_shape(tuple(shape), spec, isinstance(x, np.ndarray))
    if shape[0] < 1:
        raise QCompileError(f"input {spec.name} is an empty batch", hint="pass at least one sample")


def check_batches(inputs: Sequence[Any], specs: Sequence[ValueInfo]) -> None:
    """Refuse inputs of different numbers of samples."""
    sizes = [x.shape[0] for x in inputs]
    if len(set(sizes)) > 1:
        each = ", ".join(f"{spec.name}: {size}" for spec, size in zip(specs, sizes, strict=True))
        raise QCompileError(
            f"the inputs have batches of different sizes ({each})",
            hint="dimension 0 is the batch, of one size for all inputs",
        )


def check_part(size: int, samples: int) -> None:
    """Refuse more samples than are run at once."""
    if size > samples:
        raise QCompileError(
            f"{size} samples cannot be run kernel by kernel",
            hint=f"pass at most {samples}, the variant's `samples`",
        )


# --- torch ---------------------------------------------------------------------------------------


def _on_cpu(inputs: Sequence[Any], specs: Sequence[ValueInfo]) -> None:
    """Refuse tensors that are elsewhere; None stands for what is no tensor."""
    for x, spec in zip(inputs, specs, strict=True):
        if x is not None and not x.is_cpu:
            raise QCompileError(
                f"input {spec.name} lies on {x.device}, the program runs on the CPU",
                hint="pass x.cpu()",
            )


def _on_one_device(inputs: Sequence[Any], specs: Sequence[ValueInfo]) -> None:
    first = inputs[0].device
    for x, spec in zip(inputs, specs, strict=True):
        if x is not None and x.device.type not in ("cpu", "cuda"):
            raise QCompileError(
                f"input {spec.name} lies on {x.device}, the program runs on an NVIDIA GPU",
                hint="pass x.cuda(), or x.cpu(), which is copied",
            )
        if x is not None and x.device != first:
            raise QCompileError(
                f"input {spec.name} lies on {x.device}, the first input on {first}",
                hint=f"pass all inputs on one device: x.to({str(first)!r})",
            )


def _torch_argument(x: Any, spec: ValueInfo, dtype: Any) -> Any:
    if x.layout is not sys.modules["torch"].strided:
        raise QCompileError(
            f"input {spec.name} is a tensor of layout {x.layout}", hint="pass x.to_dense()"
        )
    if x.dtype is not dtype:
        raise wrong_dtype(str(x.dtype).removeprefix("torch."), spec, False)
    check_shape(x, spec)
    if not x.is_contiguous() or x.is_neg() or x.data_ptr() % x.element_size():
        return x.detach().clone(memory_format=sys.modules["torch"].contiguous_format)
    return x


# --- numpy ---------------------------------------------------------------------------------------


def _array_argument(x: Any, spec: ValueInfo, dtype: Any) -> Any:
    if x.dtype != dtype:
        raise wrong_dtype(str(x.dtype), spec, True)
    check_shape(x, spec)
    flags = x.flags
    if flags.c_contiguous and flags.writeable and flags.aligned:  # DLPack: none is read-only
        return x
    return np.array(x, dtype=dtype, order="C")


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


def wrong_dtype(got: str, spec: ValueInfo, array: bool) -> QCompileError:
    """What to raise for an input of another dtype; `array`: it is none of torch's tensors."""
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
