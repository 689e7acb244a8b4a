"""What is known about values, whatever the network is given: how large they are, which levels."""

from __future__ import annotations

import math

import torch
from torch.fx import Node

from qcompile.codegen.groups import INTEGER_CONTRACTIONS, arguments
from qcompile.codegen.writer import Writer

_aten, _dialect = torch.ops.aten, torch.ops.qcompile
_LARGEST = 1e38  # roundings on the way to it do not reach float32's end
_PASS = frozenset({_aten.relu.default, _aten.neg.default, _aten.abs.default})
# They give no value that they do not read.
_MOVED = frozenset({_aten.flatten.using_ints, _aten.max_pool2d.default})


def is_finite(w: Writer, node: Node) -> bool:
    """Whether it is proved that a value is finite."""
    return bound(w, node) < _LARGEST


def bound(w: Writer, node: Node) -> float:
    """What no element of a value exceeds in size; infinite or NaN where nothing is known."""
    if node.target in INTEGER_CONTRACTIONS | {_dialect.xnor_matmul.default}:
        return 2.0**31
    if node.op != "call_function":
        return math.inf
    given = arguments(node)
    if node.target is _dialect.scale_shift.default:
        most = bound(w, given[0]) if w.layout(given[0]).dtype == "float32" else 2.0**31
        scale, shift = (0.0 if t is None else _size(w, t) for t in given[1:3])
        return most * scale + shift
    if node.target in _PASS:
        return bound(w, given[0])
    if node.target is _aten.add.Tensor and given[2] == 1:
        return sum(bound(w, n) if isinstance(n, Node) else math.inf for n in given[:2])
    return math.inf


def levels(w: Writer, node: Node) -> tuple[int, int]:
    """The lowest and the highest level that a value of bytes may hold."""
    given = arguments(node) if node.op == "call_function" else []
    if node.target is _dialect.quantize.default:
        return int(given[3]), int(given[4])
    if node.target is _dialect.quantize_unit.default:
        return 0, 2 ** int(given[1]) - 1
    if node.target is _dialect.dynamic_quantize.default:
        return 0, 2 ** int(given[2]) - 1
    if node.target is _dialect.sign.default:
        return -1, 1
    if node.target is _dialect.threshold.default:
        return int(given[3]), 1
    if node.target in _MOVED:
        return levels(w, given[0])
    return (0, 255) if w.layout(node).dtype == "uint8" else (-128, 127)


def are_two_levels(w: Writer, node: Node) -> bool:
    """Whether a value of bytes holds only the lowest and the highest of its levels."""
    if node.target in _MOVED:
        return are_two_levels(w, arguments(node)[0])
    signs = node.target in (_dialect.sign.default, _dialect.threshold.default)
    low, high = levels(w, node)
    return signs or high - low == 1


def _size(w: Writer, node: Node) -> float:
    value = w.tensor(node)
    return float(value.abs().amax()) if value.numel() else 0.0
