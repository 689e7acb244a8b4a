"""Low-bit PyTorch networks that are really low-bit.

    program = qcompile.compile(model, example_inputs, bits=1)
    y = program(x)

Names load on first use: a process that only loads and runs a program imports neither torch nor the
compiler.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from qcompile.errors import QCompileError

__version__ = "0.1.0"

if TYPE_CHECKING:
    from qcompile.api import compile, convert, from_exported, prepare
    from qcompile.calibration import calibrate
    from qcompile.ir.target import Target
    from qcompile.program import Program, load
    from qcompile.quant.recipe import Recipe
    from qcompile.search_analysis import search
    from qcompile.search_points import Search
    from qcompile.sensitivity_analysis import Sensitivity, sensitivity
    from qcompile.sensitivity_widths import Width
    from qcompile.tuning import Tuning
    from qcompile.verification import VerifyReport, verify

_HOME = {
    "Program": "qcompile.program",
    "Recipe": "qcompile.quant.recipe",
    "Search": "qcompile.search_points",
    "Sensitivity": "qcompile.sensitivity_analysis",
    "Target": "qcompile.ir.target",
    "Tuning": "qcompile.tuning",
    "VerifyReport": "qcompile.verification",
    "Width": "qcompile.sensitivity_widths",
    "calibrate": "qcompile.calibration",
    "compile": "qcompile.api",
    "convert": "qcompile.api",
    "load": "qcompile.program",
    "from_exported": "qcompile.api",
    "prepare": "qcompile.api",
    "search": "qcompile.search_analysis",
    "sensitivity": "qcompile.sensitivity_analysis",
    "verify": "qcompile.verification",
}

__all__ = [
    "Program",
    "QCompileError",
    "Recipe",
    "Search",
    "Sensitivity",
    "Target",
    "Tuning",
    "VerifyReport",
    "Width",
    "calibrate",
    "compile",
    "convert",
    "from_exported",
    "load",
    "prepare",
    "search",
    "sensitivity",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value
