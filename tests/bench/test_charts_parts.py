"""What the charts are made with: texts, labels, numbers, SVG."""

from __future__ import annotations

import math
from xml.etree import ElementTree

import pytest

from qcompile.bench.html.charts import words
from qcompile.bench.html.charts.placing import Labels, rising
from qcompile.bench.html.charts.rows import name_column, reach, scale
from qcompile.bench.html.charts.sheet import WIDE, Sheet, Style, elided, measure, own_settings
from qcompile.bench.html.charts.svg import SENTINELS, inline
from qcompile.bench.html.colours import LIGHT
from qcompile.bench.results import Layer

SVG = """<?xml version="1.0"?>
<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"
 width="9pt" height="9pt" viewBox="0 0 9 9"><metadata>when</metadata>
<defs><style type="text/css">*{stroke-linejoin: round}</style><path id="m1" d="M 0 0&#10;L 1.23456 2"/></defs>
<g id="figure_1"><g id="mark-0"><path d="M 0 0" style="fill: INK; opacity: 1" clip-path="url(#p.1)"/></g>
<g id="text_1"><text style="font-size: 9px; font-family: 'DejaVu Sans', serif" x="1"
 transform="rotate(-0 1 2)">a &lt; b</text></g><use xlink:href="#m1" fill="INK"/></g>
<defs><clipPath id="p.1"><rect x="0"/></clipPath></defs></svg>"""


def test_an_svg_becomes_part_of_a_page() -> None:
    text = SVG.replace("INK", SENTINELS["ink"])
    found = inline(text.encode(), "qc-a", 'a "label" <x>', {"mark-0": "what & why"})
    root = ElementTree.fromstring(found)
    assert found.startswith('<svg viewBox="0 0 9 9" role="img" aria-label="a &quot;label&quot;')
    assert "<title>what &amp; why</title>" in found
    assert [e.attrib["id"] for e in root.iter() if "id" in e.attrib] == ["qc-a-0", "qc-a-1"]
    assert 'clip-path="url(#qc-a-1)"' in found
    assert '<use href="#qc-a-0" style="fill:var(--qc-ink)"' in found
    assert found.count("style=") == 3
    assert 'd="M 0 0 L 1.23 2"' in found
    assert '<text x="1" style="font-size:9px">a &lt; b</text>' in found
    assert "when" not in found
    assert "figure_1" not in found
    assert "xmlns" not in found


@pytest.mark.parametrize("most", [4.0, 6.0, 12.0])
@pytest.mark.parametrize(
    "text", ["features.denseblock4.layer16.conv2", "层层层层层层层层层层层层层层"]
)
def test_a_long_name_loses_its_middle(text: str, most: float) -> None:
    short = elided(text, most)
    assert measure(short) <= most
    head, _, tail = short.partition("…")
    assert text.startswith(head)
    assert text.endswith(tail)
    assert head
    assert tail


def test_a_short_name_stays() -> None:
    assert elided("conv1", 10) == "conv1"
    assert measure("") == 0
    assert measure("层") > 1.5 * measure("n")


def test_the_frontier_rises() -> None:
    points = [
        (3.0, 1.0),
        (1.0, 2.0),
        (1.0, 1.0),
        (2.0, 5.0),
        (4.0, 5.0),
        (0.5, math.nan),
        (9.0, 6.0),
    ]
    assert rising(points) == [(1.0, 2.0), (2.0, 5.0), (9.0, 6.0)]
    assert rising([]) == []


def test_labels_of_crowded_points_do_not_meet() -> None:
    style = Style(WIDE, LIGHT)
    with own_settings(style):
        sheet = Sheet(style, 20)
        axes = sheet.axes(2, 1, 60, 18)
        scale(axes, "x", 0.0, 10.0)
        scale(axes, "y", 0.0, 10.0)
        points = [(5 + 0.1 * i, 5 + 0.1 * i) for i in range(6)]
        labels = Labels(sheet, axes, points)
        for i, point in enumerate(points):
            labels.add(point, f"layer {i}")
        placed = labels.taken[len(points) :]
    assert len(placed) == len(points)
    for i, a in enumerate(placed):
        for b in labels.taken[: len(points)] + placed[:i]:
            apart = a[0] >= b[2] or b[0] >= a[2] or a[1] >= b[3] or b[1] >= a[3]
            assert apart


def test_values_have_room_beside_their_bars() -> None:
    end = reach([10.0, 2.0], ["1", "a long text at a short bar"], 40.0)
    assert 10 < end < 12
    assert 10 / end * 40 + measure("1") <= 40
    longer = reach([10.0], ["a long text at a long bar"], 40.0)
    assert 10 / longer * 40 + measure("a long text at a long bar") <= 40
    assert reach([], [], 40.0) == 1.0
    assert reach([0.0], ["0"], 40.0) == 1.0
    log = reach([1000.0], ["text"], 40.0, 1.0)
    assert math.log(1000) / math.log(log) * 40 + measure("text") <= 40


def test_a_column_of_names_is_as_wide_as_they_are() -> None:
    assert name_column(["a", "conv"], 20) < name_column(["a", "features.conv"], 20) < 20
    assert name_column(["n" * 99], 20) == 20
    assert name_column([], 20) == 1.0


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.404, "40 %"), (0.0041, "0.4 %"), (1e-6, "<0.1 %"), (0.0, "0 %"), (math.inf, "not known")],
)
def test_shares_in_words(value: float, text: str) -> None:
    assert words.share(value) == text


def test_numbers_in_words() -> None:
    assert words.rate(1.24e12, "MAC/s") == "1.2 TMAC/s"
    assert words.rate(2e11, "MAC/s") == "200 GMAC/s"
    assert words.tick_seconds(1e-5) == "10 µs"
    assert words.tick_seconds(1e-9) == "1 ns"
    assert words.tick_size(65536) == "64 KiB"
    assert words.time_unit([2e-6, 3e-4]) == (1e-6, "µs")
    assert words.time_unit([]) == (1.0, "s")
    assert words.bits((32, 32)) == "float"
    assert words.bits((1, 2)) == "1/2 bits"
    assert words.bits(None) == ""


def test_names_in_sentences() -> None:
    layers = [Layer(name) for name in ("a", "b", "c", "d", "e")]
    assert words.named(layers[:1]) == "a"
    assert words.named(layers[:3]) == "a, b and c"
    assert words.named(layers) == "a, b, c and 2 more"
    assert words.clean("a\nb\x00\ud800") == "a b\ufffd?"
    assert words.name("عربي") == "\u2068عربي\u2069"
    assert words.name("n" * 61) == "n" * 30 + "…" + "n" * 30
    assert words.sentence("it is") == "It is."
    assert words.sentence("qcompile is") == "qcompile is."
    assert words.sentence("") == ""
