"""The page as text: what is in it, whole, in order, escaped, and without a way to the network."""

from __future__ import annotations

import base64
import hashlib
import html.parser
import itertools
import re
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field, replace

import pytest
import sample_reports
from sample_pages import KINDS, NASTY, marked, text_of

from qcompile.bench import files, findings
from qcompile.bench.html import page as page_module
from qcompile.bench.html.charts import CHARTS
from qcompile.bench.html.page import SECTIONS, page
from qcompile.bench.results import Noise, Spread

VOID = {"meta", "img", "br", "hr", "input", "link", "wbr", "col"}


@dataclass
class Element:
    """One of the page."""

    tag: str
    attributes: dict[str, str | None]
    parent: Element | None
    text: str = ""
    children: list[Element] = field(default_factory=list)

    def all(self) -> list[Element]:
        """Itself and everything in it."""
        return [self, *(e for child in self.children for e in child.all())]

    def find(self, tag: str) -> list[Element]:
        """All of a tag in it."""
        return [e for e in self.all() if e.tag == tag]

    def words(self) -> str:
        """All of its text."""
        return " ".join("".join(e.text for e in self.all()).split())


class Tree(html.parser.HTMLParser):
    """Elements in each other; every end tag must fit."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.root = self.open = Element("", {}, None)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), self.getpos()
        element = Element(tag, dict(attrs), self.open)
        self.open.children.append(element)
        self.open = self.open if tag in VOID else element

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open.children.append(Element(tag, dict(attrs), self.open))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.tag == tag, f"{self.getpos()}: </{tag}> ends <{self.open.tag}>"
        assert self.open.parent is not None
        self.open = self.open.parent

    def handle_data(self, data: str) -> None:
        self.open.text += data


def parsed(text: str) -> Element:
    tree = Tree()
    tree.feed(text)
    tree.close()
    assert tree.open is tree.root
    return tree.root


@pytest.mark.parametrize("kind", KINDS)
def test_elements_are_closed_and_ids_are_there_once(kind: str) -> None:
    tree = parsed(text_of(kind))
    ids = Counter(e.attributes["id"] for e in tree.all() if "id" in e.attributes)
    assert [name for name, number in ids.items() if number > 1] == []
    for element in tree.all():
        for attribute in ("aria-labelledby", "href", "xlink:href"):
            target = (element.attributes.get(attribute) or "").removeprefix("#")
            assert not target or target in ids, (element.tag, attribute, target)
        for target in re.findall(
            r"url\(#([^)]*)\)", " ".join(map(str, element.attributes.values()))
        ):
            assert target in ids


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_on_the_page_can_reach_the_network_or_run(kind: str) -> None:
    tree = parsed(text_of(kind))
    assert not {e.tag for e in tree.all()} & {"img", "link", "iframe", "object", "embed", "form"}
    for element in tree.all():
        assert not [name for name in element.attributes if name.startswith("on")]
        assert not {"src", "srcset", "action", "ping"} & element.attributes.keys()
        assert (element.attributes.get("href") or "#").startswith("#")
    assert "@import" not in text_of(kind)
    for address in re.findall(r"url\(([^)]*)\)", text_of(kind)):
        assert address.startswith(("#", "&#34;#", '"#')), address


@pytest.mark.parametrize("kind", KINDS)
def test_the_policy_allows_what_is_there_and_no_more(kind: str) -> None:
    tree = parsed(text_of(kind))
    [meta] = [e for e in tree.find("meta") if "http-equiv" in e.attributes]
    policy = dict(part.strip().split(" ", 1) for part in str(meta.attributes["content"]).split(";"))
    assert policy["default-src"] == "'none'"
    for tag, rule in (("script", "script-src"), ("style", "style-src-elem")):
        found = [e for e in tree.find(tag) if e.attributes.get("type") != "application/json"]
        hashes = [hashlib.sha256(e.text.encode()).digest() for e in found]
        assert [f"'sha256-{base64.b64encode(h).decode()}'" for h in hashes] == [policy[rule]], tag


def test_markup_in_names_is_shown_as_it_is() -> None:
    tree = parsed(text_of("nasty"))
    assert len(tree.find("script")) == len(parsed(text_of("full")).find("script"))
    shown = tree.words()
    for name in ("lenet", "features.1.conv<1>", "net.py:11", "PyTorch float32", "A note <with>"):
        assert name in shown
    [title] = tree.find("h1")
    assert NASTY in title.words()
    assert shown.count("<script>alert(1)</script>") > 50


def test_the_report_is_in_the_page_as_it_was() -> None:
    for kind, report in (
        ("full", sample_reports.report()),
        ("nasty", marked(sample_reports.report())),
    ):
        [data] = [e for e in parsed(text_of(kind)).all() if e.attributes.get("id") == "qc-numbers"]
        assert files.parse(data.text.encode()) == report


def test_sections_stand_in_order_and_are_reached_from_the_top() -> None:
    tree = parsed(text_of("full"))
    wanted = [section.id for section in SECTIONS]
    assert [e.attributes["id"] for e in tree.find("section")] == wanted
    [nav] = tree.find("nav")
    assert [e.attributes["href"] for e in nav.find("a")] == [f"#{name}" for name in wanted]
    levels = [int(e.tag[1]) for e in tree.all() if re.fullmatch(r"h[1-6]", e.tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(later - earlier <= 1 for earlier, later in itertools.pairwise(levels))
    assert tree.find("html")[0].attributes["lang"] == "en"


def test_every_table_has_a_caption_and_every_row_a_head() -> None:
    for table in parsed(text_of("full")).find("table"):
        assert len(table.find("caption")) == 1
        [head], [body] = table.find("thead"), table.find("tbody")
        columns = head.find("th")
        assert {e.attributes.get("scope") for e in columns} == {"col"}
        for row in body.find("tr"):
            cells = [e for e in row.children if e.tag in ("th", "td")]
            assert next(e.attributes.get("scope") for e in cells) == "row"
            assert sum(int(e.attributes.get("colspan") or 1) for e in cells) == len(columns)


def test_who_did_not_run_it_reads_what_was_measured_first() -> None:
    tree = parsed(text_of("full"))
    [header] = tree.find("header")
    shown = header.words()
    report = sample_reports.report()
    assert header.find("h1")[0].words() == findings.headline(report)
    for text in (
        *findings.sentences(report),
        report.command,
        "22 November 2026, 12:00 UTC",
        report.machine.processor,
        "avx512_vpopcntdq",
        "torch",
        "2.13.0",
        "trained, 8 epochs",
        "4.00 million multiply-accumulates",
        report.subject.sha256,
        report.notes[0],
    ):
        assert text in shown
    assert "openvino is not installed" in tree.words()
    assert 'pip install "qcompile[bench]"' in tree.words()


@pytest.fixture
def _without_charts(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are most of the work."""
    monkeypatch.setattr(page_module, "charts", lambda report: ())


@pytest.mark.usefixtures("_without_charts")
def test_of_a_layers_source_its_file_and_line_are_shown() -> None:
    layer = replace(sample_reports.layers()[0], where="/home/someone/net.py:10")
    tree = parsed(page(replace(sample_reports.small(), layers=(layer,))))
    [source] = tree.find("small")[-1:]
    assert source.text == "net.py:10"
    assert source.attributes["title"] == "/home/someone/net.py:10"
    assert "/home/someone" not in tree.find("main")[0].words()


def test_it_is_made_without_torch_and_without_the_compiler() -> None:
    code = "import sys; sys.modules.update(torch=None, tvm=None); import qcompile.bench.html.page"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr == ""


@pytest.mark.usefixtures("_without_charts")
def test_what_is_absent_is_named_with_its_reason() -> None:
    report = replace(
        sample_reports.small(),
        absent={part: f"because of {part}" for part in ("layers", "roofs", "widths", "graphs")},
    )
    tree = parsed(page(report))
    for section in tree.find("section"):
        reasons = [part for s in SECTIONS if s.id == section.attributes["id"] for part in s.parts]
        for part in reasons:
            assert f"Because of {part}." in section.words()
    assert tree.find("h1")[0].words() == findings.headline(report)


@pytest.mark.usefixtures("_without_charts")
def test_losses_are_marked_by_words_too() -> None:
    lost = replace(sample_reports.report(slower=10), layers=(), widths=(), roofs=(), graphs=())
    assert "0.54× (slower)" in parsed(page(lost)).words()
    noise = replace(lost.runs[0], noise=Noise(Spread(1.0, 0.5, 2.0), 1.0))
    assert "0.54× (noise)" in parsed(page(replace(lost, runs=(noise,)))).words()


def test_every_chart_stands_in_one_section() -> None:
    known = [name for section in SECTIONS for name in section.charts]
    assert sorted(known) == sorted(module.NAME for module in CHARTS)
    for section in parsed(text_of("full")).find("section"):
        [wanted] = [s.charts for s in SECTIONS if s.id == section.attributes["id"]]
        drawn = [e for e in section.find("figure") if "aria-labelledby" in e.attributes]
        assert [e.attributes["id"] for e in drawn] == [f"figure-{name}" for name in wanted]


def test_a_network_of_sixty_layers_stays_under_3_mb() -> None:
    assert len(text_of("large").encode()) < 3_000_000


@pytest.mark.usefixtures("_without_charts")
def test_small_things() -> None:
    odd = parsed(page(replace(sample_reports.small(), date="yesterday")))
    assert "yesterday" in odd.find("header")[0].words()
    empty = parsed(page(replace(sample_reports.small(), runs=(), absent=None))).words()
    assert "Nothing was timed." in empty
    assert "The report has no graphs." in empty
