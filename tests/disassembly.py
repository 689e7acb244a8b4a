"""What a compiled library's loops consist of, as objdump spells it."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from pathlib import Path

_JUMP = re.compile(r"(?:j\w+|b\.\w+|cbn?z\t\w+,|tbn?z\t\w+, #\d+,)\s+([0-9a-f]+) <")


def hottest_loop(library: bytes, instruction: str, folder: Path, objdump: str) -> list[str]:
    """The innermost loop with most of an instruction: its instructions."""
    path = folder / "library.so"
    path.write_bytes(library)
    command = [objdump, "-d", "--no-show-raw-insn", str(path)]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    lines = [m.groups() for m in re.finditer(r"^ +([0-9a-f]+):\t(.*)$", text, re.MULTILINE)]
    at = {address: i for i, (address, _) in enumerate(lines)}
    loops = []
    for i, (_, line) in enumerate(lines):
        jump = _JUMP.match(line)
        if jump and at.get(jump[1], i) < i:
            loops.append((at[jump[1]], i))
    inner = [a for a in loops if not any(a != b and a[0] <= b[0] and b[1] <= a[1] for b in loops)]
    bodies = [[line for _, line in lines[first : last + 1]] for first, last in inner]
    return max(bodies, key=lambda body: Counter(map(mnemonic, body))[instruction])


def mnemonic(line: str) -> str:
    return line.split()[0]
