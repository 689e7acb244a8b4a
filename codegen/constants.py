"""The constants of kernels: from tensors, and all of a library one after another in memory."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from qcompile.constants import Constant, places

_WORD = 32  # bits


def constant_from(value: Tensor) -> Constant:
    """A constant of these values, flat."""
    return Constant(value.detach().contiguous().numpy().reshape(-1))


def words_from(value: Tensor) -> Constant:
    """Words of signs `[..., W]`, int32, flat; what the last ones lack of signs is not stored."""
    count = value.shape[-1]
    words = value.contiguous().numpy().reshape(-1, count)
    used = int.from_bytes(np.bitwise_or.reduce(words, axis=0).astype("<i4").tobytes(), "little")
    length = max(1, used.bit_length())
    if not length % _WORD:
        return constant_from(value)
    bits = np.unpackbits(words.astype("<i4").view(np.uint8), 1, length, "little")
    filled = Constant(bits.reshape(-1)).reshape(-1, length).pad(0, _WORD * count - length)
    return filled.bits().view("int32").reshape(-1)


class Constants:
    """The constants of a library; equal ones are there once."""

    def __init__(self) -> None:
        self._found: dict[object, int] = {}
        self.all: list[Constant] = []

    def add(self, constant: Constant) -> int:
        """Where a constant begins."""
        number = self._found.setdefault(constant.key, len(self.all))
        if number == len(self.all):
            self.all.append(constant)
        return places([c.form.nbytes for c in self.all[:number]])[-1]
