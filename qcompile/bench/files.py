"""Reports as JSON files. The schema follows from the types: docs/benchmark-schema.json.

How it changes: a field that is added has a default, and readers pass over fields that they do not know, so
`version` stays. It grows where a field is dropped or comes to mean something else; a report of a version that
is greater than this one's is refused. Made anew by: python -m qcompile.bench.files > docs/benchmark-schema.json
"""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from qcompile.bench.results import FORMAT, OURS, VERSION, Graph, Report, Run, Time
from qcompile.errors import QCompileError
from qcompile.files import PathLike, read, write

LIMIT = 256 << 20  # bytes
_HINT = "`qcompile bench --json FILE` writes reports"
_MAGIC = {b"PK\x03\x04": "a zip archive", b"\x7fELF": "machine code", b"\x1f\x8b": "compressed"}
Mistake = tuple[str, str]  # path of a field, what is wrong with it


def load(path: PathLike) -> Report:
    """Read a report.

    Raises:
        QCompileError: it cannot be read, or is no report; the message names the line or the field.
    """
    try:
        return parse(read(path, limit=LIMIT))
    except QCompileError as error:
        raise QCompileError(error.what, where=str(path), hint=error.hint) from error


def parse(data: bytes) -> Report:
    """The inverse of `text`.

    Raises:
        QCompileError: it is no report.
    """
    value = _json(data)
    _check_kind(value)
    try:
        _check_numbers(value)
        report = msgspec.convert(value, Report)
    except (msgspec.ValidationError, RecursionError) as error:
        raise QCompileError(f"is no valid report: {error}", hint=_HINT) from error
    _check(report)
    return report


def save(report: Report, path: PathLike) -> None:
    """Write a report, at once or not at all.

    Raises:
        QCompileError: the file cannot be written, or the report could not be read again.
    """
    write(path, text(report), what="the report")


def text(report: Report) -> bytes:
    """The report as JSON.

    Raises:
        QCompileError: it says what none may; the message names the field.
    """
    _check(report)
    value = msgspec.to_builtins(report)
    _check_numbers(value)
    return msgspec.json.format(msgspec.json.encode(value), indent=1) + b"\n"


def schema() -> dict[str, Any]:
    """The JSON schema of reports (draft 2020-12)."""
    found = msgspec.json.schema(Report)
    whole = found["$defs"]["Report"]
    whole["properties"] |= {"format": {"const": FORMAT}, "version": {"const": VERSION}}
    whole["required"] += ["format", "version"]
    for kind in found["$defs"].values():
        kind["description"] = inspect.cleandoc(kind["description"])  # Python 3.13 does it itself
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": FORMAT}
    return head | found


def schema_text() -> str:
    """The schema as docs/benchmark-schema.json holds it."""
    return json.dumps(schema(), indent=1) + "\n"


# --- what the bytes are --------------------------------------------------------------------------


def _json(data: bytes) -> Any:
    for magic, what in _MAGIC.items():
        if data.startswith(magic):
            raise QCompileError(f"is {what}, not a report", hint=_HINT)
    if data.lstrip().startswith(b"<"):
        raise QCompileError("is HTML, not the report's JSON", hint=_HINT)
    if not data.strip():
        raise QCompileError("is empty", hint=_HINT)
    try:
        return json.loads(data.decode(), parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        problem = f"is no JSON: line {error.lineno}, column {error.colno}: {error.msg}"
        raise QCompileError(problem, hint=_HINT) from error
    except (ValueError, RecursionError) as error:  # no text, or a number or a depth without end
        raise QCompileError(f"is no JSON: {error}", hint=_HINT) from error


def _refuse_constant(name: str) -> None:
    raise QCompileError(f"is no valid report: it says {name}, which is no number", hint=_HINT)


def _check_kind(value: object) -> None:
    """Raises: QCompileError: it is no report, or one of a later version."""
    found = value.get("format") if isinstance(value, dict) else None
    if not isinstance(value, dict) or not isinstance(found, str):
        raise QCompileError("is JSON, but no report", hint=_HINT)
    if found != FORMAT:
        what = f"a {found}" if found.startswith("qcompile ") else f"of the format {found!r}"
        raise QCompileError(f"is {what}, not a report of `qcompile bench`", hint=_HINT)
    version = value.get("version", VERSION)
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise QCompileError(f"is no valid report: $.version is {version!r}", hint=_HINT)
    if version > VERSION:
        raise QCompileError(
            f"made by a newer qcompile: version {version}, this one reads {VERSION}",
            hint="pip install -U qcompile",
        )


# --- what types do not say -----------------------------------------------------------------------


def _check(report: Report) -> None:
    """Raises: QCompileError: fields contradict each other, or a number cannot be; the first of them."""
    for where, problem in _mistakes(report):
        raise QCompileError(f"is no valid report: {problem} - at `{where}`", hint=_HINT)


def _mistakes(report: Report) -> Iterator[Mistake]:
    keys = [engine.key for engine in report.engines]
    yield from _repeated(keys, "$.engines", "engine")
    if OURS not in keys:
        yield "$.engines", f"the engine {OURS!r} is missing"
    yield from _repeated(
        [f"batch {run.batch}, threads {run.threads}" for run in report.runs], "$.runs", "run"
    )
    for i, run in enumerate(report.runs):
        yield from _mistakes_of_run(run, keys, f"$.runs[{i}]")
    for i, graph in enumerate(report.graphs):
        yield from _mistakes_of_graph(graph, f"$.graphs[{i}]")


def _mistakes_of_run(run: Run, keys: Sequence[str], where: str) -> Iterator[Mistake]:
    for name, value in (("batch", run.batch), ("threads", run.threads)):
        if value < 1:
            yield f"{where}.{name}", f"{value} is less than 1"
    yield from _repeated([time.engine for time in run.times], f"{where}.times", "engine")
    for i, time in enumerate(run.times):
        if time.engine not in keys:
            yield f"{where}.times[{i}].engine", f"no engine is called {time.engine!r}"
        yield from _mistakes_of_time(time, f"{where}.times[{i}]")


def _mistakes_of_time(time: Time, where: str) -> Iterator[Mistake]:
    if any(time.samples) != (time.seconds is not None):
        yield where, "samples and seconds go together"
    for i, process in enumerate(time.samples):
        if not process:
            yield f"{where}.samples[{i}]", "a process without samples"
        for j, seconds in enumerate(process):
            if not (math.isfinite(seconds) and seconds > 0):
                yield f"{where}.samples[{i}][{j}]", f"{seconds} is no time"
    for name, value in (("seconds", time.seconds), ("speedup", time.speedup)):
        if value is not None and not 0 < value.low <= value.median <= value.high < math.inf:
            yield f"{where}.{name}", "not above zero, or out of order"


def _mistakes_of_graph(graph: Graph, where: str) -> Iterator[Mistake]:
    place = {node.id: i for i, node in enumerate(graph.nodes)}
    yield from _repeated([node.id for node in graph.nodes], f"{where}.nodes", "node")
    for i, edge in enumerate(graph.edges):
        unknown = [end for end in (edge.source, edge.target) if end not in place]
        for end in unknown:
            yield f"{where}.edges[{i}]", f"no node is called {end!r}"
        if not unknown and place[edge.source] >= place[edge.target]:
            yield f"{where}.edges[{i}]", f"{edge.target!r} does not stand after {edge.source!r}"


def _repeated(names: Sequence[str], where: str, what: str) -> Iterator[Mistake]:
    seen: set[str] = set()
    for i, name in enumerate(names):
        if name in seen:
            yield f"{where}[{i}]", f"the {what} {name!r} is there twice"
        seen.add(name)


def _check_numbers(value: Any) -> None:
    """Raises: QCompileError: one is infinite, or none."""
    for where, number in _numbers(value, "$"):
        if not math.isfinite(number):
            problem = f"is no valid report: {number} is no number - at `{where}`"
            raise QCompileError(problem, hint=_HINT)


def _numbers(value: Any, where: str) -> Iterator[tuple[str, float]]:
    if isinstance(value, float):
        yield where, value
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from _numbers(part, f"{where}.{key}")
    elif isinstance(value, list | tuple):
        for i, part in enumerate(value):
            yield from _numbers(part, f"{where}[{i}]")


if __name__ == "__main__":
    print(schema_text(), end="")
