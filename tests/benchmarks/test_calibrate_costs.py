"""The calibration of the cost model, on made-up times and on one small layer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import calibrate_costs
import machine_facts
from calibrate_costs import Sample
from qcompile.codegen.costs import model
from qcompile.codegen.costs.effort import TERMS, Effort
from qcompile.codegen.costs.layers import conv
from qcompile.codegen.costs.model import Coefficients


def effort(**counts: float) -> Effort:
    return Effort(**{**dict.fromkeys(TERMS, 0.0), **counts})


def samples(kernel: str, each: float, once: float) -> list[Sample]:
    """Times that follow exactly from the products, and from a call."""
    return [
        Sample(f"{n}", kernel, effort(calls=1, products=n), 1e-9 * (once + each * n))
        for n in (10, 100, 1000)
    ]


def test_coefficients_that_times_follow_from_are_found() -> None:
    found = calibrate_costs.fitted([*samples("a", 0.5, 20), *samples("b", 2, 0)])
    assert found["a"] == pytest.approx({"products": 0.5, "calls": 20}, rel=1e-3)
    assert found["b"]["products"] == pytest.approx(2, rel=1e-3)


def test_the_margin_is_the_largest_advantage_that_was_not_there() -> None:
    known = Coefficients("", "", 0.0, {"a": {"products": 1.0}, "b": {"products": 2.0}})
    a, b = samples("a", 1, 0)[1], samples("b", 2, 0)[1]
    assert calibrate_costs.margin_of([a, b], known) == 0
    wrong = replace(a, seconds=3 * a.seconds)
    assert calibrate_costs.margin_of([wrong, b], known) == 1.0
    noise = replace(a, seconds=b.seconds * 1.01)
    assert calibrate_costs.margin_of([noise, b], known) == 0
    unknown = replace(b, kernel="c")
    assert calibrate_costs.margin_of([wrong, unknown], known) == 0


def test_what_is_known_stays_where_kernels_are_added() -> None:
    before = Coefficients("old", "2026-01-01", 0.2, {"a": {"products": 1.0}})
    new = Coefficients("new", "2026-02-01", 0.0, {"a": {"products": 9.0}, "b": {"products": 2.0}})
    both = calibrate_costs.added(before, new, samples("b", 2, 0))
    assert both.kernels == {"a": {"products": 1.0}, "b": {"products": 2.0}}
    assert (both.processor, both.margin) == ("old", 0.2)


def test_a_layer_is_measured_and_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(machine_facts, "pin", lambda threads: None)
    monkeypatch.setattr(calibrate_costs, "use_threads", lambda threads: None)
    monkeypatch.setattr(calibrate_costs, "shapes", lambda widths: [conv(32, 16, 5)])
    path = tmp_path / "costs.json"
    quick = ["--rounds", "1", "--seconds", "1e-5", "-o", str(path)]
    calibrate_costs.main(["--targets", "cpu,cpu:neoverse-n1", *quick])
    [known] = model.read(path.read_text("utf-8"), str(path)).values()
    assert any(name.startswith("int8 ") for name in known.kernels)
    assert any(name.startswith("popcount ") for name in known.kernels)
    captured = capsys.readouterr()
    assert "cpu:neoverse-n1 is left out" in captured.err
    assert "popcount Xnor" in captured.out


def test_other_widths_have_fewer_layers() -> None:
    every = calibrate_costs.shapes()
    binary = [shape for shape in every if shape.binary]
    assert len(binary) > 15
    assert len(every) > len(binary) + 10
    assert {(s.weight_bits, s.activation_bits) for s in every} == set(calibrate_costs.WIDTHS)
