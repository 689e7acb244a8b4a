"""Products without tensor cores: every kind of product by every schedule, and which one is chosen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from compiling import Case
from emulated_gpu import needs_emulator
from random_layers import Binary, Family, Float, Integer, Layer, Slide, WeightOnly
from running import check, emulated
from small_nets import levels, normal
from torch import Tensor

from qcompile.codegen.cuda import rules
from qcompile.codegen.cuda.build import generate
from qcompile.codegen.cuda.direct import product_of
from qcompile.codegen.cuda.elements import elements
from qcompile.codegen.cuda.products import Product
from qcompile.codegen.cuda.tiled import Tile, tiled
from qcompile.codegen.cuda.vectors import vectors
from qcompile.codegen.cuda.writer import CudaKernel, CudaWriter, Part
from qcompile.codegen.groups import CONTRACTIONS
from qcompile.ir.stages import aten, dialect
from qcompile.ir.target import Target

pytestmark = needs_emulator

Schedule = Callable[[Product], Callable[[CudaWriter], None]]


def _slide(kernel: int, padding: int) -> Slide:
    return Slide((kernel,) * 2, (1, 1), (padding,) * 4, (1, 1))


@dataclass(frozen=True)
class Coded(WeightOnly):
    """Levels low, low + step, ..., so many."""

    low: int = 0
    step: int = 1
    count: int = 2

    def weights(self, layer: Layer, shape: tuple[int, ...], seed: int) -> dict[str, Tensor]:
        numbers = levels(0, self.count - 1, *shape, seed=seed).to(torch.int16)
        return {"weight": self.low + self.step * numbers}


SAME, ODD = _slide(3, 1), Slide((3, 2), (1, 2), (0, 1, 2, 0), (2, 1))
LINE = Slide((3,), (2,), (1, 0), (2,))
CUBE = Slide((2, 1, 2), (1, 2, 1), (1, 0, 0, 0, 0, 1), (1, 1, 1))
CONVOLUTIONS: list[Family] = [
    Float(3, (5, 6), (Layer(33, SAME, end="residual"),)),
    Float(18, (4, 5), (Layer(24, Slide((2, 3), (2, 1), (1, 1, 0, 0), (1, 2)), 2, end="relu"),), 1),
    Integer(3, (5, 4), (Layer(34, ODD, end="floats and bits"),), 2, 0, 255, 117),
    Integer(8, (4, 4), (Layer(20, SAME, 2, -1, "uint8"),), 3, -1, 1, 0),
    Integer(6, (4, 4), (Layer(9, SAME, end="sums"),), 4, 0, 15, 3, reach=255),
    Integer(5, (2, 3, 3), (Layer(7, CUBE, pad=-1, end="int8"),), 5, -128, 127, -128),
    Binary(40, (5, 5), (Layer(35, SAME, pad=-1, end="bits"),), 6),
    Binary(64, (4, 3), (Layer(64, ODD, 2, 1, "bits"),), 7),
    Binary(160, (9,), (Layer(6, LINE, end="floats"),), 8, low=0),
    WeightOnly(5, (4, 4), (Layer(33, SAME, end="signs"),), 9, reach=7),
    WeightOnly(20, (9,), (Layer(6, LINE, 2, end="relu"),), 10, reach=255),
]
GROUPED_SIGNS: list[Family] = [Binary(64, (4, 4), (Layer(36, SAME, 2, 1, "bits"),), 11)]
PRODUCTS: list[Family] = [
    Float(150, (), (Layer(9), Layer(40, end="relu"))),
    Integer(333, (), (Layer(40, end="signs"), Layer(5)), 1, -4, 3, 2),
    Integer(140, (), (Layer(12),), 2, 0, 255, 200, reach=255),
    Integer(12, (4, 4), (Layer(11, _slide(4, 0), end="uint8"),), 3, 0, 255, 9),
    Binary(2300, (), (Layer(33, end="bits"), Layer(10, end="floats")), 4),
    WeightOnly(321, (), (Layer(21, end="signs"),), 5, reach=127),
    WeightOnly(300, (), (Layer(12),), 6, reach=7),
    WeightOnly(301, (), (Layer(12),), 7, reach=1),
    WeightOnly(130, (), (Layer(6),), 8, reach=255),
    Coded(37, (), (Layer(9),), 9, low=-3, step=2, count=4),
    Coded(70, (), (Layer(9),), 10, low=-15, step=2, count=16),
    Coded(45, (), (Layer(9),), 11, low=7, step=3, count=200),
    Coded(45, (), (Layer(9),), 12, low=5, count=1),
]
OF_CONVOLUTIONS: dict[str, Schedule] = {
    "tiles 32x32": lambda product: partial(tiled, product, Tile(4, 1)),
    "tiles 128x64": lambda product: partial(tiled, product, Tile(16, 2)),
    "elements": lambda product: partial(elements, product, 1),
    "elements, four places": lambda product: partial(elements, product, 4),
}
OF_PRODUCTS: dict[str, Schedule] = {
    "vectors": lambda product: partial(vectors, product, 1),
    "vectors, four samples": lambda product: partial(vectors, product, 4),
    "tiles 64x128": lambda product: partial(tiled, product, Tile(8, 4)),
}


def only(schedule: Schedule) -> Callable[[CudaWriter], CudaKernel | None]:
    """A rule that computes every product in one way."""

    def rule(w: CudaWriter) -> CudaKernel | None:
        if w.group.anchor.target not in CONTRACTIONS:
            return None
        return w.kernel(Part(schedule(product_of(w))))

    return rule


def cases(families: Sequence[Family]) -> list[Case]:
    return [family.case() for family in families]


def by(monkeypatch: pytest.MonkeyPatch, schedule: Schedule) -> None:
    monkeypatch.setattr(rules, "RULES", (only(schedule), *rules.RULES))


@pytest.mark.parametrize("way", OF_CONVOLUTIONS)
def test_convolutions(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    by(monkeypatch, OF_CONVOLUTIONS[way])
    families = CONVOLUTIONS + (GROUPED_SIGNS if "elements" in way else [])
    check(cases(families), (1, 3))


@pytest.mark.parametrize("way", OF_PRODUCTS)
def test_products_with_whole_samples(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    by(monkeypatch, OF_PRODUCTS[way])
    check(cases(PRODUCTS), (1, 5))


@pytest.mark.parametrize("way", OF_PRODUCTS)
def test_an_infinity_stays_in_its_sample(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What fills a row of weights meets no neighbour's activations: 0 times infinity is NaN."""
    by(monkeypatch, OF_PRODUCTS[way])
    odd = 2 * levels(-8, 7, 7, 37, seed=1) + 1
    weights = {"a": levels(-1, 1, 7, 37), "b": odd, "c": normal(7, 37)}

    def function(x: Tensor, a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, ...]:
        linear = dialect.weight_only_linear.default
        return linear(x, a), linear(x, b), aten.linear.default(x, c)

    gm = Case(function, [(37,)], weights).graph()
    run = emulated(gm, generate(gm, Target("cuda")))
    x = torch.ones(3, 37)
    x[1] = torch.inf
    for got, wanted in zip(run([x]), gm(x), strict=True):
        assert wanted[::2].isfinite().all()
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-4, equal_nan=True)
