"""Where the values between kernels lie: a plan of one workspace, made when the network is compiled.

A workspace holds the values of so many samples at once; larger batches are run in parts of that
many. So its size is known, whatever the batch, and what a part leaves behind is still in the cache
when the next kernel reads it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch.fx import GraphModule, Node

from qcompile.codegen.groups import Group, whole
from qcompile.codegen.layout import layout_of
from qcompile.constants import ALIGNMENT
from qcompile.errors import QCompileError
from qcompile.ir.graph import where

_CACHED = 1 << 18  # bytes of values: about what a core's second cache keeps, beside weights
_FULL = 1 << 20  # bytes of values of one sample that leave no room for another's
_MOST = 64  # samples at once


@dataclass(frozen=True)
class Place:
    """Where a value lies.

    Attributes:
        kind: "input" or "output", of the program, or "workspace".
        at: number of the input or output, or the first byte in the workspace.
        size: bytes of a sample.
    """

    kind: str
    at: int
    size: int


@dataclass(frozen=True)
class Plan:
    """Where all values of a network lie.

    Attributes:
        places: of inputs and of all that kernels store, views left out.
        copies: outputs that are memory of another value: (value, number of the output).
        workspace: bytes that a thread needs.
        samples: how many of them are run at once.
    """

    places: Mapping[Node, Place]
    copies: tuple[tuple[Node, int], ...]
    workspace: int
    samples: int

    def place(self, node: Node) -> Place:
        """Where a value, or what it is a view of, lies."""
        return self.places[whole(node)]


def plan(gm: GraphModule, groups: Sequence[Group]) -> Plan:
    """Place every value.

    Raises:
        QCompileError: the network returns something that it does not compute.
    """
    places, copies = _outside(gm)
    inner = {node: span for node, span in _spans(groups).items() if node not in places}
    offsets, size = _offsets({n: (sample_bytes(n), span) for n, span in inner.items()})
    # Weights are read once for all of them: more are worth it where there are more weights. Not where
    # one fills the cache: then others drive its values out, and weights are fetched ahead anyway.
    budget = max(_CACHED, sum(tensor.nbytes for tensor in gm.buffers()))
    samples = 1 if size > _FULL else max(1, min(_MOST, budget // max(1, size)))
    offsets, size = _offsets({n: (samples * sample_bytes(n), s) for n, s in inner.items()})
    places |= {n: Place("workspace", at, sample_bytes(n)) for n, at in offsets.items()}
    return Plan(places, copies, size, samples)


def plan_by_sample(gm: GraphModule, groups: Sequence[Group], alignment: int) -> Plan:
    """Place every value of one sample; where n samples are run, all offsets and sizes are n times that.

    Args:
        alignment: of each place, in bytes.

    Raises:
        QCompileError: the network returns something that it does not compute.
    """
    places, copies = _outside(gm)
    inner = {node: span for node, span in _spans(groups).items() if node not in places}
    sizes = {n: (sample_bytes(n), span) for n, span in inner.items()}
    offsets, size = _offsets(sizes, alignment)
    places |= {n: Place("workspace", at, sample_bytes(n)) for n, at in offsets.items()}
    return Plan(places, copies, size, 1)


def _outside(gm: GraphModule) -> tuple[dict[Node, Place], tuple[tuple[Node, int], ...]]:
    """The places of inputs and outputs; and outputs that are memory of another value."""
    places = {
        node: Place("input", i, sample_bytes(node))
        for i, node in enumerate(gm.graph.find_nodes(op="placeholder"))
    }
    copies = []
    for i, node in enumerate(returned(gm)):
        source = whole(node)
        if source in places:
            copies.append((source, i))
        else:
            places[source] = Place("output", i, sample_bytes(source))
    return places, tuple(copies)


def returned(gm: GraphModule) -> list[Node]:
    """What the network returns.

    Raises:
        QCompileError: something else than computed values.
    """
    output = gm.graph.output_node()
    values = output.args[0]
    nodes = list(values) if isinstance(values, (tuple, list)) else [values]
    if not all(isinstance(n, Node) and n.op in ("placeholder", "call_function") for n in nodes):
        raise QCompileError(
            f"the network returns {values}",
            where=where(output),
            hint="a network returns one computed tensor, or a tuple of them",
        )
    return nodes  # type: ignore[return-value]


def sample_bytes(node: Node) -> int:
    """Bytes of one sample of a value."""
    return layout_of(node).bytes


def _spans(groups: Sequence[Group]) -> dict[Node, tuple[int, int]]:
    """For each stored value: which kernel writes it, and which reads it last."""
    spans: dict[Node, tuple[int, int]] = {}
    for i, group in enumerate(groups):
        for node in map(whole, group.inputs):
            if node in spans:
                spans[node] = (spans[node][0], i)
        spans |= dict.fromkeys(group.results, (i, i))
    return spans


def _offsets(
    values: Mapping[Node, tuple[int, tuple[int, int]]], alignment: int = ALIGNMENT
) -> tuple[dict[Node, int], int]:
    """The first byte of each value, the largest placed first; and how many bytes that makes.

    Two values may share bytes if one is read for the last time before the other is written.
    """
    placed: list[tuple[int, int, tuple[int, int]]] = []
    offsets: dict[Node, int] = {}
    for node, (size, (first, last)) in sorted(values.items(), key=lambda v: -v[1][0]):
        at = 0
        for start, end, (begin, until) in sorted(placed):
            alive = begin <= last and first <= until
            if alive and start < at + size:
                at = max(at, end)
        end = at + -(-size // alignment) * alignment
        placed.append((at, end, (first, last)))
        offsets[node] = at
    return offsets, max((end for _, end, _ in placed), default=0)
