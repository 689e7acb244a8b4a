"""Matplotlib's SVG as a part of a page: scaled by it, in its font and colours, with names for marks.

Whatever is not needed is left out, and no id can meet one of another picture.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from xml.etree import ElementTree

from qcompile.bench.html.colours import NAMES, variable

# Colours that stand for names while matplotlib draws.
SENTINELS: Mapping[str, str] = {name: f"#fe01{number:02x}" for number, name in enumerate(NAMES)}
_VARIABLES = {colour: variable(name) for name, colour in SENTINELS.items()}
_REFERENCE = re.compile(r"#([\w.-]+)")
_LONG = re.compile(r"-?\d+\.\d{2,}")
_COORDINATES = ("d", "x", "y", "width", "height", "transform", "points", "viewBox")
_NEEDLESS = {"stroke-linejoin: miter", "opacity: 1", "font-family"}
Element = ElementTree.Element


def inline(svg: bytes, prefix: str, label: str, hovers: Mapping[str, str]) -> str:
    """The element for a page.

    Args:
        svg: as matplotlib wrote it, with sentinels for colours and texts as texts.
        prefix: of all ids that are kept.
        label: for those who cannot see the picture.
        hovers: names of marks, by the ids that their artists were given.
    """
    root = ElementTree.fromstring(svg)
    for element in root.iter():
        _without_namespaces(element)
    _drop(root, ("metadata", "style"))
    wanted = {m for e in root.iter() for entry in e.attrib.items() for m in _references(*entry)}
    names = {old: f"{prefix}-{number}" for number, old in enumerate(sorted(wanted))}
    for element in root.iter():
        _tidy(element, names, hovers)
    _unwrap(root)
    attributes = {"viewBox": root.attrib["viewBox"], "role": "img", "aria-label": label}
    attributes |= {"class": "qc-chart", "stroke-linejoin": "round", "stroke-linecap": "butt"}
    root.attrib.clear()
    root.attrib.update(attributes)
    root.tail = None
    return ElementTree.tostring(root, encoding="unicode")


def _without_namespaces(element: Element) -> None:
    element.tag = element.tag.rpartition("}")[2]
    for key in list(element.attrib):
        element.attrib[key.rpartition("}")[2]] = element.attrib.pop(key)


def _drop(element: Element, tags: tuple[str, ...]) -> None:
    for child in list(element):
        if child.tag in tags:
            element.remove(child)
        else:
            _drop(child, tags)


def _references(key: str, value: str) -> list[str]:
    return _REFERENCE.findall(value) if key == "href" or "url(#" in value else []


def _tidy(element: Element, names: Mapping[str, str], hovers: Mapping[str, str]) -> None:
    old = element.attrib.pop("id", "")
    if old in hovers:
        title = Element("title")
        title.text = hovers[old]
        element.insert(0, title)
    style = element.attrib.pop("style", "")
    for key in ("fill", "stroke"):  # custom properties work in styles for sure
        if key in element.attrib:
            style += f"; {key}: {element.attrib.pop(key)}"
    declared = ";".join(filter(None, map(_declaration, style.split(";"))))
    if declared:
        element.attrib["style"] = declared
    for key, value in element.attrib.items():
        if _references(key, value):
            value = _REFERENCE.sub(lambda m: f"#{names.get(m[1], m[1])}", value)
        element.attrib[key] = _rounded(value) if key in _COORDINATES else value
    if "transform" in element.attrib and element.attrib["transform"].startswith("rotate(-0 "):
        del element.attrib["transform"]
    if old in names:
        element.attrib["id"] = names[old]
    if element.tag != "text":
        element.text = element.text if element.tag == "title" else None
    element.tail = None


def _declaration(text: str) -> str:
    """One of a style, with the page's font and colours."""
    key, _, value = (part.strip() for part in text.partition(":"))
    if not key or key in _NEEDLESS or f"{key}: {value}" in _NEEDLESS:
        return ""
    return f"{key}:{_VARIABLES.get(value, value)}"


def _rounded(value: str) -> str:
    short = _LONG.sub(lambda m: f"{float(m[0]):.2f}".rstrip("0").rstrip("."), value)
    return " ".join(short.split())


def _unwrap(element: Element) -> None:
    """Put what is in groups without attributes and names in their places."""
    found: list[Element] = []
    for child in element:
        _unwrap(child)
        bare = child.tag == "g" and not child.attrib
        found += list(child) if bare and (len(child) == 0 or child[0].tag != "title") else [child]
    element[:] = found
