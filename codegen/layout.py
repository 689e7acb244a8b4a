"""Where the elements of a value lie in memory.

A feature map `[N, C, *spatial]` lies as `[N, *spatial, C]`, so that a vector holds neighbouring
channels of one pixel. Inputs and outputs of the program, and what is flattened, lie in torch's
order: every kernel reads and writes by strides, and no kernel exists only to reorder. Packed words
`[N, *spatial, W]` are what they seem: the word is their channel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch.fx import GraphModule, Node

from qcompile.codegen.groups import whole
from qcompile.errors import QCompileError
from qcompile.ir.graph import calls, propagate, spec, where

_dialect = torch.ops.qcompile
_aten = torch.ops.aten

DTYPES = {
    torch.float32: "float32",
    torch.int8: "int8",
    torch.uint8: "uint8",
    torch.int16: "int16",
    torch.int32: "int32",
    torch.int64: "int64",
}


@dataclass(frozen=True)
class Layout:
    """Sizes of one sample, and their order in memory.

    Attributes:
        spatial: sizes of the dimensions after the channels, in torch's order.
        channels: size of dimension 1 (1 where the value has no such dimension), or words.
        dtype: TVM's name of the element type.
        packed: words of signs.
        torch_order: channels lie before the spatial dimensions.
        rank: how many dimensions the value has in torch, batch included.
    """

    spatial: tuple[int, ...]
    channels: int
    dtype: str
    packed: bool = False
    torch_order: bool = False
    rank: int = 2

    @property
    def size(self) -> int:
        """Elements of one sample."""
        return math.prod(self.spatial) * self.channels

    @property
    def bytes(self) -> int:
        """Bytes of one sample."""
        return self.size * np.dtype(self.dtype).itemsize

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes after the batch, in the order in which they lie."""
        if self.rank == 1:
            return ()
        if self.torch_order:
            return (self.channels, *self.spatial)
        return (*self.spatial, self.channels)

    @property
    def strides(self) -> tuple[tuple[int, ...], int]:
        """Elements from one index to the next: (in each spatial dimension, of channels)."""
        inner = 1 if self.torch_order else self.channels
        strides = [inner * math.prod(self.spatial[d + 1 :]) for d in range(len(self.spatial))]
        return tuple(strides), math.prod(self.spatial) if self.torch_order else 1

    @property
    def channels_last(self) -> bool:
        """Whether neighbouring channels are neighbours in memory (or one of the two is missing)."""
        return not self.torch_order or self.channels == 1 or math.prod(self.spatial) == 1


def is_packed(node: Node) -> bool:
    """Whether a value is words of signs."""
    return calls(
        node, _dialect.bitpack.default, _dialect.im2col.default, _dialect.bit_maxpool.default
    )


def needs_torch_order(node: Node) -> bool:
    """Whether a value leaves the compiler's hands as it lies: inputs, outputs, what is flattened."""
    if node.op == "placeholder" or calls(node, _aten.flatten.using_ints):
        return True
    return any(u.op == "output" or calls(u, _aten.flatten.using_ints) for u in node.users)


def is_outside(node: Node) -> bool:
    """Whether a value is an input or a result of the program: memory of the caller, aligned or not."""
    source = whole(node)
    return source.op == "placeholder" or _is_returned(source)


def _is_returned(node: Node) -> bool:
    views = [u for u in node.users if calls(u, _aten.flatten.using_ints)]
    return any(u.op == "output" for u in node.users) or any(map(_is_returned, views))


def layout_of(node: Node) -> Layout:
    """The layout of a node's value.

    Raises:
        QCompileError: a dtype that no kernel reads.
    """
    shape, kind = spec(node).shape, spec(node).dtype
    if kind not in DTYPES:
        raise QCompileError(
            f"{node.format_node()} is {kind}",
            where=where(node),
            hint=f"supported: {', '.join(str(d).removeprefix('torch.') for d in DTYPES)}",
        )
    if is_packed(node):
        return Layout(shape[1:-1], shape[-1], DTYPES[kind], packed=True, rank=len(shape))
    channels = shape[1] if len(shape) > 1 else 1
    order = needs_torch_order(node)
    return Layout(shape[2:], channels, DTYPES[kind], torch_order=order, rank=len(shape))


def check_batch(gm: GraphModule) -> None:
    """Make sure that dimension 0 of every value is the batch, whatever its size.

    Raises:
        QCompileError: a value's shape is another function of the batch; the message names it.
    """
    shapes = []
    for batch in (3, 5):
        propagate(gm, batch=batch)
        shapes.append({n: n.meta["spec"].shape for n in _values(gm)})
    propagate(gm)
    for node in _values(gm):
        three, five = shapes[0][node], shapes[1][node]
        if not three or (three[0], five[0]) != (3, 5) or three[1:] != five[1:]:
            raise QCompileError(
                f"the shape of {node.format_node()} does not follow the batch size",
                where=where(node),
                hint="dimension 0 is the batch everywhere: give every input one, and keep it first",
            )


def _values(gm: GraphModule) -> list[Node]:
    return [n for n in gm.graph.nodes if n.op in ("placeholder", "call_function")]
