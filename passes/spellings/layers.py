"""Functions with parameters: each becomes a module, which is what is trained and quantized."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.fx import Node

from qcompile.ir.graph import constant_of, spec
from qcompile.passes.spellings.emit import Emit, many


def dropout(
    kind: type[nn.Module],
    emit: Emit,
    input: Node,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
) -> Node:
    """A module, so that train() and eval() decide from now on."""
    path = emit.free_path(str(emit.node.meta["layer"]))
    return emit.module(path, kind(p), input)


def _constant(emit: Emit, node: Any, what: str) -> Tensor | None:
    if node is None:
        return None
    value = constant_of(emit.gm, node) if isinstance(node, Node) else None
    if value is None:
        raise emit.refuse(
            f"its {what} is computed by the network",
            hint=f"a {what} has to be a parameter or a buffer of a module",
        )
    return value


def _home(emit: Emit, weight: Node, module: nn.Module) -> str:
    """Where a module made for this weight goes: where the weight was, if nothing else lives there."""
    path, _, name = str(weight.target).rpartition(".")
    if not path or name not in ("weight", "running_mean"):
        return emit.free_path(str(emit.node.meta["layer"]))
    there = emit.gm.get_submodule(path)
    names = {n for n, _ in [*there.named_parameters(), *there.named_buffers()]}
    alone = type(there) is nn.Module and not list(there.children())
    return path if alone and names <= set(module.state_dict()) else emit.free_path(path)


def _call(emit: Emit, module: nn.Module, input: Node, weight: Any, bias: Any) -> Node:
    """Call the module with the very parameters that the function was called with."""
    path = _home(emit, weight, module)
    for name, node in (("weight", weight), ("bias", bias)):
        value = _constant(emit, node, name)
        if value is not None and not isinstance(value, nn.Parameter):
            value = nn.Parameter(value, requires_grad=False)  # a buffer is not trained
        setattr(module, name, value)
    return emit.module(path, module, input)


_CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


def conv(
    rank: int,
    emit: Emit,
    input: Node,
    weight: Node,
    bias: Node | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Node:
    outputs, inputs, *kernel = _shape(emit, weight)
    kind: Any = _CONVS[rank]
    module = kind(
        inputs * groups,
        outputs,
        tuple(kernel),
        tuple(many(stride, rank)),
        padding if isinstance(padding, str) else tuple(many(padding, rank)),
        tuple(many(dilation, rank)),
        groups,
        bias is not None,
        device="meta",
    )
    return _call(emit, module, input, weight, bias)


def linear(emit: Emit, input: Node, weight: Node, bias: Node | None = None) -> Node:
    outputs, inputs = _shape(emit, weight)
    module = nn.Linear(inputs, outputs, bias is not None, device="meta")
    return _call(emit, module, input, weight, bias)


_NORMS = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}


def batch_norm(
    emit: Emit,
    input: Node,
    running_mean: Node | None,
    running_var: Node | None,
    weight: Node | None = None,
    bias: Node | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Node:
    if running_mean is None or running_var is None:
        raise emit.refuse("batch normalization without running statistics is not supported")
    [channels] = _shape(emit, running_mean)
    affine = weight is not None or bias is not None
    module = _NORMS[len(spec(input).shape)](channels, eps, momentum, affine)
    module.running_mean = _constant(emit, running_mean, "running_mean")
    module.running_var = _constant(emit, running_var, "running_var")
    for name, node in (("weight", weight), ("bias", bias)):
        value = _constant(emit, node, name)
        if value is not None:
            getattr(module, name).data = value.detach()
    return emit.module(_home(emit, running_mean, module), module, input)


def _shape(emit: Emit, node: Any) -> list[int]:
    value = _constant(emit, node, "weight")
    assert value is not None
    return list(value.shape)
