"""What is said about a model file, or a weights file, that does not work."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from qcompile import QCompileError, model_file, weights

MODEL = "import torch\nfrom torch import nn\nmodel = nn.ReLU()\nexample_inputs = torch.ones(1, 2)\n"


@pytest.fixture(autouse=True)
def _own_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)


def refusal(text: str, name: str = "mynet.py") -> QCompileError:
    """Why a file of this text is refused."""
    Path(name).write_text(text)
    with pytest.raises(QCompileError) as info:
        model_file.read(name)
    assert str(Path(name).resolve()) in str(info.value)
    return info.value


def test_no_such_file() -> None:
    with pytest.raises(QCompileError, match=r"there is no file 'gone.py'") as info:
        model_file.read("gone.py")
    assert "package.module:name" in str(info.value.hint)


def test_folder_instead_of_a_file() -> None:
    with pytest.raises(QCompileError, match=r"there is no file '\.'"):
        model_file.read(".")


def test_not_python() -> None:
    Path("net.onnx").write_text("")
    with pytest.raises(QCompileError, match="not a Python file") as info:
        model_file.read("net.onnx")
    assert info.value.where == "net.onnx"


def test_no_such_module() -> None:
    with pytest.raises(QCompileError, match=r"there is no module 'no.such'"):
        model_file.read("no.such:model")


def test_no_such_name_in_a_module() -> None:
    with pytest.raises(QCompileError, match=r"there is no 'gone' in torch.nn"):
        model_file.read("torch.nn:gone")


def test_nothing_in_it() -> None:
    assert "neither model nor build_model()" in refusal("x = 1\n").what


def test_syntax_error_names_its_line() -> None:
    error = refusal("x = 1\ny = = 2\n")
    assert error.what == "the file fails with SyntaxError: invalid syntax (mynet.py, line 2)"
    assert str(error.where).endswith("mynet.py:2")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("import no_such_package", "ModuleNotFoundError: No module named 'no_such_package'"),
        ("torch.ones(2) @ torch.ones(3)", "RuntimeError: inconsistent tensor size"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("assert not torch", "AssertionError"),
    ],
)
def test_exception_inside_it_names_its_line(line: str, message: str) -> None:
    error = refusal(f"import torch\n\n{line}\n")
    assert error.what.startswith(f"the file fails with {message}")
    assert str(error.where).endswith(f"mynet.py:3 ({line})")
    assert error.__cause__ is not None


@pytest.mark.parametrize(
    ("definition", "message"),
    [
        ("model = 3", "model is int, not a torch.nn.Module"),
        ("def model(): return nn.ReLU()", "model is function, not a torch.nn.Module"),
        ("class model: pass", r"model() returns model, not a torch.nn.Module"),
        ("def build_model(): return nn.ReLU", "build_model() returns the class ReLU, not"),
        ("def build_model(): return nn.ReLU(), 1", "returns tuple of ReLU, int, not"),
        ("def build_model(): pass", "build_model() returns NoneType, not a torch.nn.Module"),
        ("def build_model(size): pass", "build_model() fails with TypeError"),
    ],
)
def test_not_a_module(definition: str, message: str) -> None:
    assert message in refusal(f"from torch import nn\n{definition}\n").what


def test_no_example_inputs() -> None:
    error = refusal("from torch import nn\nmodel = nn.ReLU()\n")
    assert "nothing says what the model's input looks like" in error.what
    assert "--input-shape" in str(error.hint)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("[1, 2]", "list of int, int"),
        ("None", "NoneType"),
        ("()", "tuple of nothing"),
        ("(torch.ones(1), 'x')", "tuple of Tensor, str"),
    ],
)
def test_example_inputs_are_no_tensors(value: str, kind: str) -> None:
    text = f"import torch\nfrom torch import nn\nmodel = nn.ReLU()\nexample_inputs = {value}\n"
    assert f"example_inputs is {kind}, not a tensor or a tuple of them" in refusal(text).what


@pytest.mark.parametrize(
    "shape", ["(1, 0)", "'1,2'", "(1, 2.0)", "()", "((1, 2), (3,))", "(True,)"]
)
def test_input_shape_is_no_shape(shape: str) -> None:
    text = f"from torch import nn\nmodel = nn.ReLU()\ninput_shape = {shape}\n"
    assert "not a tuple of sizes from 1 up" in refusal(text).what


@pytest.mark.parametrize("function", ["train", "evaluate", "calibration_data"])
def test_exception_inside_a_function_names_its_line(function: str) -> None:
    lines = f"def {function}(*model):\n    raise KeyError('conv9')\n"
    Path("mynet.py").write_text(MODEL + lines)
    file = model_file.read("mynet.py")
    calls = {
        "train": lambda: file.train(file.model, None, lambda done, total: None),
        "evaluate": lambda: file.evaluate(file.model),
        "calibration_data": lambda: list(file.calibration_data()),
    }
    with pytest.raises(QCompileError) as info:
        calls[function]()
    assert info.value.what == f"{function} fails with KeyError: 'conv9'"
    assert str(info.value.where).endswith("mynet.py:6 (raise KeyError('conv9'))")


def test_exception_in_the_middle_of_the_calibration_data() -> None:
    Path("mynet.py").write_text(
        MODEL + "def calibration_data():\n    yield torch.ones(1, 2)\n    1 / 0\n"
    )
    batches = model_file.read("mynet.py").calibration_data()
    next(batches)
    with pytest.raises(QCompileError, match="calibration_data fails with ZeroDivisionError"):
        next(batches)


@pytest.mark.parametrize(
    ("batch", "kind"),
    [
        ("('x', torch.ones(1, 2))", "tuple of str, Tensor"),
        ("()", "tuple of nothing"),
        ("3", "int"),
        ("{'x': torch.ones(1, 2)}", "dict"),
    ],
)
def test_calibration_data_is_not_the_inputs(batch: str, kind: str) -> None:
    Path("mynet.py").write_text(MODEL + f"def calibration_data(): return [{batch}]\n")
    with pytest.raises(QCompileError, match=f"calibration_data gives {kind}, the model takes 1 "):
        list(model_file.read("mynet.py").calibration_data())


def test_calibration_data_is_no_iterable() -> None:
    Path("mynet.py").write_text(MODEL + "def calibration_data(): return None\n")
    with pytest.raises(QCompileError, match=r"mynet\.py: calibration_data returns None, and not"):
        list(model_file.read("mynet.py").calibration_data())


@pytest.mark.parametrize("value", ["None", "'0.9'", "torch.ones(2)", "float('nan')"])
def test_evaluate_returns_no_number(value: str) -> None:
    Path("mynet.py").write_text(MODEL + f"def evaluate(model): return {value}\n")
    file = model_file.read("mynet.py")
    with pytest.raises(QCompileError, match=r"evaluate returns .*, not a number"):
        file.evaluate(file.model)


# --- weights -------------------------------------------------------------------------------------


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4))


def test_weights_that_do_not_fit(tmp_path: Path) -> None:
    state = network().state_dict()
    del state["1.bias"], state["1.running_var"]
    state["0.weight"] = torch.ones(4, 2, 3, 3)
    state["fc.weight"] = torch.ones(1)
    save_file(state, tmp_path / "w.safetensors")
    model = network()
    before = model.state_dict()["0.bias"].clone()
    with pytest.raises(QCompileError) as info:
        weights.load(model, tmp_path / "w.safetensors")
    assert info.value.what == (
        "the weights do not fit the model; missing: 1.bias, 1.running_var; unexpected: fc.weight; "
        "of another shape: 0.weight (4, 2, 3, 3), the model has (4, 1, 3, 3)"
    )
    assert torch.equal(model.state_dict()["0.bias"], before)


def test_weights_of_another_model(tmp_path: Path) -> None:
    save_file({f"layer{i}": torch.ones(1) for i in range(9)}, tmp_path / "w.safetensors")
    with pytest.raises(QCompileError, match=r"unexpected: layer0, .*layer5 and 3 more"):
        weights.load(network(), tmp_path / "w.safetensors")


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".ckpt", ".pkl"])
def test_pickles_are_not_read(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(QCompileError, match="Python pickles, which run code") as info:
        weights.load(network(), tmp_path / f"w{suffix}")
    assert "safetensors" in str(info.value.hint)


@pytest.mark.parametrize("content", [None, b"", b"\x09\0\0\0\0\0\0\0not json!", b"x" * 100])
def test_weights_that_cannot_be_read(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "w.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(QCompileError, match="cannot read weights") as info:
        weights.load(network(), path)
    assert info.value.where == str(path)


def test_weights_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(QCompileError, match="cannot write weights"):
        weights.save(network(), tmp_path / "no" / "such" / "folder.safetensors")
