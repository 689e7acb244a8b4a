"""Flattens of feature maps, and the ops that may as well work on the other side of one."""

from __future__ import annotations

import math

from torch.fx import Node

from qcompile.ir.graph import spec
from qcompile.ir.stages import aten, dialect
from qcompile.passes.monotone import ELEMENTWISE
from qcompile.passes.one_bit import argument

# Each gives the same bits whatever the layout; torch's transcendental functions do not.
PASS_A_FLATTEN = (
    *ELEMENTWISE,
    aten.abs.default,
    dialect.sign.default,
    dialect.quantize.default,
    dialect.quantize_unit.default,
    dialect.threshold.default,
)


def is_squeeze(flatten: Node) -> bool:
    """Whether a flatten of `[N, C, *spatial]` moves nothing: every spatial size is 1."""
    before, after = spec(argument(flatten)).shape, spec(flatten).shape
    return len(before) > 2 and after == before[:2]


def is_of_map(flatten: Node) -> bool:
    """Whether it flattens all but the batch of `[N, C, *spatial]`."""
    before, after = spec(argument(flatten)).shape, spec(flatten).shape
    return 3 <= len(before) <= 5 and after == (before[0], math.prod(before[1:]))
