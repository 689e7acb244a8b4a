"""What Linux says of this machine's processor. Any room may import it: it imports errors alone."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from qcompile.errors import QCompileError

_PATH = Path("/proc/cpuinfo")


@cache
def flags() -> frozenset[str]:
    """The instructions that every core has, as Linux spells them ("avx2", "asimddp").

    Linux leaves out what the processor has and the system or its hypervisor does not allow.

    Raises:
        QCompileError: Linux does not say.
    """
    try:
        text = _PATH.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise _unknown(error.strerror or str(error)) from error
    cores = [
        frozenset(value.split())
        for key, _, value in (line.partition(":") for line in text.splitlines())
        if key.strip() in ("flags", "Features")  # on x86 and on ARM
    ]
    if not cores:
        raise _unknown("it has neither flags nor features")
    return frozenset.intersection(*cores)


def _unknown(why: str) -> QCompileError:
    return QCompileError(
        f"cannot tell which instructions this processor has: {_PATH}: {why}",
        hint="mount /proc; without it no code can be made or chosen for this machine",
    )
