"""What a core of this machine can do at most, for rooflines (Williams, Waterman and Patterson, 2009)."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

from qcompile.bench import limits, machine_facts
from qcompile.bench.results import Roof

# What the loops of each kind bound: kernels by the kind of their arithmetic.
_PRODUCTS = (
    ("1-bit products", limits.BINARY, ("xnor-popcount",)),
    ("int8 products", limits.INT8, ("int8",)),
    ("float32 products", limits.FLOAT, ("float32", "weight-only")),
)
_DEPTH = 4608  # of the sums that are tried: shorter ones are no faster
_MEMINFO = Path("/proc/meminfo")
_UNIT = 4096  # bytes
_FAR = 1 << 26  # bytes that are in no cache that is not told, at least


def roofs(
    features: Collection[str], seconds: float = 0.05
) -> tuple[tuple[Roof, ...], tuple[str, ...]]:
    """Measure them, with one thread.

    Args:
        features: instructions that the program may use, as Linux spells them: a program for an older
            processor is held against what that one could do.
        seconds: for each loop, about.

    Returns:
        The roofs, and a sentence for each that could not be had.
    """
    found, why = _products(features, seconds)
    sizes = _levels()
    if not sizes:
        return found, (*why, "Linux tells no sizes of caches: there are no bandwidths")
    try:
        rates = limits.reading(list(sizes.values()), seconds)
    except limits.Unlimited as error:
        return found, tuple(dict.fromkeys((*why, str(error))))
    read = tuple(Roof(n, "bytes", r.rate) for n, r in zip(sizes, rates, strict=True))
    return (*found, *read), why


def _products(
    features: Collection[str], seconds: float
) -> tuple[tuple[Roof, ...], tuple[str, ...]]:
    measured: list[limits.Limit] = []
    reasons: dict[str, None] = {}
    for isa in limits.SETS:
        if not set(isa.flags) <= set(features):
            continue
        try:
            loops = [loop for loop in limits.loops(isa) if loop.k == _DEPTH]
            measured += limits.measured(loops, seconds)
        except limits.Unlimited as error:
            reasons[str(error)] = None
    found = []
    for name, kind, methods in _PRODUCTS:
        rates = [limit.rate for limit in measured if limit.loop.kind == kind]
        if rates:
            found.append(Roof(name, "macs", 1e9 * max(rates), methods))
    if not measured and not reasons:
        reasons["there are reference loops for x86-64 with AVX2 or newer alone"] = None
    return tuple(found), tuple(reasons)


def _levels() -> dict[str, int]:
    """Of each cache, and of memory: how many bytes to read so that they come from there."""
    caches = {cache.level: 1024 * cache.kib for cache in machine_facts.caches()}
    found = {
        # A cache that cores share, and other guests of the machine: a small part of it.
        f"L{level}": _whole(size // 2 if level < 3 else min(size // 4, 1 << 24))
        for level, size in caches.items()
    }
    far, free = max(2 * max(caches.values(), default=0), _FAR), _free()
    if free is not None and far <= free // 4:
        found["memory"] = _whole(far)
    return found


def _whole(size: int) -> int:
    return max(_UNIT, size // _UNIT * _UNIT)


def _free() -> int | None:
    """Bytes of memory that nobody uses; None where Linux does not say."""
    try:
        text = _MEMINFO.read_text(encoding="utf-8")
    except OSError:
        return None
    found = re.search(r"^MemAvailable:\s+(\d+) kB", text, re.MULTILINE)
    return 1024 * int(found[1]) if found else None
