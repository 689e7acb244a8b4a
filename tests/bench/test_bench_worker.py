"""What a measuring process does, done in this one: real programs, real engines, a few rounds."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

import qcompile
from qcompile import model_file
from qcompile.bench import handing, machine_facts, measuring, worker
from qcompile.bench.built import Built
from qcompile.bench.messages import (
    INPUTS,
    PROGRAM,
    TURN,
    Measured,
    Message,
    Prepared,
    Refused,
    Task,
)
from qcompile.bench.results import AGAIN, OURS, Engine

MODEL = """
import torch
from torch import nn

model = nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3))
example_inputs = torch.zeros(1, 6)


def calibration_data():
    return [torch.randn(2, 6, generator=torch.Generator().manual_seed(i)) for i in range(3)]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What the parent hands over: a program of 8 bits and its float network, four samples."""
    found = tmp_path_factory.mktemp("worker")
    (found / "net.py").write_text(MODEL)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [*sys.path])
        file = model_file.read(str(found / "net.py"))
        batches = list(file.calibration_data())
        program = qcompile.compile(file.model, file.example_inputs, bits=8, calibration=batches)
        told = handing.hand_over(Built(program, "net.py", beside=file), found, 4, 0)
        assert told.told == "the first of calibration_data()"
        yield found


def task(folder: Path, *engines: str, model: bool = True, batches: tuple[int, ...] = (2,)) -> Task:
    return Task(
        model=str(folder / "net.py") if model else None,
        input_shape=None,
        engines=measuring.order(engines),
        batches=batches,
        threads=1,
        seconds=1e-3,
        rounds=2,
        clock="wall",
        seed=0,
        arch=None,
    )


def told(asked: Task, folder: Path) -> list[Message]:
    messages: list[Message] = []
    worker.measure(asked, folder, messages.append, lambda: None)
    return messages


def engines(messages: list[Message]) -> dict[str, Engine]:
    return {m.engine.key: m.engine for m in messages if isinstance(m, Prepared)}


def test_inputs_are_real_ones_as_many_as_are_asked_for(folder: Path) -> None:
    from safetensors.numpy import load_file

    [x] = load_file(folder / INPUTS).values()
    first = torch.randn(2, 6, generator=torch.Generator().manual_seed(0))
    assert x.shape == (4, 6)
    assert np.array_equal(x[:2], first.numpy())


def test_a_program_beside_float_and_int8(folder: Path) -> None:
    messages = told(task(folder, "fp32", "fbgemm", batches=(1, 4)), folder)
    known = engines(messages)
    assert [known[key].reason for key in known] == [""] * 4
    assert known["fp32"].precision == "float32"
    assert known["fbgemm"].version == torch.__version__
    for key in (OURS, AGAIN, "fbgemm"):
        assert 15 < (known[key].sqnr_db or 0) < 60, key
    assert known[OURS].sqnr_db == known[AGAIN].sqnr_db
    assert known["fp32"].sqnr_db is None or known["fp32"].sqnr_db > 100
    runs = [m for m in messages if isinstance(m, Measured)]
    assert [run.batch for run in runs] == [1, 4]
    for run in runs:
        assert list(run.samples) == [OURS, "fp32", AGAIN, "fbgemm"]
        assert [len(samples) for samples in run.samples.values()] == [2] * 4
        assert all(seconds > 0 for samples in run.samples.values() for seconds in samples)
    assert (folder / TURN).read_text().strip() == "fbgemm"


def test_an_engine_that_cannot(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from qcompile.rivals import pytorch
    from qcompile.rivals.entrant import Unavailable

    def refuses(*args: object) -> None:
        raise Unavailable("it does not like this network", "ask it")

    monkeypatch.setattr(pytorch, "_eager", refuses)
    messages = told(task(folder, "fp32"), folder)
    known = engines(messages)["fp32"]
    assert (known.reason, known.hint) == ("it does not like this network", "ask it")
    [run] = [m for m in messages if isinstance(m, Measured)]
    assert list(run.samples) == [OURS, AGAIN]


def run_alone(asked: Task, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process's `main`, told its task and nothing more; what it would change of this one stays."""
    orders = folder / "orders"
    orders.write_bytes(msgspec.json.encode(asked) + b"\n")
    monkeypatch.setattr(machine_facts, "pin", lambda threads: None)
    monkeypatch.setattr(os, "dup2", lambda old, new: None)
    duplicate = os.dup
    with orders.open("rb") as told_by:
        monkeypatch.setattr(os, "dup", lambda fd: duplicate(fd or told_by.fileno()))
        worker.main(folder)


def test_it_ends_where_nobody_tells_it_to_go_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    with pytest.raises(SystemExit, match="nobody is there"):
        run_alone(task(folder, model=False), folder, monkeypatch)
    [line] = capfdbinary.readouterr().out.splitlines()
    assert b"load the network" in line


def test_what_the_user_gave_and_does_not_work_is_told(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfdbinary: pytest.CaptureFixture[bytes],
) -> None:
    broken = msgspec.structs.replace(task(folder), model=str(tmp_path / "absent.py"))
    for name in (INPUTS, PROGRAM):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    run_alone(broken, tmp_path, monkeypatch)
    last = msgspec.json.decode(capfdbinary.readouterr().out.splitlines()[-1], type=Message)
    assert isinstance(last, Refused)
    assert "there is no file" in last.what


@pytest.mark.parametrize(
    ("reference", "output", "decibels"),
    [
        ([3.0, 4.0], [3.0, 4.5], 20.0),
        ([3.0, 4.0], [3.0, 4.0], None),
        ([0.0, 0.0], [3.0, 4.0], None),
        ([3.0, 4.0], [3.0, np.nan], None),
        ([3.0, 4.0], [3.0], None),
        (None, [3.0], None),
    ],
)
def test_signal_to_noise(
    reference: list[float] | None, output: list[float], decibels: float | None
) -> None:
    given = None if reference is None else np.array(reference, np.float32)
    found = worker.sqnr(given, np.array(output, np.float32))
    assert found == (None if decibels is None else pytest.approx(decibels))
