"""The palettes: contrast of text, and what colour-blind readers can tell apart."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from qcompile.bench.html.colours import (
    DARK,
    LIGHT,
    NAMES,
    PARTS,
    SERIES,
    TEXT,
    declarations,
    variable,
)

Array = NDArray[np.float64]
PALETTES = pytest.mark.parametrize("palette", [LIGHT, DARK], ids=["light", "dark"])

# Machado, Oliveira, Fernandes: A physiologically-based model for simulation of color vision
# deficiency, 2009, severity 1, on linear RGB.
VISION = {
    "trichromat": np.eye(3),
    "protanope": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deuteranope": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
}
TO_XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
)


def linear(colour: str) -> Array:
    """Linear RGB of "#rrggbb"."""
    values = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def lab(rgb: Array) -> Array:
    """CIELAB under D65."""
    ratio = TO_XYZ @ rgb / TO_XYZ.sum(1)
    bent = np.where(
        ratio > 216 / 24389, np.cbrt(np.maximum(ratio, 0)), (24389 / 27 * ratio + 16) / 116
    )
    x, y, z = bent
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def contrast(one: str, other: str) -> float:
    """WCAG's ratio of relative luminances."""
    dark, light = sorted(float(TO_XYZ[1] @ linear(colour)) for colour in (one, other))
    return (light + 0.05) / (dark + 0.05)


def least_distance(palette: Mapping[str, str], names: Sequence[str], vision: Array) -> float:
    seen = [lab(np.clip(vision @ linear(palette[name]), 0, 1)) for name in names]
    return min(float(np.linalg.norm(a - b)) for a, b in itertools.combinations(seen, 2))


def test_black_on_white_is_21_to_1_and_a_known_colour_has_its_lab() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert lab(linear("#ff0000")) == pytest.approx([53.24, 80.09, 67.20], abs=0.01)


@PALETTES
def test_both_palettes_have_all_colours(palette: Mapping[str, str]) -> None:
    assert tuple(palette) == NAMES
    assert {*SERIES, *PARTS, *TEXT, "paper", "grid"} == set(NAMES)


@PALETTES
@pytest.mark.parametrize("name", TEXT)
def test_text_can_be_read(palette: Mapping[str, str], name: str) -> None:
    assert contrast(palette[name], palette["paper"]) >= 4.5


@PALETTES
def test_marks_stand_out(palette: Mapping[str, str]) -> None:
    assert min(contrast(palette[name], palette["paper"]) for name in SERIES) >= 3
    assert min(contrast(palette[name], palette["paper"]) for name in PARTS) >= 2
    assert contrast(palette["grid"], palette["paper"]) < 2


@PALETTES
@pytest.mark.parametrize("vision", VISION)
def test_what_stands_together_can_be_told_apart(palette: Mapping[str, str], vision: str) -> None:
    assert least_distance(palette, SERIES, VISION[vision]) >= 25
    assert least_distance(palette, PARTS, VISION[vision]) >= 30
    assert least_distance(palette, ("good", "bad"), VISION[vision]) >= 25


@PALETTES
def test_parts_of_a_layer_differ_in_grey_print(palette: Mapping[str, str]) -> None:
    lightness = sorted(lab(linear(palette[name]))[0] for name in PARTS)
    assert np.diff(lightness).min() >= 10


def test_colours_are_custom_properties() -> None:
    assert variable("ink") == "var(--qc-ink)"
    assert declarations({"ink": "#111111", "paper": "#eeeeee"}) == (
        "--qc-ink: #111111;\n--qc-paper: #eeeeee;"
    )
