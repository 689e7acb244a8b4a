"""Bias correction: the mean of each channel is that of the float layer."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

import qcompile
from qcompile import Recipe
from qcompile.calibration import calibrate
from qcompile.passes.correct_bias import CorrectBias
from qcompile.quant.correction import float_forward
from qcompile.quant.layers import QuantLayer

X = torch.rand(64, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def network(bias: bool = True, norm: bool = False) -> nn.Module:
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Conv2d(3, 8, 3, bias=bias)]
    if norm:
        bn = nn.BatchNorm2d(8)
        bn.running_mean, bn.running_var = torch.randn(8), torch.rand(8) + 0.5
        nn.init.uniform_(bn.weight, -1, 1)
        layers.append(bn)
    layers += [nn.ReLU(), nn.Conv2d(8, 8, 3, bias=bias), nn.ReLU(), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(128, 4, bias=bias)).eval()


def calibrated(model: nn.Module, **recipe: Any) -> GraphModule:
    prepared = qcompile.prepare(model, X, Recipe(**recipe))
    calibrate(prepared, [X])
    return prepared


def mean_errors(gm: GraphModule, x: Tensor) -> dict[str, Tensor]:
    """Of each layer's channels, against the float layer on the same input."""
    found: dict[str, Tensor] = {}

    def hook(path: str) -> Any:
        def look(layer: QuantLayer, inputs: tuple[Tensor, ...], y: Tensor) -> None:
            error = y - float_forward(layer, inputs[0])
            found[path] = error.transpose(0, 1).flatten(1).mean(1)

        return look

    layers = [(path, m) for path, m in gm.named_modules() if isinstance(m, QuantLayer)]
    handles = [layer.register_forward_hook(hook(path)) for path, layer in layers]
    with torch.no_grad():
        gm(x)
    for handle in handles:
        handle.remove()
    return found


def first_error(gm: GraphModule) -> float:
    return float(mean_errors(gm, X)["0"].abs().max())


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("mode", ["static", "weight-only"])
def test_the_mean_error_of_a_layer_is_gone(bias: bool, norm: bool, mode: str) -> None:
    before = calibrated(network(bias, norm), bits=3, mode=mode, first_last_bits=3)
    after = CorrectBias(((X[:40],), (X[40:],)))(before).graph
    # Up to what the layer's own bias was wrong by: the float layer it is held against has the new one.
    weight, new = before.get_submodule("0"), after.get_submodule("0")
    assert isinstance(weight, QuantLayer)
    assert isinstance(new, QuantLayer)
    with torch.no_grad():
        error = new(X) - float_forward(weight, X)
    assert error.mean((0, 2, 3)).abs().max() < 1e-5
    assert first_error(before) > 1e-3


def test_the_networks_result_is_nearer_to_the_float_one_in_the_mean() -> None:
    model = network()
    before = calibrated(model, bits=3, mode="static", first_last_bits=4)
    after = CorrectBias(((X,),))(before).graph
    with torch.no_grad():
        biases = [(gm(X) - model(X)).mean(0).abs().max() for gm in (before, after)]
    assert biases[1] < 0.3 * biases[0]


def test_the_argument_stays_and_what_is_compiled_is_what_was_corrected() -> None:
    before = calibrated(network(bias=False), bits=4, mode="static")
    untouched = copy.deepcopy(before.state_dict())
    after = CorrectBias(((X,),))(before).graph
    torch.testing.assert_close(before.state_dict(), untouched, rtol=0, atol=0)
    assert set(after.state_dict()) - set(untouched) == {"0.bias", "2.bias", "5.bias"}
    converted = qcompile.convert(after)
    assert torch.equal(converted(X), after(X))
    assert qcompile.verify(qcompile.compile(converted), converted, X).ok


def test_calibrating_again_does_not_correct_again() -> None:
    prepared = calibrated(network(), bits=3, mode="static", correct_bias=True)
    bias = prepared.get_parameter("2.bias").clone()
    calibrate(prepared, [X])
    assert torch.equal(prepared.get_parameter("2.bias"), bias)


def test_signs_are_declined() -> None:
    prepared = calibrated(network(), bits=1)
    result = CorrectBias(((X,),))(prepared)
    assert result.declined == {"2": "its bias is not corrected: signs are no rounding of floats"}
    assert result.rewrote == ["0", "5"]
    weight = prepared.get_parameter("2.bias")
    assert torch.equal(result.graph.get_parameter("2.bias"), weight)


def test_calibration_does_it_where_the_recipe_says_so() -> None:
    model = network()
    plain = calibrated(model, bits=4, mode="weight-only")
    corrected = calibrated(model, bits=4, mode="weight-only", correct_bias=True)
    expected = CorrectBias(((X,),))(plain).graph
    torch.testing.assert_close(corrected.state_dict(), expected.state_dict(), rtol=0, atol=0)
    assert not torch.equal(corrected.get_parameter("2.bias"), plain.get_parameter("2.bias"))
