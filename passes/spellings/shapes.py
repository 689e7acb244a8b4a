"""Pooling, padding, and what works on the shape."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.fx import Node

from qcompile.ir.graph import spec
from qcompile.passes.spellings.emit import Emit, Spelling, many

aten = torch.ops.aten

_MAX = (aten.max_pool1d.default, aten.max_pool2d.default, aten.max_pool3d.default)
_AVG = (aten.avg_pool1d.default, aten.avg_pool2d.default, aten.avg_pool3d.default)


def max_pool(
    rank: int,
    emit: Emit,
    input: Node,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Node:
    if return_indices:
        raise emit.refuse("max pooling with return_indices is not supported")
    kernel = many(kernel_size, rank)
    steps = many(stride, rank) if stride else kernel
    rest = (many(padding, rank), many(dilation, rank), bool(ceil_mode))
    return emit(_MAX[rank - 1], input, kernel, steps, *rest)


def avg_pool(
    rank: int,
    emit: Emit,
    input: Node,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
    padding: int | Sequence[int] = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Node:
    if divisor_override is not None:
        raise emit.refuse("average pooling with divisor_override is not supported")
    kernel = many(kernel_size, rank)
    steps = many(stride, rank) if stride else kernel
    rest = (many(padding, rank), bool(ceil_mode), bool(count_include_pad))
    return emit(_AVG[rank - 1], input, kernel, steps, *rest)


def _adaptive(emit: Emit, x: Node, output_size: Any, rank: int) -> list[int] | None:
    """The window that makes `output_size` of x, or None where one output sees everything."""
    size = spec(x).shape[-rank:]
    wanted = [output_size] * rank if isinstance(output_size, int) else list(output_size)
    out = [n if w is None else int(w) for n, w in zip(size, wanted, strict=True)]
    if out == [1] * rank:
        return None
    if any(n % o for n, o in zip(size, out, strict=True)):
        raise emit.refuse(
            f"adaptive pooling from {list(size)} to {out} has windows of unequal size",
            hint="use sizes that divide, 1, or a pooling with kernel_size and stride",
        )
    return [n // o for n, o in zip(size, out, strict=True)]


def adaptive_avg_pool(rank: int, emit: Emit, input: Node, output_size: Any) -> Node:
    window = _adaptive(emit, input, output_size, rank)
    if window is None:
        return emit(aten.mean.dim, input, list(range(2, 2 + rank)), True)
    return input if set(window) == {1} else avg_pool(rank, emit, input, window)


def adaptive_max_pool(
    rank: int, emit: Emit, input: Node, output_size: Any, return_indices: bool = False
) -> Node:
    if return_indices:
        raise emit.refuse("max pooling with return_indices is not supported")
    window = _adaptive(emit, input, output_size, rank)
    if window is None:
        return emit(aten.amax.default, input, list(range(2, 2 + rank)), True)
    return input if set(window) == {1} else max_pool(rank, emit, input, window)


def _check_dtype(emit: Emit, dtype: Any) -> None:
    if dtype not in (None, torch.float32):
        raise emit.refuse(f"results of {dtype} are not supported, only float32")


def mean(
    emit: Emit, input: Node, dim: Any = None, keepdim: bool = False, *, dtype: Any = None
) -> Node:
    _check_dtype(emit, dtype)
    every = range(len(spec(input).shape)) if dim is None else dim
    return emit(aten.mean.dim, input, emit.dims(input, every), bool(keepdim))


def amax(emit: Emit, input: Node, dim: Any = (), keepdim: bool = False) -> Node:
    every = range(len(spec(input).shape)) if dim == () else dim
    return emit(aten.amax.default, input, emit.dims(input, every), bool(keepdim))


def reshape(emit: Emit, input: Node, *args: Any, **kwargs: Any) -> Node:
    """view, flatten, squeeze, ...: what counts is the shape that comes of it, at two batch sizes."""
    old, new, grown = spec(input).shape, spec(emit.node).shape, emit.node.meta["grown"].shape
    if (new[0], grown[0] - 1) != (old[0], old[0]) or grown[1:] != new[1:]:
        raise emit.refuse(
            f"reshaping {list(old)} to {list(new)} mixes the samples of a batch, or fixes its size",
            hint="keep dimension 0 open: torch.flatten(x, 1) or x.view(x.size(0), -1)",
        )
    if new == old:
        return input
    flat = (math.prod(old[1:]),)
    if new[1:] != flat:
        raise emit.refuse(
            f"reshaping {list(old)} to {list(new)} is not supported",
            hint="only flattening everything but the batch is: torch.flatten(x, 1)",
        )
    return emit(aten.flatten.using_ints, input, 1, -1)


def pad(
    emit: Emit, input: Node, pad: Sequence[int], mode: str = "constant", value: Any = None
) -> Node:
    if len(pad) > 2 * (len(spec(input).shape) - 2):
        raise emit.refuse("padding the channels or the batch is not supported")
    constant = float(value or 0.0) if mode == "constant" else None
    return emit(aten.pad.default, input, list(pad), mode, constant)


def cat(emit: Emit, tensors: Sequence[Node], dim: int = 0, *, axis: int | None = None) -> Node:
    [dim] = emit.dims(tensors[0], dim if axis is None else axis)
    return emit(aten.cat.default, list(tensors), dim)


def _soft(op: Callable[..., Any]) -> Spelling:
    def spelling(
        emit: Emit, input: Node, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None
    ) -> Node:
        _check_dtype(emit, dtype)
        if dim is None:  # torch's rule for the implicit dimension
            dim = 0 if len(spec(input).shape) in (0, 1, 3) else 1
        return emit(op, input, emit.dims(input, dim)[0])

    return spelling


softmax, log_softmax = _soft(aten.softmax.int), _soft(aten.log_softmax.int)
