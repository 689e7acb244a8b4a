"""What a pass is: one rewrite, with three answers for each node.

A pass takes a graph that verifies and runs and gives one that verifies and runs; its argument stays
as it was. Copying, erasing, verifying and reporting are done here, once; printing, timing and
dumping are the callback of `run`, so that no pass knows of them.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import ClassVar

from torch.fx import GraphModule, Node

from qcompile.errors import QCompileError
from qcompile.ir.graph import infer, stage_of, verify
from qcompile.ir.stages import Stage


@dataclass(frozen=True)
class Declined:
    """A node that a pass is for, but leaves alone: the reason reaches the user."""

    reason: str


@dataclass
class Result:
    """What a pass, or a list of them, gave.

    Attributes:
        graph: the new graph.
        rewrote: the user's layers whose nodes were rewritten, in graph order.
        declined: layer to reason.
    """

    graph: GraphModule
    rewrote: list[str] = field(default_factory=list)
    declined: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Pass(ABC):
    """One rewrite; its options are its fields, `name` is how the command line spells it."""

    name: ClassVar[str]
    stages: ClassVar[tuple[Stage, ...]]  # where it may run
    gives: ClassVar[Stage | None] = None  # the stage of its result, where that is another

    @abstractmethod
    def rewrite(self, gm: GraphModule, node: Node) -> Node | Declined | None:
        """Return what takes the node's place, why it stays, or None if it is not ours.

        New nodes go in before `node`. Only `node` may be replaced; what only it used is removed.
        """

    def prepare(self, gm: GraphModule) -> None:  # noqa: B027
        """Look at (and adorn) the whole graph, a copy already, before its nodes are visited."""

    def __call__(self, gm: GraphModule, *, discard: bool = False) -> Result:
        """Rewrite a copy of the graph.

        Args:
            discard: the argument is of no more use: the result may have its tensors, changed.

        Raises:
            QCompileError: the graph is of another stage, or something in it cannot be had.
        """
        stage = stage_of(gm)
        if stage not in self.stages:
            wanted = " or ".join(s.value for s in self.stages)
            raise QCompileError(f"{self.name} takes a {wanted} graph, not a {stage.value} one")
        tensors = (*gm.parameters(), *gm.buffers()) if discard else ()
        result = Result(copy.deepcopy(gm, {id(tensor): tensor for tensor in tensors}))
        self.prepare(result.graph)
        for node in list(result.graph.graph.nodes):
            self._visit(result, node)
        result.graph.graph.eliminate_dead_code(is_impure_node=_is_impure)
        result.graph.delete_all_unused_submodules()
        _delete_unused_buffers(result.graph)
        result.graph.recompile()
        if self.gives is not None:
            result.graph.meta["stage"] = self.gives
        verify(result.graph)
        return result

    def _visit(self, result: Result, node: Node) -> None:
        graph = result.graph.graph
        before = set(graph.nodes)
        with graph.inserting_before(node):
            new = self.rewrite(result.graph, node)
        layer = str(node.meta.get("layer") or node.name)
        if isinstance(new, Declined):
            result.declined[layer] = new.reason
            return
        if new is None:
            return
        for added in [n for n in graph.nodes if n not in before]:
            added.meta.setdefault("layer", layer)
            added.stack_trace = added.stack_trace or node.stack_trace
            infer(result.graph, added)  # later nodes, when their turn comes, look at it
        if new is not node:
            # The new node may read the old one's value, never the other way round.
            node.replace_all_uses_with(new, delete_user_cb=lambda user: user is not new)
            graph.erase_node(node) if not node.users else None
        result.rewrote.append(layer)


def _is_impure(node: Node) -> bool:
    return node.op in ("placeholder", "output")


def _delete_unused_buffers(gm: GraphModule) -> None:
    used = {str(node.target) for node in gm.graph.nodes if node.op == "get_attr"}
    for name in [n for n, _ in gm.named_buffers(recurse=False) if n not in used]:
        delattr(gm, name)
    for name in [n for n, _ in gm.named_parameters(recurse=False) if n not in used]:
        delattr(gm, name)


AfterEach = Callable[[Pass, Result], None]


def run(passes: Iterable[Pass], gm: GraphModule, after_each: AfterEach | None = None) -> Result:
    """Apply passes in order; the result gathers what all of them rewrote and declined.

    `after_each` sees every pass with its own result: to print, time or save the graph. What is
    declined also stays with the graph, in `meta["declined"]`, for the report at the end.
    """
    total = Result(gm)
    for pass_ in passes:
        result = pass_(total.graph, discard=total.graph is not gm and after_each is None)
        total = Result(
            result.graph,
            [*total.rewrote, *result.rewrote],
            {**total.declined, **result.declined},
        )
        if after_each is not None:
            after_each(pass_, result)
    earlier = gm.meta.get("declined", {})
    total.graph.meta["declined"] = {**earlier, **total.declined}
    return total
