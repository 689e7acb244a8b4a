"""A program's kernels, one by one, against the reference ops of the nodes that they compute."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from qcompile.codegen.layout import layout_of
from qcompile.errors import QCompileError
from qcompile.ir import ops
from qcompile.ir.graph import calls, constant_of, spec
from qcompile.program import Program
from qcompile.program_info import KernelInfo
from qcompile.verify_report import KernelReport, Mismatch

_UNPACKED = 1 << 24  # elements of a matrix that is made at once


def float_error(got: Tensor, expected: Tensor) -> tuple[float, float]:
    """Largest absolute error, and the same relative to max(1, largest finite expected value).

    Equal infinities and two NaN are no error; a NaN against a number is an infinite one.
    """
    if got.numel() == 0:
        return 0.0, 0.0
    same = (got == expected) | (got.isnan() & expected.isnan())
    difference = torch.where(same, 0.0, (got.double() - expected.double()).abs())
    error = float(torch.nan_to_num(difference, nan=torch.inf, posinf=torch.inf).amax())
    finite = torch.where(expected.isfinite(), expected, 0.0).abs()
    return error, error / max(1.0, float(finite.amax()))


@dataclass
class _Result:
    """A value that a kernel stores, and the nodes that lead to it from what is stored before."""

    info: KernelInfo
    nodes: tuple[Node, ...]
    equal: bool | None = None
    mismatch: Mismatch | None = None
    error: float | None = None
    relative: float = 0.0

    @property
    def node(self) -> Node:
        return self.nodes[-1]

    @property
    def exact(self) -> bool:
        """Whether no other float is right: those of a sample's range decide all of its levels."""
        return calls(self.node, torch.ops.qcompile.dynamic_qparams.default)

    def compare(self, got: Tensor, expected: Tensor, batch: int, start: int) -> None:
        if expected.dtype.is_floating_point:
            error, relative = float_error(got, expected)
            self.error = max(self.error or 0.0, error)
            self.relative = max(self.relative, relative)
            return
        wrong = got != expected
        count = int(wrong.sum())
        self.equal = (self.equal is not False) and count == 0
        if count and self.mismatch is None:
            at = tuple(int(i) for i in wrong.nonzero()[0])
            values = int(expected[at]), int(got[at])
            index = (at[0] + start, *at[1:])
            self.mismatch = Mismatch(batch, index, *values, count, wrong.numel())
        elif count and self.mismatch is not None:
            self.mismatch = self.mismatch.plus(count, wrong.numel())
        elif self.mismatch is not None:
            self.mismatch = self.mismatch.plus(0, wrong.numel())


class KernelChecker:
    """Runs one variant of a program on chunks of samples and keeps score of each kernel."""

    def __init__(self, program: Program, lowered: GraphModule, tolerance: float) -> None:
        """Find each kernel's nodes in the lowered graph.

        Raises:
            QCompileError: the lowered graph has not the nodes that the program's kernels name.
        """
        self._program = program
        self._tolerance = tolerance
        self._results = list(_results(program.variant.kernels, lowered))

    def run(self, reference: Reference, batch: int, start: int) -> Tensor:
        """Check every kernel on a chunk.

        Returns:
            bool `[N]`: the samples in which every integer is what the lowered graph has.
        """
        written = self._capture(reference.inputs)
        seen = reference.fresh()
        steady = torch.ones(reference.inputs[0].shape[0], dtype=torch.bool)
        for result in self._results:
            got = _logical(written[result.node.name], result.node)
            expected = wanted = reference.value(result.nodes)
            if not all(torch.equal(seen[n], reference.values[n]) for n in _outside(result.nodes)):
                expected = seen.compute(result.nodes)
            result.compare(got, expected, batch, start)
            seen.keep(result.node, got)
            if not got.dtype.is_floating_point:
                steady &= (got == wanted).flatten(1).all(1)
        return steady

    def _capture(self, inputs: Sequence[Tensor]) -> dict[str, Tensor]:
        """What the kernels stored, by the names of nodes, as it lies in memory."""
        parts: dict[str, list[Tensor]] = defaultdict(list)
        for some in zip(*(x.split(self._program.variant.samples) for x in inputs), strict=True):
            for _, run in self._program.steps(*some):
                for node, value in run().items():
                    parts[node].append(torch.from_numpy(value).clone())
        return {node: torch.cat(some) for node, some in parts.items()}

    def reports(self) -> Iterator[KernelReport]:
        """One row for each value that a kernel stores, in the order in which they run."""
        for result in self._results:
            yield KernelReport(
                layer=result.info.layer,
                kernel=result.info.name,
                nodes=tuple(node.name for node in result.nodes),
                equal=result.equal,
                mismatch=result.mismatch,
                max_error=result.error,
                ok=result.equal is not False
                and result.relative <= (0.0 if result.exact else self._tolerance),
            )


class Reference:
    """What the lowered graph itself gives for a chunk of samples; computed once for all variants.

    Attributes:
        inputs: the chunk.
        values: of its nodes, as far as they are known.
    """

    def __init__(self, lowered: GraphModule, inputs: Sequence[Tensor]) -> None:
        self._gm = lowered
        self.inputs = inputs
        self.values = self.fresh()

    def fresh(self) -> _Values:
        """Values that know the inputs alone."""
        placeholders = [n for n in self._gm.graph.nodes if n.op == "placeholder"]
        return _Values(self._gm, dict(zip(placeholders, self.inputs, strict=True)))

    def value(self, nodes: Sequence[Node]) -> Tensor:
        """The last node's value; all that they read from outside must be known."""
        if not self.values.has(nodes[-1]):
            self.values.keep(nodes[-1], self.values.compute(nodes))
        return self.values[nodes[-1]]

    def results(self) -> tuple[Tensor, ...]:
        """What the graph returns; its kernels' values must be known."""
        result = self._gm.graph.output_node().args[0]
        nodes = (result,) if isinstance(result, Node) else tuple(result)  # type: ignore[arg-type]
        return tuple(self.values[n] for n in nodes)


def _results(kernels: Sequence[KernelInfo], lowered: GraphModule) -> Iterator[_Result]:
    """What each kernel stores, in the order in which it is compared.

    Raises:
        QCompileError: the graph has not the nodes that the kernels name.
    """
    nodes = {node.name: node for node in lowered.graph.nodes}
    for info in kernels:
        if not info.nodes and not info.results:  # a copy of a value that is stored already
            continue
        stored = [value.node for value in info.results]
        if not stored or not nodes.keys() >= {*info.nodes, *stored}:
            raise QCompileError(
                f"kernel {info.name} computes {', '.join(info.nodes) or 'nothing'}, which the "
                "lowered graph does not have",
                hint="compile the program with the version of qcompile that verifies it",
            )
        own = [nodes[name] for name in info.nodes]
        known: set[Node] = set()
        for value in info.results:
            yield _Result(info, tuple(_leading(nodes[value.node], own, known)))
            known.add(nodes[value.node])


def _leading(result: Node, own: Sequence[Node], known: set[Node]) -> list[Node]:
    """The nodes of a kernel that a value is computed by, from what is known; in their order."""
    needed, waiting = {result}, [result]
    while waiting:
        for source in waiting.pop().all_input_nodes:
            if source in own and source not in known and source not in needed:
                needed.add(source)
                waiting.append(source)
    return [node for node in own if node in needed]


def _logical(memory: Tensor, node: Node) -> Tensor:
    """A value as torch has it, from how it lies in memory."""
    shape, layout = spec(node).shape, layout_of(node)
    physical = memory.view(spec(node).dtype).reshape(-1, *layout.shape)
    if len(shape) > 2 and not layout.packed and not layout.torch_order:
        return physical.movedim(-1, 1)
    return physical


class _Values:
    """Values of nodes: those kept, constants, and views of them computed on demand."""

    def __init__(self, gm: GraphModule, kept: dict[Node, Tensor]) -> None:
        self._gm = gm
        self._kept = kept

    def has(self, node: Node) -> bool:
        return node in self._kept

    def keep(self, node: Node, value: Tensor) -> None:
        self._kept[node] = value

    def __getitem__(self, node: Node) -> Tensor:
        if node in self._kept:
            return self._kept[node]
        constant = constant_of(self._gm, node)
        return self._call(node, self) if constant is None else constant

    def compute(self, nodes: Sequence[Node]) -> Tensor:
        """The last node's value, by the reference ops, from what is known outside of the nodes."""
        inside = _Values(self._gm, dict(self._kept))
        for node in nodes:
            inside.keep(node, self._call(node, inside))
        return inside[nodes[-1]]

    def _call(self, node: Node, values: _Values) -> Tensor:
        assert callable(node.target), node
        function = _FAST.get(node.target, node.target)
        with torch.no_grad():
            return function(
                *map_arg(node.args, lambda n: values[n]),
                **map_arg(node.kwargs, lambda n: values[n]),
            )


def _outside(nodes: Sequence[Node]) -> list[Node]:
    """The activations that a group of nodes reads."""
    read = dict.fromkeys(n for node in nodes for n in node.all_input_nodes)
    return [n for n in read if n not in nodes and n.op != "get_attr"]


# --- references that are faster than their definition, and equal ---------------------------------


def _signs(words: Tensor) -> Tensor:
    """±1 float32 `[..., V * 32]` of int32 words `[..., V]`: +1 for bit 0."""
    bits = np.unpackbits(words.contiguous().numpy().view(np.uint8), axis=-1, bitorder="little")
    return 1 - 2 * torch.from_numpy(bits).to(torch.float32)


def xnor_matmul(bits: Tensor, weight: Tensor, k: int, groups: int) -> Tensor:
    """`ops.xnor_matmul` as a matrix product: bits past the last are 0 on both sides, each adds 1."""
    spare = weight.shape[1] * ops.WORD - k
    rows = bits.shape[0] * _UNPACKED // max(1, bits.numel() * ops.WORD)
    out = []
    for chunk in bits.split(max(1, rows)):
        pairs = zip(chunk.chunk(groups, -1), weight.chunk(groups), strict=True)
        # Below 2^24 a sum of ±1 is exact in float32.
        products = [_signs(x) @ _signs(w).T - spare for x, w in pairs]
        out.append(torch.cat(products, -1).movedim(-1, 1).to(torch.int32))
    return torch.cat(out).contiguous()


def bitpack(levels: Tensor) -> Tensor:
    """`ops.bitpack` by numpy."""
    low = (levels <= 0).movedim(1, -1)
    low = torch.nn.functional.pad(low, [0, -low.shape[-1] % ops.WORD])
    packed = np.packbits(low.numpy(), axis=-1, bitorder="little")
    packed = np.ascontiguousarray(packed)  # numpy keeps the order of a matrix that is transposed
    return torch.from_numpy(packed.view("<i4").astype(np.int32, copy=False))


_FAST: dict[Any, Callable[..., Any]] = {
    torch.ops.qcompile.bitpack.default: bitpack,
    torch.ops.qcompile.xnor_matmul.default: xnor_matmul,
}
