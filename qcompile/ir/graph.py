"""Graphs: how one comes from a model, what a valid one is, how it prints, and where a node came from.

A graph is a torch.fx `GraphModule` that runs. Dimension 0 of every input is the batch; all else is
fixed by the example inputs. What qcompile knows about a graph lies in two places:

    gm.meta["stage"]    the Stage whose rules it obeys
    gm.meta["inputs"]   a TensorSpec for each placeholder

and about a node in three, kept up by `verify` and by the base class of passes:

    node.meta["spec"]   TensorSpec of the value, or a tuple of them, or None for what is no tensor
    node.meta["layer"]  path of the user's module it stands for ("layer1.0.conv2")
    node.stack_trace    where the user's code called it
"""

from __future__ import annotations

import logging
import operator
import re
import sys
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import Graph, GraphModule, Node, Tracer
from torch.fx._symbolic_trace import _assert_is_none

from qcompile.errors import QCompileError
from qcompile.ir import torch_ao
from qcompile.ir.known_shapes import Layout, Shapes, contiguous
from qcompile.ir.stages import FUNCTIONS, MODULES_ALLOWED, Stage

_OURS = Path(__file__).resolve().parents[1]
_TORCH = Path(torch.__file__).resolve().parent
_SHORT = {
    torch.float32: "f32",
    torch.float64: "f64",
    torch.int8: "i8",
    torch.uint8: "u8",
    torch.int16: "i16",
    torch.int32: "i32",
    torch.int64: "i64",
    torch.bool: "bool",
}


class Leaf(nn.Module):
    """A module of ours that tracing keeps whole.

    Its forward must run on fake tensors: no Python decision may depend on a tensor's values, and
    buffers change in place (`copy_`), never by assignment.
    """


@dataclass(frozen=True)
class TensorSpec:
    """Shape and dtype of a tensor."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    def __str__(self) -> str:
        name = _SHORT.get(self.dtype, str(self.dtype).removeprefix("torch."))
        return f"{name}[{','.join(map(str, self.shape))}]"


# What the user's own code may raise when its tensors are symbols; TraceError is a ValueError.
_RAISED_IN_FORWARD = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    NameError,
    RuntimeError,
    TypeError,
    ValueError,
)


# --- from a model to a graph ---------------------------------------------------------------------


class _Tracer(Tracer):
    def __init__(self, leaf_modules: Collection[type[nn.Module]]) -> None:
        super().__init__()
        self._leaves: tuple[type[nn.Module], ...] = (Leaf, *leaf_modules)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        ours = isinstance(m, self._leaves) or torch_ao.is_leaf(m)
        return ours or super().is_leaf_module(m, module_qualified_name)

    def create_node(self, *args: Any, **kwargs: Any) -> Node:
        # Not by record_stack_traces: it reads all of PyTorch's compiler to tell which lines are its own.
        node = super().create_node(*args, **kwargs)
        node.stack_trace = node.stack_trace or _users_stack()
        return node


def _users_stack() -> str | None:
    """Where the user's code is now: its frames from the outermost `forward` on, as in a traceback."""
    frames = list(traceback.walk_stack(sys._getframe(1)))
    forwards = [i for i, (frame, _) in enumerate(frames) if frame.f_code.co_name == "forward"]
    if not forwards:
        return None
    users = [f for f in frames[forwards[-1] :: -1] if _is_users(f[0].f_code.co_filename)]
    return "".join(traceback.StackSummary.extract(iter(users)).format()).strip() or None


def trace(
    model: nn.Module,
    example_inputs: Sequence[Tensor],
    *,
    concrete_args: Mapping[str, Any] | None = None,
    leaf_modules: Collection[type[nn.Module]] = (),
) -> GraphModule:
    """Turn a model into a graph at the traced stage.

    Args:
        example_inputs: one tensor for each argument of `model.forward`; dimension 0 is the batch.
        concrete_args: values for arguments that the graph shall not keep open.
        leaf_modules: classes to keep whole instead of tracing into them.

    Raises:
        QCompileError: the forward decides by the values of a tensor, or fails on the examples.
    """
    tracer = _Tracer(leaf_modules)
    try:
        graph = tracer.trace(model, concrete_args=dict(concrete_args or {}) or None)
    except _RAISED_IN_FORWARD as error:
        raise QCompileError(
            f"cannot trace {type(model).__name__}: {_first_line(error)}",
            where=_user_line(error),
            hint="a graph has no decisions that depend on values: rewrite the line with torch.where; or, "
            "in Python, pass concrete_args to prepare for arguments that are settings, or name the "
            "module's class in leaf_modules",
        ) from error
    _drop_settled_arguments(graph, concrete_args or {})
    gm = GraphModule(tracer.root, graph, type(model).__name__)
    gm.meta["stage"] = Stage.TRACED
    gm.meta["inputs"] = tuple(TensorSpec(tuple(x.shape), x.dtype) for x in example_inputs)
    gm.meta |= torch_ao.notes(model)
    for node in gm.graph.nodes:
        node.meta["layer"] = _layer(node)
    propagate(gm)
    return gm


def _drop_settled_arguments(graph: Graph, concrete_args: Collection[str]) -> None:
    """Take out what fx leaves of arguments with given values: a placeholder `name_1`, and its checks."""
    for node in reversed(graph.nodes):
        settled = node.op == "placeholder" and str(node.target).rpartition("_")[0] in concrete_args
        checks = node.op == "call_function" and node.target in (_assert_is_none, torch._assert)
        of_check = node.target is operator.eq and not node.users
        if (settled and not node.users) or checks or of_check:
            graph.erase_node(node)


def _layer(node: Node) -> str:
    if node.op in ("call_module", "get_attr"):
        return str(node.target)
    stack = node.meta.get("nn_module_stack")
    path = next(reversed(stack.values()))[0] if stack else ""
    return f"{path}.{node.name}" if path else node.name


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


@cache
def _is_users(filename: str) -> bool:
    path = Path(filename).resolve()
    inside = path.is_relative_to(_OURS) and not path.is_relative_to(_OURS / "zoo")
    passes = path.is_relative_to(_OURS.parent / "passes")
    return not (inside or passes or path.is_relative_to(_TORCH) or filename.startswith("<"))


def _user_line(error: BaseException) -> str | None:
    """The innermost frame of a traceback that lies in the user's code, as `file:line (code)`."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if _is_users(f.filename)]
    if not frames:
        return None
    last = frames[-1]
    return f"{last.filename}:{last.lineno} ({last.line})"


def where(node: Node) -> str:
    """Module path and source line of a node in the user's code, as far as they are known."""
    layer = str(node.meta.get("layer") or node.name)
    lines = re.findall(r'File "(.+?)", line (\d+)', node.stack_trace or "")
    users = [f"{name}:{line}" for name, line in lines if _is_users(name)]
    return f"{layer} ({users[-1]})" if users else layer


# --- what a valid graph is -----------------------------------------------------------------------


def stage_of(gm: GraphModule) -> Stage:
    """The stage whose rules a graph obeys.

    Raises:
        QCompileError: the graph did not come from `trace` or `prepare`.
    """
    stage = gm.meta.get("stage")
    if not isinstance(stage, Stage):
        raise QCompileError(
            "this GraphModule did not come from qcompile",
            hint="start from qcompile.prepare(model, example_inputs, recipe)",
        )
    return stage


def spec(node: Node) -> TensorSpec:
    """Shape and dtype of a node that gives one tensor."""
    value = node.meta["spec"]
    assert isinstance(value, TensorSpec), f"{node} gives no single tensor"
    return value


class _Propagate(Shapes):
    def run_node(self, n: Node) -> Any:
        try:
            value = super().run_node(n)
        except Exception as error:
            if isinstance(error, QCompileError):
                raise
            raise QCompileError(
                f"{_described(self.module, n)} fails: {_first_line(error)}",
                where=where(n),
                hint="check the model with the example inputs in plain PyTorch first",
            ) from error
        n.meta["spec"] = _specs(value)
        return value


def _described(gm: nn.Module, node: Node) -> str:
    """What a node calls, in the user's words: `Conv2d of f32[2,7,5,5]`."""
    if node.op == "call_module":
        name = type(gm.get_submodule(str(node.target))).__name__
    else:
        name = node.target if isinstance(node.target, str) else _function_name(node.target)
    takes = ", ".join(str(n.meta.get("spec")) for n in node.all_input_nodes if n.op != "get_attr")
    return f"{name} of {takes}" if takes else name


def _specs(value: Any) -> Any:
    if isinstance(value, (Tensor, Layout)):
        return TensorSpec(tuple(value.shape), value.dtype)
    return tuple(_specs(v) for v in value) if isinstance(value, (tuple, list)) else None


@contextmanager
def shapes_only(gm: GraphModule) -> Iterator[None]:
    """What runs in the block has shapes and dtypes but no values; no module notices.

    In eval mode, since in training a BatchNorm refuses a batch of one. Quietly, since torch logs
    with a traceback what is raised anyway.
    """
    training = [module for module in gm.modules() if module.training]
    log = logging.getLogger("torch._subclasses.fake_tensor")
    enabled = not log.disabled
    gm.eval()
    log.disabled = True
    try:
        with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
            yield
    finally:
        log.disabled = not enabled
        for module in training:
            module.training = True


def propagate(gm: GraphModule, batch: int | None = None) -> None:
    """Write every node's TensorSpec into its meta; `batch` replaces the examples' batch size."""
    with shapes_only(gm):
        _Propagate(gm).run(*input_layouts(gm, batch))


def input_layouts(gm: GraphModule, batch: int | None = None) -> list[Layout]:
    """Of a graph's inputs; `batch` replaces the examples' batch size."""
    return [
        contiguous((s.shape[0] if batch is None else batch, *s.shape[1:]), s.dtype)
        if s.shape
        else contiguous((), s.dtype)
        for s in gm.meta["inputs"]
    ]


def infer(gm: GraphModule, node: Node) -> None:
    """Write a new node's TensorSpec into its meta, from its arguments' specs."""
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        interpreter = _Propagate(gm)
        for argument in node.all_input_nodes:
            interpreter.env[argument] = _layouts(argument.meta["spec"])
        interpreter.run_node(node)


def _layouts(specs: Any) -> Any:
    if isinstance(specs, TensorSpec):
        return contiguous(specs.shape, specs.dtype)
    return tuple(map(_layouts, specs)) if isinstance(specs, tuple) else None


def verify(gm: GraphModule) -> None:
    """Check structure, shapes and dtypes, and that only the stage's ops appear.

    Raises:
        QCompileError: an op that the stage does not have, or one that fails on the shapes.
    """
    stage = stage_of(gm)
    gm.graph.lint()
    for node in gm.graph.nodes:
        _check_stage(gm, node, stage)
    propagate(gm)


def _check_stage(gm: GraphModule, node: Node, stage: Stage) -> None:
    if node.op in ("placeholder", "get_attr", "output") or stage is Stage.TRACED:
        return
    if node.op == "call_module" and stage in MODULES_ALLOWED:
        return
    if node.op == "call_function" and node.target in FUNCTIONS[stage]:
        return
    raise QCompileError(
        f"{node.format_node()} does not belong in a {stage.value} graph", where=where(node)
    )


# --- accessors and text --------------------------------------------------------------------------


def module_of(gm: GraphModule, node: Node) -> nn.Module | None:
    """The module a node calls, or None."""
    return gm.get_submodule(str(node.target)) if node.op == "call_module" else None


def constant_of(gm: GraphModule, node: Node) -> Tensor | None:
    """The tensor a get_attr node reads, or None for other nodes."""
    if node.op != "get_attr":
        return None
    path, _, name = str(node.target).rpartition(".")
    value = getattr(gm.get_submodule(path), name)
    return value if isinstance(value, Tensor) else None


def calls(node: object, *targets: Callable[..., Any]) -> TypeGuard[Node]:
    """Whether this is a node that calls one of these functions."""
    return isinstance(node, Node) and node.op == "call_function" and node.target in targets


def add_constant(gm: GraphModule, name: str, value: Tensor) -> Node:
    """Register a buffer under a free name and read it at the graph's insertion point."""
    name = re.sub(r"\W", "_", name)
    free = name
    counter = 0
    while hasattr(gm, free):
        counter += 1
        free = f"{name}_{counter}"
    gm.register_buffer(free, value.detach())
    node = gm.graph.get_attr(free)
    node.meta["spec"] = _specs(value)
    return node


def text(gm: GraphModule, *, named: bool = False) -> str:
    """The graph, a line a node, values numbered: the same text for the same graph, whatever fx named them.

    Args:
        named: fx's names instead, which a node keeps from pass to pass, so that texts can be compared.
    """
    number: dict[Node, int] = {}

    def show(value: Any) -> str:
        if isinstance(value, Node):
            return f"%{value.name if named else number[value]}"
        if isinstance(value, (tuple, list)):
            return f"[{', '.join(map(show, value))}]"
        return repr(value) if isinstance(value, str) else str(value)

    lines = []
    for node in gm.graph.nodes:
        arguments = [show(a) for a in node.args]
        arguments += [f"{key}={show(value)}" for key, value in node.kwargs.items()]
        if node.op == "output":
            lines.append(f"return {', '.join(arguments)}")
            continue
        number[node] = len(number)
        target = str(node.target) if isinstance(node.target, str) else _function_name(node.target)
        if node.op == "call_module":
            target = f"{target}:{type(module_of(gm, node)).__name__}"
        value = node.meta.get("spec")
        shape = f" : {value}" if isinstance(value, TensorSpec) else ""
        lines.append(f"{show(node)} = {node.op} {target}({', '.join(arguments)}){shape}")
    return "\n".join(lines)


def _function_name(target: Any) -> str:
    if isinstance(target, torch._ops.OpOverload):
        return str(target).removesuffix(".default")
    return str(getattr(target, "__name__", target))
