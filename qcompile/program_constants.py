"""The constants of a program's file: arrays that are there once, and what each library makes of them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from qcompile.constants import Constant, ConstantError, Form, Step, places
from qcompile.palettes import Stored, restore, store

_MAX_RATIO = 400  # how much larger than in the file constants of more than _FREE bytes may be
_FREE = 256 << 20


@dataclass(frozen=True)
class Placed:
    """A constant of a library.

    Attributes:
        array: the number of its values among the file's arrays.
        steps: what lays them out.
    """

    array: int
    steps: tuple[Step, ...] = ()


@dataclass(frozen=True)
class Arrays:
    """What the member holds: arrays, one after another.

    Attributes:
        size, sha256: of the member.
    """

    size: int
    sha256: str
    arrays: tuple[Stored, ...]

    def check(self) -> None:
        """Make sure that these are the arrays of a member of this size.

        Raises:
            ConstantError: there are no such arrays, or they are of another size.
        """
        for one in self.arrays:
            one.check()
        size = sum(one.nbytes for one in self.arrays)
        if size != self.size:
            raise ConstantError(f"arrays of {size:,} bytes in {self.size:,}")

    def memory(self, constants: Sequence[Placed]) -> int:
        """Bytes that a library's constants take as it reads them.

        Raises:
            ConstantError: they are not among the arrays, or cannot be laid out.
        """
        sizes = []
        for placed in constants:
            if not 0 <= placed.array < len(self.arrays):
                raise ConstantError(f"there is no array {placed.array}")
            one = self.arrays[placed.array]
            form = Form((one.size,), one.dtype)
            for step in placed.steps:
                form = step.form(form)
            sizes.append(form.nbytes)
        size = places(sizes)[-1]
        if size > _FREE and size > _MAX_RATIO * self.size:
            raise ConstantError(f"{size:,} bytes of constants in {self.size:,}")
        return size

    def restored(self, data: bytes, constants: Sequence[Placed]) -> tuple[Constant, ...]:
        """A library's constants.

        Args:
            data: the member.

        Raises:
            ConstantError: the bytes are not those of such arrays.
        """
        starts = [0, *accumulate(one.nbytes for one in self.arrays)]
        view = memoryview(data)
        values = {
            number: restore(self.arrays[number], view[starts[number] : starts[number + 1]])
            for number in {placed.array for placed in constants}
        }
        return tuple(Constant(values[placed.array], placed.steps) for placed in constants)


def gathered(
    libraries: Sequence[Sequence[Constant]],
) -> tuple[Arrays, bytes, list[tuple[Placed, ...]]]:
    """The arrays of all libraries, the member that holds them, and each library's constants."""
    numbers: dict[object, int] = {}
    arrays: list[Stored] = []
    parts: list[bytes] = []
    placed: list[tuple[Placed, ...]] = []
    for constants in libraries:
        own = []
        for constant in constants:
            key = Constant(constant.values).key
            if key not in numbers:
                numbers[key] = len(arrays)
                how, part = store(constant.values)
                arrays.append(how)
                parts.append(part)
            own.append(Placed(numbers[key], constant.steps))
        placed.append(tuple(own))
    data = b"".join(parts)
    return Arrays(len(data), hashlib.sha256(data).hexdigest(), tuple(arrays)), data, placed
