"""What `bench` refuses, before anything is measured."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

import pytest
import sample_reports
import torch
from torch import nn

import qcompile
from qcompile import cli
from qcompile.bench import files, handing, process, subject
from qcompile.bench.measuring import Plan, measure
from qcompile.bench.results import Settings
from qcompile.runtime import cores

MODEL = """
import torch
from torch import nn

model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 2))
example_inputs = torch.randn(2, 8)
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("program") / "net.qcp"
    net = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
    qcompile.compile(net, torch.randn(2, 4), bits=8).save(path)
    return path.read_bytes()


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: bytes) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(MODEL)
    Path("net.qcp").write_bytes(program)
    files.save(sample_reports.small(), "r.json")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("absent.py", "there is no file 'absent.py'"),
        ("absent.qcp", "there is no such file"),
        ("absent.json", "there is no such file"),
        ("net.py --against fp33", "did you mean 'fp32'?"),
        ("net.py --against fp32,,x86", "has an empty place"),
        ("net.py --batch 0", "--batch '0' is no list of numbers from 1 up"),
        ("net.py --batch 1,x", "is no list of numbers"),
        ("net.py --threads 0", "is no list of numbers"),
        (f"net.py --threads {cores() + 1}", f"this process may use {cores()} cores"),
        ("net.py --processes 0", "--processes is 0, it must be 1 or more"),
        ("net.py --rounds 0", "--rounds is 0"),
        ("net.py --seconds 0", "--seconds is 0.0"),
        ("net.py --seconds inf", "--seconds is inf"),
        ("net.py --seconds nan", "--seconds is nan"),
        ("net.py --clock sun", "--clock 'sun'"),
        ("net.py --widths 9", "--widths: 9 is no width"),
        ("net.py --parts speed", "--parts: there is no 'speed'"),
        ("net.py --epochs 3", "--epochs is for --train"),
        ("net.py --train", "--train: there is no train(model)"),
        ("net.py --mode qat", "without --train nothing is trained"),
        ("net.py --bits 9", "bits must be 1 to 8"),
        ("net.py --target cuda", "--target cuda: bench is of processors"),
        ("net.py --target cpu,cuda", "--target cuda: bench is of processors"),
        ("net.py --target cpu:nonsense", "unknown processor 'nonsense'"),
        ("net.py --model net.py", "--model is for a PROGRAM"),
        ("net.py --weights absent.safetensors", "absent.safetensors"),
        ("net.py --json absent/r.json", "there is no folder 'absent'"),
        ("net.py --json .", "that is a folder"),
        ("net.py --html net.py", "--html would take the place of what is read"),
        ("net.py --html a.html --markdown a.html", "would take the place of --html"),
        ("net.py --figures net.qcp", "--figures names a folder, and that is none"),
        ("net.py --figures absent/f", "there is no folder 'absent'"),
        ("net.qcp --json net.qcp", "--json would take the place of what is read"),
        ("net.qcp --bits 4", "--bits is for a MODEL"),
        ("net.qcp --train", "--train is for a MODEL"),
        ("net.qcp --arch nonsense", "the program has no variant 'nonsense'"),
        (
            "net.qcp --model net.py",
            "the program takes float32[N, 4], the model float32[N, 8]",
        ),
        ("net.qcp --model net.qcp", "not a Python file"),
        ("net.qcp --weights w.safetensors", "--weights is for a float network"),
        ("r.json --batch 8", "--batch is for measuring, and this was measured already"),
        ("r.json --bits 8", "--bits is for measuring"),
        ("r.json --json r.json", "--json would take the place of what is read"),
        ("r.json --markdown absent/r.md", "there is no folder 'absent'"),
        ("net.py --markdown /dev/null", "that is there already, and is no file"),
    ],
)
def test_the_verb(words: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    def fails(*args: object) -> None:
        raise AssertionError("something is measured")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(handing, "hand_over", fails)
        assert cli.main(["bench", *words.split()]) == cli.REFUSED
    out, err = capsys.readouterr()
    assert message in " ".join(err.split())
    assert out == ""
    assert sorted(os.listdir()) == ["net.py", "net.qcp", "r.json"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a disk that is full is Linux's")
def test_results_that_cannot_be_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with open("/dev/full", "w") as full, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", full)
        assert cli.main(["bench", "r.json"]) == cli.REFUSED
    assert "cannot write to standard output: No space left" in capsys.readouterr().err


def test_the_processor_time_of_several_threads(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from qcompile.bench import verb

    monkeypatch.setattr(verb, "cores", lambda: 4)
    assert cli.main(["bench", "net.py", "--clock", "cpu", "--threads", "1,2"]) == cli.REFUSED
    assert "it is right for one thread" in capsys.readouterr().err


def test_a_program_for_gpus(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(subject, "CUDA", platform.machine())  # what the program's code is for
    assert cli.main(["bench", "net.qcp"]) == cli.REFUSED
    err = " ".join(capsys.readouterr().err.split())
    assert "this code is for GPUs, and bench is of processors" in err
    assert "bench_cuda.py times programs on GPUs" in err


def test_a_folder_that_takes_no_files(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import tempfile

    def refuses(**where: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuses)
    for option in ("--json", "--markdown", "--html"):
        assert cli.main(["bench", "net.py", option, "x"]) == cli.REFUSED
        assert "takes no files (Read-only file system)" in " ".join(capsys.readouterr().err.split())


DIES = '{"type": "at", "doing": "prepare", "engine": "qcompile"}'
REFUSES = '{"type": "refused", "what": "odd", "where": "net.py:3", "hint": "mend it"}'


class _Silent:
    def process(self, number: int, of: int, threads: int) -> None: ...
    def message(self, message: object, threads: int) -> None: ...
    def lost(self, engine: str, reason: str) -> None: ...


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (
            "import sys; sys.exit('no memory')",
            "start, 2 threads: the process that measures died: no memory",
        ),
        (
            f"print('{DIES}', flush=True); import os; os.abort()",
            "prepare, 2 threads: the process that measures died: killed by SIGABRT",
        ),
        (
            f"print('{REFUSES}')",
            "net.py:3: odd\n  mend it",
        ),
    ],
)
def test_a_process_that_cannot_go_on(
    script: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "COMMAND", (sys.executable, "-S", "-c", script))
    with pytest.raises(qcompile.QCompileError) as caught:
        measure(Plan((), (1,), (2,), Settings(1.0, 1, 3)), tmp_path, _Silent())
    assert str(caught.value) == message


def test_a_program_that_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    from rich.console import Console

    from qcompile.ir.target import Target
    from qcompile.job import Job
    from qcompile.quant.recipe import Recipe
    from qcompile.steps import Steps

    monkeypatch.setattr(subject, "verify", lambda *args: SimpleNamespace(ok=False))
    job = Job("net.py", Recipe(8), (Target(),))
    with pytest.raises(qcompile.QCompileError, match="the program is wrong"):
        subject.from_model(job, Steps(Console(quiet=True)), train=False)
