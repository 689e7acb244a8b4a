"""The report as one HTML file that needs nothing beside it: no network, no script to be read, no other file."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import msgspec
from jinja2 import Environment
from markupsafe import Markup

from qcompile.bench import findings, words
from qcompile.bench.html import colours, picture
from qcompile.bench.html.charts import Chart, charts
from qcompile.bench.html.charts.words import sentence
from qcompile.bench.html.templates import HERE, environment
from qcompile.bench.results import AGAIN, OURS, Report

# What a page may do, beside showing what is in it: nothing. Style attributes are those of pictures.
POLICY = (
    "default-src 'none'; script-src {script}; style-src 'unsafe-inline'; style-src-elem {style}; "
    "style-src-attr 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
)


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        charts: what it shows of them, by name.
        parts: of the report, which are named in `Report.absent` where they are empty.
    """

    id: str
    title: str
    charts: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()


SECTIONS = (
    Section("speed", "Speed", ("speed",)),
    Section("layers", "Layers", ("layer-time",), ("layers",)),
    Section("roofline", "Roofline", ("roofline",), ("roofs",)),
    Section("widths", "Accuracy, latency, size", ("widths",), ("widths",)),
    Section("memory", "Weights", ("weights",)),
    Section("activations", "Activations", ("ranges", "sqnr")),
    Section("graphs", "Graphs", (), ("graphs",)),
    Section("method", "Method", ("processes",)),
    Section("numbers", "Numbers"),
)


def page(report: Report) -> str:
    """The whole file as text."""
    script = _joined("report.js", picture.SCRIPT)
    figures = _figures(charts(report))
    style = _themes() + _joined("report.css", picture.STYLE)
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            report=report,
            policy=POLICY.format(script=_source(script), style=_source(style)),
            script=script,
            style=style,
            sections=SECTIONS,
            figures=figures,
            absent=_absent(report, figures),
            picture=Markup(picture.picture(report.graphs)),
            palette=_data(colours.LIGHT),
            numbers=_data(report),
            date=_date(report.date),
            w=words,
            f=findings,
            OURS=OURS,
            AGAIN=AGAIN,
        )
    )


def _environment() -> Environment:
    made = environment()
    made.filters |= {
        "seconds": words.seconds,
        "size": words.size,
        "count": words.count,
        "digits": words.digits,
        "accuracy": words.accuracy,
        "percent": words.percent,
        "decibels": words.decibels,
        "bits": words.bits,
    }
    return made


def _themes() -> Markup:
    """Dark where the reader's system is, or where the switch says so; never on paper."""
    light, dark = map(colours.declarations, (colours.LIGHT, colours.DARK))
    return Markup(
        f":root {{ color-scheme: light; {light} }}\n@media screen {{\n"
        f":root[data-theme=dark] {{ color-scheme: dark; {dark} }}\n"
        "@media (prefers-color-scheme: dark) {\n"
        f":root:not([data-theme=light]) {{ color-scheme: dark; {dark} }}\n}}\n}}\n"
    )


def _joined(name: str, other: str) -> Markup:
    return Markup((HERE / name).read_text(encoding="utf-8") + other)


def _source(text: str) -> str:
    """A script or style sheet as a source that the policy allows."""
    return f"'sha256-{b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _data(value: object) -> Markup:
    """JSON that can stand in a script element: nothing in it ends one."""
    return Markup(msgspec.json.encode(value).decode().replace("<", "\\u003c"))


def _date(text: str) -> str:
    """ "22 November 2026, 12:00 UTC", or the text where it is no date."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return text
    return f"{found.day} {found:%B %Y, %H:%M %Z}".strip()


def _figures(found: Sequence[Chart]) -> dict[str, list[Chart]]:
    """Charts by the section that they stand in."""
    places = {name: section.id for section in SECTIONS for name in section.charts}
    return {
        section.id: [chart for chart in found if places[chart.name] == section.id]
        for section in SECTIONS
    }


def _absent(report: Report, figures: Mapping[str, Sequence[Chart]]) -> dict[str, list[str]]:
    """By section: why something is missing, as far as its charts do not say it."""
    reasons = {part: sentence(text) for part, text in (report.absent or {}).items()}
    found = {}
    for section in SECTIONS:
        said = " ".join(chart.absent + chart.caption for chart in figures[section.id])
        texts = [reasons[part] for part in section.parts if part in reasons]
        found[section.id] = [text for text in dict.fromkeys(texts) if text not in said]
    return found
