"""What is said where a program cannot be profiled, or its profile cannot be written."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy_gpu import cuda_emu, gpu_program, toy_inputs
from toy_library import affine_program

from qcompile import QCompileError, cli

X = np.ones((2, 3, 8), np.float32)


@pytest.mark.parametrize("seconds", [0, -1.0, math.nan, math.inf, True, "1", None])
def test_no_time(seconds: Any) -> None:
    with pytest.raises(QCompileError, match="seconds is") as caught:
        affine_program().profile(X, seconds=seconds)
    assert caught.value.hint == "a number above zero"


@pytest.mark.parametrize(
    ("inputs", "message"),
    [((), "takes 1 input, got 0"), ((X[:0],), "an empty batch"), ((X[0],), "has the shape")],
)
def test_inputs_that_no_call_takes(inputs: Any, message: str) -> None:
    with pytest.raises(QCompileError, match=message):
        affine_program().profile(*inputs)


class TestGpu:
    pytestmark = cuda_emu

    def test_code_for_gpus_is_not_timed(self) -> None:
        program = gpu_program().emulated(80)
        with pytest.raises(QCompileError) as caught:
            program.profile(*toy_inputs(2))
        assert "this code is for GPUs, here on an emulation of one" in caught.value.what
        assert "nsys profile" in str(caught.value.hint)


@pytest.fixture
def saved(tmp_path: Path) -> str:
    path = tmp_path / "net.qcp"
    affine_program().save(path)
    return str(path)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--batch 0", "--batch is 0, it must be 1 or more"),
        ("--batch 2 --input x.npy", "--batch is for random numbers, and --input is given"),
        ("--input absent.npy", "cannot read an array"),
        ("--seconds 0", "seconds is 0.0"),
        ("--trace t.json --json t.json", "--trace and --json name one file"),
        ("--trace net.qcp", "that would take the program's place"),
        ("--seconds 0.01 --trace absent/t.json", "there is no folder absent"),
        ("--seconds 0.01 --json .", "is there already, and is no file"),
        ("--arch nonsense", "no variant 'nonsense'"),
    ],
)
def test_the_verb(
    saved: str,
    words: str,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(Path(saved).parent)
    assert cli.main(["profile", "net.qcp", *words.split()]) == cli.REFUSED
    assert message in " ".join(capsys.readouterr().err.split())
    assert Path(saved).stat().st_size > 1000  # the program is what it was
