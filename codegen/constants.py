"""The constants of all kernels, as one piece of a library's read-only memory."""

from __future__ import annotations

from typing import Any

import numpy as np

from qcompile.codegen.layout import ALIGNMENT

_POINTERS = """
@qcompile_data = internal constant [{size} x i8] c"{data}", align {alignment}
define ptr @qcompile_constants() alwaysinline {{ ret ptr @qcompile_data }}
define ptr @qcompile_pointer(i64 %x) alwaysinline {{
  %p = inttoptr i64 %x to ptr
  ret ptr %p
}}
"""


class Constants:
    """The constants of a library, in one piece; equal ones are there once."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._offsets: dict[bytes, int] = {}

    def add(self, value: np.ndarray[Any, Any]) -> int:
        """Where a constant begins."""
        data = value.tobytes()
        if data not in self._offsets:
            self._offsets[data] = len(self._data)
            self._data += data + bytes(-len(data) % ALIGNMENT)
        return self._offsets[data]

    def code(self) -> str:
        """They, and functions that give pointers, in LLVM's language."""
        data = bytes(self._data) or bytes(1)
        text = "\\" + data.hex("\\")
        return _POINTERS.format(size=len(data), data=text, alignment=ALIGNMENT)
