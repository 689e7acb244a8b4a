"""Fusion: which nodes of the lowered graph one kernel computes.

An anchor (a convolution, a pooling, ...) takes with it the elementwise nodes that follow, all their
branches, and bitpacks at the ends. What other kernels read of it is stored: so a kernel may give the
float value that a residual sum reads, and its packed signs.

    im2col -> xnor_matmul -> scale_shift -> add -> relu       one group, one result
                                             \\-> sign -> bitpack   the same group, a second result

Signs and levels of an inexact value are taken from what is stored: the value is a result then too.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch.fx import GraphModule, Node

from qcompile.codegen.groups import (
    BITPACK,
    CONTRACTIONS,
    ELEMENTWISE,
    FLATTEN,
    FOLLOWED,
    INEXACT,
    MOVES,
    POOLS,
    REDUCTIONS,
    SAMPLE_RANGE,
    SOFTMAXES,
    TO_INTEGERS,
    Group,
    activations,
    arguments,
    groups_of,
    pads_channels,
    sizes,
    whole,
)
from qcompile.errors import QCompileError
from qcompile.ir.graph import spec, where
from qcompile.ir.ops import WORD

_aten, _dialect = torch.ops.aten, torch.ops.qcompile
_ROW_POOLS = frozenset({_aten.max_pool2d.default, _aten.avg_pool2d.default})
_NEAR = 1 << 17  # bytes that stay in a core's second cache beside others
_QUANTIZERS = 4  # in a kernel, which has a small table of scalars


def form(gm: GraphModule, *, pools: bool = True) -> list[Group]:
    """Cut the graph into groups, in the order in which they can run. Views (flatten) are none.

    Args:
        pools: whether one kernel may compute a contraction and the pooling of its rows.

    Raises:
        QCompileError: an op that no kernel computes.
    """
    forming = _Forming(pools)
    for node in gm.graph.nodes:
        if node.op == "call_function" and node not in forming.of and node.target is not FLATTEN:
            forming.start(node)
    return _in_order(gm, [_finished(group) for group in forming.groups])


class _Growing:
    """A group while nodes join it."""

    def __init__(self, anchor: Node) -> None:
        self.anchor = anchor
        self.nodes: dict[Node, None] = {}
        self.shown: set[Node] = set()  # inexact values that signs or levels are taken from

    @property
    def pool(self) -> Node | None:
        """The pooling of a contraction's result."""
        return next((n for n in self.nodes if n is not self.anchor and n.target in POOLS), None)


class _Forming:
    """Groups while they form.

    Attributes:
        of: the group of each node that has one.
    """

    def __init__(self, pools: bool) -> None:
        self._pools = pools
        self.groups: list[_Growing] = []
        self.of: dict[Node, _Growing] = {}

    def start(self, node: Node) -> None:
        """Form the group that begins with a node."""
        anchor = node
        if node.target is _dialect.im2col.default and len(node.users) == 1:
            user = next(iter(node.users))
            anchor = user if user.target is _dialect.xnor_matmul.default else node
        if anchor.target not in FOLLOWED | SOFTMAXES | MOVES | {BITPACK, SAMPLE_RANGE}:
            raise QCompileError(
                f"no kernel for {anchor.target}",
                where=where(node),
                hint=f"supported: {', '.join(sorted(map(str, FOLLOWED | SOFTMAXES | MOVES)))}",
            )
        group = _Growing(anchor)
        self.groups.append(group)
        for one in dict.fromkeys((node, anchor)):
            self._add(group, one)
        if anchor.target in FOLLOWED and anchor.target is not _dialect.bit_maxpool.default:
            self._follow(group, anchor)

    def _add(self, group: _Growing, node: Node) -> None:
        group.nodes[node] = None
        self.of[node] = group

    def _follow(self, group: _Growing, anchor: Node) -> None:
        """Let everything join that can, nearest first."""
        waiting = list(anchor.users)
        while waiting:
            user = waiting.pop(0)
            if user in self.of or not self._joins(group, user):
                continue
            self._add(group, user)
            waiting += user.users

    def _joins(self, group: _Growing, user: Node) -> bool:
        if user.op != "call_function":
            return False
        if self._pools and _pools_rows(group, user):
            return True
        if user.target is BITPACK:
            return _fills_words(group.anchor)
        if user.target not in ELEMENTWISE:
            return False
        if spec(user).shape != spec(group.pool or group.anchor).shape:
            return False
        if any(self._needs(v, group) for v in activations(user) if v not in group.nodes):
            return False
        if user.target in TO_INTEGERS:
            if sum(n.target in TO_INTEGERS for n in group.nodes) == _QUANTIZERS:
                return False
            group.shown |= _inexact(group, user)
        return True

    def _needs(self, value: Node, group: _Growing) -> bool:
        """Whether a value is computed, however indirectly, from what the group computes."""
        seen: set[Node] = set()
        waiting = [value]
        while waiting:
            node = waiting.pop()
            if node in seen:
                continue
            if self.of.get(node) is group:
                return True
            own = self.of[node].nodes if node in self.of else (node,)
            seen.update(own)
            waiting += [source for one in own for source in activations(one)]
        return False


def _inexact(group: _Growing, quantizer: Node) -> set[Node]:
    """Values of the group that must be seen, so that exact ops alone lead from them to a quantizer."""
    inexact: set[Node] = set()
    for node in group.nodes:
        exact = _is_exact(node) and inexact.isdisjoint(activations(node))
        if not exact and node not in group.shown:
            inexact.add(node)
    found: set[Node] = set()
    waiting = [value for value in activations(quantizer) if value in inexact]
    while waiting:
        node = waiting.pop()
        others = [user for user in node.users if user is not quantizer]
        stored = any(user not in group.nodes for user in others) or node is group.pool
        if stored or len(activations(node)) > 1 or not _is_exact(node):
            found.add(node)
        else:
            waiting += activations(node)
    return found


def _pools_rows(group: _Growing, pool: Node) -> bool:
    """Whether a pooling takes a contraction's rows as they come, a few at a time.

    The weights are read anew for each row, and the rows of a window wait: both from a near cache.
    Nothing else may read the rows.
    """
    anchor = group.anchor
    if pool.target not in _ROW_POOLS or anchor.target not in CONTRACTIONS or group.pool:
        return False
    if groups_of(anchor) > 1 or len(spec(pool).shape) != 4:
        return False
    if group.shown or any(len(node.users) > 1 for node in group.nodes):
        return False
    source, kernel = arguments(pool)[:2]
    dilation = sizes(arguments(pool)[4], 2)[0] if pool.target is _aten.max_pool2d.default else 1
    span = dilation * (sizes(kernel, 2)[0] - 1) + 1
    shape = spec(source).shape
    if math.prod(shape[2:]) == 1:
        return False
    rows = span * shape[1] * shape[3] * spec(source).dtype.itemsize
    weight = spec(arguments(anchor)[1])
    return max(rows, math.prod(weight.shape) * weight.dtype.itemsize) <= _NEAR


def _is_stored(group: _Growing, node: Node) -> bool:
    return node in group.shown or any(user not in group.nodes for user in node.users)


def _finished(group: _Growing) -> Group:
    nodes = tuple(group.nodes)
    return Group(nodes, group.anchor, tuple(n for n in nodes if _is_stored(group, n)))


def _is_exact(node: Node) -> bool:
    if node.target in (_aten.add.Tensor, _aten.sub.Tensor, _aten.add.Scalar):
        return bool(arguments(node)[2] == 1)  # torch multiplies with alpha by a fused multiply-add
    return node.target not in INEXACT


def _fills_words(anchor: Node) -> bool:
    """Whether signs come in vectors of one word each, none of two groups of a grouped convolution."""
    if pads_channels(anchor):
        return False
    if anchor.target in REDUCTIONS:
        rank, dims = len(spec(activations(anchor)[0]).shape), arguments(anchor)[1]
        return bool(dims) and all(d % rank != 1 for d in dims)
    groups = groups_of(anchor)
    return groups == 1 or spec(anchor).shape[1] // groups % WORD == 0


def _in_order(gm: GraphModule, groups: Iterable[Group]) -> list[Group]:
    """The groups so that each comes after those that it reads; else in the order of their ends."""
    place = {node: i for i, node in enumerate(gm.graph.nodes)}
    of = {node: group for group in groups for node in group.nodes}
    done: dict[Node, Group] = {}

    def visit(group: Group) -> None:
        if group.anchor in done:
            return
        for source in (of[v] for v in map(whole, group.inputs) if v in of):
            visit(source)
        done[group.anchor] = group

    for group in sorted(dict.fromkeys(of.values()), key=lambda g: place[g.nodes[-1]]):
        visit(group)
    return list(done.values())
