"""One way to run a network: how to make it ready for inputs, or why it cannot be had."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

from torch import Tensor
from torch.utils._pytree import tree_leaves

Call = Callable[[], object]
Inputs = tuple[Tensor, ...]
INSTALL = 'pip install "qcompile[bench]"'
_LONGEST = 120  # letters of a reason that another framework gives
_Made = TypeVar("_Made")


def _nothing() -> Tensor | None:
    return None


@dataclass(frozen=True)
class Ready:
    """A network and its inputs, handed over: what to time, and what is known of it.

    Attributes:
        call: runs it once. In PyTorch it is to be called under `torch.no_grad()`.
        output: runs it once, and gives the network's (first) output as a tensor of its own on the
            CPU; None where it has none to compare.
        size: in bytes, of the file, or of all parameters and buffers; None where nothing tells it.
        instructions: what the engine says that it runs on, or "" where it does not say.
    """

    call: Call
    output: Callable[[], Tensor | None] = _nothing
    size: int | None = None
    instructions: str = ""


Prepare = Callable[[Inputs], Ready]


class Unavailable(Exception):
    """A framework that is not installed, or that refuses the network.

    Attributes:
        reason: why it cannot be had, a sentence of a line.
        hint: what to do about that, or "".
    """

    def __init__(self, reason: str, hint: str = "") -> None:
        self.reason, self.hint = reason, hint
        super().__init__(reason)


@dataclass(frozen=True)
class Entrant:
    """A name, and what turns inputs into something to time.

    Attributes:
        key: as the command line spells it.
        name: for people.
        prepare: given the inputs, each with the batch as dimension 0, hands them over once and
            returns what runs the network on them. It raises `Unavailable` where it cannot.
        precision: "float32", "int8".
        how: it is made from the float network.
        package: the distribution whose version counts.
    """

    key: str
    name: str
    prepare: Prepare
    precision: str = ""
    how: str = ""
    package: str = ""


class Once(Generic[_Made]):
    """Makes something when it is first asked for, and remembers it; or that it is `Unavailable`."""

    def __init__(self, make: Callable[[], _Made]) -> None:
        self._make = make
        self._made: list[_Made] = []
        self._refusal: Unavailable | None = None

    def __call__(self) -> _Made:
        """What was made.

        Raises:
            Unavailable: it cannot be made; nor is it tried again.
        """
        if self._refusal is not None:
            raise Unavailable(self._refusal.reason, self._refusal.hint)
        if not self._made:
            try:
                self._made.append(self._make())
            except Unavailable as refusal:
                self._refusal = refusal
                raise
        return self._made[0]


@contextmanager
def unavailable_if(*errors: type[Exception], saying: str = "", line: int = 0) -> Iterator[None]:
    """Turn those exceptions into `Unavailable`, with one line of what they say.

    Args:
        saying: what stands before that, as "ONNX cannot express it: ".
        line: which, the first or -1, the last.
    """
    try:
        yield
    except errors as error:
        raise Unavailable(f"{saying}{line_of(error, line)}") from error


def line_of(error: BaseException, line: int = 0) -> str:
    """One line of what an error says, shortened; its type where it says nothing."""
    text = (str(error).strip() or type(error).__name__).splitlines()[line].strip()
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def not_installed(package: str) -> Unavailable:
    """The refusal of an engine whose package is missing."""
    return Unavailable(f"{package} is not installed", INSTALL)


def first_tensor(result: object) -> Tensor | None:
    """Of what a network in PyTorch returns: a copy on the CPU; None where there is none."""
    leaf = next((leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)), None)
    return None if leaf is None else leaf.detach().cpu().clone()
