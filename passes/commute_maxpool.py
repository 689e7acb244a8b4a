"""Pool signs, not sums: max pooling of packed bits, one bit a channel.

    bitpack(sign(g(max_pool(f(acc)))))  ->  bit_maxpool(bitpack(sign(g(f(acc)))), any_mask)

f and g are monotone (see monotone.py), so s = sign . g is a monotone step. Where it rises, the sign
of the largest is the largest sign; where it falls, the smallest:

    s(max y_i) = max s(y_i)   bit 0 is +1: AND of the bits
    s(max y_i) = min s(y_i)   OR of the bits, the channels of any_mask

Which of the two, f at the ends of what acc can hold says. Pooling pads with minus infinity, which
is never the largest; so do the bits, with the value that never decides. A window of nothing but
padding, as dilation makes them, is declined: its value is minus infinity, and s of it may be +1.

The pooled tensor is 32 times smaller, and the sign comes next to its accumulator, where
fold-threshold finds it. Where no accumulator is found, the float pooling would only see more work;
where its floats are needed besides, as by a shortcut, the bits would only be a second one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from qcompile.ir.graph import add_constant, calls, spec
from qcompile.ir.ops import pack_words
from qcompile.ir.stages import Stage, dialect
from qcompile.passes.accumulators import accumulator_range
from qcompile.passes.base import Declined, Pass
from qcompile.passes.monotone import POOLS, chain_above, is_monotone, replay, values_along
from qcompile.passes.one_bit import argument


@dataclass(frozen=True)
class CommuteMaxpool(Pass):
    """Max pooling between an integer accumulator and packed signs."""

    name: ClassVar[str] = "commute-maxpool"
    stages: ClassVar[tuple[Stage, ...]] = (Stage.CONVERTED, Stage.LOWERED)
    gives: ClassVar[Stage | None] = Stage.LOWERED

    def rewrite(self, gm: GraphModule, node: Node) -> Node | Declined | None:
        if not calls(node, dialect.bitpack.default):
            return None
        quantizer = argument(node)
        if not calls(quantizer, dialect.sign.default, dialect.quantize_unit.default):
            return None
        chain = chain_above(quantizer, lambda n: calls(n, *POOLS) or is_monotone(gm, n))
        pools = [n for n in chain if calls(n, *POOLS)]
        if not pools:
            return None
        acc = argument(chain[0])
        bounds = accumulator_range(gm, acc)
        if bounds is None:
            what = f"the input {acc.target}" if acc.op == "placeholder" else acc.target
            return Declined(f"max_pool stays on floats: {what} is no integer accumulator")
        if not _leads_to_signs(gm, pools[0]):
            return Declined("max_pool stays on floats: a layer reads what it gives as floats")
        if any(Window.of(pool).misses_the_map(pool) for pool in pools):
            return Declined("max_pool stays on floats: a pooling window lies wholly in the padding")
        ends = values_along(gm, chain, torch.stack(bounds).to(torch.int32))
        if any(v.isnan().any() for v in ends):
            return Declined("max_pool stays on floats: what stands around it overflows to NaN")
        bits = replay(gm, [n for n in chain if n not in pools], acc)
        bits = gm.graph.call_function(dialect.bitpack.default, (bits,))
        for pool in pools:
            falls = _opposed(ends[chain.index(pool)], ends[-1])
            bits = _pool_bits(gm, pool, bits, falls)
        return bits


def _leads_to_signs(gm: GraphModule, node: Node) -> bool:
    """Whether one-bit quantizers are all that a value ends in, past monotone ops and poolings."""
    return all(
        calls(user, dialect.sign.default, dialect.quantize_unit.default)
        or ((calls(user, *POOLS) or is_monotone(gm, user)) and _leads_to_signs(gm, user))
        for user in node.users
    )


def _opposed(y: Tensor, level: Tensor) -> Tensor:
    """Whether, from the first row to the second, one rises and the other falls: bool `[C]`."""
    return (y[0] < y[1]) & (level[0] > level[1]) | (y[0] > y[1]) & (level[0] < level[1])


def _pool_bits(gm: GraphModule, pool: Node, bits: Node, falls: Tensor) -> Node:
    window = Window.of(pool)
    layer = str(pool.meta["layer"])
    new = gm.graph.call_function(
        dialect.bit_maxpool.default,
        (
            bits,
            add_constant(gm, f"{layer}_any_mask", pack_words(~falls)),
            window.kernel,
            window.stride,
            [p for p in window.padding for _ in range(2)],
            window.dilation,
            window.ceil_mode,
        ),
    )
    new.meta["layer"], new.stack_trace = layer, pool.stack_trace
    return new


@dataclass(frozen=True)
class Window:
    """A max pooling's arguments, a number for each dimension, defaults filled in."""

    kernel: list[int]
    stride: list[int]
    padding: list[int]
    dilation: list[int]
    ceil_mode: bool

    @classmethod
    def of(cls, pool: Node) -> Window:
        rank = len(spec(pool).shape) - 2
        given = [*pool.args[1:], *[None, [], 0, 1, False][len(pool.args) - 1 :]]
        kernel = _each(given[0], rank)
        stride = _each(given[1], rank) if given[1] else kernel
        return cls(kernel, stride, _each(given[2], rank), _each(given[3], rank), bool(given[4]))

    def misses_the_map(self, pool: Node) -> bool:
        """Whether all taps of some output position lie in the padding."""
        sizes = zip(spec(argument(pool)).shape[2:], spec(pool).shape[2:], strict=True)
        for d, (size, count) in enumerate(sizes):
            for position in range(count):
                first = position * self.stride[d] - self.padding[d]
                taps = (first + i * self.dilation[d] for i in range(self.kernel[d]))
                if not any(0 <= tap < size for tap in taps):
                    return True
        return False


def _each(value: Any, rank: int) -> list[int]:
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    return values * rank if len(values) == 1 else values
