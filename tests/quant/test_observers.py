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


def test_per_channel_range_is_torchs() -> None:
    ours, theirs = MinMaxObserver(axis=1, channels=3), TorchPerChannel(ch_axis=1)
    for x in batches():
        ours(x)
        theirs(x)
    assert torch.equal(ours.low, theirs.min_val)
    assert torch.equal(ours.high, theirs.max_val)
    assert ours.qparams(8, QScheme.PER_CHANNEL_AFFINE).scale.shape == (3,)


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


@pytest.mark.parametrize("kind", [MinMaxObserver, MovingAverageObserver])
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


def test_state_dict_and_copies_keep_everything() -> None:
    observer = MovingAverageObserver()
    observer(torch.tensor([-1.0, 3.0]))
    observer.freeze()
    twin = MovingAverageObserver()
    twin.load_state_dict(observer.state_dict())
    for other in (twin, copy.deepcopy(observer)):
        assert other.qparams(8, AFFINE).scale == observer.qparams(8, AFFINE).scale
        assert bool(other.frozen)
        other(torch.tensor([-5.0, 5.0]))
    assert narrow(observer) == (-1, 3)


@pytest.mark.parametrize("training", [True, False])
def test_fake_tensors_leave_no_trace(training: bool) -> None:
    observer = MovingAverageObserver().train(training)
    observer.freeze()
    with FakeTensorMode(allow_non_fake_inputs=True):
        observer(torch.randn(3))
    assert narrow(observer) == (math.inf, -math.inf)
    assert not observer.seen
    assert observer.frozen


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
def test_not_finite(bad: float, training: bool) -> None:
    observer = MovingAverageObserver().train(training)
    observer(torch.tensor([0.0, bad]))
    observer(torch.tensor([0.0, 1.0]))
    with pytest.raises(QCompileError, match="NaN or infinity"):
        observer.qparams(8, AFFINE)
