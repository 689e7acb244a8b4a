"""The constants of all kernels of a library, one after another in its caller's memory."""

from __future__ import annotations

from qcompile.constants import Constant, places


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
