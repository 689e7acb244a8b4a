"""One way to run a network: how to make it ready for an input, or why it cannot be had."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor

Call = Callable[[], object]


@dataclass(frozen=True)
class Ready:
    """A network and its input, handed over: what to time, and the network's size.

    Attributes:
        size: in bytes, of the file, or of all parameters and buffers; None where nothing tells it.
    """

    call: Call
    size: int | None = None


Prepare = Callable[[Tensor], Ready]


class Unavailable(Exception):
    """A framework that is not installed, or that refuses the network."""


@dataclass(frozen=True)
class Entrant:
    """A name, and what turns an input into something to time.

    Attributes:
        prepare: given the input, float32 `[N, C, H, W]`, hands it over once and returns what runs
            the network on it. It raises `Unavailable` where it cannot.
        note: what a reader of the table should know.
    """

    name: str
    prepare: Prepare
    note: str = ""


@contextmanager
def unavailable_if(*errors: type[Exception]) -> Iterator[None]:
    """Turn those exceptions into `Unavailable`, with the first line of what they say."""
    try:
        yield
    except errors as error:
        lines = str(error).strip().splitlines()
        raise Unavailable((lines[0] if lines else type(error).__name__)[:120]) from error
