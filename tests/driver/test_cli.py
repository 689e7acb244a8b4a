"""The command line, from a model file to a program on disk."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import qcompile
from qcompile import cli, digits, trial

MODEL = """
import torch
from pathlib import Path
from torch import nn

def build_model():
    return nn.Sequential(
        nn.Conv2d(2, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 32, 3), nn.BatchNorm2d(32),
        nn.ReLU(), nn.Conv2d(32, 8, 1), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3),
    )

example_inputs = torch.randn(4, 2, 6, 6)
"""

TRAINED = """
def train(model, epochs=2, progress=None):
    model.train()
    optimizer = torch.optim.Adam(model.parameters())
    for epoch in range(epochs):
        loss = model(example_inputs).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        progress(epoch + 1, epochs)
    with open("trained.txt", "a") as file:
        print(type(model).__name__, epochs, file=file)

def calibration_data():
    return [(torch.randn(8, 2, 6, 6), "labels") for _ in range(3)]

def evaluate(model):
    model.eval()
    x = torch.randn(50, 2, 6, 6, generator=torch.Generator().manual_seed(0))
    return (model(x).argmax(1) == 1).float().mean()
"""


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(trial, "SHORT", 0.01)
    monkeypatch.setattr(trial, "LONG", 0.01)
    monkeypatch.chdir(tmp_path)
    Path("plain.py").write_text(MODEL)
    Path("trained.py").write_text(MODEL + TRAINED)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_a_network_without_training(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plain.py", "--dump-dir", "graphs/here"]) == cli.OK
    out, err = capsys.readouterr()
    assert "verified: 4 samples" in out
    assert "1-bit weights are untrained (the model file has no train(model))" in " ".join(
        err.split()
    )
    assert "no calibration_data()" in err
    assert "accuracy" not in out
    program = qcompile.load("plain-w1a1.qcp")
    assert program.info.model == "plain"
    assert f"wrote plain-w1a1.qcp, {Path('plain-w1a1.qcp').stat().st_size:,} bytes" in out
    assert program(torch.ones(7, 2, 6, 6)).shape == (7, 3)
    for layer in program.info.layers:
        assert layer.layer in out
        assert layer.kernel in out
    names = sorted(path.name for path in Path("graphs/here").iterdir())
    assert names[:2] == ["00-traced.txt", "01-read-torch-ao.txt"]
    assert [int(name[:2]) for name in names] == list(range(len(names)))
    lowered = Path("graphs/here", names[-1]).read_text()
    assert "call_function qcompile.xnor_matmul(" in lowered
    assert "def forward(self, " in lowered


def test_a_network_that_is_trained(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["trained.py", "--epochs", "3", "--save-weights", "w.safetensors", "-o", "net.qcp"]
    assert cli.main([*words, "--override", "3=8", "--bits", "2"]) == cli.OK
    out, err = capsys.readouterr()
    assert "verified: 50 samples" in out
    assert "float32" in out
    assert "fake-quant" in out
    assert "untrained" not in err
    assert "train the float network" in err
    assert Path("trained.txt").read_text() == "Sequential 3\nGraphModule 3\n"
    assert {(x.layer, x.weight_bits) for x in qcompile.load("net.qcp").info.layers} == {
        ("0", 8),
        ("3", 8),
        ("6", 2),
        ("9", 8),
    }
    saved = load_file("w.safetensors")
    assert saved["3.weight"].shape == (32, 8, 3, 3)

    again = [
        "trained.py",
        "--weights",
        "w.safetensors",
        "-o",
        "net.qcp",
        "--no-verify",
        "--bits",
        "8",
    ]
    assert cli.main([*again, "--epochs", "0", "--threads", "1", "--print-after-each"]) == cli.OK
    out, err = capsys.readouterr()
    assert out.rstrip().endswith("; NOT verified: --no-verify")
    assert "--- 00-traced" in out
    assert "1 thread;" in out
    assert "train the" not in err
    assert "untrained" not in err  # 8 bits do without
    assert len(Path("trained.txt").read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("words", "file", "bits"),
    [
        ("--mode static", "w8a8", {"0": "8/8", "3": "8/8", "9": "8/8"}),
        ("--mode dynamic --bits 4", "w4a4-dynamic", {"0": "32/32", "3": "32/32", "9": "8/8"}),
        ("--mode weight-only --bits 4", "w4a32", {"0": "8/32", "3": "4/32", "9": "8/32"}),
        ("--weight-bits 2 --activation-bits 4", "w2a4", {"0": "8/8", "3": "2/4", "9": "8/8"}),
        ("--mode qat --bits 4 --override 3=2/32", "w4a4", {"3": "2/32", "6": "4/4"}),
        ("--mode static --bits 4 --observer percentile", "w4a4", {"3": "4/4"}),
        ("--bits 4 --method lsq", "w4a4", {"3": "4/4"}),
        ("--bits 4 --method pact --observer min-max", "w4a4", {"3": "4/4"}),
    ],
)
def test_modes(
    words: str, file: str, bits: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["trained.py", "--epochs", "1", *words.split()]) == cli.OK
    out, err = capsys.readouterr()
    assert "verified: 50 samples" in out
    layers = {x.layer: x for x in qcompile.load(f"trained-{file}.qcp").info.layers}
    assert all(layer.kernel for layer in layers.values())
    assert {n: f"{layers[n].weight_bits}/{layers[n].activation_bits}" for n in bits} == bits
    trained = ["Sequential 1"]
    if "static" in words:
        assert "calibrate " in err
    elif "dynamic" in words or "weight-only" in words:
        assert "calibrat" not in err
    else:
        trained.append("GraphModule 1")
    assert Path("trained.txt").read_text().splitlines() == trained


def test_only_linear_layers_are_dynamic_and_that_is_said(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["plain.py", "--mode", "dynamic"]) == cli.OK
    out, err = capsys.readouterr()
    assert "dynamic quantization is for linear layers" in " ".join(out.split())
    assert "calibration" not in err
    layers = {x.layer: x.reason for x in qcompile.load("plain-w8a8-dynamic.qcp").info.layers}
    assert "8/dynamic 8" in out
    assert layers == dict.fromkeys("036", "dynamic quantization is for linear layers") | {"9": ""}


def test_weights_that_a_mode_leaves_untrained(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["trained.py", "--epochs", "1", "--no-verify", "--bits", "2"]
    assert cli.main([*words, "--mode", "weight-only"]) == cli.OK
    assert "2-bit weights are untrained (--mode weight-only)" in capsys.readouterr().err


def test_a_calibration_that_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    zeros = MODEL.replace("torch.randn(4, 2, 6, 6)", "torch.zeros(4, 2, 6, 6)")
    Path("zeros.py").write_text(zeros)
    assert cli.main(["zeros.py", "--mode", "static", "--no-verify"]) == cli.OK
    said = " ".join(capsys.readouterr().err.split())
    assert "calibration saw one number only, everywhere, in front of 0: their range" in said


@pytest.mark.parametrize(
    ("layers", "words", "note"),
    [
        ("nn.Linear(4, 3), nn.Linear(3, 2)", "", "No layer has 1 bit: 0 and 1 are first and last"),
        ("nn.Linear(4, 3)", "--weight-bits 2 --activation-bits 4", "No layer has 2/4 bits: 0 is "),
        ("nn.ReLU()", "", "The model has no layer with weights: nothing is quantized."),
        ("nn.Linear(4, 3), nn.Linear(3, 2)", "--override 0=4", ""),
        ("nn.Linear(4, 3), nn.Linear(3, 2)", "--bits 8", ""),
        ("nn.Linear(4, 3)", "--bits 32", ""),
    ],
)
def test_where_no_layer_has_the_bits_that_is_said(
    capsys: pytest.CaptureFixture[str], layers: str, words: str, note: str
) -> None:
    Path("ends.py").write_text(
        f"import torch\nfrom torch import nn\nmodel = nn.Sequential({layers})\n"
        "example_inputs = torch.randn(2, 4)\n"
    )
    assert cli.main(["ends.py", "--no-verify", *words.split()]) == cli.OK
    err = capsys.readouterr().err
    assert note in err
    assert bool(note) == ("No layer has" in err or "no layer with weights" in err)


def test_benchmark_names_its_rivals(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plain.py", "--benchmark", "--bits", "8"]) == cli.OK
    out = capsys.readouterr().out
    for text in ("batch 1 ", "batch 64", "qcompile", "PyTorch float32", "PyTorch int8 "):
        assert text in out


def test_module_and_name() -> None:
    words = ["trained:build_model", "--input-shape", "2x2x6x6", "--epochs", "1", "--seed", "3"]
    assert cli.main(words) == cli.OK
    assert Path("build_model-w1a1.qcp").is_file()


def test_a_target_that_is_not_this_machine(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qcompile.cpuinfo.flags", frozenset)
    assert (
        cli.main(["trained.py", "--bits", "8", "--epochs", "0", "--target", "cpu:haswell"])
        == cli.OK
    )
    out, err = capsys.readouterr()
    assert "Not verified, since this machine cannot run it: the code for haswell needs" in " ".join(
        err.split()
    )
    assert "verified:" not in out
    assert "latency" not in out
    assert Path("trained-w8a8.qcp").is_file()


def test_run_and_inspect(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["compile", "plain.py", "-o", "net.qcp", "--no-verify"]) == cli.OK
    x = np.random.default_rng(0).standard_normal((5, 2, 6, 6)).astype(np.float32)
    np.save("x.npy", x)
    capsys.readouterr()

    assert cli.main(["inspect", "net.qcp", "--kernels"]) == cli.OK
    out = capsys.readouterr().out
    assert "xnor" in out
    assert "float32[N, 2, 6, 6]" in out
    assert all(kernel.name in out for kernel in qcompile.load("net.qcp").variant.kernels)

    assert (
        cli.main(["run", "net.qcp", "--input", "x.npy", "-o", "y.npy", "--threads", "1"]) == cli.OK
    )
    out, err = capsys.readouterr()
    assert "float32[5, 3]" in out
    assert f"ms, 1 thread(s), {qcompile.load('net.qcp').variant.arch}" in err
    assert np.array_equal(np.load("y.npy"), qcompile.load("net.qcp")(x))

    assert cli.main(["run", "net.qcp"]) == cli.OK
    out, err = capsys.readouterr()
    assert "float32[1, 3]" in out
    assert "on random numbers" in err

    # The same in a process that has no torch.
    code = "import sys; sys.modules['torch'] = None; from qcompile import cli; sys.exit(cli.main())"
    for words in (["run", "net.qcp"], ["inspect", "net.qcp"]):
        subprocess.run([sys.executable, "-c", code, *words], check=True, env=_environment())


def test_several_inputs_and_outputs(capsys: pytest.CaptureFixture[str]) -> None:
    Path("two.py").write_text(
        """
import torch
from torch import nn

class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(32, 32)
        self.b = nn.Linear(32, 2)

    def forward(self, x, y):
        x = self.a(x)
        return x, self.b(x + y)

model = Two()
example_inputs = torch.randn(3, 32), torch.randn(3, 32)
"""
    )
    assert cli.main(["two.py", "--bits", "8"]) == cli.OK
    assert "verified: 3 samples" in capsys.readouterr().out
    np.save("x.npy", np.ones((4, 32), np.float32))
    words = ["run", "two-w8a8.qcp", "--input", "x.npy", "--input", "x.npy", "-o", "y.npz"]
    assert cli.main(words) == cli.OK
    with np.load("y.npz") as arrays:
        assert [arrays[name].shape for name in arrays.files] == [(4, 32), (4, 2)]


def test_digits(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digits, "download", lambda folder: folder / "mnist")
    assert cli.main(["digits", "here"]) == cli.OK
    assert capsys.readouterr().out == "export QCOMPILE_DATA=here/mnist\n"


@pytest.mark.parametrize("verb", [[], ["run"], ["inspect"], ["digits"]])
def test_help(verb: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as info:
        cli.main([*verb, "--help"])
    assert info.value.code == cli.OK
    assert " ".join(["usage: qcompile", *verb]) in capsys.readouterr().out


def test_version() -> None:
    command = [sys.executable, "-m", "qcompile", "--version"]
    said = subprocess.run(command, check=True, capture_output=True, text=True, env=_environment())
    assert said.stdout == f"qcompile {qcompile.__version__}\n"


def test_every_option_is_in_the_manual() -> None:
    manual = Path(__file__).parents[2].joinpath("docs", "cli.md").read_text()
    parser = cli.compile_parser()
    options = [a.option_strings[-1] for a in parser._actions if a.option_strings]
    unsaid = [option for option in options if option not in manual]
    assert sorted(unsaid) == ["--help", "--output", "--version"]


def test_interrupt_leaves_the_old_program_alone() -> None:
    Path("net.qcp").write_text("the old one")
    slow = TRAINED.replace(
        "model.train()", "import time; print('training', flush=True); time.sleep(60)"
    )
    Path("slow.py").write_text(MODEL + slow)
    # What a shell starts in the background ignores the signal, and so do its children.
    heeding = ("env", "--default-signal=INT")
    command = [*heeding, sys.executable, "-m", "qcompile", "slow.py", "-o", "net.qcp"]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command,
        text=True,
        env=_environment(),
        stdout=pipe,
        stderr=pipe,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "training\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == cli.INTERRUPTED
    assert err == "interrupted, nothing was written\n"
    assert Path("net.qcp").read_text() == "the old one"


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
