"""What calls give, remembered: shapes found once need not be found again in the graph after the next pass.

The shape, strides and dtype of a value follow from what is called and from the shapes, strides and dtypes of its
arguments, as long as no value of a tensor decides, and tensors without values have none. So a call is known
by a key that holds all that can decide: the op, or the class of a module with its attributes and the shapes of its
parameters; each argument, with its type (1 is not 1.0); and torch's settings. What a key cannot hold (a module
of the user's, a hook, a method, an op that writes to its arguments) is run every time.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Hashable, Mapping
from enum import Enum
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx import GraphModule, Interpreter, Node
from torch.nn.modules import module as _module

_MOST = 20_000  # calls that are remembered; a network has some hundreds
_NAMESPACES = ("aten", "qcompile")
_PLAIN = (int, float, complex, bool, str, type(None), type(Ellipsis), type, Enum)
_TORCHS = (torch.dtype, torch.device, torch.layout, torch.memory_format)
_TENSORS = (Tensor, nn.Parameter, FakeTensor)
_HOOKS = (_module._global_forward_hooks, _module._global_forward_pre_hooks)
_remembered: dict[Hashable, Any] = {}


@dataclasses.dataclass(frozen=True, slots=True)
class Layout:
    """All of a tensor but its values."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device


class Shapes(Interpreter):
    """Runs a graph for shapes: calls that are known give layouts, others run on tensors without values.

    To be used where tensors have no values, as in `graph.shapes_only`; its inputs are layouts.
    """

    def __init__(self, gm: GraphModule) -> None:
        super().__init__(gm)
        self.extra_traceback = False
        self._settings = settings()

    def run_node(self, n: Node) -> Any:
        key = key_of(n, self._settings, self.env, self.submodules)
        value = recall(key)
        if value is None:
            value = self.compute(n)
            remember(key, value)
        return value

    def compute(self, n: Node) -> Any:
        """Run a node that is not known."""
        if n.op != "output":
            for argument in n.all_input_nodes:
                self.env[argument] = tensors_of(self.env[argument])
        return super().run_node(n)


class _Unknown(Exception):
    """A value that may decide in ways that no key holds."""


def contiguous(shape: tuple[int, ...], dtype: torch.dtype) -> Layout:
    """That of `torch.empty(shape, dtype=dtype)`."""
    strides = [1] * len(shape)
    for d in range(len(shape) - 2, -1, -1):
        strides[d] = strides[d + 1] * max(shape[d + 1], 1)
    return Layout(tuple(shape), tuple(strides), dtype, torch.get_default_device())


def tensors_of(value: Any) -> Any:
    """A value with tensors in place of layouts; without values, where they have none."""
    if isinstance(value, Layout):
        return torch.empty_strided(
            value.shape, value.stride, dtype=value.dtype, device=value.device
        )
    return type(value)(map(tensors_of, value)) if type(value) in (tuple, list) else value


def settings() -> Hashable:
    """Those of torch's that decide about dtypes and devices; None where hooks may do anything."""
    if any(_HOOKS):
        return None
    autocast = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu")
    return torch.get_default_dtype(), torch.get_default_device(), autocast


def key_of(
    node: Node, settings: Hashable, env: Mapping[Node, Any], modules: Mapping[str, nn.Module]
) -> Hashable:
    """All that decides what a node gives, or None where that is not known.

    Args:
        env: values of the node's arguments: tensors, layouts, or anything else.
        modules: by their paths.
    """
    target = node.target
    if settings is None:
        return None
    keys = _Keys(env)
    try:
        if node.op == "call_module":
            called: Hashable = keys.of(modules[str(target)])
        elif node.op == "call_function" and (target is operator.getitem or _is_pure(target)):
            called = target
        else:
            return None
        return settings, called, keys.of(node.args), keys.of(node.kwargs)
    except _Unknown:
        return None


def recall(key: Hashable) -> Any:
    """What a call gave, in layouts; None where it is not known."""
    return None if key is None else _remembered.get(key)


def remember(key: Hashable, value: Any) -> None:
    """Keep what a call gave."""
    if key is None:
        return
    try:
        known = _layouts(value)
    except _Unknown:
        return
    if len(_remembered) >= _MOST:
        _remembered.clear()
    _remembered[key] = known


def _is_pure(target: Any) -> bool:
    return (
        isinstance(target, torch._ops.OpOverload)
        and target.namespace in _NAMESPACES
        and not target._schema.is_mutable
    )


def _layouts(value: Any) -> Any:
    if isinstance(value, Tensor):
        return _layout(value)
    if type(value) in (tuple, list):
        return type(value)(map(_layouts, value))
    raise _Unknown


def _layout(tensor: Tensor) -> Layout:
    if type(tensor) not in _TENSORS or tensor.layout is not torch.strided:
        raise _Unknown
    return Layout(tuple(tensor.shape), tensor.stride(), tensor.dtype, tensor.device)


class _Keys:
    """Makes keys; of modules that know one another, each is written out once."""

    def __init__(self, env: Mapping[Node, Any]) -> None:
        self._env = env
        self._met: dict[int, int] = {}

    def of(self, value: Any) -> Hashable:
        """A value as a key: equal only to what acts alike."""
        kind = type(value)
        if isinstance(value, Node):
            return self.of(self._env[value])
        if isinstance(value, _PLAIN):
            return kind, value
        if isinstance(value, (Layout, *_TORCHS)):
            return value
        if isinstance(value, Tensor):
            return _layout(value)
        if isinstance(value, nn.Module):
            return self._of_module(value)
        if isinstance(value, (tuple, list)):
            return isinstance(value, list), tuple(map(self.of, value))
        if isinstance(value, dict):
            return dict, tuple((key, self.of(one)) for key, one in value.items())
        if isinstance(value, (set, frozenset)) and all(isinstance(one, str) for one in value):
            return set, frozenset(value)
        if isinstance(value, FunctionType) and _is_known(value) and value.__closure__ is None:
            return value
        if dataclasses.is_dataclass(value) and _is_known(kind):
            fields = dataclasses.fields(value)
            return kind, tuple(self.of(getattr(value, field.name)) for field in fields)
        raise _Unknown

    def _of_module(self, module: nn.Module) -> Hashable:
        """A module's class, and everything that is in it."""
        if not _is_known(type(module)):
            raise _Unknown
        if id(module) in self._met:
            return nn.Module, self._met[id(module)]
        self._met[id(module)] = len(self._met)
        return type(module), type(module).forward, self.of(vars(module))


def _is_known(made: type | FunctionType) -> bool:
    """Whether a class or function is one whose code decides by nothing but its arguments and attributes.

    Classes that torch makes of others, to compute parameters, say that they are of other modules.
    """
    return made.__module__.startswith(("torch.nn.modules.", "torch.nn.functional", "qcompile."))
