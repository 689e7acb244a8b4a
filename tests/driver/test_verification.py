"""Verification passes on programs that are right, and fails, by name and place, on any that is not."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

import qcompile
from qcompile import pipelines, verification
from qcompile.ir import ops
from qcompile.kernel_check import bitpack, float_error, xnor_matmul
from qcompile.passes import run
from qcompile.program import Program
from qcompile.program_file import pack
from qcompile.verify_report import KernelReport, Mismatch, OutputReport, VerifyReport


class Net(nn.Module):
    """Binary convolutions with a residual sum, between an 8-bit (or float) first and last layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 32, 3, padding=1)
        self.one = nn.Conv2d(32, 40, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(40)
        self.two = nn.Conv2d(40, 40, 3, padding=1, bias=False)
        self.last = nn.Linear(40 * 9, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.one(torch.relu(self.first(x)))))
        x = nn.functional.max_pool2d(torch.relu(self.two(x)) + x, 2)
        return self.last(torch.flatten(x, 1))


class TwoHeads(nn.Module):
    """Two inputs, and two outputs of which one is a feature map."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(2, 32, 1)
        self.b = nn.Conv2d(3, 32, 1)
        self.middle = nn.Conv2d(32, 32, 3)
        self.head = nn.Linear(32 * 16, 7)

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.relu(self.middle(torch.relu(self.a(a) + self.b(b))))
        return self.head(torch.flatten(x, 1)), x


def images(batch: int, channels: int = 2, seed: int = 0) -> Tensor:
    return torch.randn(batch, channels, 6, 6, generator=torch.Generator().manual_seed(seed))


@cache
def converted(kind: Callable[[], nn.Module] = Net, **fields: Any) -> GraphModule:
    torch.manual_seed(0)
    inputs = (images(8),) if kind is Net else (images(8), images(8, 3))
    prepared = qcompile.prepare(kind(), inputs, qcompile.Recipe(**fields))
    prepared.train()
    prepared(*inputs)
    return qcompile.convert(prepared.eval())


@cache
def compiled(kind: Callable[[], nn.Module] = Net, **fields: Any) -> Program:
    return qcompile.compile(converted(kind, **fields))


def tampered(constant: str, change: Any, **fields: Any) -> Program:
    """A program that claims to come from the graph, and has one of its constants changed."""
    graph = copy.deepcopy(converted(Net, **fields))
    change(graph.get_buffer(constant))
    program = qcompile.compile(graph)
    info = replace(program.info, fingerprint=compiled(Net, **fields).info.fingerprint)
    return Program(pack(info, [program.library_bytes], [program.constants]))


# --- programs that are right ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"method": "xnor"},
        {"method": "dorefa"},
        {"method": "affine", "bits": 8},
        {"first_last_bits": 32},
    ],
    ids=str,
)
def test_verified(fields: dict[str, Any]) -> None:
    report = qcompile.verify(
        compiled(Net, **fields), converted(Net, **fields), [images(1), images(70, seed=1)]
    )
    report.raise_if_failed()
    assert report.ok
    assert report.samples == 71
    kernels = compiled(Net, **fields).variant.kernels
    stored = [(kernel.name, value.node) for kernel in kernels for value in kernel.results]
    assert [(kernel.kernel, kernel.nodes[-1]) for kernel in report.kernels] == stored
    assert all((k.equal is True) != (k.max_error is not None) for k in report.kernels)
    assert report.failures() == []
    assert report.top1_agreement == 1.0
    assert "verified: 71 samples" in str(report)


def test_several_inputs_and_outputs() -> None:
    program, graph = compiled(TwoHeads), converted(TwoHeads)
    a, b = images(3), images(3, 3)
    for inputs in ((a, b), [(a, b)], [[a, b], (a[:1], b[:1])]):
        report = qcompile.verify(program, graph, inputs)
        report.raise_if_failed()
    assert [output.name for output in report.outputs] == ["output0", "output1"]
    assert report.outputs[0].top1_agreement == 1.0
    assert report.outputs[1].top1_agreement is None


def test_one_sample_of_one_dimension_is_verified() -> None:
    model = nn.Sequential(
        nn.Conv1d(2, 32, 3), nn.ReLU(), nn.Conv1d(32, 32, 3), nn.Flatten(), nn.Linear(32 * 6, 3)
    )
    x = torch.randn(2, 2, 10, generator=torch.Generator().manual_seed(0))
    prepared = qcompile.prepare(model.eval(), x, qcompile.Recipe(bits=1))
    prepared(x)
    graph = qcompile.convert(prepared)
    qcompile.verify(qcompile.compile(graph), graph, [x[:1], x]).raise_if_failed()


def test_a_loaded_program_is_verified_too(tmp_path: Any) -> None:
    compiled().save(tmp_path / "net.qcp")
    qcompile.verify(qcompile.load(tmp_path / "net.qcp"), converted(), images(2)).raise_if_failed()


def test_verification_leaves_program_and_graph_alone() -> None:
    program, graph = compiled(), converted()
    x = images(2).requires_grad_()
    before, training = program(x), graph.training
    qcompile.verify(program, graph, x)
    assert torch.equal(program(x), before)
    assert graph.training is training
    assert x.grad is None


# --- programs that are not -----------------------------------------------------------------------


def test_a_flipped_binary_weight_is_found_in_its_layer() -> None:
    def flip(weight: Tensor) -> None:
        weight[3, 0, 1, 1] *= -1

    report = qcompile.verify(tampered("two_weight", flip), converted(), images(20))
    assert not report.ok
    bad = [kernel for kernel in report.kernels if not kernel.ok]
    assert {kernel.layer for kernel in bad} == {"two"}
    with pytest.raises(
        qcompile.QCompileError, match="does not compute what its graph does:\n  two"
    ):
        report.raise_if_failed()
    assert "NOT VERIFIED" in str(report)


def test_a_shifted_threshold_is_found() -> None:
    """BatchNorm's shift decides the signs; the first wrong integer is named."""

    def shift(value: Tensor) -> None:
        value[5] += 0.5

    report = qcompile.verify(tampered("first_bias", shift), converted(), images(20))
    bad = [kernel for kernel in report.kernels if not kernel.ok]
    assert [kernel.layer for kernel in bad] == ["first"]  # whose kernel packs the signs
    mismatch = bad[0].mismatch
    assert mismatch is not None
    assert ((mismatch.expected ^ mismatch.got) & 0xFFFFFFFF).bit_count() == 1
    assert 0 < mismatch.count < mismatch.total


def test_each_value_that_a_kernel_stores_is_compared() -> None:
    """A sum that is read as floats and as signs: both are wrong where a scale is."""

    def scale(value: Tensor) -> None:
        value[5] *= -1

    rows = qcompile.verify(compiled(), converted(), images(9)).kernels
    several = [kernel for kernel in compiled().variant.kernels if len(kernel.results) > 1]
    assert several
    for kernel in several:
        own = [row for row in rows if row.nodes[-1] in {value.node for value in kernel.results}]
        assert [row.kernel for row in own] == [kernel.name] * len(kernel.results)
    report = qcompile.verify(tampered("one_multiplier", scale), converted(), images(9))
    names = {info.node for kernel in several for info in kernel.results}
    assert {row.nodes[-1] for row in report.kernels if not row.ok} >= names


def test_a_changed_byte_of_packed_weights_is_found() -> None:
    """Every weight of a binary layer counts: break one in the file."""
    program = compiled()
    weight = ops.pack_words(converted().get_buffer("one_weight").movedim(1, -1) > 0).flatten()
    constants = list(program.constants)
    number = next(i for i, c in enumerate(constants) if np.array_equal(c.values, weight.numpy()))
    values = constants[number].values.copy()
    values[3] ^= 1
    constants[number] = replace(constants[number], values=values)
    changed = Program(pack(program.info, [program.library_bytes], [constants]))
    report = qcompile.verify(changed, converted(), images(20))
    bad = [kernel for kernel in report.kernels if not kernel.ok]
    assert {kernel.layer for kernel in bad} == {"one"}


def test_a_float_layer_that_is_off_is_found() -> None:
    def scale(weight: Tensor) -> None:
        weight *= 1.001

    fields = {"first_last_bits": 32}
    report = qcompile.verify(
        tampered("last_weight", scale, **fields), converted(Net, **fields), images(20)
    )
    bad = [kernel for kernel in report.kernels if not kernel.ok]
    assert [kernel.layer for kernel in bad] == ["last"]
    assert "over the tolerance" in str(report)


def test_levels_that_rounding_decides_are_counted_apart() -> None:
    """A float layer within the tolerance puts values on the other side of a sign's boundary."""

    def nudge(bias: Tensor) -> None:
        bias += 2e-5

    fields = {"first_last_bits": 32}
    inputs = images(400)
    report = qcompile.verify(
        tampered("first_bias", nudge, **fields), converted(Net, **fields), inputs
    )
    assert all(kernel.ok for kernel in report.kernels)
    assert 0 < report.borderline < 400
    assert "a level that rounding decides" in report.verdict()
    assert report.ok


# --- its parts -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "groups", "k"),
    [((5, 2), 1, 50), ((3, 4, 6), 2, 96), ((2, 3, 4, 1), 1, 32), ((1, 2, 2, 9), 3, 70)],
)
def test_the_fast_reference_equals_the_slow_one(
    shape: tuple[int, ...], groups: int, k: int
) -> None:
    generator = torch.Generator().manual_seed(0)
    width = shape[-1] // groups
    mask = ops.full_word_mask(k)
    assert mask.numel() == width
    bits = torch.randint(-(2**31), 2**31, shape, generator=generator).to(torch.int32)
    bits &= mask.repeat(groups)
    weight = torch.randint(-(2**31), 2**31, (6, width), generator=generator).to(torch.int32) & mask
    fast, slow = xnor_matmul(bits, weight, k, groups), ops.xnor_matmul(bits, weight, k, groups)
    assert fast.dtype == slow.dtype
    assert torch.equal(fast, slow)


@pytest.mark.parametrize(
    "shape",
    [(3, 1), (2, 32, 5), (2, 40, 3, 4), (1, 70, 2, 2, 2), (1, 32, 5), (1, 64, 5), (1, 32, 1, 5)],
)
@pytest.mark.parametrize("low", [-1, 0])
def test_the_fast_packing_equals_the_slow_one(shape: tuple[int, ...], low: int) -> None:
    high = torch.rand(shape, generator=torch.Generator().manual_seed(0)) > 0.5
    levels = torch.where(high, 1, low).to(torch.int8 if low else torch.uint8)
    assert torch.equal(bitpack(levels), ops.bitpack(levels))


@pytest.mark.parametrize(
    ("got", "expected", "error"),
    [
        ([], [], (0.0, 0.0)),
        ([1.0, 2.0], [1.0, 2.0], (0.0, 0.0)),
        ([0.5], [0.25], (0.25, 0.25)),
        ([8.0], [4.0], (4.0, 1.0)),
        ([math.inf, -math.inf], [math.inf, -math.inf], (0.0, 0.0)),
        ([math.nan], [math.nan], (0.0, 0.0)),
        ([math.nan], [1.0], (math.inf, math.inf)),
        ([1.0], [math.inf], (math.inf, math.inf)),
        ([1.0], [math.nan], (math.inf, math.inf)),
    ],
)
def test_float_error(got: list[float], expected: list[float], error: tuple[float, float]) -> None:
    assert float_error(torch.tensor(got), torch.tensor(expected)) == error


def small_report(ok: bool = True) -> VerifyReport:
    mismatch = None if ok else Mismatch(1, (0, 2, 3), 5, -5, 7, 1000)
    return VerifyReport(
        kernels=(
            KernelReport("conv[1]", "xnor", ("a",), ok, mismatch, None, ok),
            KernelReport("", "add", ("b",), None, None, 1e-7, True),
        ),
        outputs=(OutputReport("output", 0.5, 0.0, 0.75), OutputReport("map", 0.1, 0.0, None)),
        samples=1000,
        borderline=2,
        unlike=0,
        tolerance=1e-4,
    )


def test_report_as_text() -> None:
    report = small_report(ok=False)
    assert str(report).splitlines() == [
        "layer    kernel  integers  max error",
        "-" * 103,
        (
            "conv[1]  xnor    WRONG                7 of 1,000 differ, first at [0, 2, 3] of batch 1: "
            "-5 instead of 5"
        ),
        "         add               1.00e-07",
        (
            "NOT VERIFIED: 1,000 samples, 0 of 1 integer kernel equal; output: max error 0.5, "
            "same top-1 in 75.00 %; map: max error 0.1; "
            "2 have a level that rounding decides, outputs left out"
        ),
    ]
    assert (report.max_error, report.top1_agreement) == (0.5, 0.75)
    assert report.failures() == [
        "conv[1] (xnor): 7 of 1,000 differ, first at [0, 2, 3] of batch 1: -5 instead of 5"
    ]


def test_a_program_without_integers_says_what_its_floats_are() -> None:
    report = small_report()
    floats = replace(report.kernels[1], kernel="conv")
    found = replace(report, kernels=(floats, floats))
    what = "no integer kernels, 2 of 2 float kernels within the tolerance; output: "
    assert f"verified: 1,000 samples, {what}" in found.verdict()
    wrong = replace(report, kernels=(replace(floats, max_error=9.0, ok=False),))
    what = "no integer kernels, 0 of 1 float kernel within the tolerance; output: "
    assert f"NOT VERIFIED: 1,000 samples, {what}" in wrong.verdict()


@pytest.mark.parametrize("ok", [True, False])
def test_report_in_rich(ok: bool) -> None:
    import io

    from rich.console import Console

    console = Console(width=200, file=io.StringIO(), record=True)
    console.print(small_report(ok))
    text = console.export_text()
    assert "conv[1]" in text
    assert small_report(ok).verdict() in text


def test_another_class_is_a_failure_unless_rounding_decides_it() -> None:
    """5000 and 5000.3 are within a tolerance of 1e-4 of the largest, and yet ranked."""
    expected = torch.tensor([[5000.3, 5000.0], [1.0, 1.0 + 1e-7], [2.0, 1.0]])
    got = torch.tensor([[5000.0, 5000.3], [1.0 + 1e-6, 1.0], [2.0, 1.0]])
    total = verification._Total("output")
    total.add(got, expected, torch.ones(3, dtype=torch.bool))
    output = total.report()
    assert (output.swapped, output.top1_agreement) == (1, 1 / 3)
    report = replace(small_report(), outputs=(output,))
    assert not report.ok
    assert report.failures() == [str(output)]


def test_lowering_that_changes_bits_is_a_failure() -> None:
    """Then the kernels were compared with the wrong thing."""
    report = replace(small_report(), unlike=3)
    assert report.failures() == ["lowering: 3 of 1,000 samples with other bits"]
    assert report.verdict().startswith("NOT VERIFIED")
    assert "lowering changes the bits of 3" in report.verdict()


def test_graphs_are_compared_by_bits() -> None:
    a = torch.tensor([[0.0, math.nan], [1.0, 2.0], [3.0, 4.0]])
    b = torch.tensor([[-0.0, math.nan], [1.0, 2.0000002], [3.0, 4.0]])
    assert verification._unlike([a, a], [a, a]) == 0
    assert verification._unlike([a, a], [a, b]) == 1
    assert verification._unlike([a, a], [b, torch.zeros(3, 2)]) == 3


def test_integer_outputs_and_no_steady_sample() -> None:
    total = verification._Total("levels")
    x = torch.tensor([[1, 2], [3, 4]])
    total.add(x, x + 1, torch.zeros(2, dtype=torch.bool))
    assert total.report().max_error == 0
    total.add(x, x + 1, torch.tensor([True, False]))
    assert total.report().max_error == 1


def test_a_wrong_pass_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each kernel does what the lowered graph says, which is not what the converted one says."""

    def swap(gm: GraphModule, *_: Any, **__: Any) -> GraphModule:
        result = run(pipelines.lower_passes(), gm).graph
        for name, tau in result.named_buffers():
            if name.endswith("_tau"):
                tau.copy_(tau.flip(0))
        return result

    with monkeypatch.context() as patch:
        patch.setattr(verification, "lower", swap)
        patch.setattr(pipelines, "lower", swap)
        program = qcompile.compile(converted(), target="cpu")
        report = qcompile.verify(program, converted(), images(20))
    assert all(kernel.ok for kernel in report.kernels)
    assert report.unlike > 0
    assert not report.ok


def test_a_report_that_is_fine_raises_nothing() -> None:
    small_report().raise_if_failed()
    beyond = replace(small_report(), outputs=(OutputReport("output", 1.0, 0.1, None),))
    with pytest.raises(qcompile.QCompileError, match=r"output: max error 1\n"):
        beyond.raise_if_failed()
