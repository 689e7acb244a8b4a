"""Files that are no reports, or reports that say what cannot be."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sample_reports

from qcompile import QCompileError
from qcompile.bench import files
from qcompile.bench.results import OURS, Report, Spread, Time

REPORT = files.text(sample_reports.report())


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"PK\x03\x04 and more", "is a zip archive, not a report"),
        (b"\x7fELF", "is machine code"),
        (b"<!doctype html>", "is HTML, not the report's JSON"),
        (b"\xff\xfe{", "is no JSON: 'utf-8' codec"),
        (b'{"format":\n "qcompile benchmark",,}', "is no JSON: line 2, column "),
        (REPORT[:-100], "is no JSON: line "),
        (REPORT + b"x", "Extra data"),
        (b"[" * 100_000, "is no JSON: maximum recursion depth"),
        (b'{"format": "qcompile benchmark", "x": ' + b"[" * 950 + b"]" * 950 + b"}", "is no"),
        (b"1" * 5000, "is no JSON: Exceeds the limit"),
        (b"[1, 2]", "is JSON, but no report"),
        (b"null", "is JSON, but no report"),
        (b'{"runs": []}', "is JSON, but no report"),
        (b'{"format": 1}', "is JSON, but no report"),
        (b'{"format": "qcompile profile", "version": 1}', "is a qcompile profile, not a report"),
        (b'{"format": "qcompile explanation"}', "is a qcompile explanation, not a report"),
        (b'{"format": "qcompile comparison"}', "is a qcompile comparison, not a report"),
        (b'{"format": "other"}', "is of the format 'other', not a report"),
        (b'{"format": "qcompile benchmark", "version": "1"}', "$.version is '1'"),
        (b'{"format": "qcompile benchmark", "version": true}', "$.version is True"),
        (b'{"format": "qcompile benchmark", "version": 0}', "$.version is 0"),
        (b'{"format": "qcompile benchmark", "version": 1}', "missing required field `subject`"),
        (b'{"format": "qcompile benchmark", "duration": NaN}', "NaN, which is no number"),
        (b'{"format": "qcompile benchmark", "duration": 1e999}', "inf is no number - at `$.dur"),
    ],
)
def test_what_is_no_report(data: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_bytes(data)
    with pytest.raises(QCompileError) as caught:
        files.load(path)
    assert message in caught.value.what
    assert caught.value.where == str(path)
    assert caught.value.hint


def test_a_newer_report_says_what_to_do() -> None:
    # It need not be a report as this one knows them.
    with pytest.raises(QCompileError) as caught:
        files.parse(b'{"format": "qcompile benchmark", "version": 2, "subject": 3}')
    assert caught.value.what == "made by a newer qcompile: version 2, this one reads 1"
    assert caught.value.hint == "pip install -U qcompile"


def change(path: str, value: object) -> bytes:
    """The report with one field changed, or dropped for `...`."""
    whole = json.loads(REPORT)
    *way, last = path.replace("[", ".[").split(".")[1:]
    place = whole
    for step in way:
        place = place[int(step[1:-1])] if step.startswith("[") else place[step]
    key: Any = int(last[1:-1]) if last.startswith("[") else last
    if value is ...:
        del place[key]
    else:
        place[key] = value
    return json.dumps(whole).encode()


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("$.runs[0].batch", "8", "Expected `int`, got `str` - at `$.runs[0].batch`"),
        ("$.runs[0].batch", 1.5, "Expected `int`, got `float` - at `$.runs[0].batch`"),
        ("$.runs[1].times", ..., "missing required field `times` - at `$.runs[1]`"),
        ("$.runs", {}, "Expected `array`, got `object` - at `$.runs`"),
        ("$.runs[0].times[0].samples[0][2]", "1", "at `$.runs[0].times[0].samples[0][2]`"),
        ("$.subject.name", None, "Expected `str`, got `null` - at `$.subject.name`"),
        ("$.versions.torch", 2, "at `$.versions[...]`"),
        ("$.runs[0].batch", 0, "0 is less than 1 - at `$.runs[0].batch`"),
        ("$.runs[0].threads", -1, "-1 is less than 1 - at `$.runs[0].threads`"),
        ("$.runs[1].threads", 1, "'batch 1, threads 1' is there twice - at `$.runs[1]`"),
        ("$.engines[1].key", "fp32", "the engine 'fp32' is there twice - at `$.engines[2]`"),
        ("$.engines[0].key", "ours", "the engine 'qcompile' is missing - at `$.engines`"),
        ("$.runs[0].times[1].engine", "x", "no engine is called 'x' - at `$.runs[0].times[1]"),
        ("$.runs[0].times[1].engine", OURS, "'qcompile' is there twice - at `$.runs[0].times[1]"),
        ("$.runs[0].times[0].samples[0][1]", 0.0, "no time - at `$.runs[0].times[0].samples[0][1]"),
        ("$.runs[0].times[0].samples[0][1]", -1e-3, "-0.001 is no time"),
        ("$.runs[0].times[0].samples[1]", [], "a process without samples"),
        ("$.runs[0].times[0].samples", [], "samples and seconds go together"),
        ("$.runs[0].times[0].seconds", None, "samples and seconds go together"),
        ("$.runs[0].times[0].seconds.low", 1.0, "out of order - at `$.runs[0].times[0].seconds`"),
        ("$.runs[0].times[2].speedup.low", 0.0, "not above zero"),
        ("$.graphs[0].edges[0].target", "y", "no node is called 'y' - at `$.graphs[0].edges[0]`"),
        ("$.graphs[0].edges[0].target", "x", "'x' does not stand after 'x'"),
        ("$.graphs[1].nodes[1].id", "x", "the node 'x' is there twice - at `$.graphs[1].nodes[1]`"),
    ],
)
def test_what_no_report_may_say(path: str, value: object, message: str) -> None:
    with pytest.raises(QCompileError) as caught:
        files.parse(change(path, value))
    assert caught.value.what.startswith("is no valid report: ")
    assert message in caught.value.what


def of_time(time: Time) -> Callable[[Report], Report]:
    """Puts a time in the place of the first one."""
    return lambda r: replace(r, runs=(replace(r.runs[0], times=(time,)),))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda r: replace(r, duration=math.nan), "nan is no number - at `$.duration`"),
        (lambda r: replace(r, roofs=(replace(r.roofs[0], rate=math.inf),)), "`$.roofs[0].rate`"),
        (of_time(Time(OURS, ((math.nan,),), Spread(1, 1, 1))), "nan is no time"),
        (of_time(Time(OURS, ((1.0,),), Spread(1, 2, 3))), "out of order"),
        (of_time(Time("fp64", reason="?")), "no engine is called 'fp64'"),
    ],
)
def test_what_could_not_be_read_is_not_written(
    spoil: Callable[[Report], Report], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "r.json"
    with pytest.raises(QCompileError) as caught:
        files.save(spoil(sample_reports.report()), path)
    assert message in caught.value.what
    assert not path.exists()


def test_files_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path, message in ((tmp_path / "none", "no such file"), (tmp_path, "Is a directory")):
        with pytest.raises(QCompileError, match=message) as caught:
            files.load(path)
        assert caught.value.where == str(path)
    monkeypatch.setattr(files, "LIMIT", 1 << 20)
    with pytest.raises(QCompileError, match="is larger than 1 MiB"):
        files.load("/dev/zero")


def test_files_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(QCompileError, match="there is no folder"):
        files.save(sample_reports.small(), tmp_path / "absent" / "r.json")
    with pytest.raises(QCompileError, match="is no file"):
        files.save(sample_reports.small(), tmp_path)
