"""Give every operation of torch one spelling.

    nn.ReLU()(x), F.relu(x), torch.relu(x), x.relu(), x.relu_()  ->  aten.relu(x)

What comes out has convolutions, linear layers, BatchNorm, PReLU and Dropout as modules, all else as
the aten ops of FLOAT_OPS with arguments by position, and runs at any batch size.

Sizes that do not depend on the batch become numbers. What works in place is replaced by what does
not (spellings/in_place.py), and what cannot be is refused, as is everything without a spelling.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import nn
from torch.fx import GraphModule, Node
from torch.nn.utils.parametrize import is_parametrized

from qcompile.errors import QCompileError
from qcompile.ir.graph import TensorSpec, module_of, spec, where
from qcompile.ir.stages import FLOAT_OPS, Stage
from qcompile.passes.base import Declined, Pass, Result
from qcompile.passes.spellings import (
    FUNCTIONS,
    KEPT,
    METHODS,
    MODULES,
    SUPPORTED,
    Emit,
)
from qcompile.passes.spellings.batches import grown_specs, look_at_two_batches
from qcompile.passes.spellings.elementwise import same
from qcompile.passes.spellings.in_place import is_in_place, read_result_instead
from qcompile.passes.spellings.naming import name_of
from qcompile.passes.spellings.shapes import reshape

aten = torch.ops.aten


@dataclass(frozen=True)
class Canonicalize(Pass):
    name: ClassVar[str] = "canonicalize"
    stages: ClassVar[tuple[Stage, ...]] = (Stage.TRACED,)

    def __call__(self, gm: GraphModule, *, discard: bool = False) -> Result:
        result = super().__call__(gm, discard=discard)
        _check_result(result.graph)
        return result

    def prepare(self, gm: GraphModule) -> None:
        look_at_two_batches(gm)
        for node in gm.graph.nodes:
            if is_in_place(gm, node):
                read_result_instead(gm, node)

    def rewrite(self, gm: GraphModule, node: Node) -> Node | Declined | None:
        if node.op == "output":
            _check_output(node)
            return None
        if node.op in ("placeholder", "get_attr") or node.target in FLOAT_OPS:
            return None
        if not isinstance(node.meta["spec"], TensorSpec):
            _check_no_tensors(gm, node)
            return None
        spelling = _spelling(gm, node)
        if spelling is None:
            return _make_padding_explicit(gm, node)
        emit = Emit(gm, node)
        if spelling not in (reshape, same):
            _check_arguments(emit)
        try:
            arguments = inspect.signature(spelling).bind(emit, *node.args, **node.kwargs)
        except TypeError as error:
            raise emit.refuse(f"{name_of(gm, node)}: {error}", SUPPORTED) from error
        new = spelling(*arguments.args, **arguments.kwargs)
        new.meta.setdefault("spec", node.meta["spec"])
        return new


def _spelling(gm: GraphModule, node: Node) -> Callable[..., Node] | None:
    """The function that emits this node's one form, or None where it has it already."""
    if node.op == "call_function" and node.target in FUNCTIONS:
        return FUNCTIONS[node.target]
    if node.op == "call_method" and (method := METHODS.get(str(node.target).removesuffix("_"))):
        return method
    module = module_of(gm, node)
    if module is not None:
        _check_module(node, module)
        if _is_one_of(module, KEPT):
            return None
        for kind, spelling in MODULES.items():
            if _is_one_of(module, (kind,)):
                return partial(_of_module, spelling, module)
    raise QCompileError(f"{name_of(gm, node)} is not supported", where=where(node), hint=SUPPORTED)


def _of_module(spelling: Callable[..., Node], module: nn.Module, emit: Emit, x: Node) -> Node:
    return spelling(emit, module, x)


def _is_one_of(module: nn.Module, kinds: tuple[type[nn.Module], ...]) -> bool:
    """Whether it is of one of the kinds, and computes what that kind computes."""
    return any(
        isinstance(module, kind) and (type(module).forward is kind.forward or not _of_torch(kind))
        for kind in kinds
    )


def _of_torch(kind: type[nn.Module]) -> bool:
    return kind.__module__.startswith("torch.nn")


def _check_module(node: Node, module: nn.Module) -> None:
    if is_parametrized(module):
        raise QCompileError(
            f"{type(module).__name__} has parametrized weights",
            where=where(node),
            hint="make them plain first: torch.nn.utils.parametrize.remove_parametrizations",
        )
    if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is None:
        raise QCompileError(
            f"{type(module).__name__} without running statistics computes across the batch",
            where=where(node),
            hint="make it with track_running_stats=True",
        )


def _check_result(gm: GraphModule) -> None:
    """Every value is float32 and keeps the samples of a batch apart."""
    batch = gm.meta["inputs"][0].shape[0]
    grown = grown_specs(gm)
    for node in gm.graph.nodes:
        node.meta.pop("grown", None)
        if node.op in ("get_attr", "output"):
            continue
        here = spec(node)
        if here.dtype != torch.float32:
            hint = "use model.float() and float32 inputs; leave conversions out of the model"
            raise QCompileError(f"{node} is {here}, not float32", where=where(node), hint=hint)
        if here.shape[:1] != (batch,) or grown[node].shape != (batch + 1, *here.shape[1:]):
            raise QCompileError(
                f"{name_of(gm, node)} gives {here} for {batch} samples "
                f"and {grown[node]} for {batch + 1}",
                where=where(node),
                hint="dimension 0 is the batch, and each sample has to be computed by itself",
            )


def _check_arguments(emit: Emit) -> None:
    """Sizes that change with the batch are for reshaping only; the others are numbers by now."""
    for source in emit.node.all_input_nodes:
        if not isinstance(source.meta["spec"], TensorSpec):
            what = f"it computes with {name_of(emit.gm, source)}, which depends on the batch"
            raise emit.refuse(what, "only reshaping may use the size of the batch")


def _check_no_tensors(gm: GraphModule, node: Node) -> None:
    """Sizes vanish with what used them; several tensors at once are not known."""
    specs = node.meta["spec"]
    if isinstance(specs, tuple) and any(isinstance(s, TensorSpec) for s in specs):
        raise QCompileError(
            f"{name_of(gm, node)} is not supported", where=where(node), hint=SUPPORTED
        )


def _check_output(node: Node) -> None:
    """A graph gives one tensor, or a tuple of them."""
    value = node.args[0]
    values = list(value) if isinstance(value, (tuple, list)) else [value]
    if not all(isinstance(v, Node) and isinstance(v.meta["spec"], TensorSpec) for v in values):
        raise QCompileError(
            "the model's result is neither a tensor nor a tuple of tensors",
            hint="return the tensors themselves, without names and nesting",
        )
    node.args = (value if isinstance(value, Node) else tuple(values),)


def _make_padding_explicit(gm: GraphModule, node: Node) -> Node | None:
    """A convolution that mirrors, repeats or wraps its border: pad(x), and convolve that.

    All calls of the module change at once, since the module does.
    """
    conv = module_of(gm, node)
    if not isinstance(conv, nn.modules.conv._ConvNd):
        return None
    padding, mode = list(conv._reversed_padding_repeated_twice), conv.padding_mode
    if conv.padding_mode == "zeros" and isinstance(conv.padding, tuple):
        return None
    symmetric = padding[::2] == padding[1::2]
    if mode == "zeros" and not symmetric:
        return None  # the layer knows how to pad by "same" with zeros
    conv.padding_mode = "zeros"
    conv.padding = tuple(padding[::-2]) if mode == "zeros" else (0,) * (len(padding) // 2)
    if mode == "zeros":
        return node
    conv._reversed_padding_repeated_twice = [0] * len(padding)
    for call in [n for n in gm.graph.nodes if n.op == "call_module" and n.target == node.target]:
        with gm.graph.inserting_before(call):
            args = (call.args[0], padding, mode, None)
            padded = gm.graph.call_function(aten.pad.default, args)
        padded.meta["spec"] = call.meta["spec"]
        call.args = (padded,)
    return node
