"""`qcompile inspect --target cuda`: a bound for each launch, and what is said where there is none."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from sass_kernels import needs_disassembler
from toy_gpu import SOURCE, gpu_program
from toy_library import affine_program

from qcompile import cli, cuda_report
from qcompile.codegen.cuda import nvcc
from qcompile.errors import QCompileError
from qcompile.program_file import Archive, unpack
from qcompile.static import tools
from qcompile.static.occupancy import WARP


def archive(tmp_path: Path, **change: Any) -> Archive:
    path = tmp_path / "toy.qcp"
    gpu_program(**change).save(path)
    return unpack(path.read_bytes(), str(path))


def refusal(arguments: Sequence[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What the command line says as it refuses; nothing is printed besides."""
    assert cli.main(["inspect", *arguments]) == cli.REFUSED
    out, err = capsys.readouterr()
    assert out == ""
    return " ".join(err.split())


@needs_disassembler
def test_a_row_for_each_launch_that_the_batch_needs(tmp_path: Path) -> None:
    few = cuda_report.report(archive(tmp_path), "sm_80", 4)
    assert [row.launch.symbol for row in few.rows] == ["times", "more", "few"]
    many = cuda_report.report(archive(tmp_path), "sm_80", 8)
    assert [row.launch.symbol for row in many.rows] == ["times", "more", "many"]
    assert [row.job.grid for row in many.rows] == [(12, 1, 1), (1, 3, 1), (8, 1, 1)]
    assert many.seconds == sum(row.bound.seconds for row in many.rows)
    assert few.gpu.name == "A100"
    assert few.title().startswith("Toy on A100 (sm_80), 4 samples: ")
    one = cuda_report.report(archive(tmp_path), "sm_80")
    assert one.title().startswith("Toy on A100 (sm_80), 1 sample: ")


@needs_disassembler
def test_bytes_are_those_of_values_and_constants(tmp_path: Path) -> None:
    rows = cuda_report.report(archive(tmp_path), "sm_80", 8).rows
    assert rows[0].job.bytes == 8 * 96 + 32 + 8 * 96
    assert rows[1].job.bytes == 8 * 16 + 12 + 8 * 16
    assert rows[2].job.bytes == 8 * (96 + 16) + 8 * (96 + 16 + 8)


@needs_disassembler
def test_machine_code_is_taken_from_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = nvcc.fatbin(SOURCE, (80, 90))
    made = archive(tmp_path, fatbin=image, features=("sm_80", "sm_90"))
    expected = cuda_report.report(archive(tmp_path), "sm_90", 3)
    monkeypatch.setattr(nvcc, "find_tool", lambda name: None)
    assert cuda_report.report(made, "sm_90", 3) == expected
    with pytest.raises(QCompileError, match="nvcc was not found"):
        cuda_report.report(made, "sm_86", 3)


@needs_disassembler
def test_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = archive(tmp_path).where
    assert (
        cli.main(["inspect", str(path), "--target", "cuda", "--arch", "sm_86", "--batch", "8"]) == 0
    )
    out = " ".join(capsys.readouterr().out.split())
    assert "Toy on RTX 3090 (sm_86), 8 samples: static bound, not measured" in out
    assert "3 launches take" in out
    assert out.count("not measured") == 2
    assert (
        "samples a second, what launching costs left out (static bound, not measured)."
        in " ".join(out.split())
    )
    assert "GA102 whitepaper" in out


@needs_disassembler
def test_json_has_every_figure_and_says_what_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = archive(tmp_path).where
    assert cli.main(["inspect", str(path), "--target", "cuda", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["what"] == "static bound, not measured"
    assert told["gpu"]["name"] == "A100"  # where nothing is said
    assert told["samples"] == 1
    first = told["launches"][0]
    assert first["symbol"] == "times"
    assert first["resources"]["registers"] > 0
    assert first["occupancy"]["blocks"] > 0
    assert first["job"]["threads"] == WARP / 2
    assert first["seconds"] == first["times"][first["limit"]] == max(first["times"].values())


@needs_disassembler
def test_a_program_for_one_architecture(tmp_path: Path) -> None:
    made = archive(tmp_path, arch="sm_89")
    assert cuda_report.report(made).gpu.arch == 89
    with pytest.raises(QCompileError, match="no code for sm_90, but for sm_89") as caught:
        cuda_report.report(made, "sm_90")
    assert 'target="cuda", or "cuda:sm_90"' in str(caught.value.hint)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--arch", "hopper"], "unknown architecture 'hopper' architectures: sm_75, sm_80"),
        (["--arch", "sm_70"], "unknown architecture 'sm_70'"),
        (["--arch", "sm_100"], "no figures are known of a GPU of sm_100"),
        (["--batch", "0"], "0 samples do not run at once from 1 to 8 do"),
        (["--batch", "9"], "9 samples do not run at once"),
    ],
)
def test_what_is_refused(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(archive(tmp_path).where)
    assert message in refusal([path, "--target", "cuda", *options], capsys)


def test_a_program_without_code_for_gpus(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "cpu.qcp"
    affine_program().save(path)
    told = refusal([str(path), "--target", "cuda"], capsys)
    assert "the program has no code for GPUs, but for generic" in told
    assert 'compile it for target="cuda"' in told


@pytest.mark.parametrize("options", [["--arch", "sm_80"], ["--batch", "3"], ["--json"]])
def test_options_that_go_with_the_target(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(archive(tmp_path).where)
    assert f"{options[0]} goes with --target cuda" in refusal([path, *options], capsys)


def test_without_the_tools(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(archive(tmp_path).where)
    monkeypatch.setattr(nvcc, "find_tool", lambda name: None)
    told = refusal([path, "--target", "cuda"], capsys)
    assert 'nvcc was not found install it (pip install "qcompile[cuda]"' in told
    monkeypatch.setattr(tools, "find_tool", lambda name: None)
    monkeypatch.setattr(nvcc, "cubin", lambda source, arch: b"code")
    told = refusal([path, "--target", "cuda"], capsys)
    assert 'nvdisasm was not found install it: pip install "qcompile[cuda]"' in told
