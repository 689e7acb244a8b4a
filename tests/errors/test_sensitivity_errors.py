"""What `sensitivity` refuses, in Python and on the command line."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import qcompile
from qcompile import QCompileError, Recipe, cli
from qcompile.sensitivity_widths import Width, widths_of

NET = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
X = torch.ones(3, 4)


@pytest.mark.parametrize(
    ("widths", "message"),
    [
        ("9", "there is no width of 9 bits"),
        ("0", "there is no width of 0 bits"),
        ("-1", "'-1' is no width"),
        ("8,,4", "'' is no width"),
        ("", "'' is no width"),
        ("four", "'four' is no width"),
        ("1/2/3", "'1/2/3' is no width"),
        ("float/4", "'float/4' is no width"),
        ("32/4", "width 32/4: the weights are float"),
        ("²", "'²' is no width"),
        ([], "there is no width to try"),
        ([True], "there is no width of True bits"),
        ([None], "there is no width of None bits"),
        ([(4, 4.0)], "there is no width of 4.0 bits"),
    ],
)
def test_widths(widths: Any, message: str) -> None:
    with pytest.raises(QCompileError) as info:
        widths_of(widths)
    assert message in str(info.value)
    assert "1-bit weights and 4-bit activations" in str(info.value)


def test_width_itself() -> None:
    with pytest.raises(QCompileError, match="no width of 16 bits"):
        Width(8, 16)


@pytest.mark.parametrize(
    ("model", "x", "more", "message"),
    [
        (nn.ReLU(), X, {}, "the model has no convolution and no linear layer"),
        (NET, X, {"samples": 0}, "samples is 0"),
        (NET, X, {"samples": True}, "samples is True"),
        (NET, X, {"recipe": 8}, "recipe is 8"),
        (NET, X, {"recipe": Recipe(8, method="affine"), "widths": [8, 1]}, "no 1-bit quantizer"),
        (NET, X, {"calibration": []}, "there is no calibration batch"),
        (NET, X, {"calibration": [torch.ones(3, 5)]}, "calibration batch 0: an input is"),
        (NET, X, {"calibration": [X, X * torch.nan]}, "batch 1: an input holds NaN or infinity"),
        (NET, X, {"evaluate": lambda _: "good"}, "evaluate returns 'good', not a number"),
        (NET, X, {"evaluate": lambda _: None}, "evaluate returns None, not a number"),
        (NET, X, {"evaluate": lambda _: torch.nan}, "evaluate returns nan, not a number"),
        (nn.Linear(4, 2, bias=False), 0 * X, {}, "gives nothing but zeros on the calibration data"),
        (NET, X[0, 0], {}, "example input 0 has the shape []"),
        ("net", X, {}, "a str is no model"),
    ],
)
def test_python(model: Any, x: Tensor, more: dict[str, Any], message: str) -> None:
    with pytest.raises(QCompileError) as info:
        qcompile.sensitivity(model, x, **more)
    assert message in str(info.value)


def test_a_network_that_gives_infinity() -> None:
    class Large(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return 1e38 * (1e38 * self.linear(x))

    with pytest.raises(QCompileError, match="gives NaN or infinity on the calibration data"):
        qcompile.sensitivity(Large(), X)


def test_no_layer_can_be_quantized() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(self.linear(x))

    with pytest.raises(QCompileError) as info:
        qcompile.sensitivity(Twice(), X)
    assert "no layer of the model can be quantized" in str(info.value)
    assert "test_sensitivity_errors.py:" in str(info.value)
    assert "linear: linear is called twice" in str(info.value)


def test_an_order_that_is_none() -> None:
    found = qcompile.sensitivity(NET, X, widths=[8])
    with pytest.raises(QCompileError, match="unknown order 'size'"):
        found.sorted("size")


# --- the command ---------------------------------------------------------------------------------

MODEL = """
import torch
from pathlib import Path
from torch import nn

model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
example_inputs = torch.randn(4, 4)

def train(model, epochs=1):
    Path("was trained").touch()
"""


@pytest.fixture
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(MODEL)


@pytest.mark.usefixtures("_in_a_folder")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--widths 16", "there is no width of 16 bits"),
        ("--method affine --widths 1", "method 'affine' has no 1-bit quantizer"),
        ("--observer eye", "unknown observer 'eye'"),
        ("--method none", "unknown method 'none'"),
        ("--metric loss", "unknown --metric 'loss'"),
        ("--metric accuracy", "net.py: --metric accuracy needs evaluate(model)"),
        ("--sort size", "--sort 'size'"),
        ("--samples 0", "--samples is 0, it must be 1 or more"),
        ("--epochs -1", "--epochs is -1, it must be 0 or more"),
        ("--threads 0", "--threads is 0, it must be 1 or more"),
        ("--input-shape x", "--input-shape 'x' is no list of sizes"),
        ("--json gone/net.json", "cannot write 'gone/net.json': there is no folder 'gone'"),
        ("--weights gone.safetensors", "gone.safetensors: cannot read weights"),
    ],
)
def test_options(capsys: pytest.CaptureFixture[str], words: str, message: str) -> None:
    assert cli.main(["sensitivity", "net.py", *words.split()]) == cli.REFUSED
    out, err = capsys.readouterr()
    assert out == ""
    assert message in " ".join(err.split())
    assert not Path("was trained").exists()


@pytest.mark.usefixtures("_in_a_folder")
def test_what_cannot_be_had_from_the_file_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    text = MODEL + "\ndef evaluate(model):\n    return 0.5\n"
    Path("net.py").write_text(text)
    words = ["--samples", "2", "--widths", "8", "--epochs", "0"]
    assert cli.main(["sensitivity", "net.py", *words]) == cli.OK
    err = " ".join(capsys.readouterr().err.split())
    assert "evaluate has no argument samples: it takes all that it has each time" in err
    assert "has no calibration_data(): ranges and noise are those of example_inputs alone" in err
