"""The page as a browser shows it: wide and narrow, light and dark, printed, and without scripts."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import sample_reports
from browser import NARROW, WIDE, Browser
from PIL import Image
from sample_pages import KINDS, text_of

from qcompile.bench import files
from qcompile.bench.html.page import SECTIONS

PAPER = (688, 1016)  # A4 in CSS pixels, less its margins

# What reaches out of the window, out of its own box, or over a neighbour; boxes that scroll may hold more.
LAYOUT = """
const shown = (e) => e.checkVisibility({visibilityProperty: true}) && e.getClientRects().length > 0;
const name = (e) => e.tagName + "#" + e.id + "." + e.className + ": " + e.textContent.trim().slice(0, 40);
const found = [];
if (document.documentElement.scrollWidth > innerWidth) found.push("the page scrolls sideways");
const texts = [...document.querySelectorAll("main :is(h1,h2,h3,p,li,dt,dd,th,td,figcaption,button,pre,b)")];
for (const e of texts.filter(shown)) {
  if (e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).display !== "inline") found.push("too long: " + name(e));
}
const heads = [...document.querySelectorAll("h1,h2,h3,figcaption,.scroll,figure svg")].filter(shown);
const boxes = heads.filter((e) => !e.closest(".qc-graphs, thead button")).map((e) => [e, e.getBoundingClientRect()]);
for (const [a, p] of boxes) for (const [b, q] of boxes) {
  const apart = a === b || a.contains(b) || b.contains(a) || p.width === 0 || q.width === 0
    || p.right <= q.left + 1 || q.right <= p.left + 1 || p.bottom <= q.top + 1 || q.bottom <= p.top + 1;
  if (!apart) found.push("overlap: " + name(a) + " and " + name(b));
}
for (const section of document.querySelectorAll("header, section")) {
  const box = section.getBoundingClientRect();
  if (box.height < 60 || box.width < 0.85 * Math.min(innerWidth, 1152)) found.push("not shown: " + section.id);
}
return found;
"""

# Contrast of text with what is behind it (WCAG 2.1), where it is less than it must be.
CONTRAST = """
const channels = (text) => {
  const numbers = text.match(/[\\d.]+/g).map(Number);
  const scale = text.startsWith("color(") ? 1 : 255;
  return [...numbers.slice(0, 3).map((v) => v / scale), numbers[3] ?? 1];
};
const luminance = (c) => c.slice(0, 3).map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
  .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
const behind = (e) => {
  for (; e; e = e.parentElement) {
    const color = channels(getComputedStyle(e).backgroundColor);
    if (color[3] > 0) return color;
  }
  return [1, 1, 1, 1];
};
const found = new Set();
for (const e of document.querySelectorAll("body *:not(svg *):not(script)")) {
  if (![...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim()) || !e.checkVisibility()) continue;
  const [a, b] = [luminance(channels(getComputedStyle(e).color)), luminance(behind(e))];
  const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  if (contrast < 4.5) found.add(`${contrast.toFixed(2)} ${e.tagName}.${e.className} ${e.textContent.slice(0, 30)}`);
}
return [...found];
"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pages")
    for kind in KINDS:
        (folder / f"{kind}.html").write_text(text_of(kind), encoding="utf-8")
    return folder


def colours(png: bytes) -> dict[tuple[int, int, int], int]:
    """How many pixels each colour has."""
    image = Image.open(io.BytesIO(png)).convert("RGB")
    found: list[Any] = image.getcolors(1 << 24) or []
    return {colour: number for number, colour in found}


@pytest.mark.parametrize(
    ("kind", "dark"), [*((kind, False) for kind in KINDS), ("full", True)], ids=str
)
@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["wide", "narrow"])
def test_a_page_is_shown(
    chromium: Browser, pages: Path, kind: str, size: tuple[int, int], dark: bool
) -> None:
    path = pages / f"{kind}.html"
    chromium.open(path, size, dark=dark)
    assert chromium.ask(LAYOUT) == []
    assert chromium.ask(CONTRAST) == []
    seen = colours(chromium.screenshot())
    background = max(seen, key=lambda colour: seen[colour])
    assert (sum(background) < 200) == dark
    assert len(seen) > 50
    assert sum(seen.values()) - seen[background] > 5000
    assert chromium.logged() == []
    assert chromium.requested() == [path.as_uri()]


def test_no_table_scrolls_sideways_where_there_is_room(chromium: Browser, pages: Path) -> None:
    chromium.open(pages / "full.html", WIDE)
    found = chromium.ask(
        "return [...document.querySelectorAll('.scroll')].map((e) => "
        "[e.getAttribute('aria-labelledby'), e.scrollWidth - e.clientWidth])"
    )
    assert len(found) >= 6
    assert [name for name, beyond in found if beyond > 0] == []


@pytest.mark.parametrize(("size", "wide"), [(WIDE, True), (NARROW, False)])
def test_each_chart_is_shown_in_the_form_that_fits(
    chromium: Browser, pages: Path, size: tuple[int, int], wide: bool
) -> None:
    chromium.open(pages / "full.html", size)
    found = chromium.ask(
        "return [...document.querySelectorAll('.drawing')].map((e) => {"
        "const box = e.firstElementChild.getBoundingClientRect();"
        "return [e.classList.contains('wide'), box.width, box.height]})"
    )
    assert len(found) >= 2
    for is_wide, width, height in found:
        shown = is_wide == wide
        assert (width > 320 and height > 80) if shown else width == 0, (is_wide, width, height)
        assert width <= size[0]


def test_without_scripts_everything_is_there_but_what_needs_them(
    chromium: Browser, pages: Path
) -> None:
    chromium.open(pages / "full.html", scripts=False)
    assert chromium.ask(LAYOUT) == []
    buttons = "[...document.querySelectorAll('button')].filter((e) => e.checkVisibility()).length"
    assert chromium.ask(f"return {buttons}") == 0
    assert chromium.ask("return document.querySelector('.no-script').checkVisibility()")
    chromium.open(pages / "full.html")
    assert chromium.ask(f"return {buttons}") > 10
    assert not chromium.ask("return document.querySelector('.no-script').checkVisibility()")


def paper(chromium: Browser) -> bool:
    colour = chromium.ask("return getComputedStyle(document.body).backgroundColor")
    return bool(colour == "rgb(255, 255, 255)")


def test_the_switch_goes_from_what_the_system_has_to_the_other_and_back(
    chromium: Browser, pages: Path
) -> None:
    for dark in (False, True):
        chromium.open(pages / "small.html", dark=dark)
        seen, labels = [paper(chromium)], []
        for _ in range(2):
            labels.append(chromium.ask("return document.getElementById('theme').textContent"))
            chromium.press("#theme")
            seen.append(paper(chromium))
        assert seen == [not dark, dark, not dark]
        assert labels == (["Light", "Dark"] if dark else ["Dark", "Light"])


COLUMN = """
const [id, column] = arguments;
const table = document.getElementById(id).closest("table");
const head = table.tHead.rows[0].cells[column];
if (arguments[2]) head.querySelector("button").click();
return [head.getAttribute("aria-sort"), [...table.tBodies[0].rows].map((row) => row.cells[column].textContent.trim())];
"""


def test_tables_are_sorted_by_any_column(chromium: Browser, pages: Path) -> None:
    chromium.open(pages / "full.html")
    layers = sample_reports.layers()
    paths = [layer.path for layer in layers]
    assert chromium.ask(COLUMN, "layers-times", 1, False)[0] is None

    def sorted_by(table: str, column: int) -> tuple[str, list[str]]:
        order, _ = chromium.ask(COLUMN, table, column, True)
        shown = chromium.ask(COLUMN, table, 0, False)[1]
        return order, [text.split()[0] for text in shown]

    slowest = sorted(layers, key=lambda x: -(x.after.total if x.after else 0))
    assert sorted_by("layers-times", 6) == ("descending", [x.path for x in slowest])
    assert sorted_by("layers-times", 6) == ("ascending", [x.path for x in slowest][::-1])
    assert sorted_by("layers-times", 0) == ("ascending", sorted(paths))
    assert sorted_by("layers-times", 0) == ("descending", sorted(paths)[::-1])
    assert sorted_by("layers-times", 2)[1][-1] == "pool"  # its bits are not known: last both ways
    assert sorted_by("layers-times", 2)[1][-1] == "pool"
    heavy = sorted(layers[:-1], key=lambda x: -x.weights_after)
    assert sorted_by("weights", 3)[1] == [*(x.path for x in heavy), "All"]
    assert chromium.logged() == []


def test_the_numbers_are_saved(chromium: Browser, pages: Path, tmp_path: Path) -> None:
    chromium.open(pages / "full.html")
    saved = chromium.download("#save-numbers", tmp_path)
    assert saved.name == "lenet.json"
    assert files.load(saved) == sample_reports.report()
    assert chromium.logged() == []


def test_a_chart_is_saved_in_the_colours_of_paper(
    chromium: Browser, pages: Path, tmp_path: Path
) -> None:
    chromium.open(pages / "full.html", dark=True)
    saved = chromium.download("[data-save=speed]", tmp_path)
    assert saved.name == "speed.svg"
    text = saved.read_text(encoding="utf-8")
    root = ElementTree.fromstring(text)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert float(root.attrib["width"]) > 300
    assert "var(" not in text
    assert re.search(r"fill: ?#", text)
    chromium.open(saved)
    assert len(colours(chromium.screenshot())) > 50
    assert chromium.logged() == []


CUT = """
const found = [];
for (const e of document.querySelectorAll("body *:not(svg *)")) {
  const style = getComputedStyle(e);
  if (e.closest(".qc-view") || !e.checkVisibility()) continue;
  const cuts = [style.overflowX, style.overflowY].some((v) => v !== "visible");
  if (cuts && (e.scrollWidth > e.clientWidth + 1 || e.scrollHeight > e.clientHeight + 1)) found.push(e.className);
}
for (const e of document.querySelectorAll("figure")) {
  if (e.querySelector(".drawing") && getComputedStyle(e).breakInside !== "avoid") found.push("breaks: " + e.id);
  if (e.querySelector(".drawing") && e.getBoundingClientRect().height > innerHeight) found.push("long: " + e.id);
}
return found;
"""


def test_printed_it_is_whole_and_light(chromium: Browser, pages: Path) -> None:
    chromium.open(pages / "large.html", PAPER, dark=True, media="print")
    chromium.ask("document.documentElement.dataset.theme = 'dark'")
    assert paper(chromium)
    assert chromium.ask(LAYOUT) == []
    assert chromium.ask(CUT) == []
    assert not chromium.ask("return document.querySelector('nav').checkVisibility()")
    assert not chromium.ask("return document.querySelector('.no-script').checkVisibility()")
    # Chromium repeats the head of a table on the next page if no button in it has a box.
    button = "document.querySelector('th button')"
    assert chromium.ask(f"return getComputedStyle({button}).display") == "contents"
    pages_printed = re.findall(rb"/Type\s*/Page\b", chromium.pdf())
    assert len(pages_printed) >= 8
    assert chromium.logged() == []


def test_keys_reach_everything_and_the_focus_is_seen(chromium: Browser, pages: Path) -> None:
    chromium.open(pages / "full.html")
    outlines = chromium.ask(
        "return [...document.querySelectorAll('a, button, .scroll')].filter((e) => e.checkVisibility())"
        ".map((e) => { e.focus({focusVisible: true}); const s = getComputedStyle(e);"
        "return document.activeElement === e && s.outlineStyle !== 'none' && parseFloat(s.outlineWidth) >= 1"
        "? '' : e.outerHTML.slice(0, 80)}).filter(Boolean)"
    )
    assert outlines == []
    chromium.ask("location.hash = '#method'")
    top = chromium.ask("return document.getElementById('method').getBoundingClientRect().top")
    bar = chromium.ask("return document.querySelector('.bar').getBoundingClientRect().bottom")
    assert top >= bar
    assert len(SECTIONS) == chromium.ask("return document.querySelectorAll('nav a').length")
