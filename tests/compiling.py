"""Compile small graphs and compare each with itself in plain PyTorch.

Many cases go into one library, as so many branches of one network: `check` builds it once and runs
it with several batch sizes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node

from qcompile.codegen.build import Choose, build, by_default
from qcompile.codegen.built import Built
from qcompile.codegen.groups import Group
from qcompile.codegen.machine import Machine
from qcompile.codegen.schedules.tile import Choice
from qcompile.codegen.tuning.space import choices_of, is_tunable
from qcompile.constants import expanded
from qcompile.ir.graph import propagate, trace, verify
from qcompile.ir.stages import Stage
from qcompile.ir.target import Target
from qcompile.runtime import Library, default_threads, use_threads

BATCHES = (1, 2, 5)
Run = Callable[[Sequence[Tensor]], list[Tensor]]


class _Net(nn.Module):
    """A function of inputs and constants, as a module that can be traced."""

    def __init__(self, function: Callable[..., Any], constants: dict[str, Tensor]) -> None:
        super().__init__()
        self.function, self.names = function, list(constants)
        for name, value in constants.items():
            self.register_buffer(name, value)

    def constants(self) -> dict[str, Tensor]:
        return {name: getattr(self, name) for name in self.names}


class _One(_Net):
    def forward(self, x: Tensor) -> Any:
        return self.function(x, **self.constants())


class _Two(_Net):
    def forward(self, x: Tensor, y: Tensor) -> Any:
        return self.function(x, y, **self.constants())


@dataclass
class Case:
    """One branch: `function(*inputs, **constants)` of one or two float32 inputs.

    Attributes:
        shapes: of the inputs, without the batch.
        tolerance: (relative, absolute) error; both 0 means bit for bit.
        spread: standard deviation of the inputs.
        extreme: three of four samples are all large, all small, or large and small in turn by
            channel.
    """

    function: Callable[..., Any]
    shapes: Sequence[tuple[int, ...]]
    constants: dict[str, Tensor] = field(default_factory=dict)
    tolerance: tuple[float, float] = (0, 0)
    name: str = ""
    spread: float = 1.0
    extreme: bool = False

    @cached_property
    def reference(self) -> GraphModule:
        """`graph()`, traced once."""
        return self.graph()

    def graph(self) -> GraphModule:
        """The case as a lowered graph."""
        net = (_One if len(self.shapes) == 1 else _Two)(self.function, self.constants)
        gm = trace(net, [torch.zeros(2, *shape) for shape in self.shapes])
        gm.meta["stage"] = Stage.LOWERED
        verify(gm)
        return gm

    def inputs(self, batch: int, seed: int) -> list[Tensor]:
        generator = torch.Generator().manual_seed(seed)
        made = []
        for shape in self.shapes:
            x = torch.randn(batch, *shape, generator=generator) * self.spread
            flat = x.view(-1)
            flat[::17] = 0.0  # ties and both zeros are what signs and rounding stumble over
            flat[5::31] = -0.0
            if self.extreme:
                for i, sample in enumerate(x):
                    _flood(sample, (seed + i) % 4)
            made.append(x)
        return made


def _flood(sample: Tensor, how: int) -> None:
    """Fill a sample `[C, ...]` with what makes every product the same; 0 leaves it as it is."""
    if how:
        sample[:] = 1e4 if how == 1 else -1e4
    if how == 3:
        sample[::2] = 1e4


def joined(cases: Sequence[Case]) -> GraphModule:
    """All cases side by side in one graph, each with inputs and constants of its own."""
    root, graph, outputs, specs = nn.Module(), Graph(), [], []
    graphs = [case.reference for case in cases]
    places: list[dict[Node, Node]] = [{} for _ in graphs]
    for i, gm in enumerate(graphs):
        specs += list(gm.meta["inputs"])
        root.add_module(f"case{i}", gm)
        for node in gm.graph.nodes:
            if node.op == "placeholder":
                places[i][node] = graph.placeholder(f"case{i}_{node.name}")
    for i, gm in enumerate(graphs):
        place = places[i].__getitem__
        for node in gm.graph.nodes:
            if node.op == "placeholder":
                continue
            if node.op == "output":
                value = torch.fx.map_arg(node.args[0], place)
                outputs += list(value) if isinstance(value, (tuple, list)) else [value]
                continue
            copy = graph.node_copy(node, place)
            if node.op == "get_attr":
                copy.target = f"case{i}.{node.target}"
            copy.meta["layer"] = cases[i].name or f"case{i}"
            places[i][node] = copy
    graph.output(tuple(outputs))
    gm = GraphModule(root, graph)
    gm.meta.update(stage=Stage.LOWERED, inputs=tuple(specs))
    propagate(gm)
    return gm


def load(built: Built) -> Run:
    """What runs a library in this process: from inputs to the values that the graph returns."""
    library = Library(built.library, built.workspace, expanded(built.constants))
    threads = default_threads()

    def run(inputs: Sequence[Tensor]) -> list[Tensor]:
        use_threads(threads)
        size = inputs[0].shape[0]
        results = [torch.empty(size, *s, dtype=getattr(torch, d)) for s, d in built.outputs]
        library.run(*inputs, *results, library.workspace(threads), threads, -1)
        return results

    return run


def loaded(_: GraphModule, built: Built) -> Run:
    """The same, for `check`."""
    return load(built)


def check(
    cases: Sequence[Case],
    target: str = "cpu",
    batches: Sequence[int] = BATCHES,
    start: Callable[[GraphModule, Built], Run] = loaded,
    choose: Choose = by_default,
) -> Built:
    """Compile the cases, run them, compare every result with PyTorch's."""
    gm = joined(cases)
    built = build(gm, Target.parse(target), choose)
    compare(cases, start(gm, built), batches)
    return built


def compare(cases: Sequence[Case], run: Run, batches: Sequence[int]) -> None:
    """Compare every result of the cases' joined graph with PyTorch's."""
    for batch in batches:
        inputs = [x for i, case in enumerate(cases) for x in case.inputs(batch, 100 * batch + i)]
        results = run(inputs)
        at = 0
        for i, case in enumerate(cases):
            own = case.inputs(batch, 100 * batch + i)
            wanted = case.reference(*own)
            wanted = list(wanted) if isinstance(wanted, (tuple, list)) else [wanted]
            for number, value in enumerate(wanted):
                _compare(results[at], value, case, f"result {number} of batch {batch}")
                at += 1


def _compare(got: Tensor, wanted: Tensor, case: Case, which: str) -> None:
    assert got.dtype == wanted.dtype, f"{case.name}, {which}"
    assert got.shape == wanted.shape, f"{case.name}, {which}"
    torch.testing.assert_close(
        got,
        wanted,
        rtol=case.tolerance[0],
        atol=case.tolerance[1],
        equal_nan=True,
        msg=lambda text: f"{case.name}, {which}: {text}",
    )


def forced(method: str) -> Choose:
    """A choice for `check`: a method's first tile, and another one in every other kernel."""
    numbers = itertools.count()

    def choose(gm: GraphModule, group: Group, machine: Machine) -> Choice | None:
        if not is_tunable(gm, group, machine):
            return None
        choices = [c for c in choices_of(gm, group, machine) if c.method == method]
        return choices[next(numbers) % 2 * min(3, len(choices) - 1)]

    return choose
