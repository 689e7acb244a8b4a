"""CUDA C as g++ takes it: shared arrays become members of a block's memory, kernels a table.

The rest is the header's affair (`native/cuda.hpp`).
"""

from __future__ import annotations

import re
from typing import NamedTuple

from qcompile.errors import QCompileError

_COMMENT_OR_STRING = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:[^"\\\n]|\\.)*"', re.DOTALL)
_KERNEL = re.compile(
    r'extern\s+" "\s+__global__\s+void\s+'
    r"(?:__launch_bounds__\s*\((?P<bounds>[^()]*)\)\s*)?(?P<name>\w+)\s*\("
)
_SHARED = re.compile(r"\b__shared__\s+(?P<declaration>[^;]*);")
_DECLARATOR = re.compile(
    r"\s*(?P<type>.*?)\s*\b(?P<name>\w+)\s*(?P<sizes>(?:\[[^\]]*\]\s*)*)", re.DOTALL
)
_PAIRS = {"(": ")", "{": "}"}
_MOST_THREADS = 1024  # of a block, where a kernel does not say


class Kernel(NamedTuple):
    """A kernel in a source.

    Attributes:
        name: of the function.
        at: where its definition starts.
        body: where its body starts, and ends.
        most_threads: of a block, an expression.
    """

    name: str
    at: int
    body: tuple[int, int]
    most_threads: str


def translated(source: str, *, checked: bool = False) -> str:
    """C++ for a CUDA source, to be compiled with `cuda.hpp` in front; lines stay where they are.

    Args:
        checked: there are gaps between arrays in shared memory, which are looked at.

    Raises:
        QCompileError: the source holds no kernel, or ends within one.
    """
    scanned = _without_text(source)
    parts, rows, at = [], [], 0
    for kernel in _kernels(scanned):
        start, end = kernel.body
        body, members = _shared(source[start:end], scanned[start:end], kernel.name)
        parts += [source[at : kernel.at], _struct(kernel.name, members, gaps=checked)]
        parts += [source[kernel.at : start], body]
        rows.append(_row(kernel, len(members)))
        at = end
    if not rows:
        raise QCompileError("the CUDA source holds no kernel", hint='extern "C" __global__ void')
    entries = ",\n  ".join(f"QC_KERNEL({row})" for row in rows)
    table = f"static const qc_emulator::Kernel qc_kernels[] = {{\n  {entries}\n}};\n"
    image = (
        f"qc_emulator::Image qc_emulator::qc_emulator_image = {{nullptr, qc_kernels, {len(rows)}}};"
    )
    return f'#line 1 "kernels.cu"\n{"".join(parts)}{source[at:]}\n{table}{image}\n'


def _struct(kernel: str, members: list[str], *, gaps: bool) -> str:
    """The shared memory of a kernel, and where its gaps are: in one line, in front of it."""
    places = [f"__builtin_offsetof(qc_shared_{kernel}, qc_gap_{i})" for i in range(len(members))]
    fields = [
        f"{member}; char qc_gap_{i}[qc_emulator::GAP];" if gaps else f"{member};"
        for i, member in enumerate(members)
    ]
    struct = f"struct qc_shared_{kernel} {{ {' '.join(fields)} }}; " if members else ""
    listed = "".join(f"{place}, " for place in places if gaps)
    return f"{struct}static const unsigned qc_gaps_{kernel}[] = {{{listed}0}}; "


def _row(kernel: Kernel, members: int) -> str:
    """What the table says of a kernel."""
    size = f"sizeof(qc_shared_{kernel.name})" if members else "0"
    return f"{kernel.name}, {size}, ({kernel.most_threads}), qc_gaps_{kernel.name}"


def _without_text(source: str) -> str:
    """The source with blanks for what comments and strings say, of the same length."""

    def blank(match: re.Match[str]) -> str:
        text = re.sub(r"[^\n]", " ", match[0])
        return f'"{text[1:-1]}"' if match[0].startswith('"') else text

    return _COMMENT_OR_STRING.sub(blank, source)


def _kernels(scanned: str) -> list[Kernel]:
    """The kernels that are defined, in their order."""
    found = []
    for match in _KERNEL.finditer(scanned):
        after = _end(scanned, match.end() - 1)
        opening = re.compile(r"\s*\{").match(scanned, after)
        if opening is None:  # a declaration
            continue
        body = (opening.end(), _end(scanned, opening.end() - 1))
        bounds = (match["bounds"] or str(_MOST_THREADS)).partition(",")[0]
        found.append(Kernel(match["name"], match.start(), body, bounds))
    return found


def _end(scanned: str, at: int) -> int:
    """The place after the bracket that closes the one at a place."""
    opening, closing = scanned[at], _PAIRS[scanned[at]]
    depth = 0
    for bracket in re.compile(f"[{re.escape(opening + closing)}]").finditer(scanned, at):
        depth += 1 if bracket[0] == opening else -1
        if depth == 0:
            return bracket.end()
    raise QCompileError("the CUDA source ends within a kernel")


def _shared(body: str, scanned: str, kernel: str) -> tuple[str, list[str]]:
    """A kernel's body with references to its shared variables, and a declaration of each."""
    parts, members, at = [], [], 0
    for match in _SHARED.finditer(scanned):
        parts.append(body[at : match.start()])
        at = match.end()
        type_ = ""
        for declarator in match["declaration"].split(","):
            named = _DECLARATOR.fullmatch(declarator)
            if named is None:
                raise QCompileError(f"the emulator does not read `{match[0]}`", where=kernel)
            type_ = type_ or named["type"]
            name = named["name"]
            members.append(f"{type_} {name}{named['sizes']}")
            parts.append(f"auto& {name} = qc_emulator::shared<qc_shared_{kernel}>().{name}; ")
    return "".join([*parts, body[at:]]), members
