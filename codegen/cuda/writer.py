"""A kernel for GPUs being written: a Writer whose points are single elements, one thread each.

A kernel's parameters are pointers to the activations it reads, in the order of `Group.inputs`; to its
constants; to its results; to its scratch memory; then the batch size. It is one launch or several:
one after another (partial sums, then their total), or alternatives for small and large batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as tb

from qcompile.codegen import expr as e
from qcompile.codegen.expr import Expr
from qcompile.codegen.groups import BITPACK
from qcompile.codegen.layout import layout_of
from qcompile.codegen.writer import Operand, Parameter, Point, Writer
from qcompile.constants import Constant
from qcompile.ir.ops import WORD

WARP = 32  # threads
MOST_BLOCKS = 65535  # along y or z
ALL_LANES = 0xFFFFFFFF


@dataclass(frozen=True)
class Grid:
    """The blocks of a launch, and their threads.

    Attributes:
        items: pieces of work of a sample.
        per_block: how many of a batch's a block does: there are ceil(n * items / per_block) blocks
            along x.
        y, z: blocks along the other axes.
        threads: of a block, a multiple of 32.
    """

    items: int
    per_block: int
    y: int = 1
    z: int = 1
    threads: int = 128


@dataclass(frozen=True)
class Here:
    """Which thread this is: indices of its block, and its own in the block."""

    x: Expr
    y: Expr
    z: Expr
    thread: Expr


@dataclass(frozen=True)
class Part:
    """One launch: its schedule, and for which batches it runs; `most` of 0 is no limit."""

    schedule: Callable[[CudaWriter], None]
    least: int = 1
    most: int = 0


@dataclass(frozen=True)
class Code:
    """A function of a launch; `function` has the kernel's parameters."""

    function: Any
    grid: Grid
    least: int
    most: int


@dataclass(frozen=True)
class CudaKernel:
    """Launches, and what they are called with.

    Attributes:
        constants: the values after the inputs.
        scratch: bytes of a sample of each scratch memory.
        weights: the constant that is a layer's weights, if there is one.
        method: how it is computed, where there was a choice: in a few words.
        kind: what the arithmetic is, if not the group's.
    """

    codes: tuple[Code, ...]
    constants: tuple[Constant, ...]
    scratch: tuple[int, ...] = ()
    weights: Constant | None = None
    method: str = ""
    kind: str = ""


class CudaWriter(Writer):
    """Collects what the launches of a kernel need while schedules write their bodies.

    Attributes:
        n: the batch size, a symbol, int32.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.n = tirx.Var("n", "int32")
        self._grid: Grid | None = None
        self._here: Here | None = None
        self._scratch: dict[str, Parameter] = {}

    # --- inside a schedule -----------------------------------------------------------------------

    @contextmanager
    def launch(self, grid: Grid) -> Iterator[Here]:
        """Open the only launch of this schedule."""
        assert self._grid is None, f"two launches of {self.group.anchor} in one schedule"
        self._grid = grid
        with threads_of(grid, self.n) as self._here:
            yield self._here

    def shared(self, size: int, dtype: str) -> Any:
        """Memory that the threads of a block share, aligned to 64 bytes; its content is undefined."""
        return tb.alloc_buffer((size,), dtype, scope="shared")

    def registers(self, size: int, dtype: str) -> Any:
        """Memory of this thread; registers, where each index is known when it is compiled."""
        return tb.alloc_buffer((size,), dtype, scope="local")

    def barrier(self) -> None:
        """Wait for all threads of the block; all of them must come here."""
        self.device("__syncthreads")

    def device(self, name: str, *args: Expr) -> None:
        """Call a device function for what it does."""
        tb.evaluate(tirx.call_extern("void", name, *args))

    def value_of(self, name: str, dtype: str, *args: Expr) -> Expr:
        """Call a device function here, once, and keep what it gives."""
        return e.keep(tirx.call_extern(dtype, name, *args))

    def votes(self, condition: Expr) -> Expr:
        """An int32 whose bit i is the condition of lane i of the warp; all lanes come here."""
        lanes = e.const(ALL_LANES, "uint32")
        return e.cast(self.value_of("__ballot_sync", "uint32", lanes, condition), "int32")

    def scratch(self, name: str) -> Any:
        """Memory in which the launches of this kernel pass values on, flat: `[n, elements]`."""
        return self._scratch[name].buffer

    def finish(self, p: Point, valid: Expr | None = None) -> None:
        """Store the group's results at a point.

        Args:
            p: inside of the results even where it is not valid: it is read there.
            valid: whether this thread stores; None: it does. Where the group packs, the lanes of a
                warp are 32 consecutive channels of one pixel, the first a multiple of 32, and all of
                them come here; lane 0 is valid where any is.
        """
        values = []
        self._known = {}
        for node in self.group.results:
            values.append(
                self._word(node, p, valid) if node.target is BITPACK else self.read(node, p)
            )
        self._known = None
        for node, value in zip(self.group.results, values, strict=True):
            packed = node.target is BITPACK
            conditions = [] if valid is None else [valid]
            conditions += [tirx.EQ(self._lane(), 0)] if packed else []
            with _only_if(conditions):
                at = Point(p.n, p.spatial, tirx.floordiv(p.channel, WORD)) if packed else p
                self.operands[node].store(at, value)

    def bits(self, p: Point, valid: Expr) -> list[Expr]:
        """Store the group's results at a point but for those that are packed.

        Returns:
            of each of these, whether it is 1 there; it is not where the point is not valid.
        """
        self._known = {}
        values = [
            self._bit(node, p, valid) if node.target is BITPACK else self.read(node, p)
            for node in self.group.results
        ]
        self._known = None
        found = []
        for node, value in zip(self.group.results, values, strict=True):
            if node.target is BITPACK:
                found.append(value)
                continue
            with _only_if([valid]):
                self.operands[node].store(p, value)
        return found

    def _bit(self, node: Node, p: Point, valid: Expr | None) -> Expr:
        """Whether a packed bit is 1."""
        level = self.read(node.args[0], p)
        low = level <= e.const(0, e.dtype(level))
        return low if valid is None else tirx.all(valid, low)

    def _word(self, node: Node, p: Point, valid: Expr | None) -> Expr:
        """The signs of a warp's channels."""
        return self.votes(self._bit(node, p, valid))

    def _lane(self) -> Expr:
        assert self._here is not None
        return tirx.floormod(self._here.thread, WARP)

    # --- the kernel ------------------------------------------------------------------------------

    def kernel(
        self,
        *parts: Part,
        flat: bool = False,
        scratch: Mapping[str, tuple[str, int]] | None = None,
        method: str = "",
    ) -> CudaKernel:
        """Let schedules write the bodies, and make functions of them.

        Args:
            flat: see values as one dimension a sample.
            scratch: element type, and elements of a sample, of what `scratch` gives.
        """
        self._flat, group = flat, self.group
        parameters = {}
        for node in (*group.inputs, *group.results):
            layout = self.layout(node)
            parameters[node] = Parameter(layout_of(node).dtype, self.n * layout.size)
            self.operands[node] = Operand(layout, parameters[node].buffer)
        memory = scratch or {}
        self._scratch = {k: Parameter(t, self.n * size) for k, (t, size) in memory.items()}
        bodies = [self._body(part) for part in parts]
        self._keep_scalars()
        constants = list(self._constants.values())
        order = [parameters[node] for node in group.inputs]
        order += [parameter for parameter, _ in constants]
        order += [parameters[node] for node in group.results]
        order += self._scratch.values()
        codes = [
            Code(function_of(order, self.n, body), grid, part.least, part.most)
            for part, (body, grid) in zip(parts, bodies, strict=True)
        ]
        sizes = [elements * _itemsize(dtype) for dtype, elements in memory.values()]
        values = tuple(constant for _, constant in constants)
        return CudaKernel(tuple(codes), values, tuple(sizes), self._weights, method)

    def _body(self, part: Part) -> tuple[Any, Grid]:
        self._grid = None
        with e.speaking(e.CUDA), IRBuilder() as ib, tb.prim_func(s_tir=True):
            tb.func_name("kernel")
            part.schedule(self)
        grid = self._grid
        assert grid is not None, f"{self.group.anchor} is never launched"
        self.anchor = None
        return ib.get().body, grid


@contextmanager
def threads_of(grid: Grid, n: Expr) -> Iterator[Here]:
    """Bind the indices of blocks and threads, for a batch of n."""
    assert grid.threads % WARP == 0, grid
    blocks, zero = tirx.ceildiv(n * grid.items, grid.per_block), e.const(0, "int32")
    with (
        tb.launch_thread("blockIdx.x", blocks) as x,
        tb.launch_thread("blockIdx.y", grid.y) as y,
        tb.launch_thread("blockIdx.z", grid.z) as z,
        tb.launch_thread("threadIdx.x", grid.threads) as thread,
    ):
        yield Here(x, y if grid.y > 1 else zero, z if grid.z > 1 else zero, thread)


def _itemsize(dtype: str) -> int:
    return torch.empty(0, dtype=getattr(torch, dtype)).element_size()


@contextmanager
def _only_if(conditions: Sequence[Expr]) -> Iterator[None]:
    if not conditions:
        yield
        return
    with tb.If(tirx.all(*conditions)), tb.Then():
        yield


def function_of(pointers: Sequence[Parameter], n: Expr, body: Any) -> Any:
    """A device function of pointers to memory that does not overlap, and the batch size."""
    body = tirx.SeqStmt([*(tirx.DeclBuffer(p.buffer, data=p.pointer) for p in pointers), body])
    function = tirx.PrimFunc([*(p.pointer for p in pointers), n], body)
    return function.with_attr({"tirx.noalias": True, "s_tir": True})
