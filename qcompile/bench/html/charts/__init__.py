"""The charts of a report: each as SVG for a page, wide and narrow, and as files for papers."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from qcompile.bench.html.charts import (
    layer_time,
    processes,
    ranges,
    roofline,
    speed,
    sqnr,
    weights,
    widths,
)
from qcompile.bench.html.charts.sheet import (
    COLUMN,
    NARROW,
    PAPER,
    WIDE,
    Form,
    Plan,
    Style,
    own_settings,
)
from qcompile.bench.html.charts.svg import SENTINELS, inline
from qcompile.bench.html.colours import LIGHT
from qcompile.bench.results import Report
from qcompile.files import PathLike, write

CHARTS: tuple[ModuleType, ...] = (
    speed,
    layer_time,
    roofline,
    widths,
    weights,
    ranges,
    sqnr,
    processes,
)  # in the order of the page


@dataclass(frozen=True)
class Chart:
    """One chart of a page.

    Attributes:
        name: for ids and files.
        title: a few words.
        caption: what to look at, and what the numbers say.
        wide, narrow: SVG elements, for about 900 and 360 CSS pixels; "" if there is no chart.
        absent: why there is none, or "".
    """

    name: str
    title: str
    caption: str = ""
    wide: str = ""
    narrow: str = ""
    absent: str = ""


def charts(report: Report) -> tuple[Chart, ...]:
    """All charts, drawn or with the reason why not."""
    return tuple(chart(report, module.NAME) for module in CHARTS)


def chart(report: Report, name: str) -> Chart:
    """The one of that name."""
    module = next(module for module in CHARTS if name == module.NAME)
    plan = module.plan(report)
    if isinstance(plan, str):
        return Chart(name, module.TITLE, absent=plan)
    wide, narrow = (_element(module, plan, form) for form in (WIDE, NARROW))
    return Chart(name, module.TITLE, plan.caption, wide, narrow)


def save(report: Report, folder: PathLike) -> tuple[Path, ...]:
    """Write the charts that there are as SVG and PDF, over two columns of a paper and over one.

    The same report gives the same bytes. Letters are outlines in SVG and embedded in PDF.

    Raises:
        QCompileError: the folder is not there, or cannot be written to.
    """
    paths = []
    for module in CHARTS:
        plan = module.plan(report)
        if isinstance(plan, str):
            continue
        for form, suffix in ((PAPER, ""), (COLUMN, "-column")):
            for kind in ("svg", "pdf"):
                path = Path(folder) / f"{module.NAME}{suffix}.{kind}"
                write(path, _file(module, plan, form, kind), what="the figure")
                paths.append(path)
    return tuple(paths)


def _element(module: ModuleType, plan: Plan, form: Form) -> str:
    import matplotlib

    style = Style(form, SENTINELS)
    with own_settings(style), matplotlib.rc_context({"svg.fonttype": "none"}):
        sheet = plan.draw(style)
        buffer = io.BytesIO()
        sheet.figure.savefig(buffer, format="svg", metadata={"Date": None})
    label = f"{module.TITLE}. {plan.caption}"
    return inline(buffer.getvalue(), f"qc-{module.NAME}-{form.name}", label, sheet.hovers)


def _file(module: ModuleType, plan: Plan, form: Form, kind: str) -> bytes:
    style = Style(form, LIGHT)
    about: dict[str, str | None] = {"Title": module.TITLE}
    about |= {"svg": {"Date": None, "Description": plan.caption}}.get(
        kind, {"CreationDate": None, "Subject": plan.caption}
    )
    with own_settings(style):
        sheet = plan.draw(style)
        sheet.figure.patch.set(visible=True, facecolor=LIGHT["paper"])
        buffer = io.BytesIO()
        sheet.figure.savefig(buffer, format=kind, metadata=about, facecolor=LIGHT["paper"])
    return buffer.getvalue()
