"""Ranges, when they are recorded, and what torch's own observers make of the same data."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.ao.quantization.observer import MinMaxObserver as TorchMinMax
from torch.ao.quantization.observer import MovingAverageMinMaxObserver as TorchMovingAverage
from torch.ao.quantization.observer import PerChannelMinMaxObserver as TorchPerChannel

from qcompile import QCompileError
from qcompile.ir.qparams import QScheme
from qcompile.quant import functions
from qcompile.quant.activations import AffineActivation
from qcompile.quant.histograms import HistogramObserver, PercentileObserver
from qcompile.quant.observers import MinMaxObserver, MovingAverageObserver, Observer

AFFINE = QScheme.PER_TENSOR_AFFINE


def batches(count: int = 5) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    scales = 10 ** (4 * torch.rand(count, generator=generator) - 2)
    return [s * torch.randn(4, 3, 8, generator=generator) + s for s in scales]


@pytest.mark.parametrize("training", [True, False])
def test_min_max_is_torchs(training: bool) -> None:
    ours, theirs = MinMaxObserver().train(training), TorchMinMax(dtype=torch.quint8)
    for x in batches():
        assert ours(x) is x
        theirs(x)
    scale, zero_point = theirs.calculate_qparams()
    p = ours.qparams(8, AFFINE)
    assert torch.equal(p.scale, scale[0])
    assert torch.equal(p.zero_point, zero_point[0])


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("shift", [-3.0, 0.0, 3.0])
def test_each_width_is_torchs(bits: int, shift: float) -> None:
    """Where its symmetric levels are ours, which mirror."""
    largest = 2 ** (bits - 1) - 1
    grids = {
        QScheme.PER_TENSOR_AFFINE: (torch.quint8, 0, 2**bits - 1),
        QScheme.PER_TENSOR_SYMMETRIC: (torch.qint8, -largest, largest),
    }
    x = torch.randn(50, generator=torch.Generator().manual_seed(bits)) + shift
    for qscheme, (dtype, low, high) in grids.items():
        ours = MinMaxObserver()
        theirs = TorchMinMax(
            dtype=dtype, qscheme=getattr(torch, qscheme.value), quant_min=low, quant_max=high
        )
        ours(x)
        theirs(x)
        scale, zero_point = theirs.calculate_qparams()
        p = ours.qparams(bits, qscheme)
        assert (p.qmin, p.qmax) == (low, high)
        assert torch.equal(p.scale, scale[0])
        assert torch.equal(p.zero_point, zero_point[0])


def test_moving_average_is_torchs() -> None:
    ours = MovingAverageObserver(momentum=0.1)
    theirs = TorchMovingAverage(averaging_constant=0.1, dtype=torch.quint8)
    for x in batches():
        ours(x)
        theirs(x)
    scale, zero_point = theirs.calculate_qparams()
    p = ours.qparams(8, AFFINE)
    assert torch.equal(p.scale, scale[0])
    assert torch.equal(p.zero_point, zero_point[0])


@pytest.mark.parametrize("axis", [0, 1])
def test_per_channel_is_torchs(axis: int) -> None:
    grids = {
        QScheme.PER_CHANNEL_AFFINE: (torch.quint8, 0, 255),
        QScheme.PER_CHANNEL_SYMMETRIC: (torch.qint8, -127, 127),
    }
    for qscheme, (dtype, low, high) in grids.items():
        ours = MinMaxObserver(axis=axis, channels=4 - axis)
        theirs = TorchPerChannel(
            ch_axis=axis,
            dtype=dtype,
            qscheme=getattr(torch, qscheme.value),
            quant_min=low,
            quant_max=high,
        )
        for x in batches():
            ours(x)
            theirs(x)
        assert torch.equal(ours.low, theirs.min_val)
        assert torch.equal(ours.high, theirs.max_val)
        scale, zero_point = theirs.calculate_qparams()
        p = ours.qparams(8, qscheme)
        assert p.axis == axis
        assert torch.equal(p.scale, scale)
        assert torch.equal(p.zero_point, zero_point.to(torch.int32))


def test_a_range_holds_zero() -> None:
    observer = MinMaxObserver()
    observer(torch.tensor([2.0, 4.0]))
    p = observer.qparams(2, AFFINE)
    assert float(p.scale) == float(torch.tensor(4.0) / 3)
    assert int(p.zero_point) == 0


def test_calibration_takes_the_whole_range() -> None:
    observer = MovingAverageObserver().eval()
    for x in batches():
        observer(x)
    everything = torch.stack(batches())
    assert torch.equal(observer.low, everything.min())
    assert torch.equal(observer.high, everything.max())


def narrow(observer: Observer) -> tuple[float, float]:
    return float(observer.low), float(observer.high)


KINDS = [MinMaxObserver, MovingAverageObserver, HistogramObserver, PercentileObserver]


@pytest.mark.parametrize("kind", KINDS)
def test_when_it_records(kind: type[Observer]) -> None:
    observer = kind().eval()
    observer(torch.tensor([-1.0, 1.0]))
    observer.freeze()
    observer(torch.tensor([-2.0, 2.0]))
    assert narrow(observer) == (-1, 1)

    observer.train()
    observer(torch.tensor([-2.0, 2.0]))
    trained = narrow(observer)
    assert trained[1] > 1
    observer.eval()
    observer(torch.tensor([-9.0, 9.0]))
    assert narrow(observer) == trained, "evaluation must not widen what training settled"

    observer.train()
    observer.enabled = False
    observer(torch.tensor([-9.0, 9.0]))
    assert narrow(observer) == trained


@pytest.mark.parametrize("kind", KINDS)
def test_one_constant_batch(kind: type[Observer]) -> None:
    """Without a width there is no scale to be had: 0 is level 0, and nothing else has to fit."""
    for value, level in ((0.0, 0), (3.0, 255), (-3.0, -255)):
        observer = kind().eval()
        observer(torch.full((4, 5), value))
        p = observer.qparams(8, AFFINE)
        levels = functions.centred_levels(torch.tensor(value), p.scale, *p.centred())
        assert int(levels) == level
        assert abs(float(levels * p.scale) - value) <= float(p.scale)


@pytest.mark.parametrize("kind", KINDS)
def test_state_dict_and_copies_keep_everything(kind: type[Observer]) -> None:
    observer = kind()
    observer(torch.tensor([-1.0, 3.0]))
    expected = observer.qparams(8, AFFINE)
    observer.freeze()
    twin = kind()
    twin.load_state_dict(observer.state_dict())
    for other in (twin, copy.deepcopy(observer)):
        assert other.qparams(8, AFFINE) == expected
        assert bool(other.frozen)
        other(torch.tensor([-5.0, 5.0]))
        assert other.qparams(8, AFFINE).scale > expected.scale
    assert narrow(observer) == (-1, 3)
    assert observer.qparams(8, AFFINE) == expected


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_fake_tensors_leave_no_trace(kind: type[Observer], training: bool) -> None:
    observer = kind().train(training)
    observer.freeze()
    before = copy.deepcopy(observer.state_dict())
    with FakeTensorMode(allow_non_fake_inputs=True):
        observer(torch.randn(3))
        assert observer.estimate(8, AFFINE).scale.shape == ()
    for name, value in observer.state_dict().items():
        assert torch.equal(value, before[name])
    assert type(observer.estimate(8, AFFINE).scale) is Tensor


def test_gradient_passes_untouched() -> None:
    x = torch.randn(4, requires_grad=True)
    MovingAverageObserver()(x).sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, torch.ones(4))


def test_never_observed() -> None:
    with pytest.raises(QCompileError, match="never observed") as caught:
        MinMaxObserver(layer="features.0").qparams(8, AFFINE)
    assert caught.value.where == "features.0"
    assert caught.value.hint is not None


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_not_finite(kind: type[Observer], bad: float, training: bool) -> None:
    observer = kind(layer="features.0").train(training)
    observer(torch.tensor([0.0, bad]))
    observer(torch.tensor([0.0, 1.0]))
    with pytest.raises(QCompileError, match="NaN or infinity") as caught:
        observer.qparams(8, AFFINE)
    assert caught.value.where == "features.0"


def test_no_channels() -> None:
    observer = MinMaxObserver(axis=1, channels=3, layer="fc")
    with pytest.raises(QCompileError, match="dimension 1 of a 1-dimensional tensor") as caught:
        observer(torch.randn(3))
    assert caught.value.where == "fc"
    with pytest.raises(QCompileError, match="dimension 1 has 4 channels, not 3"):
        observer(torch.randn(2, 4))


def test_channels_of_activations_are_refused() -> None:
    with pytest.raises(QCompileError, match="a scale for each channel"):
        AffineActivation(8, MinMaxObserver(axis=1, channels=3))
