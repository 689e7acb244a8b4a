"""SASS, the assembly language of NVIDIA's GPUs, as nvdisasm prints it.

.text.f:
.L_x_4:
        /*0170*/              @!P0 LDG.E R14, desc[UR4][R2.64+0x8] ;
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

_SECTION = re.compile(r"\.text\.(\S+):")
_LABEL = re.compile(r"([.$\w]\S*):")
_LINE = re.compile(r"\s+/\*[0-9a-f]+\*/\s+(?:@(!?U?P[T\d]+)\s+)?([A-Z][\w.]*)\s*(.*?)\s*;")
_CONSTANT = re.compile(r"c\[0x0\]\[(0x[0-9a-f]+)\]")
_POINTER, _WORD = 8, 4  # bytes
_TARGET = re.compile(r"`\((\S+?)\)")


@dataclass(frozen=True)
class Instruction:
    """One instruction.

    Attributes:
        opcode: with its modifiers: "IMMA.16832.U8.S8".
        operands: as they are written, the destination first.
        guard: the predicate that it depends on: "P0", "!UP1", or "".
        target: the number of the instruction that it jumps to; -1 if it stays in its place, or
            leaves the function. The assembler makes some jumps to the function's end calls.
    """

    opcode: str
    operands: tuple[str, ...]
    guard: str = ""
    target: int = -1

    @property
    def name(self) -> str:
        """The opcode without modifiers."""
        return self.opcode.split(".", 1)[0]

    @property
    def modifiers(self) -> tuple[str, ...]:
        return tuple(self.opcode.split(".")[1:])

    @property
    def calls(self) -> bool:
        """Whether it calls a subroutine."""
        return self.name == "CALL" and self.target < 0

    @property
    def never(self) -> bool:
        """Whether it is there for its place only."""
        return self.guard in ("!PT", "!UPT")


@dataclass(frozen=True)
class Loop:
    """Instructions `first` to `last`, the last of which jumps back to the first."""

    first: int
    last: int

    def __contains__(self, other: object) -> bool:
        return (
            isinstance(other, Loop)
            and other != self
            and self.first <= other.first
            and other.last <= self.last
        )


@dataclass(frozen=True)
class Function:
    """A kernel's instructions, in their order, without those of subroutines that it calls."""

    name: str
    instructions: tuple[Instruction, ...]

    @cached_property
    def loops(self) -> tuple[Loop, ...]:
        """Its loops, one for each start, the inner ones before those around them."""
        last: dict[int, int] = {}
        for number, one in enumerate(self.instructions):
            if 0 <= one.target < number:
                last[one.target] = number
        found = [Loop(first, end) for first, end in last.items()]
        return tuple(sorted(found, key=lambda loop: (loop.last - loop.first, loop.first)))

    @cached_property
    def innermost(self) -> tuple[Loop, ...]:
        """The loops that have none in them."""
        return tuple(a for a in self.loops if not any(b in a for b in self.loops))

    def body(self, loop: Loop) -> tuple[Instruction, ...]:
        """What a loop consists of."""
        own = self.instructions[loop.first : loop.last + 1]
        return tuple(one for one in own if not one.never)


def parameters_at(arch: int) -> int:
    """Where the parameters of a kernel lie among its constants."""
    return 0x160 if arch < 90 else 0x210 if arch < 100 else 0x380


def pointers_read(function: Function, arch: int, count: int) -> set[int]:
    """The numbers of those of a kernel's first parameters, pointers all of them, that it uses."""
    found: set[int] = set()
    for one in function.instructions:
        for place in _CONSTANT.findall(" ".join(one.operands)):
            width = next((int(m) // 8 for m in one.modifiers if m in ("64", "128")), 4)
            first = int(place, 16) - parameters_at(arch)
            found |= {at // _POINTER for at in range(first, first + width, _WORD)}
    return {number for number in found if 0 <= number < count}


def functions(text: str) -> dict[str, Function]:
    """The kernels of a disassembly, by name."""
    return {name: Function(name, _instructions(lines)) for name, lines in _sections(text)}


def _sections(text: str) -> Iterator[tuple[str, list[str]]]:
    name, lines = "", list[str]()
    for line in text.splitlines():
        if start := _SECTION.match(line):
            if name:
                yield name, lines
            name, lines = start[1], []
        else:
            lines.append(line)
    if name:
        yield name, lines


def _instructions(lines: list[str]) -> tuple[Instruction, ...]:
    labels: dict[str, int] = {}
    found: list[tuple[str, str, str]] = []
    for line in lines:
        if match := _LINE.match(line):
            found.append((match[1] or "", match[2], match[3]))
        elif label := _LABEL.match(line):
            if label[1].startswith("$"):  # a subroutine
                break
            labels[label[1]] = len(found)
    while found and found[-1][1] == "NOP":
        found.pop()
    return tuple(_instruction(number, *parts, labels) for number, parts in enumerate(found))


def _instruction(
    number: int, guard: str, opcode: str, rest: str, labels: dict[str, int]
) -> Instruction:
    operands = tuple(part.strip() for part in rest.split(",")) if rest else ()
    jump = _TARGET.search(rest) if opcode.split(".")[0] in ("BRA", "JMP", "CALL") else None
    target = labels.get(jump[1], -1) if jump else -1
    return Instruction(opcode, operands, guard, -1 if target == number else target)
