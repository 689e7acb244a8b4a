"""Reports as files: what is written is read, and the schema that is published is the one that holds."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest
import sample_reports

from qcompile.bench import files

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", ["report", "small"])
def test_what_is_written_is_read(name: str, tmp_path: Path) -> None:
    report = getattr(sample_reports, name)()
    path = tmp_path / "r.json"
    files.save(report, path)
    assert files.load(path) == report
    again = tmp_path / "again.json"
    files.save(files.load(path), again)
    assert again.read_bytes() == path.read_bytes()


def test_a_file_says_what_it_is() -> None:
    value = json.loads(files.text(sample_reports.small()))
    assert (value["format"], value["version"]) == ("qcompile benchmark", 1)


def test_what_a_later_one_of_this_version_adds_is_passed_over() -> None:
    report = sample_reports.small()
    value: dict[str, Any] = json.loads(files.text(report))
    value["colour"] = value["runs"][0]["times"][0]["colour"] = {"blue": [1]}
    assert files.parse(json.dumps(value).encode()) == report


def test_what_an_earlier_one_of_this_version_left_out_has_its_default() -> None:
    report = sample_reports.small()
    value: dict[str, Any] = json.loads(files.text(report))
    for field in ("layers", "roofs", "widths", "graphs", "notes", "absent"):
        del value[field]
    found = files.parse(json.dumps(value).encode())
    assert found.layers == () == found.notes
    assert found.absent is None
    assert found.runs == report.runs


def test_a_pipe_is_read(tmp_path: Path) -> None:
    """As of `qcompile compare <(git show main:report.json) report.json`."""
    path, report = tmp_path / "pipe", sample_reports.small()
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=(files.text(report),))
    writer.start()
    assert files.load(path) == report
    writer.join()


def test_the_published_schema_is_the_one_of_the_types() -> None:
    published = (ROOT / "docs" / "benchmark-schema.json").read_text(encoding="utf-8")
    assert published == files.schema_text(), (
        "python -m qcompile.bench.files > docs/benchmark-schema.json"
    )


def fits(value: Any, rule: dict[str, Any], kinds: dict[str, Any]) -> bool:
    """Whether a value fits a schema, as far as schemas here go."""
    if "$ref" in rule:
        return fits(value, kinds[rule["$ref"].removeprefix("#/$defs/")], kinds)
    if "anyOf" in rule:
        return any(fits(value, one, kinds) for one in rule["anyOf"])
    if "const" in rule:
        return bool(value == rule["const"])
    kind = rule["type"]
    if kind == "object":
        if not isinstance(value, dict) or not set(rule.get("required", ())) <= value.keys():
            return False
        known = rule.get("properties", {})
        other = rule.get("additionalProperties", {"type": "nothing"})
        return all(fits(part, known.get(key, other), kinds) for key, part in value.items())
    if kind == "array":
        first = rule.get("prefixItems", [])
        rest = [rule["items"]] * (len(value) - len(first)) if rule.get("items") else []
        return isinstance(value, list) and all(map(fits, value, first + rest, [kinds] * len(value)))
    types: dict[str, Any] = {"string": str, "boolean": bool, "integer": int}
    types["number"] = (int, float)
    return value is None if kind == "null" else isinstance(value, types.get(kind, ()))


@pytest.mark.parametrize("name", ["report", "small"])
def test_reports_fit_the_schema(name: str) -> None:
    value = json.loads(files.text(getattr(sample_reports, name)()))
    schema = files.schema()
    assert fits(value, schema, schema["$defs"])
    assert not fits(value | {"colour": 1}, schema, schema["$defs"])  # it does see what does not fit
    value["runs"][0]["batch"] = "1"
    assert not fits(value, schema, schema["$defs"])


def test_the_schema_tells_what_fields_are() -> None:
    kinds = files.schema()["$defs"]
    assert {"Report", "Run", "Time", "Layer", "Engine"} <= kinds.keys()
    assert "seconds of a call" in kinds["Time"]["description"]
    assert {"format", "version", "subject", "runs"} <= set(kinds["Report"]["required"])
