"""The examples, from training to a verified program, on a few hundred digits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from qcompile import cli, digits, emulator, trial
from qcompile.cuda.diagnosis import diagnose
from qcompile.nvidia import find_tool

EXAMPLES = Path(__file__).parents[2] / "examples"
BEFORE = "before compilation: the fake-quant model and its integers are equal to the bit"


def write_idx(path: Path, array: np.ndarray) -> None:
    sizes = np.array(array.shape, ">u4").tobytes()
    path.write_bytes(bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes())


@pytest.fixture(autouse=True)
def _few_digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QCOMPILE_DATA", raising=False)
    for split, stem, count in (("train", "train", 300), ("test", "t10k", 100)):
        some = digits.load(split, limit=count)  # type: ignore[arg-type]
        write_idx(tmp_path / f"{stem}-images-idx3-ubyte", some.images)
        write_idx(tmp_path / f"{stem}-labels-idx1-ubyte", some.labels)
    monkeypatch.setenv("QCOMPILE_DATA", str(tmp_path))
    monkeypatch.setattr(trial, "SHORT", 0.01)
    monkeypatch.chdir(tmp_path)


@pytest.mark.cuda_emu
@pytest.mark.skipif(bool(emulator.obstacle()), reason=emulator.obstacle() or "it runs here")
@pytest.mark.skipif(not diagnose(), reason="there is a GPU")
def test_an_example_for_gpus_is_verified_by_emulation(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "EMULATION_SECONDS", 1e9)  # however busy this machine is
    monkeypatch.setattr(trial, "EMULATED", (80, 90))
    arguments = [str(EXAMPLES / "mnist.py"), *["--bits", "1", "--epochs", "1", "--target", "cuda"]]
    assert cli.main([*arguments, "-o", "net.qcp"]) == cli.OK
    out, err = (" ".join(text.split()) for text in capsys.readouterr())
    machine_code = "qcompile inspect PROGRAM --target cuda --arch sm_80"
    assert (machine_code in err) == bool(find_tool("nvcc"))
    assert "verified, emulated on the CPU as sm_80: 16 samples, 6 of 6 integer kernels equal" in out
    assert BEFORE in " ".join(out.split())
    size = Path("net.qcp").stat().st_size
    assert f"wrote net.qcp, {size:,} bytes; verified, emulated on the CPU as sm_80 and sm_90" in out
    assert out.endswith(": no GPU here")


@pytest.mark.parametrize(
    ("example", "words", "kernel"),
    [
        ("mnist.py", "--bits 1", "xnor-popcount"),
        ("mnist.py", "--bits 1 --method xnor", "xnor-popcount"),
        ("mnist.py", "--bits 1 --method dorefa", "xnor-popcount"),
        ("mnist.py", "--bits 8", "int8"),
        ("mnist_plain.py", "--bits 1", "xnor-popcount"),
        ("mnist_plain.py", "--bits 8", "int8"),
    ],
)
def test_an_example_becomes_a_verified_program(
    example: str, words: str, kernel: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(EXAMPLES / example), *words.split(), "--epochs", "1", "-o", "net.qcp"]
    assert cli.main(arguments) == cli.OK
    out = capsys.readouterr().out
    rows = [line for line in out.splitlines() if "│" in line]
    middle = [row for row in rows if "conv2" in row or "fc1" in row]
    assert len(middle) == 2
    assert all(kernel in row for row in middle)
    accuracy = next(row for row in rows if row.count("%") == 3)
    _, fake_quant, compiled = accuracy.strip("│ ").split("│")
    assert fake_quant.strip() == compiled.strip()
    assert "verified: 100 samples" in out
    assert "same top-1 in 100.00 %" in out
    assert BEFORE in " ".join(out.split())
    assert f"wrote net.qcp, {Path('net.qcp').stat().st_size:,} bytes" in out
