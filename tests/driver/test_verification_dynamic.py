"""Programs of dynamic and of weight-only layers are verified as others are."""

from __future__ import annotations

import pytest
import rewriting
import torch
from small_nets import Net, levels, normal
from torch import Tensor
from torch.fx import GraphModule

import qcompile
from qcompile import verification
from qcompile.codegen import expr as e
from qcompile.codegen.expr import Expr
from qcompile.codegen.kernels import dynamic
from qcompile.codegen.schedules import sample_range
from qcompile.codegen.writer import Writer
from qcompile.ir.stages import aten, dialect
from qcompile.pipelines import lower

CONSTANTS = {
    "taps": levels(-7, 7, 12, 3, 3, 3),
    "weight": levels(-127, 127, 20, 12 * 16, seed=1),
    "total": levels(-127, 127, 20, 12 * 16, seed=1).sum(1, dtype=torch.int32),
    "scale": normal(20, seed=2) / 1000,
    "shift": normal(20, seed=3),
}


def forward(
    x: Tensor, taps: Tensor, weight: Tensor, total: Tensor, scale: Tensor, shift: Tensor
) -> tuple[Tensor, Tensor]:
    """A weight-only convolution, then a dynamic and a weight-only matrix product of one value."""
    y = dialect.weight_only_conv.default(x, taps, [1, 1], [0] * 4, [1, 1], 1)
    features = aten.flatten.using_ints(aten.hardtanh.default(y, -50.0, 70.0), 1)
    results = []
    for _ in range(2):  # the second time is the same as the first
        qparams = dialect.dynamic_qparams.default(features, 6)
        q = dialect.dynamic_quantize.default(features, qparams, 6)
        acc = dialect.linear.default(q, weight, 0)
        results.append(dialect.dynamic_scale_shift.default(acc, qparams, total, scale, shift))
    floats = dialect.weight_only_linear.default(features, weight)
    return aten.add.Tensor(*results), dialect.scale_shift.default(floats, scale, shift)


def converted() -> GraphModule:
    own = {name: value.clone() for name, value in CONSTANTS.items()}
    return rewriting.converted(Net(forward, **own), normal(2, 3, 6, 6))


def test_verified() -> None:
    graph = converted()
    program = qcompile.compile(graph)
    report = qcompile.verify(program, graph, [normal(1, 3, 6, 6), normal(70, 3, 6, 6, seed=1)])
    report.raise_if_failed()
    assert report.ok
    assert report.samples == 71
    levels_of = [k for k in report.kernels if "dynamic_quantize_default" in k.nodes]
    assert [k.equal for k in levels_of] == [True]
    kinds = [kernel.kind for kernel in program.variant.kernels]
    assert sorted(kinds) == ["elementwise", "int8", "range", "weight-only", "weight-only"]


def test_equal_ranges_and_levels_are_computed_once() -> None:
    graph = lower(converted())
    for op in (dialect.dynamic_qparams, dialect.dynamic_quantize, dialect.linear):
        assert len(graph.graph.find_nodes(op="call_function", target=op.default)) == 1


@pytest.mark.parametrize(
    ("constant", "kernels"),
    [("taps", {"weight-only"}), ("weight", {"int8", "weight-only"}), ("total", {"int8"})],
)
def test_a_wrong_constant_is_found(
    constant: str, kernels: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program's has two channels exchanged, and nothing tells it from the right one."""
    graph = converted()
    value = graph.get_buffer(constant)
    value.copy_(value.roll(1, 0))
    program = qcompile.compile(graph)
    monkeypatch.setattr(verification, "fingerprint", lambda _: program.info.fingerprint)
    report = qcompile.verify(program, converted(), normal(3, 3, 6, 6))
    kinds = {kernel.name: kernel.kind for kernel in program.variant.kernels}
    assert {kinds[row.kernel] for row in report.kernels if not row.ok} == kernels


@pytest.mark.parametrize("wrong", ["scale", "zero point"])
def test_a_range_that_is_a_little_off_is_found(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a bit of the scale, which no result would show."""

    def other(w: Writer, low: Expr, high: Expr, bits: int) -> tuple[Expr, Expr]:
        scale, zero_point = dynamic.qparams_of(w, low, high, bits)
        if wrong == "scale":
            return scale * e.const(1 + 2.0**-23, "float32"), zero_point
        return scale, zero_point + e.const(1, "float32")

    monkeypatch.setattr(sample_range, "qparams_of", other)
    program = qcompile.compile(converted())
    report = qcompile.verify(program, converted(), normal(3, 3, 6, 6))
    kinds = {kernel.name: kernel.kind for kernel in program.variant.kernels}
    assert {kinds[row.kernel] for row in report.kernels if not row.ok} == {"range"}
