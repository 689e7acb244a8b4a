"""One kernel being written: its operands, its constants, and the value of each node at a point.

A kernel's parameters are the activations it reads, in the order of `Writer.inputs`; then its
constants; then its result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as tb

from qcompile.codegen import expr as e
from qcompile.codegen.expr import Expr
from qcompile.codegen.groups import Group
from qcompile.codegen.layout import DTYPES, Layout, layout_of
from qcompile.codegen.machine import Machine
from qcompile.errors import QCompileError
from qcompile.ir.graph import constant_of, where
from qcompile.ir.ops import WORD

_SCALARS = 16  # a kernel's table of scalars has room for that many
CHANNEL = -1


@dataclass(frozen=True)
class Point:
    """Where a value is computed: `lanes` neighbours along one dimension, from an element on.

    Attributes:
        n: index of the sample.
        spatial: index in each spatial dimension.
        channel: first channel.
        lanes: how many elements.
        axis: along which dimension they lie: CHANNEL, or the number of a spatial one.
    """

    n: Expr
    spatial: tuple[Expr, ...]
    channel: Expr
    lanes: int = 1
    axis: int = CHANNEL

    @property
    def channels(self) -> Expr:
        """The channels as an index: a vector along the channels, else a scalar."""
        return e.ramp(self.channel, 1, self.lanes) if self.axis == CHANNEL else self.channel


@dataclass(frozen=True)
class Operand:
    """A value in memory; `flat` is its buffer, seen as one dimension."""

    layout: Layout
    flat: Any

    def index(self, p: Point) -> Expr:
        layout = self.layout
        spatial, channel = layout.strides
        at = p.n * layout.size
        sizes = (*layout.spatial, layout.channels)
        strides = [s if size > 1 else 0 for s, size in zip((*spatial, channel), sizes, strict=True)]
        for index, stride in zip((*p.spatial, p.channel), strides, strict=True):
            at = at + index * stride if stride else at
        return e.ramp(at, strides[p.axis], p.lanes) if strides[p.axis] else at

    def load(self, p: Point) -> Expr:
        """The elements at a point; one for all lanes in a dimension of size 1 (broadcasting)."""
        return self.flat[self.index(p)]

    def store(self, p: Point, value: Expr) -> None:
        tb.buffer_store(self.flat, e.splat(value, p.lanes), [self.index(p)])


@dataclass(frozen=True)
class Kernel:
    """A function and the constants that it is called with, after its inputs."""

    function: Any
    constants: tuple[np.ndarray[Any, Any], ...]


class Writer:
    """Collects what one PrimFunc needs while a schedule writes its body.

    Attributes:
        n: the batch size, a symbol.
        out: where the result goes.
        anchor: set by a schedule: the value of the group's first computation at a point.
        anchored: the node whose value that is: the group's anchor, unless a schedule says another.
    """

    def __init__(
        self, gm: GraphModule, group: Group, machine: Machine, rules: Mapping[object, Rule]
    ) -> None:
        self.gm, self.group, self.machine, self._rules = gm, group, machine, rules
        self.n = tirx.Var("n", "int64")
        self.anchor: Callable[[Point], Expr] | None = None
        self.anchored = group.anchor
        self._flat = False
        self._constants: dict[object, tuple[Any, Tensor]] = {}
        self._scalars: dict[float, int] = {}
        self._scalar_buffer: Any = None
        self._known: dict[tuple[Node, int], tuple[Point, Expr]] | None = None

    # --- operands and constants ------------------------------------------------------------------

    def layout(self, node: Node) -> Layout:
        """Where a node's value lies, as this kernel sees it."""
        layout = layout_of(node)
        if not self._flat:
            return layout
        return replace(layout, spatial=(), channels=layout.size, torch_order=False)

    def tensor(self, node: Any) -> Tensor:
        """The constant that a get_attr node reads."""
        value = constant_of(self.gm, node)
        assert value is not None, f"{node} is no constant"
        return value.detach()

    def buffer(self, value: Tensor) -> Any:
        """A parameter that holds a constant, flat; the same for the same values."""
        value = value.contiguous()
        key = (value.dtype, value.numel(), value.numpy().tobytes())
        if key not in self._constants:
            shape = (max(value.numel(), 1),)
            self._constants[key] = (tb.buffer(shape, DTYPES[value.dtype]), value.reshape(-1))
        return self._constants[key][0]

    def constant(self, value: Tensor, index: Expr) -> Expr:
        return self.buffer(value)[index]

    def scalar(self, value: float) -> Expr:
        """A float32 that is read from memory, so that layers of one shape share their code."""
        if self._scalar_buffer is None:
            self._scalar_buffer = tb.buffer((_SCALARS,), "float32")
        # A quantizer, of two scalars, ends a chain of floats: a kernel has few.
        at = self._scalars.setdefault(float(value), len(self._scalars))
        assert at < _SCALARS, self.group
        return self._scalar_buffer[at]

    def channel(self, node: Any, p: Point) -> Expr:
        """A constant `[C]` or `[1]` at the channels of a point."""
        value = self.tensor(node)
        return self.constant(value, p.channels if value.numel() > 1 else 0)

    # --- values ----------------------------------------------------------------------------------

    def read(self, value: Any, p: Point) -> Expr:
        """A node of the group, an operand, a constant or a number, at a point."""
        if isinstance(value, (int, float)):
            return e.const(float(value), "float32")
        if value.op == "get_attr":
            return self._broadcast(value, p)
        if value not in self.group.nodes:
            return self.operands[value].load(p)
        key = (value, id(p))
        if self._known is not None and key in self._known:
            return self._known[key][1]
        if value is self.anchored and self.anchor is not None:
            found = e.keep(self.anchor(p))
        else:
            found = e.keep(self._rules[value.target](self, value, p))
        if self._known is not None:
            self._known[key] = (
                p,
                found,
            )  # the point with it: as long as it lives, its id is its own
        return found

    def _broadcast(self, node: Node, p: Point) -> Expr:
        value = self.tensor(node)
        rank = len(p.spatial) + 2
        value = value.reshape(*[1] * (rank - value.dim()), *value.shape)
        if value.shape[0] != 1:
            raise QCompileError(
                f"a constant of shape {tuple(value.shape)} has a batch of its own",
                where=where(node),
            )
        layout = Layout(tuple(value.shape[2:]), value.shape[1], DTYPES[value.dtype], rank=rank)
        lying = value.movedim(1, -1).contiguous()
        return Operand(layout, self.buffer(lying)).load(replace(p, n=0))

    def value(self, p: Point) -> Expr:
        """The group's result at a point, to be stored by the caller; what is read twice is computed once."""
        self._known = {}
        found = e.keep(self.read(self.group.result, p))
        self._known = None
        return found

    def finish(self, p: Point) -> None:
        """Store the group's result at a point; at most 32 channels, of one word, where it packs.

        What is read twice is computed once: all code from here on is in one block.
        """
        self._known = {}
        self._store(p)
        self._known = None

    def _store(self, p: Point) -> None:
        if not self.group.packs:
            self.out.store(p, self.read(self.group.result, p))
            return
        level = self.read(self.group.result.args[0], p)
        low = level <= e.splat(e.const(0, e.dtype(level)), e.lanes(level))
        word = replace(p, channel=tirx.floordiv(p.channel, WORD), lanes=1)
        self.out.store(word, e.bits_of(e.splat(low, p.lanes)))

    # --- the function ----------------------------------------------------------------------------

    def write(self, schedule: Callable[[Writer], None], *, flat: bool = False) -> Kernel:
        """Let a schedule write the body, and make a function of it."""
        self._flat = flat
        with IRBuilder() as ib, tb.prim_func(s_tir=True):
            tb.func_name("kernel")
            tb.func_attr({"tirx.noalias": True})
            parameters = []
            self.operands: dict[Node, Operand] = {}
            for node in (*self.group.inputs, self.group.result):
                real, layout = layout_of(node), self.layout(node)
                buffer = tb.buffer((self.n, *real.shape), real.dtype)
                view = tb.decl_buffer((self.n * layout.size,), real.dtype, data=buffer.data)
                parameters.append(buffer)
                self.operands[node] = Operand(layout, view)
            self.out = self.operands.pop(self.group.result)
            schedule(self)
        if self._scalars:
            table = torch.zeros(_SCALARS)
            table[: len(self._scalars)] = torch.tensor(list(self._scalars), dtype=torch.float32)
            self._constants["scalars"] = (self._scalar_buffer, table)
        constants = list(self._constants.values())
        parameters[-1:-1] = [buffer for buffer, _ in constants]
        written = ib.get()
        function = tirx.PrimFunc(parameters, written.body, attrs=written.attrs)
        return Kernel(function, tuple(value.numpy() for _, value in constants))


Rule = Callable[[Writer, Node, Point], Expr]
