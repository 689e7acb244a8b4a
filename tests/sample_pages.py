"""Pages of made-up reports, each made once: large ones, small ones, and with markup in every name."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from functools import cache
from typing import Any

import sample_reports

from qcompile.bench.html.page import page
from qcompile.bench.results import Report

KINDS = ("full", "small", "large", "nasty")
NASTY = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&amp;]]>-->"
# What other fields refer to, or what has a meaning.
FIXED = {"key", "engine", "format", "category", "clock", "date", "mode"}


def large() -> Report:
    """As of a network of 60 layers, with graphs of 150 nodes."""
    return replace(
        sample_reports.report(),
        layers=sample_reports.layers(60),
        graphs=sample_reports.graphs(37),
    )


def marked(value: Any, name: str = "") -> Any:
    """The same with markup in every text."""
    if isinstance(value, str):
        return value if name in FIXED or not value else value + NASTY
    if is_dataclass(value) and not isinstance(value, type):
        fixed = {"kind"} if type(value).__name__ == "Roof" else set()
        changes = {f.name: marked(getattr(value, f.name), f.name) for f in fields(value)}
        return replace(value, **{k: v for k, v in changes.items() if k not in fixed})
    if isinstance(value, tuple):
        return tuple(marked(v, name) for v in value)
    if isinstance(value, dict):
        return {k: marked(v, name) for k, v in value.items()}
    return value


@cache
def text_of(kind: str) -> str:
    """The page of one kind."""
    made = {
        "full": sample_reports.report,
        "small": sample_reports.small,
        "large": large,
        "nasty": lambda: marked(sample_reports.report()),
    }
    return page(made[kind]())
