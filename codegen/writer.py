"""One kernel being written: its operands, its constants, and the value of each node at a point.

A kernel's parameters are pointers to the activations it reads, in the order of `Group.inputs`; to its
constants; to its results; then the batch size, and which part of its tasks to run, of how many. All
tasks are independent of one another, so that threads may share them out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from tvm import tirx
from tvm.ir import PointerType, PrimType
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as tb

from qcompile.codegen import expr as e
from qcompile.codegen import laps
from qcompile.codegen.constants import constant_from
from qcompile.codegen.expr import Expr
from qcompile.codegen.groups import BITPACK, Group
from qcompile.codegen.layout import DTYPES, Layout, is_outside, layout_of
from qcompile.codegen.machine import Machine
from qcompile.constants import ALIGNMENT, Constant
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
    """A function, and what it is called with.

    Attributes:
        function: gives 0, or -1 where there is no memory.
        constants: the values after the inputs.
        work: about how many scalar operations a sample takes.
        weights: the constant that is a layer's weights, if there is one.
    """

    function: Any
    constants: tuple[Constant, ...]
    work: int
    weights: Constant | None = None


class Writer:
    """Collects what one PrimFunc needs while a schedule writes its body.

    Attributes:
        n: the batch size, a symbol.
        part, parts: which part of the tasks to run, of how many; symbols.
        work: scalar operations of each sample, in the loops written so far.
        operands: what is read and written, by node.
        anchor: set by a schedule: the value of the group's first computation at a point.
        anchored: the node whose value that is: the group's anchor, unless a schedule says another.
    """

    def __init__(
        self,
        gm: GraphModule,
        group: Group,
        machine: Machine,
        rules: Mapping[object, Rule],
        *,
        timed: bool = False,
    ) -> None:
        """Begin a kernel; `timed` ones say where their cycles go."""
        self.gm, self.group, self.machine, self._rules = gm, group, machine, rules
        self._timed = timed
        self._counts = counts()
        self.n, self.part, self.parts = self._counts
        self.work = 0
        self.operands: dict[Node, Operand] = {}
        self.anchor: Callable[[Point], Expr] | None = None
        self.anchored = group.anchor
        self._flat = False
        self._constants: dict[object, tuple[Parameter, Constant]] = {}
        self._weights: Constant | None = None
        self._scalars: dict[float, int] = {}
        self._scalar_table: Parameter | None = None
        self._known: dict[tuple[Node, int], tuple[Point, Expr]] | None = None

    # --- operands and constants ------------------------------------------------------------------

    @property
    def out(self) -> Operand:
        """Where the only result of a group without followers goes."""
        (result,) = self.group.results
        return self.operands[result]

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

    def buffer(self, value: Tensor | Constant) -> Any:
        """A parameter that holds a constant, flat; the same for the same values."""
        constant = value if isinstance(value, Constant) else constant_from(value)
        if constant.key not in self._constants:
            parameter = Parameter(constant.dtype, max(constant.form.size, 1))
            self._constants[constant.key] = (parameter, constant)
        return self._constants[constant.key][0].buffer

    def weights(self, value: Constant) -> Any:
        """The same of a layer's weights."""
        self._weights = value
        return self.buffer(value)

    def constant(self, value: Tensor, index: Expr) -> Expr:
        return self.buffer(value)[index]

    def scalar(self, value: float) -> Expr:
        """A float32 that is read from memory, so that layers of one shape share their code."""
        if self._scalar_table is None:
            self._scalar_table = Parameter("float32", _SCALARS)
        at = self._scalars.setdefault(float(value), len(self._scalars))
        assert at < _SCALARS, self.group
        return self._scalar_table.buffer[at]

    def channel(self, node: Any, p: Point) -> Expr:
        """A constant `[C]` or `[1]` at the channels of a point."""
        value = self.tensor(node)
        return self.constant(value, p.channels if value.numel() > 1 else 0)

    # --- values ----------------------------------------------------------------------------------

    def read(self, value: Any, p: Point) -> Expr:
        """A node of the group, an operand, a constant or a number, at a point."""
        if isinstance(value, (int, float)):
            return e.number(float(value))
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
        """The only result at a point, to be stored by the caller; what is read twice is computed once."""
        (result,) = self.group.results
        self._known = {}
        found = e.keep(self.read(result, p))
        self._known = None
        return found

    def finish(self, p: Point) -> None:
        """Store the group's results at a point; at most 32 channels, of one word, where it packs.

        What is read twice is computed once: all code from here on is in one block.
        """
        self._known = {}
        for node in self.group.results:
            self._store(node, p)
        self._known = None

    def _store(self, node: Node, p: Point) -> None:
        if node.target is not BITPACK:
            self.operands[node].store(p, self.read(node, p))
            return
        level = self.read(node.args[0], p)
        low = level <= e.splat(e.const(0, e.dtype(level)), e.lanes(level))
        word = replace(p, channel=tirx.floordiv(p.channel, WORD), lanes=1)
        self.operands[node].store(word, e.bits_of(e.splat(low, p.lanes)))

    # --- the function ----------------------------------------------------------------------------

    def lap(self, part: int) -> None:
        """What was done since the last one is such a part of the work (`laps.PACK`, ...)."""
        if self._timed:
            laps.lap(part)

    def write(self, schedule: Callable[[Writer], None], *, flat: bool = False) -> Kernel:
        """Let a schedule write the body, and make a function of it."""
        self._flat, group = flat, self.group
        parameters = {}
        for node in (*group.inputs, *group.results):
            real, layout = layout_of(node), self.layout(node)
            alignment = 1 if is_outside(node) else ALIGNMENT
            parameters[node] = Parameter(real.dtype, self.n * layout.size, alignment)
            self.operands[node] = Operand(layout, parameters[node].buffer)
        with IRBuilder() as ib, tb.prim_func(s_tir=True):
            tb.func_name("kernel")
            if self._timed:
                laps.start()
            schedule(self)
            self.lap(laps.OTHER)
        self._keep_scalars()
        constants = list(self._constants.values())
        order = [parameters[node] for node in group.inputs]
        order += [parameter for parameter, _ in constants]
        order += [parameters[node] for node in group.results]
        function = function_of(order, self._counts, ib.get().body)
        values = tuple(constant for _, constant in constants)
        return Kernel(function, values, self.work, self._weights)

    def _keep_scalars(self) -> None:
        """Make a constant of the table of scalars, if there is one: all of them are known now."""
        if self._scalar_table is not None:
            table = torch.zeros(_SCALARS)
            table[: len(self._scalars)] = torch.tensor(list(self._scalars), dtype=torch.float32)
            self._constants["scalars"] = (self._scalar_table, constant_from(table))


class Parameter:
    """A pointer that a function is called with.

    Attributes:
        buffer: what it points to, flat.
    """

    def __init__(self, dtype: str, size: Any, alignment: int = ALIGNMENT) -> None:
        self.pointer = tirx.Var("data", PointerType(PrimType(dtype)))
        self.buffer = tirx.decl_buffer((size,), dtype)
        self.alignment = alignment


def counts() -> tuple[Any, Any, Any]:
    """The numbers that a kernel is called with: samples, part, parts."""
    n, part, parts = (tirx.Var(name, "int64") for name in ("n", "part", "parts"))
    return n, part, parts


def function_of(pointers: Sequence[Parameter], numbers: Sequence[Any], body: Any) -> Any:
    """A function, private to its library, of pointers to memory that does not overlap, and numbers."""
    body = tirx.SeqStmt([*(tirx.DeclBuffer(p.buffer, data=p.pointer) for p in pointers), body])
    for p in pointers:
        if p.alignment > 1:
            body = tirx.AttrStmt(p.pointer, "storage_alignment", p.alignment, body)
    parameters = [*(p.pointer for p in pointers), *numbers]
    function = tirx.PrimFunc(parameters, body, ret_type=PrimType("int32"))
    return function.with_attr({"tirx.noalias": True, "s_tir": True})


Rule = Callable[[Writer, Node, Point], Expr]
