"""What prepare, convert, calibrate and compile refuse, and what they say."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from networks import LENET_INPUT, LeNet
from torch import Tensor, nn

import qcompile
from qcompile import QCompileError, Recipe
from qcompile.calibration import calibrate
from qcompile.ir.graph import trace

X = torch.randn(4, 6)
MODEL = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 4), nn.Linear(4, 2))


def converted() -> torch.fx.GraphModule:
    return qcompile.convert(prepared())


def prepared() -> torch.fx.GraphModule:
    gm = qcompile.prepare(MODEL, X, Recipe(bits=8)).eval()
    gm(X)
    return gm


def exported() -> torch.fx.GraphModule:
    return qcompile.from_exported(torch.export.export(MODEL.eval(), (X,)), X)


def bare_program() -> torch.export.ExportedProgram:
    program = torch.export.export(MODEL.eval(), (X,))
    program.example_inputs = None
    return program


class Decides(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 1 if x.sum() > 0 else x


class Measures(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(len(x), -1)


class Constructs(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.Linear(6, 3)(x)


class Two(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y


class InPlace(nn.Module):
    """Its trace loses that `z` changes with `y`."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        z = y
        y += 1
        return z + y


class OneSample(nn.Module):
    """A batch of two becomes one row, which no layer behind it takes."""

    def __init__(self, sizes: tuple[int, ...]) -> None:
        super().__init__()
        self.linear, self.sizes = nn.Linear(6, 2), sizes

    def forward(self, x: Tensor) -> Tensor:
        y = x.reshape(self.sizes)
        return self.linear(y)


class Overflows(nn.Module):
    """Its inputs are finite, and what its second layer reads is not."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.tail = nn.Linear(6, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.tail(self.head(x) * 3e38 * 10.0)


REFUSED: list[tuple[Callable[[], Any], str]] = [
    # what is no model
    (lambda: qcompile.prepare(LeNet, X), "a type is no model\n  pass a torch.nn.Module, not its"),  # type: ignore[arg-type]
    (lambda: qcompile.prepare(prepared(), X), "this model is prepared already"),
    (lambda: qcompile.prepare(Decides(), X), r"(?s)test_api_errors.py:\d+ .*cannot trace Decides"),
    (lambda: qcompile.prepare(Measures(), X), "'len' is not supported in symbolic tracing"),
    (lambda: qcompile.prepare(Constructs(), X), "module is not installed as a submodule"),
    (lambda: qcompile.prepare(nn.Sequential(nn.LazyLinear(3)), X), "0.weight: it has no shape yet"),
    (lambda: qcompile.prepare(copy.deepcopy(MODEL).to("meta"), X), "0.weight: it is on meta"),
    # inputs
    (lambda: qcompile.prepare(MODEL, ()), "there are no example inputs"),
    (lambda: qcompile.prepare(MODEL, [[1.0]]), "example input 0 is a list, no tensor"),  # type: ignore[list-item]
    (lambda: qcompile.prepare(MODEL, X.double()), "example input 0 is torch.float64"),
    (lambda: qcompile.prepare(MODEL, torch.empty(1, 6, device="meta")), "is on meta, not on"),
    (lambda: qcompile.prepare(MODEL, X[0, 0]), r"example input 0 has the shape \[\]"),
    (lambda: qcompile.prepare(MODEL, X[:0]), r"has the shape \[0, 6\]"),
    (lambda: qcompile.prepare(MODEL, X / 0), "example input 0 holds NaN or infinity"),
    (lambda: qcompile.prepare(Two(), (X, X[:2])), "batches of different sizes"),
    (lambda: qcompile.prepare(Two(), X), r"forward takes \(x, y\), and there are 1 example"),
    (lambda: qcompile.prepare(MODEL, (X, X)), r"forward takes \(input\), and there are 2"),
    (lambda: qcompile.prepare(MODEL, X[:, :5]), r"^0: .*fails"),
    # recipes
    (lambda: qcompile.prepare(MODEL, X, {"bits": 1}), "recipe is {'bits': 1}"),  # type: ignore[arg-type]
    (lambda: qcompile.compile(MODEL, X, recipe=Recipe(), bits=1), "recipe and bits are both given"),
    (lambda: qcompile.compile(MODEL, X, bit=1), r"no argument 'bit'\n  of a recipe: bits, "),
    (lambda: qcompile.compile(MODEL, X, bits=9), "bits must be 1 to 8"),
    (lambda: qcompile.compile(MODEL, X, mode="quick"), "unknown mode 'quick'"),
    (lambda: qcompile.compile(MODEL, X, mode="dynamic"), "mode 'dynamic' has no 1-bit activations"),
    (lambda: qcompile.compile(MODEL, X, bits=8, overrides={"3.": 4}), "did you mean '3'"),
    (
        lambda: qcompile.compile(MODEL, X, mode="weight-only", calibration=[]),
        "no calibration batch",
    ),
    # stages
    (lambda: qcompile.convert(MODEL), "convert takes a prepared model\n  make one with"),  # type: ignore[arg-type]
    (lambda: qcompile.convert(trace(MODEL, [X])), "convert takes a prepared model"),
    (lambda: qcompile.convert(converted()), "convert takes a prepared model"),
    (lambda: qcompile.convert(qcompile.prepare(MODEL, X)), "never observed"),
    (
        lambda: qcompile.convert(qcompile.prepare(MODEL, X, Recipe(correct_bias=True)).eval()),
        "correct_bias is for a calibrated network",
    ),
    (
        lambda: qcompile.prepare(exported(), (X, X)),
        r"inputs of \[6\], not \[6\] and \[6\], in each",
    ),
    (
        lambda: qcompile.prepare(exported(), X[:, :5]),
        r"read for inputs of \[6\], not \[5\], in each",
    ),
    (lambda: qcompile.compile(prepared()), "this model is prepared, not converted"),
    (lambda: qcompile.compile(MODEL), "there are no example inputs\n  pass them"),
    (lambda: qcompile.prepare(MODEL), "there are no example inputs\n  pass them"),
    (lambda: qcompile.from_exported(bare_program()), "this program was exported without any"),
    (lambda: qcompile.compile(converted(), X), "a converted model takes no example_inputs"),
    (lambda: qcompile.compile(converted(), bits=1), "a converted model takes no bits"),
    (lambda: qcompile.compile(converted(), target="abacus"), "unknown target 'abacus'"),
    (lambda: qcompile.compile(converted(), target=cast(Any, None)), "target is None"),
    (lambda: qcompile.Tuning(cache=cast(Any, 7)), "cache is 7"),
    (lambda: qcompile.prepare(InPlace(), X), "the graph of InPlace does not compute what"),
    # calibration
    (lambda: qcompile.compile(MODEL, X, bits=8, calibration=3), "the calibration data is 3"),  # type: ignore[arg-type]
    (lambda: qcompile.calibrate(MODEL, [X]), "calibrate takes a prepared model"),  # type: ignore[arg-type]
    (lambda: qcompile.calibrate(converted(), [X]), "calibrate takes a prepared model"),
    (lambda: calibrate(prepared(), []), "there is no calibration batch"),
    (lambda: calibrate(prepared(), [X, None]), "calibration batch 1: NoneType is no tensor"),
    (
        lambda: calibrate(prepared(), [()]),
        "calibration batch 0: it has 0 inputs, the model takes 1",
    ),
    (lambda: calibrate(prepared(), [X[:, :5]]), r"is f32\[4,5\], the model takes f32\[N,6\]"),
    (lambda: calibrate(prepared(), [X.double()]), r"is f64\[4,6\], the model takes"),
    (lambda: calibrate(prepared(), [X[:0]]), "calibration batch 0: it is empty"),
    (lambda: calibrate(prepared(), [X / 0]), "calibration batch 0: an input holds NaN"),
    (lambda: qcompile.compile(Overflows(), X, bits=8), r"(?s)^tail \(.*held NaN or infinity"),
]


@pytest.mark.parametrize(("action", "message"), REFUSED)
def test_refuses(action: Callable[[], Any], message: str) -> None:
    with pytest.raises(QCompileError, match=message):
        action()


@pytest.mark.parametrize("sizes", [(1, -1), (1, 6)])
def test_a_model_of_one_batch_size_names_the_line_that_fixes_it(sizes: tuple[int, ...]) -> None:
    with pytest.raises(QCompileError, match="OneSample takes batches of 1 only") as caught:
        qcompile.prepare(OneSample(sizes), X[:1])
    lines, first = inspect.getsourcelines(OneSample.forward)
    line = first + next(i for i, text in enumerate(lines) if "reshape" in text)
    assert f"test_api_errors.py:{line})" in str(caught.value.where)
    assert "flatten(1)" in str(caught.value.hint)


def test_a_model_that_fails_by_itself_names_its_line() -> None:
    with pytest.raises(QCompileError, match=r"conv1 \(.*networks.py:\d+\): .* fails"):
        qcompile.prepare(LeNet(), torch.randn(2, 3, *LENET_INPUT[1:]))
