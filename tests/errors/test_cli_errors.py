"""What the command line refuses: exit code, message, and that no training comes before it."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from qcompile import QCompileError, cli, trial
from qcompile.verification import VerifyReport, verify

MODEL = """
import torch
from pathlib import Path
from torch import nn

model = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 2))
example_inputs = torch.randn(4, 4)

def train(model, epochs=1):
    Path("was trained").touch()
    model(example_inputs)
"""


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(trial, "SHORT", 0.01)
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(MODEL)


def refusal(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What is said, in one line; nothing was trained, written, or shown as a traceback."""
    before = sorted(Path.cwd().rglob("*.qcp"))
    assert cli.main(words) == cli.REFUSED
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert "Traceback" not in err
    assert not Path("was trained").exists()
    assert sorted(Path.cwd().rglob("*.qcp")) == before
    return " ".join(err.split())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--bits 0", "bits must be 1 to 8, or 32 for float, not 0"),
        ("--bits 9", "bits must be 1 to 8, or 32 for float, not 9"),
        ("--weight-bits 16", "weight_bits must be 1 to 8"),
        ("--method binary", "unknown method 'binary'"),
        ("--method affine", "method 'affine' has no 1-bit quantizer"),
        ("--mode fast", "unknown mode 'fast'"),
        ("--mode statc", "did you mean 'static'?"),
        ("--mode qat --epochs 0", "--mode qat trains the quantized network, and --epochs 0 trains"),
        ("--bits 4 --correct-bias", "--correct-bias is for calibration, and the quantized network"),
        ("--mode dynamic --activation-bits 1", "mode 'dynamic' has no 1-bit activations"),
        ("--mode dynamic --bits 1", "mode 'dynamic' has no 1-bit activations"),
        ("--mode weight-only --activation-bits 8", "mode 'weight-only' has no 8-bit activations"),
        (
            "--mode weight-only --override 2=4/8",
            "['2']: mode 'weight-only' has no 8-bit activations",
        ),
        ("--mode static --bits 0", "bits must be 1 to 8"),
        ("--mode weight-only --observer min-max", "nothing is observed with mode 'weight-only'"),
        ("--observer median", "unknown observer 'median'"),
        ("--bits 1 --method lsq", "method 'lsq' has no 1-bit quantizer"),
        ("--weight-bits 32 --activation-bits 8", "32-bit weights with 8-bit activations cannot"),
        ("--override 2=32/8", "2: 32-bit weights with 8-bit activations cannot"),
        ("--target tpu", "unknown target 'tpu'"),
        ("--target cpu:", "no processor after the colon of 'cpu:'"),
        ("--target cpu:abacus", "unknown processor 'abacus'"),
        ("--override fc", "--override 'fc' is not LAYER=BITS"),
        ("--override =8", "--override '=8' is not LAYER=BITS"),
        ("--override fc=half", "--override 'fc=half' is not LAYER=BITS"),
        ("--override fc=1/", "--override 'fc=1/' is not LAYER=BITS"),
        ("--override fc=1/4/8", "--override 'fc=1/4/8' is not LAYER=BITS"),
        ("--override fc=8", "'fc' matches no conv or linear layer"),
        ("--input-shape 3,x", "--input-shape '3,x' is no list of sizes"),
        ("--input-shape 0,4", "input_shape is (0, 4), not a tuple of sizes from 1 up"),
        ("--input-shape 2,5", "got [2, 5] X [4, 32]"),
        ("--epochs -1", "--epochs is -1, it must be 0 or more"),
        ("--threads 0", "--threads is 0, it must be 1 or more"),
        ("-o gone/net.qcp", "cannot write 'gone/net.qcp': there is no folder 'gone'"),
        ("-o .", "cannot write '.': that is a folder"),
        ("--save-weights gone/w", "cannot write 'gone/w': there is no folder 'gone'"),
        ("--save-weights w --epochs 0", "--save-weights: no float network is trained here"),
        ("--dump-dir net.py", "net.py: cannot make the folder"),
        ("--weights w.pt", "w.pt: .pt files are Python pickles"),
        ("--weights gone.safetensors", "gone.safetensors: cannot read weights"),
    ],
)
def test_options(capsys: pytest.CaptureFixture[str], words: str, message: str) -> None:
    assert message in refusal(capsys, "net.py", *words.split())


def test_a_folder_that_does_not_let_us_write(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:

    def refuse(dir: object) -> None:  # root may write anywhere
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    message = refusal(capsys, "net.py")
    assert (
        "cannot write 'net-w1a1.qcp': the folder '.' takes no files (Permission denied)" in message
    )


def test_a_graph_that_cannot_be_written(capsys: pytest.CaptureFixture[str]) -> None:
    Path("graphs", "01-read-torch-ao.txt").mkdir(parents=True)
    assert cli.main(["net.py", "--dump-dir", "graphs"]) == cli.REFUSED
    assert "graphs/01-read-torch-ao.txt: cannot write the graph" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--bits", "two"], ["--bit", "2"], ["extra"], ["--target"]])
def test_the_command_line_itself(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as info:
        cli.main(["net.py", *words])
    assert info.value.code == cli.REFUSED
    assert "usage: qcompile" in capsys.readouterr().err


def test_nothing_given(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as info:
        cli.main([])
    assert info.value.code == cli.REFUSED
    assert "MODEL" in capsys.readouterr().err


def test_no_such_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert "there is no file 'gone.py'" in refusal(capsys, "gone.py")


def test_exception_in_the_model_file(capsys: pytest.CaptureFixture[str]) -> None:
    Path("bad.py").write_text("import torch\nx = 1 / 0\n")
    message = refusal(capsys, "bad.py")
    assert "bad.py:2 (x = 1 / 0): the file fails with ZeroDivisionError" in message
    with pytest.raises(QCompileError):
        cli.main(["bad.py", "--debug"])


def test_exception_in_train(capsys: pytest.CaptureFixture[str]) -> None:
    text = MODEL.replace('Path("was trained").touch()', "raise ValueError('no data')")
    Path("bad.py").write_text(text)
    message = refusal(capsys, "bad.py")
    assert (
        "bad.py:10 (raise ValueError('no data')): train fails with ValueError: no data" in message
    )


def test_weights_of_another_model(capsys: pytest.CaptureFixture[str]) -> None:
    save_file({"0.weight": torch.ones(3, 3)}, "w.safetensors")
    message = refusal(capsys, "net.py", "--weights", "w.safetensors")
    assert "the weights do not fit the model; missing: 0.bias, 2.weight," in message
    assert "0.weight (3, 3), the model has (32, 4)" in message


def test_epochs_without_train(capsys: pytest.CaptureFixture[str]) -> None:
    Path("untrained.py").write_text(MODEL.split("def train")[0])
    message = refusal(capsys, "untrained.py", "--epochs", "3")
    assert "--epochs is for train(model, epochs=...)" in message
    Path("fixed.py").write_text(MODEL.replace(", epochs=1", ""))
    message = refusal(capsys, "fixed.py", "--epochs", "3")
    assert "the file's train has no such argument" in message


def test_training_with_quantizers_needs_train(capsys: pytest.CaptureFixture[str]) -> None:
    Path("untrained.py").write_text(MODEL.split("def train")[0])
    message = refusal(capsys, "untrained.py", "--mode", "qat")
    assert (
        "untrained.py: --mode qat trains the quantized network, and there is no train(" in message
    )
    assert "--mode static, dynamic or weight-only" in message


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("[]", "bad.py: calibration_data() gives no batch"),
        (
            "[torch.full((2, 4), float('nan'))]",
            "bad.py: calibration_data(), batch 0: an input hold",
        ),
        ("[example_inputs, example_inputs / 0]", "bad.py: calibration_data(), batch 1: an input"),
        ("[example_inputs[:0]]", "bad.py: calibration_data(), batch 0: it is empty"),
        ("None", "bad.py: calibration_data returns None, and not batches"),
    ],
)
def test_calibration_data(capsys: pytest.CaptureFixture[str], data: str, message: str) -> None:
    untrained = MODEL.split("def train")[0]
    Path("bad.py").write_text(untrained + f"\ndef calibration_data():\n    return {data}\n")
    assert cli.main(["bad.py", "--bits", "8"]) == cli.REFUSED
    assert message in " ".join(capsys.readouterr().err.split())
    assert not list(Path().glob("*.qcp"))


def test_a_layer_that_a_recipe_file_gives_nothing_names_the_file(
    capsys: pytest.CaptureFixture[str],
) -> None:
    fields = '{"bits": 32, "overrides": {"2": {"activation_bits": 4}}}'
    Path("r.json").write_text(
        f'{{"format": "qcompile recipe", "version": 1, "recipe": {fields}}}\n'
    )
    message = refusal(capsys, "net.py", "--recipe", "r.json")
    assert "2: 32-bit weights with 4-bit activations cannot" in message
    assert (
        "quantize the weights too, or leave both in float; the recipe is that of r.json" in message
    )


def test_control_flow_by_values(capsys: pytest.CaptureFixture[str]) -> None:
    Path("branch.py").write_text(
        """
import torch
from torch import nn

class Branch(nn.Module):
    def forward(self, x):
        if x.sum() > 0:
            return x
        return -x

model = Branch()
input_shape = (1, 4)
"""
    )
    message = refusal(capsys, "branch.py")
    assert "branch.py:7 (if x.sum() > 0:): cannot trace Branch" in message
    assert "torch.where" in message


def test_more_threads_than_cores(capsys: pytest.CaptureFixture[str]) -> None:
    message = refusal(capsys, "net.py", "--threads", "100000")
    assert "--threads is 100000, this process may use" in message


def test_a_program_that_is_wrong_is_not_written(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(*arguments: Any, **more: Any) -> VerifyReport:
        found = verify(*arguments, **more)
        bad = dataclasses.replace(found.outputs[0], max_error=9.0, relative_error=9.0)
        return dataclasses.replace(found, outputs=(bad,))

    monkeypatch.setattr(trial, "verify", wrong)
    Path("net.qcp").write_text("the old one")
    assert cli.main(["net.py", "-o", "net.qcp"]) == cli.FAILED
    out = capsys.readouterr().out
    assert "NOT VERIFIED" in out
    assert "wrote" not in out
    assert Path("net.qcp").read_text() == "the old one"


# --- run and inspect -----------------------------------------------------------------------------


@pytest.fixture
def program(capsys: pytest.CaptureFixture[str]) -> str:
    words = ["net.py", "-o", "net.qcp", "--bits", "8", "--epochs", "0", "--no-verify"]
    assert cli.main(words) == cli.OK
    capsys.readouterr()
    return "net.qcp"


def test_run_refuses(program: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("text.npy").write_text("no array")
    np.save("object.npy", np.array([None]), allow_pickle=True)
    np.save("wide.npy", np.ones((1, 5), np.float32))
    np.save("good.npy", np.ones((1, 4), np.float32))
    cases = {
        "--input gone.npy": "gone.npy: cannot read an array",
        "--input text.npy": "text.npy: cannot read an array",
        "--input object.npy": "object.npy: cannot read an array: Object arrays cannot be loaded",
        "--input wide.npy": "[1, 5]",
        "--input good.npy --input good.npy": "2",
        "--input good.npy -o gone/y.npy": "gone/y.npy: cannot write",
        "--threads 0": "num_threads is 0",
        f"--input good.npy -o {program}": "the result would take the program's place",
    }
    for words, message in cases.items():
        assert message in refusal(capsys, "run", program, *words.split())


@pytest.mark.parametrize("verb", ["run", "inspect"])
def test_no_program(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "gone.qcp" in refusal(capsys, verb, "gone.qcp")


def test_a_model_is_no_program(capsys: pytest.CaptureFixture[str]) -> None:
    assert "net.py" in refusal(capsys, "run", "net.py")


def test_digits_without_network(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(folder: Path | None) -> Path:
        raise QCompileError("cannot get it", hint="do without")

    monkeypatch.setattr("qcompile.digits.download", fails)
    assert refusal(capsys, "digits") == "error: cannot get it do without"
