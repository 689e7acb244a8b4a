"""Where the time of the float network goes, in PyTorch: each operation timed, beside whole calls.

A round is a whole call, then every operation in turn, on what those before it gave, as in a whole call.
What looking at the clock takes is measured in each round, and subtracted. The clock is the processor time
of this thread, as in `qcompile.profiling`, whose numbers stand beside these.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Interpreter, Node

from qcompile.program_info import KernelInfo

_LEAST, _MOST = 5, 1000  # rounds
_EMPTY = 20  # looks at the clock in a round


@dataclass(frozen=True)
class Eager:
    """Median seconds.

    Attributes:
        call: of a whole call of the network.
        nodes: of each operation of its graph.
        rounds: how often all was measured.
    """

    call: float
    rounds: int
    nodes: Mapping[Node, float]


def eager(
    network: Callable[..., object], traced: GraphModule, inputs: Sequence[Tensor], seconds: float
) -> Eager:
    """Time a network and the operations of its graph, on one thread.

    Args:
        network: in eval mode, as it is called as a whole.
        traced: its graph; modules are the network's own, or equal ones.
        inputs: as they lie in memory when it is called.
        seconds: to measure, about; five rounds at least.
    """
    clocked = _Clocked(traced)
    calls: list[float] = []
    with one_thread(), torch.no_grad():
        network(*inputs)
        end = time.perf_counter() + seconds
        while len(calls) < _LEAST or (len(calls) < _MOST and time.perf_counter() < end):
            start = time.thread_time()
            network(*inputs)
            calls.append(time.thread_time() - start)
            clocked.round(inputs)
    return Eager(float(np.median(calls)), len(calls), clocked.medians())


@contextmanager
def one_thread() -> Iterator[None]:
    """PyTorch's operations run on one thread in the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Clocked(Interpreter):
    """Runs a graph, and adds to each operation's samples what its call took."""

    def __init__(self, traced: GraphModule) -> None:
        super().__init__(traced)
        self.extra_traceback = False
        operations = [node for node in traced.graph.nodes if node.op.startswith("call_")]
        self._calls = {node: _callable(traced, node) for node in operations}
        self._samples: dict[Node, list[float]] = {node: [] for node in operations}
        self._empty: list[float] = []

    def round(self, inputs: Sequence[Tensor]) -> None:
        """Run all of it once."""
        for _ in range(_EMPTY):
            self._timed(self._empty, _nothing, (), {})
        self.run(*inputs)

    def medians(self) -> dict[Node, float]:
        empty = float(np.median(self._empty))
        return {
            node: max(0.0, float(np.median(taken)) - empty) for node, taken in self._samples.items()
        }

    def run_node(self, n: Node) -> Any:
        call = self._calls.get(n)
        if call is None:
            return super().run_node(n)
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        return self._timed(self._samples[n], call, args, kwargs)

    def _timed(
        self, taken: list[float], call: Callable[..., Any], args: Any, kwargs: dict[str, Any]
    ) -> Any:
        start = time.thread_time()
        value = call(*args, **kwargs)
        taken.append(time.thread_time() - start)
        return value


def _nothing() -> None:
    return None


def _callable(gm: GraphModule, node: Node) -> Callable[..., Any]:
    if node.op == "call_module":
        return gm.get_submodule(str(node.target))
    if node.op == "call_method":
        return partial(_method, str(node.target))
    assert callable(node.target)
    return node.target


def _method(name: str, value: Any, *args: Any, **kwargs: Any) -> Any:
    return getattr(value, name)(*args, **kwargs)


# --- whose they are ------------------------------------------------------------------------------


def owners(
    graph: Graph, lowered: Graph, kernels: Sequence[KernelInfo], layers: Collection[str]
) -> dict[Node, str]:
    """The layer that each operation of the float network belongs to, as kernels group them.

    That is the operation's own layer, where kernels bear its name; the one whose kernel computes what
    became of it; or else the one whose result it reads, and only then the one that reads its result. Of a
    module that is called twice, a call counts for its neighbour in front.

    Args:
        graph: the float network's.
        lowered: what was compiled.
        layers: those that there are.

    Returns:
        "" for what none can be found for.
    """
    found: dict[Node, str] = {}
    within = _kernels_of(lowered, kernels)
    operations = [node for node in graph.nodes if node.op.startswith("call_")]
    calls = Counter(map(_layer_of, operations))
    for node in operations:
        own = _layer_of(node)
        sources = [found[value] for value in node.all_input_nodes if found.get(value)]
        computed = within.get(own, ())
        near = next((one for one in sources if one in computed), "")
        if own in layers:
            found[node] = own
        elif near or not computed or calls[own] > 1:
            found[node] = near or next(iter(sources), "")
        else:
            found[node] = computed[0]
    for node in reversed(operations):
        if not found[node]:
            found[node] = next((found[user] for user in node.users if found.get(user)), "")
    return found


def _kernels_of(lowered: Graph, kernels: Sequence[KernelInfo]) -> dict[str, list[str]]:
    """The layers whose kernels compute operations, by those operations' layers."""
    layer_of = {node.name: _layer_of(node) for node in lowered.nodes}
    found: dict[str, list[str]] = {}
    for kernel in kernels:
        for name in kernel.nodes:
            found.setdefault(layer_of.get(name, name), []).append(kernel.layer)
    return found


def _layer_of(node: Node) -> str:
    return str(node.meta.get("layer") or node.name)
