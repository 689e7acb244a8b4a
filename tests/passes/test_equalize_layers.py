"""Cross-layer equalization: the same network in real numbers, with channels of one size."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import GraphModule

import qcompile
from qcompile import Recipe
from qcompile.calibration import calibrate
from qcompile.ir.graph import text, trace
from qcompile.passes.base import Result
from qcompile.passes.canonicalize import Canonicalize
from qcompile.passes.choose_quantized import ChooseQuantized
from qcompile.passes.equalize_layers import EqualizeLayers

IMAGE = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    def __init__(self, between: Callable[[Any, Tensor], Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.between = between
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.between(self, x)


def planned(model: nn.Module, x: Tensor = IMAGE, **recipe: Any) -> GraphModule:
    graph = Canonicalize()(trace(model, [x])).graph
    return ChooseQuantized(Recipe(**{"bits": 8, **recipe}))(graph).graph


def uneven(layer: nn.Module) -> Any:
    """Channels of sizes from 1/100 to 100."""
    with torch.no_grad():
        for value in layer.parameters():
            value.mul_(torch.logspace(-2, 2, len(value)).reshape(-1, *[1] * (value.dim() - 1)))
    return layer


def equalized(model: nn.Module, x: Tensor = IMAGE, **recipe: Any) -> Result:
    """Of the traced model; what it computes must not change."""
    graph = planned(model.eval(), x, **recipe)
    before = copy.deepcopy(graph)
    result = EqualizeLayers()(graph)
    assert text(result.graph) == text(before)
    expected = before(x).detach()
    torch.testing.assert_close(
        result.graph(x), expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max())
    )
    torch.testing.assert_close(before.state_dict(), graph.state_dict(), rtol=0, atol=0)
    return result


def ranges(gm: GraphModule, layer: str, columns: bool = False) -> Tensor:
    weight = gm.get_parameter(f"{layer}.weight")
    return (weight.movedim(1, 0) if columns else weight).flatten(1).abs().amax(1)


def test_both_ranges_become_their_geometric_mean() -> None:
    model = Net(
        lambda m, x: m.second(F.relu(m.first(x))),
        first=uneven(nn.Conv2d(3, 6, 3)),
        second=nn.Conv2d(6, 5, 3),
    )
    r1, r2 = ranges(planned(model), "first"), ranges(planned(model), "second", columns=True)
    result = equalized(model)
    assert result.rewrote == ["second"]
    wanted = (r1 * r2).sqrt()
    torch.testing.assert_close(ranges(result.graph, "first"), wanted, rtol=1e-5, atol=0)
    torch.testing.assert_close(ranges(result.graph, "second", True), wanted, rtol=1e-5, atol=0)


def test_doing_it_twice_changes_nothing_more() -> None:
    model = Net(
        lambda m, x: m.c(F.relu(m.b(F.relu(m.a(x))))),
        a=uneven(nn.Conv2d(3, 6, 3)),
        b=uneven(nn.Conv2d(6, 6, 3)),
        c=nn.Conv2d(6, 5, 1),
    )
    once = equalized(model).graph
    twice = EqualizeLayers()(once).graph
    for name, value in once.named_parameters():
        torch.testing.assert_close(twice.get_parameter(name), value, rtol=5e-3, atol=1e-6)


BETWEEN: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "nothing": lambda m, x: x,
    "relu": lambda m, x: F.relu(x),
    "leaky relu": lambda m, x: F.leaky_relu(x, 0.1),
    "prelu": lambda m, x: m.prelu(x),
    "pools": lambda m, x: F.avg_pool2d(F.max_pool2d(F.relu(x), 2), 1),
    "zeros": lambda m, x: F.pad(F.relu(x), [1, 1, 1, 1]),
    "dropout": lambda m, x: F.dropout(F.relu(x), training=m.training),
}


@pytest.mark.parametrize("name", BETWEEN)
@pytest.mark.parametrize("norm", [False, True])
def test_what_scales_with_its_input(name: str, norm: bool) -> None:
    between = BETWEEN[name]
    bn = uneven(nn.BatchNorm2d(6))
    bn.running_mean, bn.running_var = torch.randn(6), torch.rand(6) + 0.5
    model = Net(
        lambda m, x: m.second(between(m, m.norm(m.first(x)))),
        first=uneven(nn.Conv2d(3, 6, 3)),
        norm=bn if norm else nn.Identity(),
        prelu=nn.PReLU(6),
        second=nn.Conv2d(6, 5, 3),
    )
    before = ranges(planned(model), "second", columns=True)
    result = equalized(model)
    assert result.rewrote == ["second"]
    assert not torch.allclose(ranges(result.graph, "second", columns=True), before)


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_groups_have_columns_of_their_own(groups: int) -> None:
    model = Net(
        lambda m, x: m.second(F.relu(m.first(x))),
        first=uneven(nn.Conv2d(3, 6, 3)),
        second=nn.Conv2d(6, 12, 3, groups=groups),
    )
    assert equalized(model).rewrote == ["second"]


def test_a_linear_layer_reads_each_channel_at_every_place() -> None:
    model = Net(
        lambda m, x: m.last(F.relu(m.fc(F.max_pool2d(m.conv(x), 2).flatten(1)))),
        conv=uneven(nn.Conv2d(3, 6, 3)),
        fc=uneven(nn.Linear(54, 7)),
        last=nn.Linear(7, 2),
    )
    assert equalized(model).rewrote == ["fc", "last"]


def test_a_channel_that_is_dead_keeps_its_weights() -> None:
    first, second = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 5, 3)
    with torch.no_grad():
        first.weight[2] = 0
        second.weight[:, 4] = 0
    result = equalized(Net(lambda m, x: m.second(F.relu(m.first(x))), first=first, second=second))
    assert torch.equal(result.graph.get_parameter("second.weight")[:, 2], second.weight[:, 2])
    assert torch.equal(result.graph.get_parameter("first.weight")[4], first.weight[4])
    assert all(value.isfinite().all() for value in result.graph.parameters())


# --- left alone ----------------------------------------------------------------------------------


def test_a_clip_is_declined() -> None:
    model = Net(
        lambda m, x: m.second(F.relu6(m.first(x))),
        first=nn.Conv2d(3, 6, 3),
        second=nn.Conv2d(6, 5, 3),
    )
    result = equalized(model)
    assert result.rewrote == []
    assert result.declined == {"first": "is not equalized: a clip does not scale"}


ALONE: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "added to": lambda m, x: m.second(m.first(x) + 1),
    "a sigmoid": lambda m, x: m.second(torch.sigmoid(m.first(x))),
    "called twice": lambda m, x: m.third(F.relu(m.third(F.relu(m.first(x))))),
    "ones beyond the border": lambda m, x: m.second(F.pad(m.first(x), [1, 1, 1, 1], value=1.0)),
}


@pytest.mark.parametrize("name", ALONE)
def test_what_does_not_scale_or_is_read_elsewhere_is_left_alone(name: str) -> None:
    model = Net(
        ALONE[name],
        first=nn.Conv2d(3, 6, 3),
        second=nn.Conv2d(6, 5, 3),
        third=nn.Conv2d(6, 6, 1),
    )
    assert equalized(model).rewrote == []


SEQUENCE = torch.randn(4, 3, 6, generator=torch.Generator().manual_seed(0))
MIXED: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "features last, flattened": lambda m, x: m.wide(F.relu(m.fc(x)).flatten(1)),
    "features last, pooled": lambda m, x: m.narrow(F.max_pool1d(m.fc(x), 2).flatten(1)),
    "features last, averaged": lambda m, x: m.few(m.fc(x).mean(2)),
    "channels taken for places": lambda m, x: m.point(F.max_pool2d(m.conv(x), 2)),
}


@pytest.mark.parametrize("name", MIXED)
def test_what_mixes_channels_is_left_alone(name: str) -> None:
    model = Net(
        MIXED[name],
        fc=uneven(nn.Linear(6, 6)),
        conv=uneven(nn.Conv1d(3, 6, 1)),
        wide=nn.Linear(18, 5),
        narrow=nn.Linear(9, 5),
        few=nn.Linear(3, 5),
        point=nn.Conv1d(3, 5, 1),
    )
    assert equalized(model, SEQUENCE).rewrote == []


def test_a_bias_of_two_layers_is_left_alone() -> None:
    first, second, twin = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 1), nn.Conv2d(3, 6, 3)
    twin.bias = first.bias
    model = Net(
        lambda m, x: m.second(F.relu(m.first(x))) + m.twin(x),
        first=uneven(first),
        second=second,
        twin=twin,
    )
    assert equalized(model).rewrote == []


def test_a_result_with_two_readers_is_left_alone() -> None:
    model = Net(
        lambda m, x: m.second(y := m.first(x)) + m.third(y),
        first=nn.Conv2d(3, 6, 3),
        second=nn.Conv2d(6, 5, 1),
        third=nn.Conv2d(6, 5, 1),
    )
    assert equalized(model).rewrote == []


def test_signs_and_floats_are_left_alone() -> None:
    model = Net(
        lambda m, x: m.d(F.relu(m.c(F.relu(m.b(F.relu(m.a(x))))))),
        a=nn.Conv2d(3, 6, 3),
        b=nn.Conv2d(6, 6, 1),
        c=nn.Conv2d(6, 6, 1),
        d=nn.Conv2d(6, 2, 1),
    )
    result = equalized(model, bits=1, overrides={"c": "float"})
    assert result.rewrote == ["d"]  # the last layer has 8 bits


# --- what it is for ------------------------------------------------------------------------------


def test_it_saves_a_depthwise_network_of_uneven_channels() -> None:
    torch.manual_seed(0)
    depthwise = nn.Conv2d(24, 24, 3, groups=24)
    with torch.no_grad():  # what expand makes large, depthwise makes small again
        depthwise.weight.div_(torch.logspace(-2, 2, 24).reshape(-1, 1, 1, 1))
    model = Net(
        lambda m, x: m.head(F.relu(m.depthwise(F.relu(m.expand(x)))).mean((2, 3))),
        expand=uneven(nn.Conv2d(3, 24, 1)),
        depthwise=depthwise,
        head=nn.Linear(24, 4),
    ).eval()
    x = torch.randn(64, 3, 8, 8)
    errors = []
    for equalize in (False, True):
        prepared = qcompile.prepare(model, x, Recipe(6, mode="static", equalize=equalize))
        calibrate(prepared, [x])
        errors.append(float((prepared(x) - model(x)).detach().square().mean()))
    assert errors[1] < 0.2 * errors[0]
