"""Fusion: which nodes of the lowered graph one kernel computes.

An anchor (a convolution, a pooling, ...) takes with it the elementwise nodes that follow, one user
at a time, and a bitpack at the end. A value that two kernels need ends a group: only the last value
of a group lies in memory.

    im2col -> xnor_matmul -> scale_shift -> add -> relu      one group
    threshold -> bitpack                                     joins the xnor_matmul before it
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import GraphModule, Node

from qcompile.errors import QCompileError
from qcompile.ir.graph import calls, spec, where
from qcompile.ir.ops import WORD

_aten, _dialect = torch.ops.aten, torch.ops.qcompile

INTEGER_CONTRACTIONS = frozenset({_dialect.conv.default, _dialect.linear.default})
FLOAT_CONTRACTIONS = frozenset({_aten.convolution.default, _aten.linear.default})
CONTRACTIONS = INTEGER_CONTRACTIONS | FLOAT_CONTRACTIONS | {_dialect.xnor_matmul.default}
POOLS = frozenset(
    {
        _aten.max_pool1d.default,
        _aten.max_pool2d.default,
        _aten.max_pool3d.default,
        _aten.avg_pool1d.default,
        _aten.avg_pool2d.default,
        _aten.avg_pool3d.default,
        _dialect.bit_maxpool.default,
    }
)
REDUCTIONS = frozenset({_aten.mean.dim, _aten.amax.default})
SOFTMAXES = frozenset({_aten.softmax.int, _aten.log_softmax.int})
CAT = _aten.cat.default
MOVES = frozenset({_aten.pad.default, CAT, _dialect.im2col.default})
FLATTEN = _aten.flatten.using_ints
BITPACK = _dialect.bitpack.default
TO_INTEGERS = frozenset(
    {_dialect.sign.default, _dialect.quantize.default, _dialect.quantize_unit.default}
)
# They read constants by channel or place.
BY_PLACE = frozenset(
    {
        _dialect.scale_shift.default,
        _dialect.threshold.default,
        _dialect.zero_one.default,
        _dialect.border_correction.default,
        _aten.prelu.default,
    }
)
_APPROXIMATED = frozenset(
    {
        _aten.sigmoid.default,
        _aten.tanh.default,
        _aten.silu.default,
        _aten.gelu.default,
    }
)
ELEMENTWISE = (
    TO_INTEGERS
    | BY_PLACE
    | _APPROXIMATED
    | {
        _aten.relu.default,
        _aten.hardtanh.default,
        _aten.leaky_relu.default,
        _aten.hardsigmoid.default,
        _aten.hardswish.default,
        _aten.abs.default,
        _aten.neg.default,
        _aten.add.Tensor,
        _aten.sub.Tensor,
        _aten.mul.Tensor,
        _aten.div.Tensor,
        _aten.add.Scalar,
        _aten.mul.Scalar,
    }
)
# Equal to torch's result within a tolerance, not to the bit: the order of additions, or a polynomial.
# Signs and levels are taken from such a value in another kernel, where it can be seen.
INEXACT = (
    FLOAT_CONTRACTIONS
    | SOFTMAXES
    | _APPROXIMATED
    | {
        _aten.mean.dim,
        _aten.avg_pool1d.default,
        _aten.avg_pool2d.default,
        _aten.avg_pool3d.default,
    }
)
_ROW_POOLS = frozenset({_aten.max_pool2d.default, _aten.avg_pool2d.default})
_NEAR = 1 << 17  # bytes that stay in a core's second cache beside others
_FOLLOWED = CONTRACTIONS | POOLS | REDUCTIONS | ELEMENTWISE | {_aten.pad.default}


@dataclass(frozen=True)
class Group:
    """The nodes of one kernel, in their order; each but the last has one user, the next.

    Attributes:
        nodes: what is computed; the last one's value is the result.
        anchor: what decides how the kernel is scheduled, and whose layer it stands for.
    """

    nodes: tuple[Node, ...]
    anchor: Node

    @property
    def result(self) -> Node:
        return self.nodes[-1]

    @property
    def inputs(self) -> tuple[Node, ...]:
        """The activations that the group reads, in order of first use."""
        found: dict[Node, None] = {}
        for node in self.nodes:
            for value in node.all_input_nodes:
                if value not in self.nodes and value.op != "get_attr":
                    found[value] = None
        return tuple(found)

    @property
    def pool(self) -> Node | None:
        """The pooling of a contraction's result, where one kernel computes both."""
        after = self.nodes[self.nodes.index(self.anchor) + 1 :]
        return next((n for n in after if n.target in POOLS), None)

    @property
    def packs(self) -> bool:
        """Whether the result is words of signs, packed here."""
        return calls(self.result, BITPACK)

    @property
    def kind(self) -> str:
        """What the arithmetic is, in a word for reports."""
        target = self.anchor.target
        if target is _dialect.xnor_matmul.default:
            return "xnor-popcount"
        if target in INTEGER_CONTRACTIONS:
            return "int8"
        if target in FLOAT_CONTRACTIONS:
            return "float32"
        if target in POOLS | REDUCTIONS:
            return "pool"
        if target in SOFTMAXES:
            return "softmax"
        if target in MOVES:
            return "copy"
        return "pack" if calls(self.result, BITPACK) else "elementwise"


def arguments(node: Node) -> list[Any]:
    """The arguments of a call in the order of the op's schema, defaults filled in."""
    found = []
    for i, argument in enumerate(node.target._schema.arguments):  # type: ignore[union-attr]
        if i < len(node.args):
            found.append(node.args[i])
        elif argument.name in node.kwargs:
            found.append(node.kwargs[argument.name])
        else:
            found.append(argument.default_value if argument.has_default_value() else None)
    return found


def sizes(value: Any, rank: int) -> tuple[int, ...]:
    """A number for each dimension, where the schema also takes one for all."""
    values = (value,) if isinstance(value, int) else tuple(int(v) for v in value)
    return values * rank if len(values) == 1 else values


def form(gm: GraphModule) -> list[Group]:
    """Cut the graph into groups, in the order in which they can run. Views (flatten) are none.

    Raises:
        QCompileError: an op that no kernel computes.
    """
    groups: list[Group] = []
    taken: set[Node] = set()
    order = {node: i for i, node in enumerate(gm.graph.nodes)}
    for node in gm.graph.nodes:
        if node.op != "call_function" or node in taken or node.target is FLATTEN:
            continue
        group = _group_from(node, taken)
        taken.update(group.nodes)
        groups.append(group)
    return sorted(groups, key=lambda group: order[group.result])


def _group_from(node: Node, taken: set[Node]) -> Group:
    nodes, anchor = [node], node
    if node.target is _dialect.im2col.default:
        user = _only_user(node)
        if user is not None and user.target is _dialect.xnor_matmul.default:
            nodes, anchor = [node, user], user
    if anchor.target not in _FOLLOWED | SOFTMAXES | MOVES | {BITPACK}:
        raise QCompileError(
            f"no kernel for {anchor.target}",
            where=where(node),
            hint=f"supported: {', '.join(sorted(map(str, _FOLLOWED | SOFTMAXES | MOVES)))}",
        )
    exact, whole = _is_exact(anchor), _fills_words(anchor)
    while nodes[-1].target in _FOLLOWED and nodes[-1].target is not _dialect.bit_maxpool.default:
        user = _only_user(nodes[-1])
        if (
            user is None
            or user in taken
            or not (
                _joins(user, nodes[-1], exact=exact, whole_words=whole)
                or _pools_rows(user, anchor, nodes)
            )
        ):
            break
        nodes.append(user)
        exact = exact and _is_exact(user)
    return Group(tuple(nodes), anchor)


def _is_exact(node: Node) -> bool:
    if node.target in (_aten.add.Tensor, _aten.sub.Tensor, _aten.add.Scalar):
        return bool(arguments(node)[2] == 1)  # torch multiplies with alpha by a fused multiply-add
    return node.target not in INEXACT


def groups_of(node: Node) -> int:
    """The groups of a convolution or of a product of packed signs; 1 for other ops."""
    at = {_dialect.conv.default: 5, _aten.convolution.default: 8, _dialect.xnor_matmul.default: 3}
    return int(arguments(node)[at[node.target]]) if node.target in at else 1


def pads_channels(node: Node) -> bool:
    """Whether a pad moves dimension 1, so that a vector of channels has no one place in the source."""
    if node.target is not _aten.pad.default:
        return False
    padding = arguments(node)[1]
    first = 2 * (len(spec(node).shape) - 2)  # the last dimension comes first
    return any(padding[first : first + 2])


def _fills_words(anchor: Node) -> bool:
    """Whether signs come in vectors of one word each, none of two groups of a grouped convolution."""
    if pads_channels(anchor):
        return False
    groups = groups_of(anchor)
    return groups == 1 or spec(anchor).shape[1] // groups % WORD == 0


def _only_user(node: Node) -> Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _pools_rows(user: Node, anchor: Node, nodes: list[Node]) -> bool:
    """Whether a pooling takes a contraction's rows as they come, a few at a time.

    The weights are read anew for each row, and the rows of a window wait: both from a near cache.
    """
    if user.target not in _ROW_POOLS or anchor.target not in CONTRACTIONS:
        return False
    if groups_of(anchor) > 1 or len(spec(user).shape) != 4 or any(n.target in POOLS for n in nodes):
        return False
    source, kernel = arguments(user)[:2]
    dilation = sizes(arguments(user)[4], 2)[0] if user.target is _aten.max_pool2d.default else 1
    span = dilation * (sizes(kernel, 2)[0] - 1) + 1
    shape = spec(source).shape
    rows = span * shape[1] * shape[3] * spec(source).dtype.itemsize
    weight = spec(arguments(anchor)[1])
    return max(rows, math.prod(weight.shape) * weight.dtype.itemsize) <= _NEAR


def _joins(user: Node, last: Node, *, exact: bool, whole_words: bool) -> bool:
    if user.op != "call_function":
        return False
    if user.target is BITPACK:
        return whole_words
    if user.target not in ELEMENTWISE or (user.target in TO_INTEGERS and not exact):
        return False
    return spec(user).shape == spec(last).shape
