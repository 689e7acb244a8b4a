"""From the command line to a program for a processor of another family."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

import qcompile
from qcompile import cli
from qcompile.codegen.machine import host_family
from qcompile.errors import QCompileError

MODEL = """
import torch
from torch import nn

model = nn.Sequential(
    nn.Conv2d(2, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 1), nn.ReLU(), nn.Flatten(), nn.Linear(512, 3)
)
example_inputs = torch.randn(2, 2, 6, 6)

def train(model):
    open("trained.txt", "w").close()
    model.train()(example_inputs)
"""
FAMILY, ARCH = ("x86_64", "haswell") if host_family() == "aarch64" else ("aarch64", "cortex-a76")
LINKERS = (f"{FAMILY}-linux-gnu-gcc", f"{FAMILY}-linux-gnu-ld", "ld.lld")
MACHINES = {"x86_64": 62, "aarch64": 183}  # of ELF

needs_linker = pytest.mark.skipif(
    not any(map(shutil.which, LINKERS)), reason=f"needs one of {', '.join(LINKERS)}"
)


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(MODEL, encoding="utf-8")


def said(captured: str) -> str:
    return " ".join(captured.split())


@needs_linker
def test_it_is_written_unverified(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["net.py", "--target", f"cpu:{ARCH}", "-o", "net.qcp"]) == cli.OK
    out, err = capsys.readouterr()
    reason = f"the code for {ARCH} is for {FAMILY}, this machine is {host_family()}"
    assert f"Not verified, since this machine cannot run it: {reason}." in said(err)
    assert "verified:" not in out
    assert "latency" not in out
    assert "wrote net.qcp" in out
    with zipfile.ZipFile("net.qcp") as archive:
        [library] = [name for name in archive.namelist() if name.endswith(".so")]
        assert int.from_bytes(archive.read(library)[18:20], "little") == MACHINES[FAMILY]


@needs_linker
def test_it_is_inspected_everywhere_and_run_only_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["net.py", "--target", f"cpu:{ARCH}", "-o", "net.qcp"]) == cli.OK
    capsys.readouterr()
    assert cli.main(["inspect", "net.qcp"]) == cli.OK
    assert FAMILY in capsys.readouterr().out
    assert cli.main(["run", "net.qcp"]) == cli.REFUSED
    assert f"is for {FAMILY}, this machine is {host_family()}" in said(capsys.readouterr().err)
    with pytest.raises(QCompileError, match=f"is for {FAMILY}"):
        qcompile.load("net.qcp")(np.zeros((1, 2, 6, 6), np.float32))


def test_a_missing_linker_is_found_before_training(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert cli.main(["net.py", "--target", f"cpu:{ARCH}", "-o", "net.qcp"]) == cli.REFUSED
    err = said(capsys.readouterr().err)
    assert f"no linker for {FAMILY} found" in err
    assert f"binutils-{FAMILY.replace('_', '-')}-linux-gnu" in err
    assert not Path("trained.txt").exists()
    assert not Path("net.qcp").exists()
