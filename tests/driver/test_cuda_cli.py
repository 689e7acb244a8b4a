"""The command with --target cuda, on a machine without a GPU: what is verified, timed, said, written."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from emulated_gpu import needs_emulator
from torch.fx import GraphModule

import qcompile
from qcompile import cli, emulator, trial
from qcompile.codegen.built import Built
from qcompile.codegen.cuda import build, nvcc
from qcompile.cuda import diagnosis
from qcompile.cuda.launches import Launch
from qcompile.ir.target import Target
from qcompile.nvidia import find_tool
from qcompile.program_file import unpack
from qcompile.program_info import Variant
from qcompile.trial import _needed, _of_sizes, _sizes

NO_DRIVER = "there is no NVIDIA driver here: install it"
MODEL = """
import torch
from torch import nn

model = nn.Sequential(
    nn.Conv2d(2, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 1), nn.ReLU(), nn.Flatten(), nn.Linear(512, 3)
)
example_inputs = torch.randn(2, 2, 6, 6)

def train(model):
    model.train()(example_inputs)
"""


def needs_it(test: Any) -> Any:
    """Marks a test that runs kernels on the emulator."""
    for mark in needs_emulator:
        test = mark(test)
    return test


@pytest.fixture(autouse=True)
def _without_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder of its own, and without nvcc, which takes seconds for each program."""
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(MODEL, encoding="utf-8")
    monkeypatch.setattr(build, "find_nvcc", lambda: None)
    monkeypatch.setattr(trial, "diagnose", lambda: NO_DRIVER)
    monkeypatch.setattr(diagnosis, "diagnose", lambda *_: NO_DRIVER)
    monkeypatch.setattr(trial, "SHORT", 0.01)
    monkeypatch.setattr(trial, "EMULATION_SECONDS", 1e9)  # however busy this machine is


def said(captured: str) -> str:
    return " ".join(captured.split())


def ran(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[str, str]:
    """Standard output and standard error of a command that went well, on one line each."""
    assert cli.main(list(words)) == cli.OK
    out, err = capsys.readouterr()
    return said(out), said(err)


# --- the main command ----------------------------------------------------------------------------


@needs_it
def test_it_ends_verified_by_emulation_and_says_exactly_that(
    capsys: pytest.CaptureFixture[str],
) -> None:
    out, err = ran(capsys, "net.py", "--target", "cuda", "-o", "net.qcp")
    assert f"No GPU here: {NO_DRIVER}. The CPU emulates one, for " in err
    assert "of 2 samples." in err
    assert err.endswith("Nothing was timed on a GPU.")
    for arch in trial.EMULATED:
        assert f"verified, emulated on the CPU as sm_{arch}: 2 samples" in out
    assert "verified:" not in out
    assert "latency" not in out
    assert " ms" not in out
    size = Path("net.qcp").stat().st_size
    how = "verified, emulated on the CPU as sm_80, sm_90, sm_75 and sm_100: no GPU here"
    assert out.endswith(f"wrote net.qcp, {size:,} bytes; {how}")


@needs_it
def test_a_file_for_both_runs_here_and_is_timed_here(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--target", "cpu,cuda:sm_86", "--kernel", "2=int8", "-o", "net.qcp"]
    out, err = ran(capsys, "net.py", *words)
    assert "--kernel is for the processors' code" in err
    program = qcompile.load("net.qcp")
    assert program.variant.machine != "cuda"
    assert f"verified as {program.variant.arch}: 2 samples" in out
    assert "verified as sm_86, emulated on the CPU as sm_86: 2 samples" in out
    assert "latency" in out
    assert out.endswith(
        " bytes; verified on this processor, and the code for GPUs emulated on the CPU as sm_86: "
        "no GPU here"
    )
    assert "Nothing was timed on a GPU." in err


@needs_it
def test_several_architectures_are_each_emulated_as_themselves(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "EMULATION_SECONDS", 0.0)  # none of them is left out all the same
    words = ["--target", "cuda:sm_75,cuda:sm_90", "-o", "net.qcp"]
    out, _ = ran(capsys, "net.py", *words)
    for arch in ("sm_75", "sm_90"):
        assert f"verified as {arch}, emulated on the CPU as {arch}: 1 sample" in out
    assert out.count("emulated on the CPU") == 3
    assert out.endswith("; verified, emulated on the CPU as sm_75 and sm_90: no GPU here")


@pytest.mark.parametrize("target", ["cuda", "cuda,cpu"])
def test_without_an_emulator_it_is_not_verified_and_says_why(
    target: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(emulator, "obstacle", lambda: "there is no g++")
    out, err = ran(capsys, "net.py", "--target", target, "-o", "net.qcp")
    assert f"No GPU here: {NO_DRIVER}. None can be emulated: there is no g++." in err
    if target == "cuda":
        assert err.count(NO_DRIVER) == 1
        assert (
            "Not verified, since this machine cannot run it: the code for cuda needs an NVIDI"
            in err
        )
        assert "equal" not in out
        assert out.endswith(" bytes; NOT verified: no GPU here")
    else:
        assert "verified as " in out
        assert (out + err).count(NO_DRIVER) == 1
        assert "unverified, as this machine cannot run them: cuda needs an NVIDIA GPU " in out
        assert out.endswith(
            " bytes; verified on this processor, NOT verified for GPUs: no GPU here"
        )


@pytest.mark.parametrize("target", ["cuda", "cuda,cpu", "cpu"])
def test_unverified_on_demand(target: str, capsys: pytest.CaptureFixture[str]) -> None:
    out, err = ran(capsys, "net.py", "--target", target, "--no-verify", "-o", "net.qcp")
    assert "verified," not in out
    assert out.endswith(" bytes; NOT verified: --no-verify")
    assert "since this machine" not in err


@needs_it
def test_a_program_that_is_wrong_is_not_written(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    generate = build.generate

    def broken(gm: GraphModule, target: Target) -> Built:
        built = generate(gm, target)
        wrong = built.source.replace("__ballot_sync(", "1 ^ __ballot_sync(")
        assert wrong != built.source
        return dataclasses.replace(built, source=wrong)

    monkeypatch.setattr(build, "generate", broken)
    assert cli.main(["net.py", "--target", "cuda", "-o", "net.qcp"]) == cli.FAILED
    out = said(capsys.readouterr().out)
    assert "NOT VERIFIED, emulated on the CPU as sm_80" in out
    assert "wrote" not in out
    assert not Path("net.qcp").exists()


def test_an_old_nvcc_is_refused_before_training(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("net.py").write_text(MODEL + "    raise AssertionError", encoding="utf-8")
    monkeypatch.setattr(nvcc, "find_nvcc", lambda: "nvcc")
    monkeypatch.setattr(nvcc, "_about", lambda _: ((10, 2), (70, 72)))
    assert cli.main(["net.py", "--target", "cuda"]) == cli.REFUSED
    err = said(capsys.readouterr().err)
    assert "nvcc 10.2 does not know sm_75, sm_80" in err
    assert 'target="cuda:sm_86"' in err
    monkeypatch.setattr(nvcc, "_about", lambda _: ((12, 4), (75, 80, 86, 89, 90)))
    assert cli.main(["net.py", "--target", "cuda,cuda:sm_121"]) == cli.REFUSED
    assert "nvcc 12.4 does not know sm_100, sm_121" in said(capsys.readouterr().err)


def test_an_nvcc_without_gxx_is_none_and_the_file_says_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = Path("bin/nvcc")
    compiler.parent.mkdir()
    compiler.write_text(
        "#!/bin/sh\necho nvcc fatal : Failed to preprocess host compiler properties. >&2\nexit 1\n",
        encoding="utf-8",
    )
    compiler.chmod(0o755)
    monkeypatch.setenv("CUDA_HOME", str(Path.cwd()))
    monkeypatch.setattr(build, "find_nvcc", nvcc.find_nvcc)
    out, _ = ran(capsys, "net.py", "--target", "cuda", "--no-verify", "-o", "net.qcp")
    assert "The nvcc here needs g++ beside it, which there is not, so the file holds CUDA" in out
    assert "There is no nvcc" not in out


def test_what_is_for_processors_is_refused_before_training(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("net.py").write_text(MODEL + "    raise AssertionError", encoding="utf-8")
    for words, what in (
        (["--tune", "1"], "tuning is for processors"),
        (["--kernel", "int8"], "kernels are forced on processors"),
    ):
        assert cli.main(["net.py", "--target", "cuda", *words]) == cli.REFUSED
        assert what in said(capsys.readouterr().err)


# --- how much is emulated ------------------------------------------------------------------------


def variant(*least: int) -> Variant:
    launches = tuple(Launch("f", 0, (), 1, 1, least=n) for n in least)
    return Variant("cuda", "cuda", (), (), launches=launches)


@pytest.mark.parametrize(
    ("least", "samples", "sizes"),
    [
        ((1,), 1, (1,)),
        ((1,), 16, (1, 15)),
        ((1, 5, 1, 9), 15, (1, 5, 9)),
        ((1, 5, 9), 20, (1, 5, 9, 5)),
        ((1, 32), 16, (1, 15)),
        ((2,), 2, (1, 1)),
    ],
)
def test_between_them_batches_run_all_launches(
    least: tuple[int, ...], samples: int, sizes: tuple[int, ...]
) -> None:
    assert _sizes(_needed([variant(*least)]), samples) == sizes


def test_batches_are_the_first_samples_of_all_inputs() -> None:
    x, y = torch.arange(7), torch.arange(7, 14)
    found = _of_sizes([(x[:3], y[:3]), (x[3:], y[3:])], (1, 4))
    assert [[v.tolist() for v in batch] for batch in found] == [
        [[0], [7]],
        [[1, 2, 3, 4], [8, 9, 10, 11]],
    ]


@needs_it
def test_what_takes_too_long_is_left_out_and_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "EMULATION_SECONDS", 0.0)
    out, err = ran(capsys, "net.py", "--target", "cuda", "-o", "net.qcp")
    assert "for a batch of 1 of 2 samples. Left out, for want of time or samples: sm_90, " in err
    assert out.endswith("; verified, emulated on the CPU as sm_80: no GPU here")


@needs_it
def test_a_single_sample_is_no_samples(capsys: pytest.CaptureFixture[str]) -> None:
    Path("net.py").write_text(MODEL.replace("randn(2, 2", "randn(1, 2"), encoding="utf-8")
    _, err = ran(capsys, "net.py", "--target", "cuda:sm_80", "-o", "net.qcp")
    assert "The CPU emulates one, for a batch of 1 of 1 sample." in err


# --- run and inspect -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("program")
    (folder / "net.py").write_text(MODEL, encoding="utf-8")
    words = ["--target", "cuda", "--no-verify", "-o", f"{folder}/net.qcp"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "find_nvcc", lambda: None)
        assert cli.main([f"{folder}/net.py", *words]) == cli.OK
    return f"{folder}/net.qcp"


@needs_it
def test_run_emulates(program: str, capsys: pytest.CaptureFixture[str]) -> None:
    x = np.random.default_rng(0).standard_normal((3, 2, 6, 6)).astype(np.float32)
    np.save("x.npy", x)
    for arch in (80, 90):
        words = ["--input", "x.npy", "-o", "y.npy", "--emulate", f"sm_{arch}"]
        out, err = ran(capsys, "run", program, *words)
        assert out == "output: float32[3, 3]"
        assert err == f"emulated on the CPU as sm_{arch}, cuda"
        assert np.array_equal(np.load("y.npy"), qcompile.load(program, emulate=80)(x))


def test_run_without_a_gpu_names_the_way_out(
    program: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["run", program]) == cli.REFUSED
    err = said(capsys.readouterr().err)
    assert f"the code for cuda needs an NVIDIA GPU, and {NO_DRIVER}" in err
    assert "qcompile run --emulate sm_80" in err


@pytest.mark.parametrize("arch", ["sm_70", "hopper", "sm_sm_80", "8"])
def test_run_emulates_what_there_is(
    arch: str, program: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["run", program, "--emulate", arch]) == cli.REFUSED
    err = said(capsys.readouterr().err)
    assert f"there is no GPU {arch!r} to emulate there are sm_75, sm_80, " in err


def test_run_emulates_no_processor(capsys: pytest.CaptureFixture[str]) -> None:
    ran(capsys, "net.py", "--no-verify", "-o", "net.qcp")
    assert cli.main(["run", "net.qcp", "--emulate", "sm_80"]) == cli.REFUSED
    assert "only code for GPUs can be emulated" in said(capsys.readouterr().err)


def test_inspect_says_what_is_in_the_file(program: str, capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = ran(capsys, "inspect", program)
    assert "net for cuda" in out
    assert "needs an NVIDIA GPU, and" in out
    archive = unpack(Path(program).read_bytes(), program)
    [variant], [packed] = archive.info.variants, archive.sizes.code
    unpacked = len(archive.source(variant).encode())
    assert f"cuda holds {packed:,} bytes, packed; unpacked {unpacked:,} bytes of CUDA" in out
    assert f"{packed:,} code for cuda" in out
    assert f"cuda NVIDIA GPUs {packed:,}" in out
    assert " bytes of CUDA source alone, which NVRTC compiles where the program is loaded" in out
    assert "There is no nvcc here, so the file holds CUDA source alone" in out


@pytest.mark.skipif(find_tool("nvcc") is None, reason="needs nvcc")
def test_inspect_names_the_machine_code(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "find_nvcc", lambda: find_tool("nvcc"))
    words = ["--target", "cuda", "--arch", "sm_86", "--no-verify", "-o", "net.qcp"]
    ran(capsys, "net.py", *words)
    out, _ = ran(capsys, "inspect", "net.qcp")
    assert "of machine code for sm_86 and, as PTX (compute_80), newer ones" in out
    assert "no nvcc" not in out
