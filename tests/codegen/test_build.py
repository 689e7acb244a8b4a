"""The library as a whole: what it says of itself, and what is refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from compiling import Case, check, joined, load
from torch import Tensor, nn

from qcompile.codegen import linker
from qcompile.codegen.build import build
from qcompile.codegen.machine import machine_of
from qcompile.errors import QCompileError
from qcompile.ir.graph import trace, verify
from qcompile.ir.stages import Stage
from qcompile.ir.target import Target

q, aten = torch.ops.qcompile, torch.ops.aten
CPU = Target()


def one(function: Callable[..., Any], *shape: int, **constants: Tensor) -> Any:
    return Case(function, [shape], constants).graph()


def refused(function: Callable[..., Any], *shape: int, **constants: Tensor) -> str:
    gm = one(function, *shape, **constants)
    with pytest.raises(QCompileError) as error:
        build(gm, CPU)
    return str(error.value)


def test_kernels_are_listed_as_they_run() -> None:
    def function(x: Tensor, a: Tensor) -> Any:
        y = aten.relu.default(q.scale_shift.default(x, a, a))
        return aten.add.Tensor(y, aten.max_pool2d.default(y, [3, 3], [1, 1], [1, 1]))

    gm = one(function, 4, 6, 6, a=torch.ones(4))
    for node in gm.graph.nodes:
        node.meta["layer"] = f"layer.{node.name}"
    built = build(gm, CPU)
    assert [(k.nodes, k.kind, k.layer, k.inputs) for k in built.kernels] == [
        (
            ("scale_shift_default", "relu_default"),
            "elementwise",
            "layer.scale_shift_default",
            ("x",),
        ),
        (
            ("max_pool2d_default", "add_tensor"),
            "pool",
            "layer.max_pool2d_default",
            ("relu_default",),
        ),
    ]
    assert built.layouts["relu_default"].shape == (6, 6, 4)
    assert built.layouts["add_tensor"].shape == (4, 6, 6)


def test_layers_of_one_shape_share_their_code() -> None:
    generator = torch.Generator().manual_seed(0)
    weights = [
        torch.randint(-9, 9, (8, 8, 3, 3), dtype=torch.int8, generator=generator) for _ in range(3)
    ]

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for i, weight in enumerate(weights):
                self.register_buffer(f"w{i}", weight)
            self.register_buffer("scale", torch.ones(8))

        def forward(self, x: Tensor) -> Tensor:
            for i in range(3):
                levels = q.quantize.default(x, 0.5 + i, 3, 0, 255)
                weight = getattr(self, f"w{i}")
                acc = q.conv.default(levels, weight, [1, 1], [1, 1, 1, 1], [1, 1], 1, 3, 0)
                x = q.scale_shift.default(acc, self.scale, None)
            return x

    gm = trace(Net(), [torch.zeros(2, 8, 5, 5)])
    gm.meta["stage"] = Stage.LOWERED
    verify(gm)
    built = build(gm, CPU)
    # The last one writes in torch's order, the first quantizer reads it; the rest are the same two.
    assert len(built.kernels) == 4
    assert len({k.name for k in built.kernels}) == 3
    x = torch.randn(3, 8, 5, 5)
    torch.testing.assert_close(load(built)([x])[0], gm(x), rtol=0, atol=0)


def test_a_value_is_returned_twice_and_an_input_too() -> None:
    def function(x: Tensor) -> Any:
        y = aten.relu.default(x)
        return y, y, x, aten.flatten.using_ints(y, 1)

    check([Case(function, [(3, 4, 5)])])


def views(x: Tensor) -> Any:
    y, flat = aten.relu.default(x), aten.flatten.using_ints(x, 1)
    again = aten.flatten.using_ints(aten.flatten.using_ints(x, 2), 1)
    return flat, x, again, y, y, aten.flatten.using_ints(y, 1), aten.neg.default(flat)


@pytest.mark.parametrize(
    "function",
    [views, lambda x: x, lambda x: (x,), lambda x: aten.flatten.using_ints(x, 1)],
    ids=["many", "input", "tuple", "flatten"],
)
def test_results_share_no_memory_with_inputs_or_each_other(function: Callable[..., Any]) -> None:
    gm = one(function, 3, 4, 5)
    machine = load(build(gm, CPU))
    for batch in (1, 3):
        x = torch.randn(batch, 3, 4, 5)
        wanted = function(x.clone())
        wanted = [wanted] if isinstance(wanted, Tensor) else list(wanted)
        before, results = x.clone(), machine([x])
        for i, result in enumerate(results):
            torch.testing.assert_close(result, wanted[i], rtol=0, atol=0)
            result.fill_(7.0 + i)
        assert torch.equal(x, before)
        assert [float(r.min()) for r in results] == [7.0 + i for i in range(len(results))]


def test_only_results_in_memory_of_others_are_copied() -> None:
    view = build(one(lambda x: aten.flatten.using_ints(aten.relu.default(x), 1), 3, 4), CPU)
    assert b"copy_result" not in view.library
    both = build(one(lambda x: (x, aten.relu.default(x)), 3, 4), CPU)
    assert b"copy_result" in both.library
    assert [k.nodes for k in both.kernels] == [("relu_default",)]


def test_the_graph_is_left_as_it_was() -> None:
    gm = one(lambda x: aten.relu.default(x), 3, 4)
    before = {n.name: n.meta["spec"] for n in gm.graph.nodes}
    build(gm, CPU)
    assert {n.name: n.meta["spec"] for n in gm.graph.nodes} == before


def test_features_are_those_of_the_target() -> None:
    haswell = machine_of(Target("cpu", "haswell"))
    assert (haswell.lanes, haswell.dot) == (8, "pair")
    assert {"avx2", "fma", "bmi2", "popcnt"} <= set(haswell.features)
    assert "avx512f" not in haswell.features
    old = machine_of(Target("cpu", "x86-64-v2"))
    assert old.lanes == 4
    assert "avx" not in old.features
    new = machine_of(Target("cpu", "icelake-server"))
    assert (new.lanes, new.dot) == (16, "quad")
    assert {"avx512_vnni", "avx512_vpopcntdq"} <= set(new.features)


def test_code_for_this_machine_needs_only_what_it_has() -> None:
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    flags = next(line for line in text.splitlines() if line.startswith("flags"))
    assert set(machine_of(CPU).features) <= set(flags.split())


def test_unknown_processor() -> None:
    with pytest.raises(QCompileError, match="unknown processor 'hasswell'") as error:
        machine_of(Target("cpu", "hasswell"))
    assert "haswell" in str(error.value.hint)


def test_no_linker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(QCompileError, match="no linker") as error:
        build(one(lambda x: aten.relu.default(x), 3), CPU)
    assert "binutils" in str(error.value.hint)


def test_plain_linker(monkeypatch: pytest.MonkeyPatch) -> None:
    path = shutil.which("ld")
    assert path
    monkeypatch.setattr(linker, "_COMPILERS", ())
    monkeypatch.setattr(linker, "_LINKERS", ("ld",))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.delenv("CXX", raising=False)
    gm = one(lambda x: aten.log_softmax.int(aten.gelu.default(x), 1), 5)
    x = torch.randn(2, 5)
    got = load(build(gm, CPU))([x])[0]
    # exp, log and erf by polynomials: some units in the last place.
    torch.testing.assert_close(got, gm(x), rtol=1e-5, atol=1e-6)


def test_linker_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linker, "find_linker", lambda family: [str(shutil.which("false"))])
    with pytest.raises(QCompileError, match="false fails"):
        build(one(lambda x: aten.relu.default(x), 3), CPU)


def test_another_stage() -> None:
    gm = one(lambda x: aten.relu.default(x), 3)
    gm.meta["stage"] = Stage.CONVERTED
    with pytest.raises(QCompileError, match="takes a lowered graph, not a converted one"):
        build(gm, CPU)


def test_batch_baked_in() -> None:
    text = refused(lambda x: aten.flatten.using_ints(x, 0), 3, 4)
    assert "does not follow the batch size" in text
    assert "flatten_using_ints" in text


def test_constant_with_a_batch() -> None:
    gm = one(lambda x, c: aten.add.Tensor(x, c), 3, c=torch.ones(2, 3))
    with pytest.raises(QCompileError):
        build(gm, CPU)


@pytest.mark.parametrize(
    ("function", "what"),
    [
        (lambda x: aten.mean.dim(x, [0, 2], True), "batch"),
        (lambda x: aten.amax.default(x, [0], True), "batch"),
        (lambda x: aten.softmax.int(x, 0), "batch"),
        (lambda x: aten.cat.default([x, x], 0), "batch"),
    ],
)
def test_across_the_batch(function: Callable[..., Any], what: str) -> None:
    assert what in refused(function, 3, 4)


def test_linear_over_three_dimensions() -> None:
    text = refused(lambda x, w: aten.linear.default(x, w), 3, 4, w=torch.ones(5, 4))
    assert "flatten before the layer" in text


def test_transposed_convolution() -> None:
    def function(x: Tensor, w: Tensor) -> Any:
        return aten.convolution.default(x, w, None, [1, 1], [0, 0], [1, 1], True, [0, 0], 1)

    assert "transposed" in refused(function, 3, 4, 4, w=torch.ones(3, 2, 2, 2))


def test_unsupported_dtype() -> None:
    def function(x: Tensor) -> Any:
        return aten.add.Tensor(x, x)

    gm = one(function, 3)
    gm.meta["inputs"] = tuple(type(s)(s.shape, torch.float64) for s in gm.meta["inputs"])
    with pytest.raises(QCompileError, match="float64"):
        build(gm, CPU)


def test_what_is_returned_must_be_computed() -> None:
    text = refused(lambda x, c: (aten.relu.default(x), c), 3, c=torch.ones(3))
    assert "returns" in text


def test_joined_cases_keep_their_constants_apart() -> None:
    cases = [
        Case(lambda x, c: aten.mul.Tensor(x, c), [(3,)], {"c": torch.full((3,), float(i))})
        for i in range(3)
    ]
    x = torch.ones(2, 3)
    results = joined(cases)(x, x, x)
    assert [float(r[0, 0]) for r in results] == [0.0, 1.0, 2.0]
