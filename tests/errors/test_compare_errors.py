"""What `compare` refuses: reports that cannot be held against each other, and options that say nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from sample_reports import report

from qcompile import QCompileError, cli
from qcompile.bench import files
from qcompile.bench.alike import check
from qcompile.bench.results import Report

A = report()
B = report(seed=1)


@pytest.mark.parametrize(
    ("b", "message", "hint"),
    [
        (A, "both are one and the same report", "measure twice"),
        (
            replace(B, subject=replace(B.subject, name="vgg")),
            "of other networks: lenet, and vgg",
            "--force",
        ),
        (
            replace(B, subject=replace(B.subject, inputs=("x float32[N, 3, 8, 8]",))),
            "of other inputs: x float32[N, 1, 28, 28], and x float32[N, 3, 8, 8]",
            "--force",
        ),
        (
            replace(B, subject=replace(B.subject, bits=(1, 2))),
            "of other bits: 1/1, and 1/2",
            "--force",
        ),
        (
            replace(B, settings=replace(B.settings, clock="cpu")),
            "of other clocks: wall, and cpu",
            "--force",
        ),
        (
            replace(B, machine=replace(B.machine, processor="AMD EPYC")),
            "measured on other processors: Intel(R) Xeon(R) Processor, and AMD EPYC",
            "--across-machines",
        ),
        (
            replace(B, runs=(replace(B.runs[0], batch=3),)),
            "there is no run in common: one is of batch 1, 1 thread; batch 1, 2 threads; batch 8,",
            "the same --batch and --threads",
        ),
        (replace(B, runs=()), "the other of nothing", "the same --batch and --threads"),
    ],
)
def test_what_cannot_be_compared(b: Report, message: str, hint: str) -> None:
    for one, other in ((A, b), (b, A)):
        with pytest.raises(QCompileError) as caught:
            check(one, other, force=False, across_machines=False)
        assert caught.value.hint is not None
        assert hint in caught.value.hint
    with pytest.raises(QCompileError) as caught:
        check(A, b, force=False, across_machines=False)
    assert message in caught.value.what


def test_what_is_not_known_is_no_difference() -> None:
    check(A, replace(B, subject=replace(B.subject, bits=None)), force=False, across_machines=False)


def test_one_report_or_no_run_in_common_cannot_be_forced() -> None:
    for b in (A, replace(B, runs=())):
        with pytest.raises(QCompileError):
            check(A, b, force=True, across_machines=True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("a.json absent.json", "absent.json: there is no such file"),
        ("absent.json b.json", "absent.json: there is no such file"),
        ("a.json .", "cannot read the file: Is a directory"),
        ("a.json a.json", "a.json: A and B are one file"),
        ("a.json ./a.json", "a.json: A and B are one file"),
        ("a.json copy.json", "both are one and the same report"),
        ("a.json newer.json", "newer.json: made by a newer qcompile: version 7, this one reads 1"),
        ("profile.json b.json", "profile.json: is a qcompile profile"),
        ("a.json broken.json", "broken.json: is no JSON: line 1, column 2"),
        ("a.json b.json --threshold 5", "--threshold '5' is no percentage"),
        ("a.json b.json --threshold x%", "--threshold 'x%' is no percentage"),
        ("a.json b.json --threshold nan%", "is no percentage"),
        ("a.json b.json --threshold 0.5%", "--threshold is 0.5%, it must be 1% or more"),
        ("a.json b.json --threshold=-5%", "it must be 1% or more"),
        ("a.json b.json --json b.json", "b.json: B and --json are one file"),
        ("a.json b.json --markdown a.json", "a.json: A and --markdown are one file"),
        ("a.json b.json --json c --markdown c", "c: --json and --markdown are one file"),
        ("a.json b.json --json absent/c.json", "there is no folder 'absent'"),
        ("a.json b.json --markdown .", "that is a folder"),
    ],
)
def test_the_verb(
    words: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    small = replace(A, layers=(), graphs=())
    files.save(small, "a.json")
    files.save(small, "copy.json")
    files.save(replace(small, date="later"), "b.json")
    Path("newer.json").write_text('{"format": "qcompile benchmark", "version": 7}')
    Path("profile.json").write_text('{"format": "qcompile profile", "version": 1}')
    Path("broken.json").write_text("{")
    assert cli.main(["compare", *words.split()]) == cli.REFUSED
    out, err = capsys.readouterr()
    assert message in " ".join(err.split())
    assert out == ""
    assert len(list(Path().iterdir())) == 6
