"""A report as Markdown, to be pasted into an issue or a README."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from qcompile.bench import rows, words
from qcompile.bench.results import OURS, Layer, Report, Width
from qcompile.program_summary import readable

_SPECIAL = str.maketrans({c: f"\\{c}" for c in "\\|`*_<>[]"} | {"\n": " "})


def markdown(report: Report) -> str:
    """The whole report."""
    return "\n".join(_lines(report)) + "\n"


def _lines(report: Report) -> Iterator[str]:
    yield f"## {cell(report.subject.name)}: qcompile bench"
    yield ""
    yield from table(("", ""), rows.facts(report))
    for run in report.runs:
        yield from ("", f"### {words.setting(run).capitalize()}", "")
        found = rows.rows(report, run)
        body = ([_bold(row.kind, i, cell) for i, cell in enumerate(row.cells)] for row in found)
        yield from table(rows.HEAD, body, right=rows.RIGHT, escape=False)
        yield from ("", rows.noise_line(run))
    yield from ("", "### Engines", "")
    yield from table(rows.ENGINES, rows.engines(report), right=rows.ENGINES_RIGHT)
    if report.layers:
        yield from ("", "### Layers", "")
        yield from table(_LAYER_HEAD, map(_layer, report.layers), right=(4, 5, 6, 7, 8))
    if report.widths:
        yield from ("", "### Widths", "")
        yield from table(_WIDTH_HEAD, map(_width, report.widths), right=(2, 3, 4, 5))
    if remarks := rows.remarks(report):
        yield from ("", "### Notes", "", *(f"- {cell(note)}" for note in remarks))


def _bold(kind: str, column: int, value: str) -> str:
    """Our own row and losses stand out."""
    text = cell(value)
    stands_out = (kind == OURS and column < 2) or (kind == words.SLOWER and column == 3)
    return f"**{text}**" if text and stands_out else text


_LAYER_HEAD = (
    *("layer", "kind", "bits w/a", "method", "MACs", "weights", "before ms", "after ms", "SQNR dB"),
    "note",
)


def _layer(layer: Layer) -> Sequence[str]:
    times = ["" if p is None else rows.milliseconds(p.total) for p in (layer.before, layer.after)]
    weights = f"{readable(layer.weights_before)} -> {readable(layer.weights_after)}"
    return (
        layer.path,
        layer.kind,
        "" if layer.bits is None else words.bits(layer.bits),
        layer.method,
        f"{layer.macs:,}" if layer.macs else "",
        weights if layer.weights_before else "",
        *times,
        "" if layer.sqnr_db is None else f"{layer.sqnr_db:.1f}",
        layer.note,
    )


_WIDTH_HEAD = ("", "bits w/a", "ms", "bytes", "accuracy", "SQNR dB", "note")


def _width(width: Width) -> Sequence[str]:
    return (
        width.name,
        words.bits(width.bits),
        "" if width.seconds is None else rows.milliseconds(width.seconds),
        "" if width.size is None else f"{width.size:,}",
        "" if width.accuracy is None else words.accuracy(width.accuracy),
        "" if width.sqnr_db is None else f"{width.sqnr_db:.1f}",
        width.reason,
    )


def table(
    head: Sequence[str],
    body: Iterable[Sequence[str]],
    *,
    right: Sequence[int] = (),
    escape: bool = True,
) -> Iterator[str]:
    """Lines of a table; columns of numbers stand to the `right`."""
    yield f"| {' | '.join(head)} |"
    yield f"|{'|'.join('---:' if i in right else '---' for i in range(len(head)))}|"
    for cells in body:
        yield f"| {' | '.join(map(cell, cells) if escape else cells)} |"


def cell(text: str) -> str:
    """Text that means nothing to Markdown."""
    return text.translate(_SPECIAL)
