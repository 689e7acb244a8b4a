"""The cost model: seconds of a kernel from its effort, with coefficients that were measured.

Processors fall into classes by the instructions that kernels use. Each class has coefficients for the
kernels that were measured on such a processor: nanoseconds for each term of an `Effort`. They are data,
in measured.json, and written by benchmarks/calibrate_costs.py.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from qcompile.codegen.costs.effort import TERMS, Effort
from qcompile.codegen.machine import Machine
from qcompile.errors import QCompileError

FILE = "measured.json"
FORMAT = 1
_NS = 1e-9


class DamagedError(ValueError):
    """What was read are no coefficients; the message names the field."""


# The classes of each family, the strongest first, and what the processor must have (Linux's names).
CLASSES: dict[str, dict[str, frozenset[str]]] = {
    "x86_64": {
        "avx512-vpopcntdq": frozenset({"avx512bw", "avx512_vnni", "avx512_vpopcntdq"}),
        "avx512-vnni": frozenset({"avx512bw", "avx512_vnni"}),
        "avx512": frozenset({"avx512bw"}),
        "avx2-vnni": frozenset({"avx2", "avx_vnni"}),
        "avx2": frozenset({"avx2"}),
        "sse": frozenset(),
    },
    "aarch64": {
        "neon-i8mm": frozenset({"asimddp", "i8mm"}),
        "neon-dotprod": frozenset({"asimddp"}),
        "neon": frozenset(),
    },
}


@dataclass(frozen=True)
class Coefficients:
    """What is known of one class of processors.

    Attributes:
        processor: on which it was measured.
        date: when, as in 2026-01-31.
        margin: the largest advantage that was predicted for a kernel that then was the slower one of
            two: 0.1 where it should have taken a tenth less. Smaller ones are not to be trusted.
        kernels: by a kernel's name, nanoseconds for each term; a term that is left out costs nothing.
    """

    processor: str
    date: str
    margin: float
    kernels: Mapping[str, Mapping[str, float]]

    def seconds(self, kernel: str, effort: Effort) -> float | None:
        """Predicted time for a sample, on one thread; None where the kernel was not measured."""
        terms = self.kernels.get(kernel)
        if terms is None:
            return None
        return _NS * sum(cost * getattr(effort, term) for term, cost in terms.items())


def class_of(machine: Machine) -> str:
    """The strongest class whose instructions a machine has; "" for a family that has none."""
    known = CLASSES.get(machine.family, {})
    has = set(machine.features)
    return next((name for name, wanted in known.items() if wanted <= has), "")


def nearest(machine: Machine, measured: Mapping[str, Coefficients]) -> str | None:
    """The class whose coefficients a machine is given; None: those of no class fit.

    Its own; else the next weaker one of its family that was measured, whose kernels it can run; else
    the next stronger one.
    """
    names = list(CLASSES.get(machine.family, {}))
    own = class_of(machine)
    if own not in names:
        return None
    at = names.index(own)
    order = [*names[at:], *reversed(names[:at])]
    return next((name for name in order if name in measured), None)


def coefficients_of(machine: Machine) -> Coefficients | None:
    """What is known of a machine's class, or of the nearest one; None where nothing is.

    Raises:
        QCompileError: the file of coefficients is damaged.
    """
    measured = shipped()
    name = nearest(machine, measured)
    return None if name is None else measured[name]


# --- the file ------------------------------------------------------------------------------------


@cache
def shipped() -> Mapping[str, Coefficients]:
    """The coefficients that come with qcompile, by class.

    Raises:
        QCompileError: the file is missing or damaged.
    """
    path = resources.files(__package__) / FILE
    try:
        return read(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise QCompileError(
            f"the costs of kernels cannot be read: {error}", where=str(path), hint=_HINT
        ) from error


_HINT = "install qcompile again, or write the file anew: python benchmarks/calibrate_costs.py"


def read(text: str, name: str) -> dict[str, Coefficients]:
    """Coefficients by class, from JSON.

    Raises:
        QCompileError: it is no such file; `name` is what it is called.
    """
    try:
        return _classes(json.loads(text))
    except (ValueError, RecursionError) as error:
        raise QCompileError(
            f"the costs of kernels are damaged: {error}", where=name, hint=_HINT
        ) from error


def write(measured: Mapping[str, Coefficients]) -> str:
    """The inverse of `read`."""
    classes = {
        name: {
            "processor": one.processor,
            "date": one.date,
            "margin": one.margin,
            "kernels": {kernel: dict(terms) for kernel, terms in one.kernels.items()},
        }
        for name, one in measured.items()
    }
    return json.dumps({"format": FORMAT, "classes": classes}, indent=1) + "\n"


def _classes(value: Any) -> dict[str, Coefficients]:
    fields = _object(value, "the file", ("format", "classes"))
    if fields["format"] != FORMAT:
        raise DamagedError(f"its format is {fields['format']!r}, not {FORMAT}")
    known = [name for family in CLASSES.values() for name in family]
    found = _object(fields["classes"], "classes")
    for name in found:
        if name not in known:
            raise DamagedError(f"there is no class {name!r}")
    return {name: _coefficients(one, name) for name, one in found.items()}


def _coefficients(value: Any, name: str) -> Coefficients:
    fields = _object(value, name, ("processor", "date", "margin", "kernels"))
    for key in ("processor", "date"):
        if not isinstance(fields[key], str):
            raise DamagedError(f"{key} of {name} is no text")
    kernels = {}
    for kernel, terms in _object(fields["kernels"], f"kernels of {name}").items():
        where = f"{kernel} of {name}"
        costs = _object(terms, where)
        if unknown := sorted(costs.keys() - set(TERMS)):
            raise DamagedError(f"{where} has the unknown term {unknown[0]!r}")
        kernels[kernel] = {
            term: _number(cost, f"{term} of {where}") for term, cost in costs.items()
        }
        if not any(kernels[kernel].values()):
            raise DamagedError(f"{where} costs nothing")
    margin = _number(fields["margin"], f"margin of {name}")
    return Coefficients(fields["processor"], fields["date"], margin, kernels)


def _object(value: Any, what: str, keys: tuple[str, ...] | None = None) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DamagedError(f"{what} is no object")
    if keys is not None and set(value) != set(keys):
        raise DamagedError(f"{what} has the fields {', '.join(sorted(value))}")
    return value


def _number(value: Any, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise DamagedError(f"{what} is no number")
    if not (math.isfinite(value) and value >= 0):
        raise DamagedError(f"{what} is {value}")
    return float(value)
