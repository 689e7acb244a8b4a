"""The verb `compare`: exit codes for a gate, and the files that it writes."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from sample_reports import report, small

from qcompile import cli
from qcompile.bench import compare_verb, files
from qcompile.bench import verb as bench_verb
from qcompile.bench.results import Report


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    files.save(report(), "a.json")


def compare(b: Report, *words: str) -> int:
    """The exit code of `qcompile compare a.json b.json`."""
    files.save(b, "b.json")
    return cli.main(["compare", "a.json", "b.json", *words])


@pytest.mark.parametrize(
    ("b", "code", "strict", "message"),
    [
        (report(seed=9), 0, 0, "No regression of 5% or more seen in 4 runs."),
        (report(seed=9, slower=1.3), 1, 1, "REGRESSION: b.json is slower than a.json: batch 1, 1"),
        (report(seed=9, slower=0.7), 0, 0, "No regression of 5% or more seen in 4 runs."),
        (small(), 0, 3, "No regression of 5% or more seen, but nothing can be said of: batch 1,"),
    ],
)
def test_exit_codes(
    b: Report, code: int, strict: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare(b) == code
    out, err = capsys.readouterr()
    assert message in " ".join(out.split())
    assert ("warning: nothing can be said" in err) == (strict == compare_verb.UNSURE)
    assert compare(b, "--strict") == strict
    assert capsys.readouterr().err == ""


def test_the_table_says_what_is_what(capsys: pytest.CaptureFixture[str]) -> None:
    b = report(seed=9, slower=1.3)
    machine = replace(b.machine, load=(3.0, 3.0))
    compare(replace(b, machine=machine, runs=b.runs[1:]))
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["A: a.json", "B: b.json"]
    by_name = {" ".join(line.split()[:4]): line for line in lines}
    assert "only A has this run" in by_name["batch 1, 1 thread"]
    assert "not compared" in by_name["batch 1, 1 thread"]
    rows = [line for line in lines if "SLOWER" in line]
    assert len(rows) == 3
    assert all("+" in line and "%" in line for line in rows)
    [load] = [line for line in lines if line.startswith(" load before")]
    assert " ".join(load.split()) == "load before 0.1 3.0 times may differ for it"
    assert any(line.split()[:5] == ["batch", "8,", "2", "threads", "fp32"] for line in lines)


def test_files(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--json", "c.json", "--markdown", "c.md", "--threshold", "10%")
    assert compare(report(seed=9, slower=1.3), *words) == 1
    out = capsys.readouterr().out
    assert "wrote c.json" in out
    assert "wrote c.md" in out
    value = json.loads(Path("c.json").read_text())
    assert (value["a"], value["b"], value["threshold"]) == ("a.json", "b.json", 0.1)
    assert (value["regression"], value["exit_code"]) == (True, 1)
    assert len(value["rows"]) == 4
    assert Path("c.md").read_text().startswith("**REGRESSION")
    assert compare(report(seed=9, slower=1.05), *words) == 0
    assert json.loads(Path("c.json").read_text())["exit_code"] == 0


def test_what_is_not_alike_is_compared_if_it_must_be(capsys: pytest.CaptureFixture[str]) -> None:
    other = report(seed=9)
    elsewhere = replace(other, machine=replace(other.machine, processor="another"))
    assert compare(elsewhere) == 2
    assert compare(elsewhere, "--force") == 2
    assert compare(elsewhere, "--across-machines") == 0
    two = replace(other, subject=replace(other.subject, bits=(2, 2)))
    assert compare(two) == 2
    assert compare(two, "--across-machines") == 2
    capsys.readouterr()
    assert compare(two, "--force") == 0
    [line] = [x for x in capsys.readouterr().out.splitlines() if x.startswith(" bits")]
    assert line.split()[:3] == ["bits", "1/1", "2/2"]


@pytest.mark.parametrize(("text", "value"), [("5%", 0.05), ("1%", 0.01), ("12.5%", 0.125)])
def test_percentages(text: str, value: float) -> None:
    assert compare_verb.share(text) == pytest.approx(value)


def test_a_gate_needs_neither_torch_nor_the_compiler() -> None:
    files.save(report(seed=9), "b.json")
    text = (
        "import sys; from qcompile import cli; "
        "code = cli.main(['compare', 'a.json', 'b.json', '--markdown', 'c.md']); "
        "assert not {'torch', 'tvm', 'tvm_ffi', 'matplotlib'} & sys.modules.keys(); sys.exit(code)"
    )
    root = str(Path(cli.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", text],
        check=False,
        env={"PYTHONPATH": root},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_it_is_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["compare", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "1 the program is slower" in text
    assert "(default: 5%)" in text


def test_the_gate_of_the_docs_is_one() -> None:
    """Its commands have options that there are, and its order is the right one."""
    text = (Path(cli.__file__).parents[1] / "docs" / "compare.md").read_text(encoding="utf-8")
    [gate] = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    commands = re.findall(r"qcompile (bench|compare) (.*)", gate.replace("\\\n", " "))
    [bench, compare] = [shlex.split(words) for _, words in commands]
    assert bench_verb.parser().parse_args(bench).processes == 5
    options = compare_verb.parser().parse_args(compare)
    assert (str(options.a), str(options.b)) == ("before.json", "after.json")
    assert compare_verb.share(options.threshold) == 0.1
    for option in (
        "--threshold",
        "--strict",
        "--across-machines",
        "--force",
        "--json",
        "--markdown",
    ):
        assert f"| `{option}" in text
        assert option in compare_verb.parser().format_help()
