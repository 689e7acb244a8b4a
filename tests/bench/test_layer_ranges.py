"""What reaches quantized layers, and what quantizing them alone does to what they give."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small_built import Residual, batches, calibrated
from torch.fx import GraphModule

from qcompile import api
from qcompile.bench import ranges
from qcompile.bench.ranges import Seen
from qcompile.bench.results import Range
from qcompile.quant.activations import DynamicActivation, PactActivation, UnitActivation
from qcompile.quant.recipe import Recipe
from qcompile.quant.training import quant_layers
from qcompile.sensitivity_noise import Noise


@pytest.fixture(scope="module")
def model() -> Residual:
    torch.manual_seed(0)
    return Residual().eval()


@pytest.fixture(scope="module")
def prepared(model: Residual) -> GraphModule:
    found = calibrated(model, Recipe(1, mode="static"))
    api.convert(found)  # its observers stand still from here on
    return found


@pytest.fixture(scope="module")
def seen(prepared: GraphModule) -> Seen:
    return ranges.observe(prepared, batches())


def range_of(seen: Seen, path: str) -> Range:
    found = seen.ranges[path]
    assert found is not None
    return found


def test_ranges_are_those_of_all_calibration_data(prepared: GraphModule, seen: Seen) -> None:
    x = torch.cat([batch[0] for batch in batches()])
    found = range_of(seen, "stem")
    assert (found.low, found.high) == (float(x.min()), float(x.max()))
    low, high = found.middle
    assert 0.985 < float(((low < x) & (x < high)).float().mean()) < 0.995
    quantizer: Any = quant_layers(prepared)["stem"].activation
    p = quantizer.qparams()
    ends = [float((level - p.zero_point) * p.scale) for level in (0, 255)]
    assert found.quantized == pytest.approx(ends)
    assert range_of(seen, "body").quantized == (-1.0, 1.0)
    assert seen.ranges.keys() == {"stem", "body", "head"}
    assert (seen.samples, seen.of) == (12, 12)


def test_a_range_is_plain_numbers(seen: Seen) -> None:
    found = range_of(seen, "stem")
    for value in (found.low, found.high, *found.middle, *(found.quantized or ())):
        assert type(value) is float


def test_wide_layers_lose_less_than_narrow_ones(seen: Seen) -> None:
    stem, body, head = (seen.sqnr_db[path] or 0.0 for path in ("stem", "body", "head"))
    assert min(stem, head) > 35
    assert 0 < body < 10


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_noise_is_that_of_the_rounding(model: Residual, bits: int) -> None:
    """About 6 dB a bit, as of any uniform quantizer: three layers in one network, alike."""
    recipe = Recipe(bits, method="affine", mode="static", first_last_bits=bits)
    found = ranges.observe(calibrated(model, recipe), batches())
    for path, value in found.sqnr_db.items():
        assert value is not None
        assert 6 * bits - 12 < value < 6 * bits + 4, path


def test_a_layer_in_float_is_the_users_own(model: Residual, prepared: GraphModule) -> None:
    """The BatchNorm behind it included."""
    x, y = batches()[0][0], torch.randn(3, 32)
    layers = quant_layers(prepared)
    with torch.no_grad():
        torch.testing.assert_close(ranges.in_float(layers["stem"], x), model.norm(model.stem(x)))
        torch.testing.assert_close(ranges.in_float(layers["head"], y), model.head(y))


def test_a_filter_of_zeros_has_no_scale() -> None:
    torch.manual_seed(0)
    model = Residual().eval()
    with torch.no_grad():
        model.body.weight[3] = 0.0
    found = ranges.observe(calibrated(model, Recipe(1, mode="static")), batches())
    assert found.sqnr_db["body"] is not None


def test_time_for_ranges_is_limited(prepared: GraphModule, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "_AT_ONCE", 4)
    found = ranges.observe(prepared, batches(), 1e-9)
    assert (found.samples, found.of) == (4, 12)


def test_only_a_few_samples_are_compared(
    prepared: GraphModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first two of many; ranges are those of all."""
    monkeypatch.setattr(ranges, "_AT_ONCE", 2)
    monkeypatch.setattr(ranges, "COMPARED", 2)
    (x,) = batches()[0]
    whole, first = ranges.observe(prepared, [(x,)]), ranges.observe(prepared, [(x[:2],)])
    assert whole.sqnr_db == first.sqnr_db
    assert whole.ranges != first.ranges


def test_values_that_are_no_numbers_have_no_range(prepared: GraphModule) -> None:
    found = ranges.observe(prepared, [(torch.full((2, 1, 8, 8), float("nan")),)])
    assert found.ranges["stem"] is None
    assert found.sqnr_db["stem"] is None


def test_nothing_stays_behind_in_the_network(prepared: GraphModule) -> None:
    state = {name: value.clone() for name, value in prepared.state_dict().items()}
    ranges.observe(prepared, batches())
    assert not any(m._forward_hooks for m in prepared.modules())
    for name, value in prepared.state_dict().items():
        assert torch.equal(value, state[name]), name


def test_what_other_quantizers_can_represent() -> None:
    assert ranges.representable(UnitActivation(2)) == pytest.approx((0.0, 1.0))
    assert ranges.representable(DynamicActivation(8)) is None
    pact = PactActivation(4)
    with torch.no_grad():
        pact.clip.fill_(3.0)
    assert ranges.representable(pact) == pytest.approx((0.0, 3.0))


@pytest.mark.parametrize(
    ("signal", "error", "expected"),
    [(100.0, 1.0, 20.0), (1.0, 0.0, None), (0.0, 1.0, None)],
)
def test_sqnr(signal: float, error: float, expected: float | None) -> None:
    assert ranges.sqnr(Noise(signal, error)) == expected
