"""The spellings of torch that `canonicalize` knows, each with the one form that it takes.

A spelling is a Python function with the very signature of torch's, so that calling it is all there
is to understanding arguments by position, by name and by default. It emits nodes and returns the
one that holds the result.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.fx import Node

from qcompile.ir.graph import Leaf
from qcompile.passes.spellings.elementwise import (
    add,
    clamp,
    div,
    gelu,
    hardtanh,
    leaky_relu,
    mul,
    prelu,
    relu,
    relu6,
    rsub,
    same,
    sub,
    unary,
)
from qcompile.passes.spellings.emit import Emit, Spelling
from qcompile.passes.spellings.layers import batch_norm, conv, dropout, linear
from qcompile.passes.spellings.shapes import (
    adaptive_avg_pool,
    adaptive_max_pool,
    amax,
    avg_pool,
    cat,
    log_softmax,
    max_pool,
    mean,
    pad,
    reshape,
    softmax,
)

__all__ = ["FUNCTIONS", "IN_PLACE_OPERATORS", "KEPT", "METHODS", "MODULES", "SUPPORTED", "Emit"]

aten = torch.ops.aten
abs_, neg = unary(aten.abs.default), unary(aten.neg.default)
sigmoid, tanh = unary(aten.sigmoid.default), unary(aten.tanh.default)
hardsigmoid, hardswish = unary(aten.hardsigmoid.default), unary(aten.hardswish.default)
silu = unary(aten.silu.default)

FUNCTIONS: dict[Callable[..., Any], Spelling] = {
    **dict.fromkeys((F.relu, torch.relu, torch.relu_), relu),
    F.relu6: relu6,
    **dict.fromkeys((F.hardtanh, F.hardtanh_), hardtanh),
    **dict.fromkeys((torch.clamp, torch.clamp_, torch.clip, torch.clip_), clamp),
    **dict.fromkeys((F.leaky_relu, F.leaky_relu_), leaky_relu),
    **dict.fromkeys((F.prelu, torch.prelu), prelu),
    **dict.fromkeys((F.sigmoid, torch.sigmoid, torch.sigmoid_), sigmoid),
    **dict.fromkeys((F.tanh, torch.tanh, torch.tanh_), tanh),
    F.hardsigmoid: hardsigmoid,
    F.hardswish: hardswish,
    F.silu: silu,
    F.gelu: gelu,
    **dict.fromkeys((torch.abs, torch.abs_, operator.abs), abs_),
    **dict.fromkeys((torch.neg, torch.neg_, operator.neg), neg),
    **dict.fromkeys((torch.add, operator.add, operator.iadd), add),
    **dict.fromkeys((torch.sub, operator.sub, operator.isub), sub),
    torch.rsub: rsub,
    **dict.fromkeys((torch.mul, torch.multiply, operator.mul, operator.imul), mul),
    **dict.fromkeys((torch.div, torch.divide, operator.truediv, operator.itruediv), div),
    **dict.fromkeys((F.max_pool1d, torch.max_pool1d), partial(max_pool, 1)),
    **dict.fromkeys((F.max_pool2d, torch.max_pool2d), partial(max_pool, 2)),
    **dict.fromkeys((F.max_pool3d, torch.max_pool3d), partial(max_pool, 3)),
    F.avg_pool1d: partial(avg_pool, 1),
    F.avg_pool2d: partial(avg_pool, 2),
    F.avg_pool3d: partial(avg_pool, 3),
    F.adaptive_avg_pool1d: partial(adaptive_avg_pool, 1),
    F.adaptive_avg_pool2d: partial(adaptive_avg_pool, 2),
    F.adaptive_avg_pool3d: partial(adaptive_avg_pool, 3),
    F.adaptive_max_pool1d: partial(adaptive_max_pool, 1),
    F.adaptive_max_pool2d: partial(adaptive_max_pool, 2),
    F.adaptive_max_pool3d: partial(adaptive_max_pool, 3),
    torch.mean: mean,
    torch.amax: amax,
    **dict.fromkeys((torch.flatten, torch.reshape, torch.squeeze, torch.unsqueeze), reshape),
    # Of exported programs, with sizes that are computed.
    **dict.fromkeys((aten.view.default, aten.reshape.default), reshape),
    F.pad: pad,
    **dict.fromkeys((torch.cat, torch.concat, torch.concatenate), cat),
    **dict.fromkeys((F.softmax, torch.softmax), softmax),
    **dict.fromkeys((F.log_softmax, torch.log_softmax), log_softmax),
    F.dropout: partial(dropout, nn.Dropout),
    F.dropout1d: partial(dropout, nn.Dropout1d),
    F.dropout2d: partial(dropout, nn.Dropout2d),
    F.dropout3d: partial(dropout, nn.Dropout3d),
    F.alpha_dropout: partial(dropout, nn.AlphaDropout),
    F.conv1d: partial(conv, 1),
    F.conv2d: partial(conv, 2),
    F.conv3d: partial(conv, 3),
    F.linear: linear,
    F.batch_norm: batch_norm,
}

IN_PLACE_OPERATORS = frozenset({operator.iadd, operator.isub, operator.imul, operator.itruediv})

# Methods whose name ends in "_" are looked up without it.
METHODS: dict[str, Spelling] = {
    "relu": relu,
    **dict.fromkeys(("clamp", "clip"), clamp),
    "sigmoid": sigmoid,
    "tanh": tanh,
    "abs": abs_,
    **dict.fromkeys(("neg", "negative"), neg),
    "add": add,
    **dict.fromkeys(("sub", "subtract"), sub),
    **dict.fromkeys(("mul", "multiply"), mul),
    **dict.fromkeys(("div", "divide"), div),
    "mean": mean,
    "amax": amax,
    **dict.fromkeys(("view", "reshape", "flatten", "squeeze", "unsqueeze"), reshape),
    "softmax": softmax,
    "log_softmax": log_softmax,
    **dict.fromkeys(("contiguous", "clone", "float", "to", "type_as", "cpu"), same),
}


# --- modules -------------------------------------------------------------------------------------

ModuleSpelling = Callable[[Emit, Any, Node], Node]


def _reads(spelling: Spelling, *attributes: str) -> ModuleSpelling:
    """The spelling of a module, given what of its attributes the function takes, in order."""

    def of_module(emit: Emit, module: Any, x: Node) -> Node:
        return spelling(emit, x, *(getattr(module, a) for a in attributes))

    return of_module


_MAX = ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")
_AVG = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad")
_PADS: dict[str, str] = {
    "ZeroPad": "constant",
    "ConstantPad": "constant",
    "ReflectionPad": "reflect",
    "ReplicationPad": "replicate",
    "CircularPad": "circular",
}


def _padding(mode: str) -> ModuleSpelling:
    def of_module(emit: Emit, module: Any, x: Node) -> Node:
        return pad(emit, x, module.padding, mode, getattr(module, "value", None))

    return of_module


MODULES: dict[type[nn.Module], ModuleSpelling] = {
    nn.Identity: _reads(same),
    nn.ReLU: _reads(relu),
    nn.ReLU6: _reads(relu6),
    nn.Hardtanh: _reads(hardtanh, "min_val", "max_val"),
    nn.LeakyReLU: _reads(leaky_relu, "negative_slope"),
    nn.Sigmoid: _reads(sigmoid),
    nn.Tanh: _reads(tanh),
    nn.Hardsigmoid: _reads(hardsigmoid),
    nn.Hardswish: _reads(hardswish),
    nn.SiLU: _reads(silu),
    nn.GELU: lambda emit, m, x: gelu(emit, x, approximate=m.approximate),
    nn.MaxPool1d: _reads(partial(max_pool, 1), *_MAX),
    nn.MaxPool2d: _reads(partial(max_pool, 2), *_MAX),
    nn.MaxPool3d: _reads(partial(max_pool, 3), *_MAX),
    nn.AvgPool1d: _reads(partial(avg_pool, 1), *_AVG),
    nn.AvgPool2d: _reads(partial(avg_pool, 2), *_AVG, "divisor_override"),
    nn.AvgPool3d: _reads(partial(avg_pool, 3), *_AVG, "divisor_override"),
    nn.AdaptiveAvgPool1d: _reads(partial(adaptive_avg_pool, 1), "output_size"),
    nn.AdaptiveAvgPool2d: _reads(partial(adaptive_avg_pool, 2), "output_size"),
    nn.AdaptiveAvgPool3d: _reads(partial(adaptive_avg_pool, 3), "output_size"),
    nn.AdaptiveMaxPool1d: _reads(partial(adaptive_max_pool, 1), "output_size", "return_indices"),
    nn.AdaptiveMaxPool2d: _reads(partial(adaptive_max_pool, 2), "output_size", "return_indices"),
    nn.AdaptiveMaxPool3d: _reads(partial(adaptive_max_pool, 3), "output_size", "return_indices"),
    nn.Flatten: _reads(reshape),
    nn.Unflatten: _reads(reshape),
    nn.Softmax: _reads(softmax, "dim"),
    nn.LogSoftmax: _reads(log_softmax, "dim"),
    **{
        getattr(nn, f"{name}{rank}d"): _padding(mode)
        for name, mode in _PADS.items()
        for rank in (1, 2, 3)
    },
}

# Modules that stay: what has parameters to train, and what behaves otherwise in training.
KEPT: tuple[type[nn.Module], ...] = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.Linear,
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
    nn.PReLU,
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.AlphaDropout,
    nn.FeatureAlphaDropout,
    Leaf,
)

SUPPORTED = (
    "supported are convolutions (not transposed), linear layers, BatchNorm, Dropout, max, average "
    "and global pooling, ReLU and its kin (ReLU6, Hardtanh, clamp, LeakyReLU, PReLU), sigmoid, "
    "tanh, SiLU, GELU, Hardsigmoid, Hardswish, softmax, + - * /, abs, cat, pad, and flattening; "
    "rewrite the line with these, or leave it out of the model"
)
