"""Counts do not depend on how values arrive; ranges leave no more error than torch.ao's."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.ao.quantization.observer import HistogramObserver as TorchHistogram

from qcompile import QCompileError
from qcompile.ir.ops import affine_levels
from qcompile.ir.qparams import QParams, QScheme
from qcompile.quant.activations import AffineActivation
from qcompile.quant.histograms import BINS, HistogramObserver, PercentileObserver

AFFINE, SYMMETRIC = QScheme.PER_TENSOR_AFFINE, QScheme.PER_TENSOR_SYMMETRIC


def normal(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed))


SAMPLES = {
    "normal": normal(50_000),
    "relu": normal(50_000).relu(),
    "two-sided-skew": normal(50_000).exp() - 1,
    "uniform": torch.rand(50_000, generator=torch.Generator().manual_seed(1)) * 3 - 1,
    "outlier": torch.cat([normal(50_000), torch.tensor([100.0])]),
    "tiny": normal(50_000) * 1e-25,
    "huge": normal(50_000) * 1e25,
}


def squared_error(x: Tensor, scale: Tensor, zero_point: Tensor, low: int, high: int) -> float:
    levels = affine_levels(x, float(scale), int(zero_point), low, high) - zero_point
    return float((levels.double() * scale.double() - x.double()).square().mean())


def error_of(x: Tensor, p: QParams) -> float:
    return squared_error(x, p.scale, p.zero_point, p.qmin, p.qmax)


@given(
    st.lists(
        st.lists(st.floats(-(2.0**40), 2.0**40, width=32), min_size=1, max_size=20),
        min_size=1,
        max_size=5,
    ),
    st.randoms(use_true_random=False),
)
def test_counts_do_not_depend_on_the_order(batches: list[list[float]], random: object) -> None:
    observer, together = HistogramObserver().eval(), HistogramObserver().eval()
    for batch in reversed(batches):
        observer(torch.tensor(batch))
    together(torch.tensor(list(itertools.chain(*batches))))
    for name in ("low", "high", "exponent", "counts"):
        assert torch.equal(getattr(observer, name), getattr(together, name))
    assert int(observer.counts.sum()) == sum(map(len, batches))


def test_counts_are_those_of_a_histogram() -> None:
    x = SAMPLES["normal"]
    observer = HistogramObserver().eval()
    observer(x)
    reach = 2.0 ** int(observer.exponent)
    expected = torch.histc(x.double(), BINS, -reach, reach).long()
    assert torch.equal(observer.counts[0], expected)
    assert x.abs().max() < reach <= 2 * x.abs().max()


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("name", SAMPLES)
def test_no_more_error_than_torchs(name: str, bits: int) -> None:
    x = SAMPLES[name]
    ours = HistogramObserver().eval()
    theirs = TorchHistogram(dtype=torch.quint8, quant_min=0, quant_max=2**bits - 1)
    for batch in x.split(10_000):
        ours(batch)
        theirs(batch)
    scale, zero_point = theirs.calculate_qparams()
    left = squared_error(x, scale[0], zero_point[0], 0, 2**bits - 1)
    # Our bins take all values in them for their middle; that is a hundredth of a level's error.
    assert error_of(x, ours.qparams(bits, AFFINE)) <= 1.02 * left


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("name", ["normal", "relu", "two-sided-skew", "uniform"])
def test_nearly_the_least_error(name: str, bits: int) -> None:
    x = SAMPLES[name][:5000]
    observer = HistogramObserver().eval()
    observer(x)
    low, high = float(x.min()), float(x.max())
    steps = [i / 20 for i in range(1, 21)]
    grid = []
    for a, b in itertools.product(steps if low < 0 else [0.0], steps):
        scale = torch.tensor((b * high - a * low) / (2**bits - 1))
        zero_point = torch.round(-a * low / scale)
        grid.append(squared_error(x, scale, zero_point, 0, 2**bits - 1))
    assert error_of(x, observer.qparams(bits, AFFINE)) <= 1.05 * min(grid)


def test_symmetric_range() -> None:
    x = SAMPLES["normal"]
    observer = HistogramObserver().eval()
    observer(x)
    p = observer.qparams(2, SYMMETRIC)
    assert int(p.zero_point) == 0
    grid = [
        squared_error(x, torch.tensor(s / 20), torch.zeros(()), p.qmin, p.qmax)
        for s in range(1, 100)
    ]
    assert error_of(x, p) <= 1.02 * min(grid)


def test_each_channel_has_its_own() -> None:
    x = torch.stack([normal(4000), 100 * normal(4000, seed=1)])
    both = HistogramObserver(axis=1, channels=2).eval()
    both(x.T)
    p = both.qparams(4, QScheme.PER_CHANNEL_AFFINE)
    for channel in range(2):
        one = HistogramObserver().eval()
        one(x[channel])
        assert torch.equal(one.qparams(4, AFFINE).scale, p.scale[channel])


def test_a_range_is_searched_once() -> None:
    """A forward of a model in use must not pay for the search; more data must not be missed."""
    observer = HistogramObserver().eval()
    observer(SAMPLES["normal"])
    first = observer.qparams(8, AFFINE)
    observer.freeze()
    observer(10 * SAMPLES["normal"])
    assert observer.qparams(8, AFFINE) is first
    assert observer.qparams(4, AFFINE) is not first
    observer.train()(10 * SAMPLES["normal"])
    assert observer.qparams(8, AFFINE).scale > first.scale


def test_made_in_inference_mode() -> None:
    with torch.inference_mode():
        observer = HistogramObserver().eval()
        observer(SAMPLES["normal"])
        first = observer.qparams(8, AFFINE)
        observer(10 * SAMPLES["normal"])
        assert observer.qparams(8, AFFINE).scale > first.scale


def test_a_range_found_in_inference_mode_serves_in_training() -> None:
    observer = HistogramObserver()
    activation = AffineActivation(8, observer)
    with torch.inference_mode():
        activation.eval()(SAMPLES["normal"])
    observer.enabled = False
    x = SAMPLES["normal"].clone().requires_grad_()
    levels, scale = activation.train()(x)
    (levels * scale).sum().backward()
    assert x.grad is not None
    assert x.grad.mean() > 0.9


# --- percentiles -----------------------------------------------------------------------------------


@pytest.mark.parametrize("percentile", [60.0, 99.0, 99.9])
@pytest.mark.parametrize("name", ["normal", "relu", "two-sided-skew"])
def test_percentile(name: str, percentile: float) -> None:
    x = SAMPLES[name]
    observer = PercentileObserver(percentile=percentile).eval()
    for batch in x.split(7000):
        observer(batch)
    low, high = x.double().quantile(torch.tensor([1 - percentile / 100, percentile / 100]).double())
    scale = observer.qparams(8, AFFINE).scale
    bin_width = 2.0 ** int(observer.exponent) * 2 / BINS
    expected = (max(float(high), 0) - min(float(low), 0)) / 255
    assert abs(float(scale) - expected) <= 2 * bin_width / 255


def test_all_percent_are_the_whole_range() -> None:
    x = SAMPLES["outlier"]
    observer = PercentileObserver(percentile=100).eval()
    observer(x)
    assert float(observer.qparams(8, AFFINE).scale) == float((x.max() - x.min()) / 255)


@pytest.mark.parametrize("percentile", [50, 0, 101, float("nan")])
def test_no_such_percentile(percentile: float) -> None:
    with pytest.raises(QCompileError, match="above 50 and no more than 100"):
        PercentileObserver(percentile=percentile)
