"""What is read from a user's model file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from qcompile import model_file

MODEL = """
import torch
from torch import nn
model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU())
example_inputs = torch.ones(2, 1, 5, 5)
"""


@pytest.fixture(autouse=True)
def _own_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import sys

    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)


def write(text: str, name: str = "mynet.py") -> str:
    Path(name).write_text(text)
    return name


def test_model_and_example_inputs() -> None:
    file = model_file.read(write(MODEL))
    assert file.name == "mynet"
    assert isinstance(file.model, nn.Sequential)
    assert [tuple(x.shape) for x in file.example_inputs] == [(2, 1, 5, 5)]
    assert not any(map(file.has, ("train", "calibration_data", "evaluate")))


def test_build_model_and_input_shape() -> None:
    text = "from torch import nn\nbuild_model = lambda: nn.ReLU()\ninput_shape = (1, 3)\n"
    file = model_file.read(write(text))
    again = model_file.read(write(text))
    assert isinstance(file.model, nn.ReLU)
    assert file.example_inputs[0].shape == (1, 3)
    assert torch.equal(file.example_inputs[0], again.example_inputs[0])


def test_a_class_named_model_is_built() -> None:
    file = model_file.read(write("from torch.nn import ReLU as model\ninput_shape = [1, 3]\n"))
    assert isinstance(file.model, nn.ReLU)


def test_the_caller_says_the_input_shape() -> None:
    file = model_file.read(write(MODEL), input_shape=(7, 1, 9, 9))
    assert file.example_inputs[0].shape == (7, 1, 9, 9)


def test_an_exported_program_has_its_inputs_unless_the_caller_says_others() -> None:
    spec = write(
        "import torch\nfrom torch import nn\n"
        "network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()).eval()\n"
        "model = torch.export.export(network, (torch.ones(2, 1, 8, 8),))\n"
    )
    own = model_file.read(spec)
    assert torch.equal(own.example_inputs[0], torch.ones(2, 1, 8, 8))
    assert own.model(torch.ones(3, 1, 8, 8)).shape == (3, 2, 6, 6)
    assert model_file.read(spec, (1, 1, 5, 9)).example_inputs[0].shape == (1, 1, 5, 9)


def test_files_beside_it_can_be_imported() -> None:
    write("from torch.nn import ReLU\n", "beside_the_model.py")
    text = "from beside_the_model import ReLU\nmodel = ReLU()\ninput_shape = (1, 3)\n"
    assert isinstance(model_file.read(write(text)).model, nn.ReLU)


def test_main_guard_stays_shut() -> None:
    guarded = MODEL + "if __name__ == '__main__':\n    raise SystemExit('ran')\n"
    assert isinstance(model_file.read(write(guarded)).model, nn.Sequential)


@pytest.mark.parametrize("name", ["build", "Net", "net"])
def test_module_and_name(name: str) -> None:
    text = "from torch import nn\nNet = nn.Identity\nnet = Net()\ndef build(): return Net()\n"
    write(text, "named_models.py")
    file = model_file.read(f"named_models:{name}", input_shape=(1, 2))
    assert isinstance(file.model, nn.Identity)
    assert file.name == name


def test_train_gets_what_it_takes() -> None:
    text = """
seen = []
def train(model, epochs=7, *, progress=None):
    model.train()
    progress(1, epochs)
    seen.append(epochs)
"""
    file = model_file.read(write(MODEL + text))
    moved = []
    assert file.takes_epochs()
    file.train(file.model, None, lambda *at: moved.append(at))
    file.train(file.model, 3, lambda *at: moved.append(at))
    assert file.module.seen == [7, 3]
    assert moved == [(1, 7), (1, 3)]
    assert not file.model.training


@pytest.mark.parametrize("signature", ["model", "network, /", "model, **options"])
def test_train_of_any_signature(signature: str) -> None:
    file = model_file.read(write(MODEL + f"def train({signature}): global done; done = True\n"))
    assert file.takes_epochs() == ("options" in signature)
    file.train(file.model, None, lambda done, total: None)
    assert file.module.done


def test_calibration_data_with_and_without_labels() -> None:
    text = """
def calibration_data():
    yield torch.zeros(3, 1, 5, 5)
    yield (torch.ones(4, 1, 5, 5),)
    yield [torch.ones(5, 1, 5, 5), "labels"]
"""
    file = model_file.read(write(MODEL + text))
    assert [len(x) for (x,) in file.calibration_data()] == [3, 4, 5]


@pytest.mark.parametrize("value", ["0.75", "torch.tensor(0.75)", "torch.tensor([0.75]).numpy()[0]"])
def test_evaluate_gives_a_number(value: str) -> None:
    file = model_file.read(write(MODEL + f"def evaluate(model): return {value}\n"))
    assert file.evaluate(file.model) == 0.75


def test_evaluate_runs_without_gradients() -> None:
    text = "def evaluate(model): return float(model(example_inputs).requires_grad)\n"
    file = model_file.read(write(MODEL + text))
    assert file.evaluate(file.model) == 0
