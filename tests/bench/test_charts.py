"""The charts of a report: what they say, and what a page and a paper need of them."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import pytest
from sample_reports import layers, only_layers, report, small, timed

from qcompile.bench.html.charts import CHARTS, Chart, chart, charts, save, weights
from qcompile.bench.html.charts.sheet import WIDE, Plan, Style, measure, own_settings
from qcompile.bench.html.colours import LIGHT
from qcompile.bench.results import (
    OURS,
    Engine,
    Layer,
    Noise,
    Parts,
    Range,
    Report,
    Roof,
    Spread,
    Time,
    Width,
)
from qcompile.errors import QCompileError

Element = ElementTree.Element
NAMES = ["speed", "layer-time", "roofline", "widths", "weights", "ranges", "sqnr", "processes"]
ODD = 'x$_{1}^2$ <b>&"层 عربي\x07\n' + "features.block." * 9


@cache
def drawn() -> dict[str, Chart]:
    """Of the made-up report with every part."""
    return {found.name: found for found in charts(report())}


def odd() -> Report:
    """Names, numbers and engines that nobody expects."""
    base = report()
    few = [replace(layer, path=f"{ODD}{i}") for i, layer in enumerate(layers(4))]
    few[0] = replace(few[0], before=None, after=Parts(float("inf"), 1e-6), sqnr_db=-4.0)
    few[1] = replace(few[1], after=None, sqnr_db=float("inf"), weights_after=2 * 10**9)
    few[1] = replace(few[1], activations=Range(float("-inf"), float("nan"), (0, 0)))
    few[2] = replace(few[2], after=Parts(), weights_after=0, method="", macs=0)
    few[3] = replace(few[3], activations=Range(0, 0, (0, 0), (float("-inf"), 1e30)))
    others = tuple(Engine(f"e{i}", f"{ODD}{i}", reason="it $cannot$ <run>" * 9) for i in range(12))
    times = tuple(
        Time(f"e{i}", ((s,),), Spread(s, s, s), Spread(s / 12e-6, 0, float("inf")))
        for i, s in enumerate([1e-9, 1e-3, 12e-6, 1.0, 0.0, float("nan")])
    )
    widths = tuple(
        Width(f"{ODD}{i}", f"e{i}", (8, 8), 10.0**-i, 10**i, sqnr_db=20.0 + i % 3)
        for i in range(1, 12)
    )
    floats = Width("PyTorch float32", "fp32", (32, 32), 490e-6, 2335424)
    lost = Width("4 bits", OURS, (4, 4), None, None, None, float("inf"), reason="it failed")
    return replace(
        base,
        engines=base.engines + others,
        runs=tuple(
            replace(run, times=run.times[start:] + times, noise=Noise(Spread(1, 1, 1), share))
            for run, start, share in zip(
                base.runs, (0, 0, 2), (1.5, float("nan"), 0.0), strict=False
            )
        ),
        layers=tuple(few),
        widths=(*widths, floats, lost, Width("1 bit", OURS, (1, 1), 12e-6, 9, sqnr_db=-3.0)),
        roofs=(*base.roofs, Roof("nothing", "macs", 0.0), Roof("odd", "macs", float("inf"))),
    )


def elements(charts_: dict[str, Chart]) -> list[tuple[str, Element]]:
    found = [(f"{c.name} {form}", getattr(c, form)) for c in charts_.values() for form in FORMS]
    return [(name, ElementTree.fromstring(text)) for name, text in found if text]


FORMS = ("wide", "narrow")


@cache
def drawn_odd() -> dict[str, Chart]:
    return {found.name: found for found in charts(odd())}


def test_every_chart_of_a_full_report_is_there() -> None:
    assert list(drawn()) == NAMES == [module.NAME for module in CHARTS]
    for found in drawn().values():
        assert found.absent == ""
        assert found.caption.endswith(".")
        assert found.title
        assert found.wide.startswith("<svg")
        assert found.narrow.startswith("<svg")


@pytest.mark.parametrize("source", [drawn, drawn_odd])
def test_an_element_fits_any_page(source: object) -> None:
    assert callable(source)
    ids: list[str] = []
    for name, root in elements(source()):
        assert "width" not in root.attrib, name
        assert "height" not in root.attrib, name
        assert len(root.attrib["viewBox"].split()) == 4, name
        assert root.attrib["role"] == "img", name
        assert len(root.attrib["aria-label"]) > 20, name
        own = [e.attrib["id"] for e in root.iter() if "id" in e.attrib]
        used = re.findall(r'(?:url\(|href=")#([\w-]+)', ElementTree.tostring(root, "unicode"))
        assert set(used) == set(own), name
        assert not {e.tag for e in root.iter()} & {"metadata", "style", "script", "image"}, name
        assert all(not e.tag.startswith("{") for e in root.iter()), name
        ids += own
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("source", [drawn, drawn_odd])
def test_all_colours_and_the_font_are_the_page_s(source: object) -> None:
    assert callable(source)
    for name, root in elements(source()):
        for element in root.iter():
            for key, value in element.attrib.items():
                where = f"{name} {element.tag} {key} {value}"
                assert not re.search(r"(?<!url\()#[0-9a-fA-F]{3}|rgb|font-family", value) or (
                    key in ("href", "aria-label")
                ), where
            style = element.attrib.get("style", "")
            drawn_ = element.tag in ("path", "rect", "use", "text")
            inherits = element.tag == "rect" and "style" not in element.attrib  # of a clip path
            if drawn_ and not inherits:
                assert "var(--qc-" in style or "fill:none" in style or _defined(style), style


def _defined(style: str) -> bool:
    """Whether the colour comes from where it is used, as a marker's."""
    return "fill" not in style.replace("fill-rule", "")


def boxes(root: Element) -> list[tuple[float, float, float, float, str]]:
    """Left, top, right and bottom of the texts that are not turned."""
    found = []
    for element in root.iter("text"):
        if "transform" in element.attrib:
            continue
        style = element.attrib["style"]
        match = re.search(r"font-size:([\d.]+)px", style)
        assert match is not None
        em = float(match[1])
        text = element.text or ""
        # Letters wider than normal where they are bold.
        width = em * measure(text) / 1.04 * (1.1 if "font-weight:700" in style else 1)
        x, y = (float(element.attrib[key]) for key in "xy")
        anchor = re.search(r"text-anchor:(\w+)", style)
        side = {"start": 0.0, "middle": 0.5, "end": 1.0}[anchor[1] if anchor else "start"]
        left = x - side * width
        found.append((left, y - 0.72 * em, left + width, y + 0.1 * em, text))
    return found


@pytest.mark.parametrize("source", [drawn, drawn_odd])
def test_no_text_leaves_its_picture(source: object) -> None:
    assert callable(source)
    for name, root in elements(source()):
        _, _, width, height = map(float, root.attrib["viewBox"].split())
        for left, top, right, bottom, text in boxes(root):
            assert left > -0.5, f"{name}: {text}"
            assert right < width + 0.5, f"{name}: {text}"
            assert top > -0.5, f"{name}: {text}"
            assert bottom < height + 0.5, f"{name}: {text}"


def test_no_text_lies_on_another() -> None:
    for name, root in elements(drawn()):
        for a, b in itertools.combinations(boxes(root), 2):
            across = min(a[2], b[2]) - max(a[0], b[0])
            up = min(a[3], b[3]) - max(a[1], b[1])
            assert across <= 0.5 or up <= 0.5, f"{name}: {a[4]!r} and {b[4]!r}"


def test_bandwidths_that_are_alike_are_named_one_after_another() -> None:
    alike = [Roof("L3", "bytes", 1.47e10), Roof("memory", "bytes", 1.5e10)]
    found = chart(replace(report(), roofs=(*report().roofs[:3], *alike)), "roofline")
    texts = ElementTree.fromstring(found.wide).iter("text")
    starts = {(t.text or "").partition(",")[0]: float(t.attrib["x"]) for t in texts}
    assert starts["memory"] - starts["L3"] > 8 * measure("L3, 15 GB/s") * 0.9


def test_names_are_letters_not_markup_or_mathematics() -> None:
    root = ElementTree.fromstring(drawn_odd()["layer-time"].wide)
    titles = [title.text or "" for title in root.iter("title")]
    assert any('x$_{1}^2$ <b>&"层 عربي\ufffd features.block.' in title for title in titles)
    shown = [text.text or "" for text in root.iter("text")]
    assert any(text.startswith("x$_{1}^2$ <") and "…" in text for text in shown)


def test_marks_say_what_they_are() -> None:
    root = ElementTree.fromstring(drawn()["layer-time"].narrow)
    titles = [title.text for title in root.iter("title")]
    first = layers()[0]
    assert first.after is not None
    micro, share = 1e6 * first.after.matmul, first.after.matmul / first.after.total
    assert (
        f"features.0.conv<0>, matmul: {micro:.2f} µs, {share:.0%}"[:-1] + " % of the layer"
        in titles
    )
    speed = ElementTree.fromstring(drawn()["speed"].wide)
    assert any("120 samples" in (title.text or "") for title in speed.iter("title"))


def test_a_picture_of_a_large_network_is_small() -> None:
    large = replace(report(), layers=layers(60))
    names = ("layer-time", "roofline", "weights", "ranges", "sqnr")
    found = drawn() | {name: chart(large, name) for name in names}
    assert sum(len(c.wide.encode()) + len(c.narrow.encode()) for c in found.values()) < 1.2e6
    assert not any(c.absent for c in found.values())


def test_height_grows_with_the_layers() -> None:
    def height(count: int) -> float:
        plan = weights.plan(only_layers(*layers(count)[:-1]))
        assert isinstance(plan, Plan)
        style = Style(WIDE, LIGHT)
        with own_settings(style):
            return plan.draw(style).height

    one, many = height(1), height(120)
    assert 8 < one < 12
    assert many > 15 * one


def test_what_is_not_there_is_a_sentence() -> None:
    found = {c.name: c for c in charts(small())}
    assert list(found) == NAMES
    assert found.pop("speed").wide
    for other in found.values():
        assert (other.wide, other.narrow, other.caption) == ("", "", "")
    assert found["roofline"].absent == "A program alone has no float network."
    assert found["processes"].absent.startswith("Each run was measured by one process only")


def test_what_is_not_there_for_another_reason_says_which() -> None:
    bare = replace(
        report(), runs=(), layers=(Layer("pool"),), widths=(Width("1 bit", OURS, (1, 1)),)
    )
    found = {c.name: c.absent for c in charts(bare)}
    assert found["speed"] == "No engine was timed."
    assert found["layer-time"] == "No layer was timed."
    assert found["roofline"] == "No layer with products was timed."
    assert found["weights"] == "No layer has weights whose size is known."
    assert found["ranges"] == "No layer's activations are known."
    assert found["sqnr"] == "No layer's noise is known."
    assert found["widths"] == "No width was tried, and no engine beside one."
    assert found["processes"] == "No engine was timed."


def test_a_loss_is_as_visible_as_a_win() -> None:
    found = chart(timed(10e-6, 5e-6), "speed")
    texts = {e.text: e.attrib["style"] for e in ElementTree.fromstring(found.wide).iter("text")}
    assert "var(--qc-bad)" in texts["5.00 µs, 0.50×"]
    assert "font-weight:700" in texts["5.00 µs, 0.50×"]


def test_only_times_far_apart_get_a_logarithmic_scale_which_is_said() -> None:
    near, far = (chart(timed(1e-6, ratio * 1e-6), "speed") for ratio in (100, 1000))
    assert "logarithmic" not in near.wide
    assert "(logarithmic)" in far.wide


def test_one_sample_has_no_whiskers() -> None:
    one = chart(timed(10e-6, 50e-6), "speed")
    assert one.wide.count("<use") == 0
    assert drawn()["speed"].wide.count("<use") > 0


def test_trained_and_untrained_widths_look_different() -> None:
    widths = report().widths
    mixed = replace(report(), widths=(replace(widths[0], trained=False), *widths[1:]))
    found = chart(mixed, "widths")
    assert "not trained" in found.wide
    assert "not trained" not in drawn()["widths"].wide
    assert "would gain by training" in found.caption


# --- beside the user's matplotlib, and files -----------------------------------------------------


def test_the_user_s_matplotlib_neither_matters_nor_changes() -> None:
    found = timed(10e-6, 50e-6)
    plain = chart(found, "speed")
    with matplotlib.rc_context({"font.size": 31, "axes.grid": True, "text.usetex": True}):
        before = dict(matplotlib.rcParams)
        styled = chart(found, "speed")
        assert dict(matplotlib.rcParams) == before
    assert styled == plain


def test_files_for_papers_are_the_same_each_time(tmp_path: Path) -> None:
    found = replace(timed(10e-6, 50e-6), layers=(), widths=())
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        folder.mkdir()
        paths = save(found, folder)
    names = ["speed.svg", "speed.pdf", "speed-column.svg", "speed-column.pdf"]
    assert [path.name for path in paths] == names
    for name in names:
        assert (one / name).read_bytes() == (two / name).read_bytes(), name
    pdf, svg = (one / "speed.pdf").read_bytes(), (one / "speed.svg").read_text("utf-8")
    assert b"/FontFile2" in pdf
    assert b"CreationDate" not in pdf
    assert "<text" not in svg  # letters are outlines
    assert "<dc:date" not in svg


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(QCompileError, match="there is no folder"):
        save(timed(1e-6, 2e-6), tmp_path / "nowhere")
