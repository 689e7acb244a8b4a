"""Kernels are timed one by one; how the numbers are shown, and kept."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from toy_library import affine_program, pair_program

import qcompile
from qcompile import cli, profiling
from qcompile.profile_report import KernelTime, Profile, Spread
from qcompile.program import Program


def spread(microseconds: float) -> Spread:
    return Spread(microseconds * 1e-6, microseconds * 0.9e-6, microseconds * 1.2e-6)


PROFILE = Profile(
    model="[net]",
    arch="haswell",
    batch=2,
    rounds=1234,
    call=spread(100),
    clock=101e-6,
    calling=spread(3),
    kernels=(
        KernelTime("int8_conv", ("conv", "relu"), "stem", "int8", "int8 4x4x1", spread(50), 10**7),
        KernelTime("pool", ("pool",), "", "pool", "", spread(45), 0),
    ),
)


@pytest.fixture(scope="module")
def program() -> Program:
    net = nn.Sequential(
        nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.Flatten(), nn.Linear(512, 5)
    )
    return qcompile.compile(net, torch.randn(2, 3, 8, 8), bits=8)


# --- what is measured ----------------------------------------------------------------------------


@pytest.mark.parametrize("torch_inputs", [True, False])
def test_every_kernel_is_timed(program: Program, torch_inputs: bool) -> None:
    x: Any = torch.randn(3, 3, 8, 8)
    found = program.profile(x if torch_inputs else x.numpy(), seconds=0.01)
    kernels = program.variant.kernels
    assert [(k.name, k.layer, k.kind) for k in found.kernels] == [
        (k.name, k.layer, k.kind) for k in kernels
    ]
    assert (found.batch, found.arch) == (3, program.variant.arch)
    assert found.rounds >= 5
    for one in (found.call, found.calling, *(k.seconds for k in found.kernels)):
        assert 0 <= one.low <= one.median <= one.high
    assert found.call.median > 0


def test_products_are_those_of_the_layers(program: Program) -> None:
    found = program.profile(np.zeros((2, 3, 8, 8), np.float32), seconds=0.01)
    macs = {k.layer: k.macs for k in found.kernels if k.macs}
    assert macs == {"0": 2 * 32 * 36 * 27, "2": 2 * 32 * 16 * 288, "4": 2 * 512 * 5}


def test_packed_products_count_as_products() -> None:
    net = nn.Sequential(nn.Conv2d(64, 64, 3, groups=2), nn.BatchNorm2d(64), nn.Conv2d(64, 8, 1))
    recipe = qcompile.Recipe(mode="static", overrides={"0": 1})
    packed = qcompile.compile(
        net, torch.randn(2, 64, 6, 6), recipe=recipe, kernel={"0": "popcount"}
    )
    found = {k.kind: k.macs for k in packed.variant.kernels if k.macs}
    assert found == {"xnor-popcount": 64 * 16 * 32 * 9, "int8": 8 * 16 * 64}


class Recorder:
    """Stands for a library: notes which kernels are run on how many samples."""

    def __init__(self) -> None:
        self.runs: list[tuple[int, int]] = []

    def run(self, x: Any, *others: Any) -> None:
        self.runs.append((len(x), others[-1]))


def calls(program: Program, inputs: Sequence[Any], samples: int) -> tuple[Any, Recorder]:
    library: Any = Recorder()
    variant = replace(program.variant, samples=samples)
    return profiling._Calls(program.info, variant, library, inputs), library


def test_large_batches_are_timed_in_the_parts_in_which_they_run(program: Program) -> None:
    timed, library = calls(program, [np.zeros((5, 3, 8, 8), np.float32)], samples=2)
    times = iter(range(10_000))
    found = timed.each(lambda: float(next(times)))
    kernels = range(len(program.variant.kernels))
    expected = [(n, k) for n in (2, 2, 1) for k in kernels]
    assert [run for run in library.runs if run[1] in kernels] == expected
    none = [run for run in library.runs if run[1] not in kernels]
    assert none == [(n, profiling._NONE) for n, _ in expected for _ in range(2)]
    assert found == [0.0] * len(kernels)  # each took as long as a call of none


def test_rounds_are_at_all_places_of_a_page(program: Program) -> None:
    timed, _ = calls(program, [np.zeros((1, 3, 8, 8), np.float32)], samples=4)
    start, end = timed._memory.ctypes.data, timed._memory.ctypes.data + timed._memory.nbytes
    places = set()
    for number in range(profiling._PLACES):
        timed.move(number)
        assert start <= timed._address <= end - program.variant.workspace
        places.add(timed._address)
    assert places == set(range(start, start + 4096, 64))


def test_what_calling_takes_is_subtracted(program: Program) -> None:
    timed, _ = calls(program, [np.zeros((1, 3, 8, 8), np.float32)], samples=4)
    ticks = iter([t for _ in program.variant.kernels for t in (0.0, 1.0, 5.0)])
    assert timed.each(lambda: next(ticks)) == [3.0] * len(program.variant.kernels)


def test_results_that_no_kernel_stores_are_copied() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return self.fc(x), x

    compiled = qcompile.compile(Net(), torch.randn(2, 4), bits=8)
    found = compiled.profile(torch.randn(2, 4), seconds=0.01)
    assert [k.kind for k in found.kernels][-1] == "copy"
    assert len(found.kernels) == len(compiled.variant.kernels) + 1


def test_the_program_is_left_as_it_was() -> None:
    program = affine_program()
    threads = program.num_threads
    x = np.ones((4, 3, 8), np.float32)
    before = program(x)
    program.profile(x, seconds=0.01)
    assert program.num_threads == threads
    assert np.array_equal(program(x), before)


def test_several_inputs() -> None:
    inputs = np.ones((3, 5), np.float32), np.ones((3, 4), np.int32)
    assert pair_program().profile(*inputs, seconds=0.01).batch == 3


# --- what is shown -------------------------------------------------------------------------------


def test_shares_and_rates() -> None:
    assert PROFILE.explained == pytest.approx(98e-6)
    assert PROFILE.unexplained == pytest.approx(0.02)
    assert PROFILE.kernels[0].rate == pytest.approx(2e11)
    assert PROFILE.kernels[1].rate == 0
    assert replace(PROFILE.kernels[0], seconds=Spread(0.0, 0.0, 0.0)).rate == 0


def test_the_table() -> None:
    text = str(PROFILE)
    assert "[net] for haswell, batch 2, one thread: 100.0 µs a call" in text
    rows = [" ".join(line.split()) for line in text.splitlines()]
    assert "stem int8 int8 4x4x1 50.00 45.00 - 60.00 50.0% 10.00 200" in rows
    assert "calling 3.00 2.70 - 3.60 3.0%" in rows
    assert "not explained 2.00 2.0%" in rows
    assert "medians of 1,234 rounds" in text
    assert "busy" not in text
    assert "add up" not in text


def test_what_is_not_to_be_believed_is_said() -> None:
    assert "on the clock, a call took 130.0 µs" in str(replace(PROFILE, clock=130e-6))
    for call in (80, 120):
        assert f"add up to {98 / call:.0%} of the whole" in str(replace(PROFILE, call=spread(call)))


def test_the_trace_is_what_chrome_reads(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    PROFILE.chrome_trace(path)
    trace = json.loads(path.read_text())
    events = trace["traceEvents"]
    assert {e["ph"] for e in events} == {"M", "X"}
    assert [e["args"]["name"] for e in events if e["ph"] == "M"] == ["[net]", "call", "kernels"]
    call, *parts = [e for e in events if e["ph"] == "X"]
    assert (call["name"], call["ts"], call["dur"]) == ("call, batch 2", 0.0, 100.0)
    assert [(e["name"], e["ts"], e["dur"]) for e in parts] == [
        ("calling", 0.0, 3.0),
        ("stem int8", 3.0, 50.0),
        ("pool", 53.0, 45.0),
    ]
    assert all(type(e["pid"]) is int and type(e["tid"]) is int for e in events)
    assert {e["tid"] for e in parts} != {call["tid"]}
    facts = parts[1]["args"]
    assert facts["macs"] == 10**7
    assert facts["GMAC/s"] == pytest.approx(200)
    assert facts["nodes"] == "conv, relu"
    assert (facts["low_us"], facts["high_us"]) == (45.0, 60.0)
    assert trace["otherData"]["unexplained"] == pytest.approx(0.02)


def test_all_numbers_are_saved(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    PROFILE.save(path)
    saved = json.loads(path.read_text())
    assert (saved["format"], saved["version"]) == ("qcompile profile", 1)
    assert saved["call"] == pytest.approx({"median": 1e-4, "low": 9e-5, "high": 1.2e-4})
    assert saved["kernels"][0]["seconds"]["median"] == pytest.approx(5e-5)
    assert saved["kernels"][0]["nodes"] == ["conv", "relu"]


# --- the command ---------------------------------------------------------------------------------


def test_the_verb(program: Program, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, trace, numbers = (str(tmp_path / name) for name in ("net.qcp", "t.json", "n.json"))
    program.save(path)
    words = ["profile", path, "--seconds", "0.01", "--trace", trace, "--json", numbers]
    assert cli.main([*words, "--batch", "3"]) == cli.OK
    out, err = capsys.readouterr()
    assert "batch 3, one thread" in out
    assert "not explained" in out
    assert err == ""
    assert json.loads(Path(numbers).read_text())["batch"] == 3
    assert json.loads(Path(trace).read_text())["otherData"]["batch"] == 3
    np.save(tmp_path / "x.npy", np.zeros((2, 3, 8, 8), np.float32))
    words = ["profile", path, "--seconds", "0.01", "--input", str(tmp_path / "x.npy")]
    assert cli.main(words) == cli.OK
    assert "batch 2, one thread" in capsys.readouterr().out


def test_neither_torch_nor_the_compiler_is_needed(program: Program, tmp_path: Path) -> None:
    path = tmp_path / "net.qcp"
    program.save(path)
    code = (
        "import sys; sys.modules['torch'] = None; from qcompile import cli;"
        "code = cli.main(); assert 'tvm' not in sys.modules; sys.exit(code)"
    )
    words = [sys.executable, "-c", code, "profile", str(path), "--seconds", "0.01"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "GMAC/s" in done.stdout
