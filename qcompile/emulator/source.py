"""CUDA C as g++ takes it: shared arrays become members of a block's memory, kernels a table.

The rest is the header's affair (`native/cuda.hpp`). Lines stay where they are.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from qcompile.errors import QCompileError

_COMMENT_OR_STRING = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:[^"\\\n]|\\.)*"', re.DOTALL)
_KERNEL = re.compile(
    r'extern\s+" "\s+__global__\s+void\s+(?:__launch_bounds__\s*\((?P<bounds>[^()]*)\)\s*)?(?P<name>\w+)\s*\('
)
_SHARED = re.compile(r"\b__shared__\s+(?P<declaration>[^;]*);")
_ARRAY = re.compile(r"(?P<name>\w+)\s*\[")
_PAIRS = {"(": ")", "{": "}"}
_MOST_THREADS = 1024  # of a block, where a kernel does not say
# In a checked image: what keeps the arrays apart, so that what is written beside one is seen.
_GAP = 64


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
    """C++ for a CUDA source, to be compiled with `cuda.hpp` in front.

    Args:
        checked: arrays in shared memory do not follow one another at once.

    Raises:
        QCompileError: the source holds no kernel, or ends within one.
    """
    scanned = _without_text(source)
    parts, rows, at = [], [], 0
    for kernel in _kernels(scanned):
        start, end = kernel.body
        body, members = _shared(source[start:end], scanned[start:end], kernel.name)
        gap = f" char qc_gap_%d[{_GAP}];" if checked else ""
        fields = " ".join(f"{m};{gap % i if gap else ''}" for i, m in enumerate(members))
        size = f"sizeof(qc_shared_{kernel.name})" if members else "0"
        struct = f"struct qc_shared_{kernel.name} {{ {fields} }}; " if members else ""
        parts += [source[at : kernel.at], struct, source[kernel.at : start], body]
        rows.append(f"  QC_KERNEL({kernel.name}, {size}, ({kernel.most_threads})),")
        at = end
    if not rows:
        raise QCompileError("the CUDA source holds no kernel", hint='extern "C" __global__ void')
    parts.append(source[at:])
    table = "\n".join(["static const qc_emulator::Kernel qc_kernels[] = {", *rows, "};"])
    image = (
        f"qc_emulator::Image qc_emulator::qc_emulator_image = {{nullptr, qc_kernels, {len(rows)}}};"
    )
    return '#line 1 "kernels.cu"\n' + "".join(parts) + f"\n{table}\n{image}\n"


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
    """A kernel's body with references to its shared arrays, and their declarations."""
    parts, members, at = [], [], 0
    for match in _SHARED.finditer(scanned):
        declaration = match["declaration"]
        array = _ARRAY.search(declaration)
        name = array["name"] if array else declaration.split()[-1]
        reference = f"auto& {name} = qc_emulator::shared<qc_shared_{kernel}>().{name};"
        parts += [body[at : match.start()], reference]
        members.append(declaration)
        at = match.end()
    return "".join([*parts, body[at:]]), members
