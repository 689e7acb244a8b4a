"""How often each instruction of a kernel is executed, found by walking through it as one thread does.

Only what control flow depends on is computed: indices of block and thread, counters, the number of
samples. What is loaded is not known. A jump that depends on it is not taken, forward or backward, so
that what it would skip is counted once.
"""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass
from functools import cached_property

from qcompile.static.sass import Function, Instruction, parameters_at
from qcompile.static.values import State, execute, predicate, read, written

STEPS = 1_000_000

_JUMPS = ("BRA", "JMP", "CALL")
_ENDS = ("EXIT", "RET", "BRX", "JMX")


@dataclass(frozen=True)
class Place:
    """The thread that walks, and what it is given.

    Attributes:
        block: index in x, y, z.
        thread: number in its block, which has one dimension.
        threads: of a block.
        grid: blocks in x, y, z.
        parameters: bytes of the kernel's pointers, before `samples`.
        samples: its last parameter.
    """

    block: tuple[int, int, int] = (0, 0, 0)
    thread: int = 0
    threads: int = 32
    grid: tuple[int, int, int] = (1, 1, 1)
    parameters: int = 0
    samples: int = 1

    def state(self, arch: int) -> State:
        """What is known at the start."""
        base = parameters_at(arch)
        known: State = {f"c[0x0][{base + self.parameters:#x}]": self.samples}
        known |= {"SR_TID.X": self.thread, "SR_TID.Y": 0, "SR_TID.Z": 0}
        known |= {"SR_LANEID": self.thread % 32}
        for axis, at, size in zip("XYZ", self.block, self.grid, strict=True):
            known |= {f"SR_CTAID.{axis}": at, f"SR_NCTAID.{axis}": size}
        return known


@dataclass(frozen=True)
class Walk:
    """What came of it.

    Attributes:
        counts: executions of each instruction, by its number.
        guessed: the numbers of jumps backward whose condition was not known: their loops are counted
            as if they ended there.
        ended: whether the walk came to an end within STEPS instructions.
    """

    counts: dict[int, int]
    guessed: frozenset[int]
    ended: bool


@dataclass(frozen=True)
class Walker:
    """Walks through a kernel; what does not depend on the place is found once."""

    function: Function
    arch: int

    @cached_property
    def _blocks(self) -> list[tuple[int, int]]:
        """First and last + 1 of the runs of instructions that no jump leaves or enters but at their ends."""
        code = self.function.instructions
        starts = {0, *(one.target for one in code if one.target >= 0)}
        starts |= {i + 1 for i, one in enumerate(code) if one.name in (*_JUMPS, *_ENDS)}
        starts |= {len(code)}
        edges = sorted(starts)
        return list(itertools.pairwise(edges))

    @cached_property
    def _needed(self) -> dict[int, list[Instruction]]:
        """Per run, by its start, the instructions that conditions of jumps depend on."""
        code = self.function.instructions
        jumps = [one for one in code if one.name in (*_JUMPS, *_ENDS)]
        wanted = set().union(*(read(one) for one in jumps))
        effects = [(set(written(one)), read(one)) for one in code]
        size = -1
        while size != len(wanted):
            size = len(wanted)
            for writes, reads in effects:
                if writes & wanted:
                    wanted |= reads
        return {
            a: [code[i] for i in range(a, b) if effects[i][0] & wanted] for a, b in self._blocks
        }

    def walk(self, place: Place) -> Walk:
        """Walk from the first instruction to an EXIT."""
        ends = dict(self._blocks)
        code, state = self.function.instructions, place.state(self.arch)
        runs: Counter[int] = Counter()
        guessed: set[int] = set()
        at, steps = 0, 0
        while at in ends and steps < STEPS:
            runs[at] += 1
            steps += ends[at] - at
            for one in self._needed[at]:
                execute(state, one)
            last = ends[at] - 1
            jump = code[last]
            condition = _condition(state, jump)
            if condition is None and 0 <= jump.target <= last:
                guessed.add(last)
            if jump.name in _ENDS and condition:
                break
            at = jump.target if jump.target >= 0 and condition else last + 1
        counts = {i: n for start, n in runs.items() for i in range(start, ends[start])}
        return Walk(counts, frozenset(guessed), steps < STEPS)


def _condition(state: State, jump: Instruction) -> int | None:
    """Whether a jump is taken: its guard, and the predicates among its operands."""
    if "DIV" in jump.modifiers:  # where the threads of a warp have gone apart
        return 0
    own = [
        predicate(state, p)
        for p in jump.operands
        if p.lstrip("!").rstrip("0123456789T") in ("P", "UP")
    ]
    told = [predicate(state, jump.guard), *own]
    return 0 if 0 in told else None if None in told else 1
