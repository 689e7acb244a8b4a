"""The graphs in a browser: pointing, keys, wheel, drag and fingers, narrow windows, paper, no scripts."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest
import sample_reports
from browser import NARROW, WIDE, Browser

from qcompile.bench.html import colours
from qcompile.bench.html.picture import SCRIPT, STYLE, picture
from qcompile.bench.results import Edge, Graph, Node

NODES = tuple(Node(f"n{i}", "conv2d", f"layer{i}", facts=(("macs", f"{i}"),)) for i in range(60))
BEFORE = Graph("before", NODES, tuple(Edge(f"n{i}", f"n{i + 1}", "float32[N]") for i in range(59)))
KERNELS = tuple(
    Node(
        f"k{i}", "xnor", f"layer{2 * i}", "low-bit", (("bits w/a", "1/1"),), (f"layer{2 * i + 1}",)
    )
    for i in range(30)
)
AFTER = Graph("after", KERNELS, tuple(Edge(f"k{i}", f"k{i + 1}") for i in range(29)))


def source(text: str) -> str:
    return f"'sha256-{b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def write(path: Path, *graphs: Graph) -> Path:
    """A page with the pictures alone, which may do no more than the report's."""
    style = f":root {{{colours.declarations(colours.LIGHT)}}} body {{margin: 8px}} {STYLE}"
    policy = f"default-src 'none'; script-src {source(SCRIPT)}; style-src {source(style)}"
    path.write_text(
        f'<!doctype html><meta charset="utf-8"><title>graphs</title><link rel="icon" href="data:,">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}; img-src data:">'
        f"<style>{style}</style>{picture(graphs)}<p>end</p><script>{SCRIPT}</script>",
        encoding="utf-8",
    )
    return path


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("graphs") / "graphs.html", BEFORE, AFTER)


@pytest.fixture
def shown(chromium: Browser, page: Path) -> Browser:
    chromium.open(page, WIDE)
    return chromium


def mouse(browser: Browser, kind: str, at: tuple[float, float], **more: object) -> None:
    browser._do(f"Input.dispatch{kind}Event", x=at[0], y=at[1], **more)


def point(browser: Browser, at: tuple[float, float]) -> None:
    mouse(browser, "Mouse", at, type="mouseMoved")


def drag(browser: Browser, *way: tuple[float, float]) -> None:
    mouse(browser, "Mouse", way[0], type="mousePressed", button="left", buttons=1, clickCount=1)
    for at in way[1:]:
        mouse(browser, "Mouse", at, type="mouseMoved", button="left", buttons=1)
    mouse(browser, "Mouse", way[-1], type="mouseReleased", button="left", clickCount=1)


def wheel(browser: Browser, at: tuple[float, float], by: float, *, ctrl: bool = False) -> None:
    modifiers = 2 if ctrl else 0
    mouse(browser, "Mouse", at, type="mouseWheel", deltaX=0, deltaY=by, modifiers=modifiers)


def press(browser: Browser, key: str) -> None:
    text = {"text": key} if len(key) == 1 else {}
    for kind in ("keyDown", "keyUp"):
        browser._do("Input.dispatchKeyEvent", type=kind, key=key, code=key, **text)


def place(browser: Browser, id_: str) -> tuple[float, float]:
    """The middle of an element in the window."""
    script = (
        "const b = document.getElementById(arguments[0]).getBoundingClientRect();"
        "return [b.x + b.width / 2, b.y + b.height / 2];"
    )
    x, y = browser.ask(script, id_)
    return x, y


def views(browser: Browser) -> list[list[float]]:
    """What of the drawings each window shows: left, top, width, height."""
    script = (
        "return [...document.querySelectorAll('.qc-svg')].map((s) => s.getAttribute('viewBox'))"
    )
    return [[float(n) for n in text.split()] for text in browser.ask(script)]


def panels(browser: Browser) -> list[str]:
    texts = browser.ask(
        "return [...document.querySelectorAll('.qc-panel')].map((p) => p.innerText)"
    )
    return [" ".join(text.split()) for text in texts]


def marked(browser: Browser) -> list[str]:
    script = "return [...document.querySelectorAll('.qc-node.qc-shown')].map((e) => e.id)"
    return sorted(browser.ask(script))


def test_pointing_shows_facts_and_what_belongs_to_it_in_the_other_graph(shown: Browser) -> None:
    assert all(text.startswith("Point at a node") for text in panels(shown))
    point(shown, place(shown, "qc-g0-3"))
    before, after = panels(shown)
    assert before == ("conv2d layer layer3 macs 3 reads float32[N], from layer2 gives float32[N]")
    assert after.startswith("xnor layer layer2 bits w/a 1/1 with it layer3")
    assert marked(shown) == ["qc-g0-3", "qc-g1-1"]
    point(shown, place(shown, "qc-g1-2"))
    assert marked(shown) == ["qc-g0-4", "qc-g0-5", "qc-g1-2"]
    point(shown, (2, 2))
    assert marked(shown) == []
    assert shown.logged() == []
    assert len(shown.requested()) == 1


def test_the_wheel_scrolls_the_page_until_the_graph_is_clicked(shown: Browser, page: Path) -> None:
    shown.open(page, (1280, 1600))  # nothing to scroll, so that nothing moves meanwhile
    shown.ask("taken = []; addEventListener('wheel', (e) => taken.push(e.defaultPrevented))")
    at = place(shown, "qc-g0-2")
    [start, other] = views(shown)
    wheel(shown, at, 60)
    assert views(shown) == [start, other]
    wheel(shown, at, -60, ctrl=True)
    zoomed = views(shown)[0]
    assert zoomed[2] < start[2]
    assert place(shown, "qc-g0-2") == pytest.approx(at, abs=1.5)  # what is pointed at stays there
    drag(shown, at)
    wheel(shown, at, 100)
    assert views(shown)[0][2] > zoomed[2]
    press(shown, "Escape")
    [start, other] = views(shown)
    wheel(shown, at, -100)
    assert views(shown) == [start, other]
    assert shown.ask("return taken") == [False, True, True, False]


def test_a_click_holds_on_to_a_node_and_brings_its_partner_into_view(shown: Browser) -> None:
    press_fit = "document.querySelector('#qc-g0-figure [data-do=fit]').click()"
    shown.ask(press_fit)
    at = place(shown, "qc-g0-50")
    drag(shown, at)
    point(shown, (2, 2))
    assert marked(shown) == ["qc-g0-50", "qc-g1-25"]
    left, top, width, height = views(shown)[1]
    x, y = shown.ask(
        "const m = document.getElementById('qc-g1-25').transform.baseVal.consolidate().matrix;"
        "return [m.e, m.f]"
    )
    assert left < x < left + width
    assert top < y < top + height
    drag(shown, at)
    assert marked(shown) == []


def test_dragging_moves_the_drawing_and_chooses_nothing(shown: Browser) -> None:
    x, y = at = place(shown, "qc-g0-3")
    drag(shown, at, (x - 20, y - 50), (x - 40, y - 100))
    assert place(shown, "qc-g0-3") == pytest.approx((x - 40, y - 100), abs=1)
    point(shown, (2, 2))
    assert marked(shown) == []
    for _ in range(12):  # no further than that something is left to see
        drag(shown, (300, 500), (300, 120))
    assert views(shown)[0][1] < 60 * 76
    assert shown.logged() == []


def test_buttons_and_keys_zoom(shown: Browser) -> None:
    start = views(shown)[0]
    shown.press("#qc-g0-figure [data-do=in]")
    nearer = views(shown)[0]
    assert nearer[2] == pytest.approx(start[2] / 1.3)
    shown.press("#qc-g0-figure [data-do=out]")
    assert views(shown)[0] == pytest.approx(start)
    shown.press("#qc-g0-figure [data-do=fit]")
    _, top, _, height = views(shown)[0]
    assert top <= -14
    assert top + height >= 60 * 76 - 36
    shown.press("#qc-g0-figure [data-do=start]")
    assert views(shown)[0] == pytest.approx(start)
    shown.ask("document.getElementById('qc-g0-0').focus()")
    press(shown, "+")
    assert views(shown)[0][2] == pytest.approx(start[2] / 1.3)
    press(shown, "1")
    assert views(shown)[0] == pytest.approx(start)


def test_a_double_click_zooms_in(shown: Browser) -> None:
    at = place(shown, "qc-g0-3")
    width = views(shown)[0][2]
    for count in (1, 2):
        for kind in ("mousePressed", "mouseReleased"):
            mouse(shown, "Mouse", at, type=kind, button="left", clickCount=count)
    assert views(shown)[0][2] == pytest.approx(width / 2)


def test_arrow_keys_go_from_node_to_node(shown: Browser) -> None:
    focused = "return document.activeElement.id"
    reachable = "return [...document.querySelectorAll('.qc-svg [tabindex=\"0\"]')].map((e) => e.id)"
    assert shown.ask(reachable) == ["qc-g0-0", "qc-g1-0"]
    for _ in range(6):  # the tools, then the drawing
        press(shown, "Tab")
        if shown.ask(focused) == "qc-g0-0":
            break
    assert shown.ask(focused) == "qc-g0-0"
    for key, expected in (("ArrowDown", 1), ("ArrowRight", 2), ("ArrowUp", 1), ("ArrowLeft", 0)):
        press(shown, key)
        assert shown.ask(focused) == f"qc-g0-{expected}"
    press(shown, "ArrowUp")
    assert shown.ask(focused) == "qc-g0-0"
    for _ in range(20):
        press(shown, "ArrowDown")
    assert marked(shown) == ["qc-g0-20", "qc-g1-10"]
    _, top, _, height = views(shown)[0]
    assert top < 20 * 76 < top + height
    assert shown.ask(reachable) == ["qc-g0-20", "qc-g1-0"]


def test_fingers(shown: Browser, page: Path) -> None:
    def touch(kind: str, *points: tuple[float, float]) -> None:
        at = [{"x": x, "y": y, "id": i} for i, (x, y) in enumerate(points)]
        shown._do("Input.dispatchTouchEvent", type=kind, touchPoints=at)

    shown._do("Emulation.setTouchEmulationEnabled", enabled=True)
    try:
        shown.open(page, NARROW)
        x, y = place(shown, "qc-g0-2")
        touch("touchStart", (x, y))
        touch("touchEnd")
        assert marked(shown) == ["qc-g0-2", "qc-g1-1"]
        width = views(shown)[0][2]
        touch("touchStart", (x - 30, y), (x + 30, y))
        for reach in (40, 50, 60):
            touch("touchMove", (x - reach, y), (x + reach, y))
        touch("touchEnd")
        assert views(shown)[0][2] == pytest.approx(width / 2, rel=0.1)
        top = views(shown)[0][1]
        touch("touchStart", (x, y))
        for step in (20, 40, 60):
            touch("touchMove", (x, y - step))
        touch("touchEnd")
        assert views(shown)[0][1] > top
    finally:
        shown._do("Emulation.setTouchEmulationEnabled", enabled=False)


BOXES = """
const box = (e) => { const b = e.getBoundingClientRect(); return [b.left, b.top, b.right, b.bottom]; };
return [...document.querySelectorAll(arguments[0])].filter((e) => e.checkVisibility()).map(box);
"""


def boxes(browser: Browser, selector: str) -> Any:
    return browser.ask(BOXES, selector)


def test_beside_one_another_where_there_is_room_else_below(shown: Browser, page: Path) -> None:
    first, second = boxes(shown, ".qc-graph")
    assert first[1] == second[1]
    assert first[2] < second[0]
    shown.open(page, NARROW)
    first, second = boxes(shown, ".qc-graph")
    assert first[3] <= second[1]
    assert shown.ask("return document.documentElement.scrollWidth") == NARROW[0]
    for title, tools in zip(
        boxes(shown, "figcaption strong"), boxes(shown, ".qc-tools"), strict=True
    ):
        assert title[2] <= tools[0]
    assert shown.logged() == []


def test_on_paper_the_whole_drawing_in_columns(shown: Browser, page: Path) -> None:
    shown.open(page, (690, 1000), media="print")
    columns = boxes(shown, ".qc-paper svg")
    assert len(columns) > 4
    assert all(0 <= left < right <= 690 for left, _, right, _ in columns)
    assert boxes(shown, ".qc-tools, .qc-panel") == []
    assert all(right == left for left, _, right, _ in boxes(shown, ".qc-view"))
    tops = [top for _, top, _, _ in columns]
    assert len(set(tops)) < len(tops)  # some stand beside one another
    assert shown.pdf().count(b"/Type /Page") >= 2


def test_without_scripts_drawings_scroll_and_tooltips_tell(shown: Browser, page: Path) -> None:
    shown.open(page, WIDE, scripts=False)
    assert boxes(shown, ".qc-tools") == []
    view = "const v = document.querySelector('.qc-view'); return [v.scrollHeight, v.clientHeight]"
    whole, seen = shown.ask(view)
    assert whole > 2 * seen > 0
    assert "macs: 3" in shown.ask("return document.querySelector('#qc-g0-3 title').textContent")


def test_a_graph_alone_and_small_ones(chromium: Browser, tmp_path: Path) -> None:
    chromium.open(write(tmp_path / "one.html", AFTER))
    point(chromium, place(chromium, "qc-g0-1"))
    assert marked(chromium) == ["qc-g0-1"]
    chromium.open(write(tmp_path / "small.html", *sample_reports.graphs(1)))
    for left, top, _, height in views(chromium):
        assert max(left, top) <= -13
        assert height > 5 * 60
    chromium.open(write(tmp_path / "none.html"))
    assert chromium.logged() == []
