"""Constants of kernels: values, and the steps that lay them out as a kernel reads them.

A program's file holds the values; the steps, a few numbers, are done when it is loaded. So what a
layout adds (filling, wider elements) takes no room there, and layouts for several processors share
their values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

ALIGNMENT = 64  # bytes, of constants and of what lies between kernels

DTYPES = ("int8", "uint8", "int16", "int32", "int64", "float32", "float64")
MAX_RANK = 16

Array = NDArray[Any]
Bytes = NDArray[np.uint8]


class ConstantError(ValueError):
    """There is no such constant; the message says why."""


@dataclass(frozen=True)
class Form:
    """Sizes and element type of an array."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Step:
    """One step from an array to another.

    Attributes:
        op: "reshape" to `sizes`; "pad" with so many zeros after each dimension; "permute" to this
            order of dimensions; "take" of the last dimension the elements of these numbers; "cast"
            integers to a wider type; "view" the bytes of the last dimension as another type;
            "bits": of the last dimension, one where the number is positive, the lowest of a byte
            first; what is missing of a byte is 0; "fields": of the last dimension so many of each
            number's lowest bits, the first in a byte's lowest.
        sizes: a number for each dimension; for "fields" 1, 2, 4 or 8.
        dtype: of the result, for "cast" and "view".
    """

    op: str
    sizes: tuple[int, ...] = ()
    dtype: str = ""

    def form(self, x: Form) -> Form:
        """What it makes of an array of this form.

        Raises:
            ConstantError: it cannot be done.
        """
        if self.op not in _STEPS:
            raise ConstantError(f"there is no step {self.op!r}")
        if not all(0 <= size < 1 << 48 for size in self.sizes) or len(self.sizes) > MAX_RANK:
            raise ConstantError(f"{self.op} to {list(self.sizes)}")
        found = _STEPS[self.op][0](x, self)
        if found is None:
            wanted = self.dtype or list(self.sizes)
            raise ConstantError(f"{self.op} of {x.dtype} {list(x.shape)} to {wanted}")
        return found

    def of(self, x: Array) -> Array:
        """The result, for an array of a form that the step takes."""
        return _STEPS[self.op][1](x, self)


# --- the steps -----------------------------------------------------------------------------------


def _reshaped(x: Form, step: Step) -> Form | None:
    return Form(step.sizes, x.dtype) if math.prod(step.sizes) == x.size else None


def _padded(x: Form, step: Step) -> Form | None:
    if len(step.sizes) != len(x.shape):
        return None
    return Form(tuple(a + b for a, b in zip(x.shape, step.sizes, strict=True)), x.dtype)


def _pad(x: Array, step: Step) -> Array:
    whole = np.zeros([a + b for a, b in zip(x.shape, step.sizes, strict=True)], x.dtype)
    whole[tuple(map(slice, x.shape))] = x
    return whole


def _permuted(x: Form, step: Step) -> Form | None:
    if sorted(step.sizes) != list(range(len(x.shape))):
        return None
    return Form(tuple(x.shape[d] for d in step.sizes), x.dtype)


def _cast(x: Form, step: Step) -> Form | None:
    wider = step.dtype in DTYPES and np.can_cast(x.dtype, step.dtype, "same_kind")
    wider = wider and np.dtype(step.dtype).itemsize > np.dtype(x.dtype).itemsize
    return Form(x.shape, step.dtype) if wider else None


def _viewed(x: Form, step: Step) -> Form | None:
    if step.dtype not in DTYPES or not x.shape:
        return None
    size, rest = divmod(x.shape[-1] * np.dtype(x.dtype).itemsize, np.dtype(step.dtype).itemsize)
    return None if rest else Form((*x.shape[:-1], size), step.dtype)


def _taken(x: Form, step: Step) -> Form | None:
    if not x.shape or not step.sizes or max(step.sizes) >= x.shape[-1]:
        return None
    return Form((*x.shape[:-1], len(step.sizes)), x.dtype)


def _to_bits(x: Form, step: Step) -> Form | None:
    return Form((*x.shape[:-1], -(-x.shape[-1] // 8)), "uint8") if x.shape else None


def _to_fields(x: Form, step: Step) -> Form | None:
    if step.sizes not in ((1,), (2,), (4,), (8,)) or x.dtype not in ("int8", "uint8"):
        return None
    if not x.shape or x.shape[-1] * step.sizes[0] % 8:
        return None
    return Form((*x.shape[:-1], x.shape[-1] * step.sizes[0] // 8), "uint8")


def _fields(x: Array, step: Step) -> Array:
    (width,) = step.sizes
    each = 8 // width
    parts = (x.view(np.uint8) & ((1 << width) - 1)).reshape(*x.shape[:-1], -1, each)
    shifts = np.arange(0, 8, width, dtype=np.uint8)
    found: Array = np.bitwise_or.reduce(parts << shifts, axis=-1)
    return found


_STEPS: dict[str, tuple[Callable[[Form, Step], Form | None], Callable[[Array, Step], Array]]] = {
    "reshape": (_reshaped, lambda x, step: x.reshape(step.sizes)),
    "pad": (_padded, _pad),
    "permute": (_permuted, lambda x, step: x.transpose(step.sizes)),
    "take": (_taken, lambda x, step: x[..., list(step.sizes)]),
    "cast": (_cast, lambda x, step: x.astype(step.dtype)),
    "view": (_viewed, lambda x, step: np.ascontiguousarray(x).view(step.dtype)),
    "fields": (_to_fields, _fields),
    "bits": (_to_bits, lambda x, _: np.packbits(x > 0, axis=-1, bitorder="little")),
}


# --- constants -----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Constant:
    """What a kernel reads.

    Attributes:
        values: flat, in the order in which they are stored.
        steps: from them to what lies in memory; each method below adds one.
    """

    values: Array
    steps: tuple[Step, ...] = field(default=())

    @cached_property
    def form(self) -> Form:
        """Sizes and element type after the steps.

        Raises:
            ConstantError: a step cannot be done.
        """
        form = Form(self.values.shape, str(self.values.dtype))
        for step in self.steps:
            form = step.form(form)
        return form

    @property
    def shape(self) -> tuple[int, ...]:
        return self.form.shape

    @property
    def dtype(self) -> str:
        return self.form.dtype

    @property
    def key(self) -> object:
        """Equal for constants that are equal."""
        return (str(self.values.dtype), self.values.tobytes(), self.steps)

    def reshape(self, *sizes: int) -> Constant:
        """Of other sizes, one of which may be -1: what is left."""
        if -1 in sizes:
            rest = self.form.size // max(1, -math.prod(sizes))
            sizes = tuple(rest if size == -1 else size for size in sizes)
        return self._then(Step("reshape", sizes))

    def pad(self, *after: int) -> Constant:
        """With so many zeros after each dimension."""
        return self._then(Step("pad", after)) if any(after) else self

    def permute(self, *order: int) -> Constant:
        return self._then(Step("permute", order))

    def take(self, *numbers: int) -> Constant:
        """Of the last dimension the elements of these numbers, each as often as it is named."""
        return self._then(Step("take", numbers))

    def cast(self, dtype: str) -> Constant:
        return self._then(Step("cast", dtype=dtype)) if dtype != self.dtype else self

    def view(self, dtype: str) -> Constant:
        return self._then(Step("view", dtype=dtype))

    def bits(self) -> Constant:
        """Bytes of the last dimension's signs."""
        return self._then(Step("bits"))

    def fields(self, width: int) -> Constant:
        """Bytes of so many of the lowest bits of the last dimension's numbers."""
        return self._then(Step("fields", (width,)))

    def _then(self, step: Step) -> Constant:
        return Constant(self.values, (*self.steps, step))

    def value(self) -> Array:
        """What lies in memory."""
        x = self.values
        for step in self.steps:
            x = step.of(x)
        return np.ascontiguousarray(x)

    def write(self, memory: Bytes) -> None:
        """Put it into memory of its size."""
        x = self.values
        for step in self.steps:
            x = step.of(x)
        target = memory.view(x.dtype).reshape(x.shape)
        # Neighbours that stay neighbours move as one element: several times as fast.
        for wide in ("u8", "u4", "u2"):
            if x.ndim and x.shape[-1] * x.itemsize == np.dtype(wide).itemsize > x.itemsize:
                if x.strides[-1] == x.itemsize:
                    x, target = x.view(wide), target.view(wide)
                break
        np.copyto(target, x)


def places(sizes: Sequence[int]) -> list[int]:
    """Where constants of so many bytes begin, one after another, and where the last one ends."""
    found = [0]
    for size in sizes:
        found.append(found[-1] + size + -size % ALIGNMENT)
    return found


def aligned(size: int) -> Bytes:
    """Memory, not initialized."""
    memory = np.empty(size + ALIGNMENT, np.uint8)
    first = -memory.ctypes.data % ALIGNMENT
    return memory[first : first + size]


def expanded(constants: Sequence[Constant]) -> Bytes:
    """All constants of a library, as it reads them: aligned, read-only.

    Raises:
        ConstantError: a step cannot be done.
    """
    sizes = [constant.form.nbytes for constant in constants]
    memory = aligned(places(sizes)[-1])
    for constant, size, (start, end) in zip(constants, sizes, pairwise(places(sizes)), strict=True):
        constant.write(memory[start : start + size])
        memory[start + size : end] = 0
    memory.flags.writeable = False
    return memory
