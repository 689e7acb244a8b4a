"""From a program of `torch.export` to a graph at the traced stage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import Graph, GraphModule, Node
from torch.fx.graph import CodeGen

from qcompile.errors import QCompileError
from qcompile.ir.graph import TensorSpec, propagate
from qcompile.ir.stages import Stage

aten = torch.ops.aten

# What export notes beside the computation: nobody reads a result of theirs.
_CHECKS = (
    aten._assert_tensor_metadata.default,
    aten._assert_scalar.default,
    aten._assert_async.msg,
    aten.sym_constrain_range_for_size.default,
)
_GUARDS = "_guards_fn"


def graph_of(program: ExportedProgram, example_inputs: Sequence[Tensor]) -> GraphModule:
    """The graph of an exported program; its parameters and buffers are the program's own.

    Args:
        example_inputs: one tensor for each input; dimension 0 is the batch, whatever sizes the
            program was exported for.

    Raises:
        QCompileError: it takes or gives other things than tensors, or writes to a buffer.
    """
    _check(program, len(example_inputs))
    # By its graph, not by calling it: it refuses other batches than it was exported for.
    module: Any = program.module(check_guards=False)
    graph: Graph = module.graph
    graph.set_codegen(CodeGen())  # inputs one by one, not as the nested values that were exported
    gm = GraphModule(module, graph, _name(graph))
    for node in reversed(gm.graph.nodes):
        if node.target == _GUARDS or (node.op == "call_function" and node.target in _CHECKS):
            gm.graph.erase_node(node)
    gm.graph.eliminate_dead_code(is_impure_node=lambda node: node.op in ("placeholder", "output"))
    gm.delete_all_unused_submodules()
    _give_what_the_model_gave(program, gm)
    gm.recompile()
    gm.train(_trains(graph))
    gm.meta["stage"], gm.meta["model"] = Stage.TRACED, _name(graph)
    gm.meta["inputs"] = tuple(TensorSpec(tuple(x.shape), x.dtype) for x in example_inputs)
    for node in gm.graph.nodes:
        node.meta["layer"] = _layer(node)
    propagate(gm)
    return gm


def _name(graph: Graph) -> str:
    """The class that was exported, as its nodes say."""
    stacks = [
        node.meta["nn_module_stack"] for node in graph.nodes if "nn_module_stack" in node.meta
    ]
    roots = [next(iter(stack.values()))[1] for stack in stacks if stack]
    name = str(roots[0]).rpartition(".")[2] if roots else ""
    return name if name.isidentifier() else "ExportedProgram"


def _trains(graph: Graph) -> bool:
    """Whether it was exported in training mode: its BatchNorms and Dropouts say so."""
    norms = [n.args[5] for n in graph.nodes if n.target is aten.batch_norm.default]
    dropouts = [n.args[2] for n in graph.nodes if n.target is aten.dropout.default]
    return any((*norms, *dropouts))


def _check(program: ExportedProgram, inputs: int) -> None:
    signature = program.graph_signature
    if signature.buffers_to_mutate:
        name = next(iter(signature.buffers_to_mutate.values()))
        raise QCompileError(
            f"the exported program writes to {name}",
            hint="pass it as torch.export.export(model.eval(), inputs) gives it, not decomposed",
        )
    takes = len(signature.user_inputs)
    if takes != inputs:
        raise QCompileError(
            f"the exported program takes {takes} inputs, and there are {inputs} example inputs",
            hint="pass one for each; settings were fixed when it was exported",
        )


def _give_what_the_model_gave(program: ExportedProgram, gm: GraphModule) -> None:
    """A tensor where the model gave one; the graph gives a tuple in any case."""
    spec = program.call_spec.out_spec
    [output] = gm.graph.find_nodes(op="output")
    [values] = output.args
    if spec is not None and spec.is_leaf() and isinstance(values, (tuple, list)):
        output.args = (values[0],)


def _layer(node: Node) -> str:
    """The path of the module that a node stands for; that of its module and its name, in others."""
    if node.op == "get_attr":
        return str(node.target)
    stack = node.meta.get("nn_module_stack")
    if not stack:
        return node.name
    path, kind = next(reversed(stack.values()))
    kind = kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__qualname__}"
    if path and kind.startswith(f"{nn.modules.__name__}."):
        return str(path)
    return f"{path}.{node.name}" if path else node.name
