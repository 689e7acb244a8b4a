"""Every method learns a toy problem; the hooks do what the papers do between steps."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from qcompile import QCompileError, Recipe
from qcompile.quant.activations import (
    AffineActivation,
    LsqActivation,
    PactActivation,
    SignActivation,
    UnitActivation,
)
from qcompile.quant.batchnorm import BatchNorm
from qcompile.quant.layers import QuantConv, QuantLinear
from qcompile.quant.observers import MinMaxObserver
from qcompile.quant.training import (
    LayerHealth,
    TrainingDoctor,
    centre_weights,
    clip_weights,
    disable_observer,
    enable_observer,
    freeze_after,
    freeze_bn_stats,
    quant_layers,
    update_bn_stats,
)
from qcompile.quant.weights import (
    AffineWeight,
    DorefaWeight,
    MagnitudeSignWeight,
    TernaryWeight,
    WeightQuantizer,
    XnorWeight,
)

RECIPES = {
    "bireal": Recipe(1),
    "bireal-swish": Recipe(1, estimator="swish"),
    "xnor": Recipe(1, method="xnor"),
    "xnor-k": Recipe(1, method="xnor", k_map=True),
    "dorefa-1": Recipe(1, method="dorefa"),
    "dorefa-2-4-6": Recipe(2, activation_bits=4, gradient_bits=6, method="dorefa"),
    "ternary": Recipe(1, weight_bits=2, ternary_weights=True),
    "affine-4": Recipe(4, method="affine"),
    "affine-8": Recipe(8, method="affine"),
    "lsq-2": Recipe(2, method="lsq"),
    "lsq-3-8": Recipe(3, activation_bits=8, method="lsq"),
    "pact-4": Recipe(4, method="pact"),
    "pact-2": Recipe(2, weight_bits=3, method="pact"),
    "weight-only": Recipe(2, mode="weight-only"),
    "percentile": Recipe(4, observer="percentile"),
}


def network(recipe: Recipe) -> nn.Sequential:
    weight_bits, activation_bits = recipe.for_layer("body", "Conv2d")

    def pair() -> tuple[nn.Module, WeightQuantizer]:
        return recipe.activation(activation_bits), recipe.weight_quantizer(weight_bits)

    def norm(channels: int) -> nn.Module:
        return BatchNorm.from_float(nn.BatchNorm2d(channels))

    options = {"gradient_bits": recipe.gradient_bits, "k_map": recipe.k_map}
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        norm(8),
        QuantConv.from_float(nn.Conv2d(8, 16, 3, stride=2, bias=False), *pair(), **options),  # type: ignore[arg-type]
        norm(16),
        nn.Flatten(),
        QuantLinear.from_float(nn.Linear(16 * 9, 4), *pair(), **options),  # type: ignore[arg-type]
        BatchNorm.from_float(nn.BatchNorm1d(4)),
    )


def quadrants() -> tuple[Tensor, Tensor]:
    """In which quarter of an 8 x 8 picture the bright spot is."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 4, (64,), generator=generator)
    pictures = 0.3 * torch.randn(64, 1, 8, 8, generator=generator)
    for picture, label in zip(pictures, labels.tolist(), strict=True):
        row, column = 4 * (label // 2), 4 * (label % 2)
        picture[0, row : row + 4, column : column + 4] += 1
    return pictures, labels


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES.keys())
def test_the_loss_goes_down(recipe: Recipe) -> None:
    torch.manual_seed(0)
    model = network(recipe)
    pictures, labels = quadrants()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    clip_weights(optimizer, model)
    centre_weights(optimizer, model)
    losses = []
    for _ in range(25):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(pictures), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    with torch.no_grad():
        accuracy = (model.eval()(pictures).argmax(1) == labels).float().mean()
    assert accuracy > 0.9


# --- hooks -----------------------------------------------------------------------------------------


def linear(weight: Tensor, quantizer: WeightQuantizer) -> QuantLinear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    with torch.no_grad():
        layer.weight.copy_(weight)
    return QuantLinear.from_float(layer, SignActivation(), quantizer)


def still(model: nn.Module) -> torch.optim.Optimizer:
    """An optimizer whose step changes nothing by itself."""
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    return torch.optim.SGD(model.parameters(), lr=0.0)


WIDE = torch.tensor([[-3.0, 0.5, 2.0], [0.1, -1.5, 0.2]])


@pytest.mark.parametrize(
    ("quantizer", "clipped"),
    [
        (MagnitudeSignWeight(), True),
        (XnorWeight(), True),
        (TernaryWeight(), True),
        (DorefaWeight(1), False),
        (DorefaWeight(4), False),
    ],
    ids=["magnitude", "xnor", "ternary", "dorefa-1", "dorefa-4"],
)
def test_clip_weights(quantizer: WeightQuantizer, clipped: bool) -> None:
    layer = linear(WIDE, quantizer)
    optimizer = still(layer)
    handle = clip_weights(optimizer, layer)
    optimizer.step()
    expected = WIDE.clamp(-1, 1) if clipped else WIDE
    assert torch.equal(layer.weight, expected)
    handle.remove()
    with torch.no_grad():
        layer.weight.fill_(7)
    optimizer.step()
    assert (layer.weight == 7).all()


def test_centre_weights() -> None:
    weight = torch.randn(3, 4, 2, 2) + 0.5
    conv = nn.Conv2d(4, 3, 2, bias=False)
    with torch.no_grad():
        conv.weight.copy_(weight)
    layer = QuantConv.from_float(conv, SignActivation(), XnorWeight())
    optimizer = still(layer)
    centre_weights(optimizer, layer)
    optimizer.step()
    assert torch.equal(layer.weight, (weight - weight.mean(1, keepdim=True)).clamp(-1, 1))


def test_centring_leaves_others_alone() -> None:
    one_channel = QuantConv.from_float(nn.Conv2d(1, 3, 2), SignActivation(), XnorWeight())
    other = linear(WIDE, MagnitudeSignWeight())
    model = nn.ModuleList([one_channel, other])
    before = copy.deepcopy(model.state_dict())
    optimizer = still(model)
    centre_weights(optimizer, model)
    optimizer.step()
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


# --- schedules -------------------------------------------------------------------------------------


def scales(model: nn.Module) -> list[float]:
    return [float(layer.activation.scale()) for layer in quant_layers(model).values()]


def test_observers_stand_still_after_so_many_steps() -> None:
    torch.manual_seed(0)
    model = network(Recipe(4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    handle = freeze_after(optimizer, model, observers=2)
    seen = []
    for factor in (1.0, 2.0, 4.0, 8.0):
        model(factor * torch.randn(8, 1, 8, 8)).sum().backward()
        optimizer.step()
        seen.append(scales(model))
    assert seen[0] != seen[1]
    assert seen[1] == seen[2] == seen[3]
    enable_observer(model)
    handle.remove()
    model(16 * torch.randn(8, 1, 8, 8))
    optimizer.step()
    assert scales(model) != seen[3]


def test_statistics_stand_still_after_so_many_steps() -> None:
    torch.manual_seed(0)
    norm = BatchNorm.from_float(nn.BatchNorm1d(4))
    model = nn.Sequential(nn.Linear(3, 4), norm)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    freeze_after(optimizer, model, norms=1)
    x = 3 * torch.randn(8, 3)
    model(x).sum().backward()
    optimizer.step()
    before = copy.deepcopy(norm.state_dict())
    model.eval().train()
    y = model(x)
    scale, shift = norm.scale_shift()
    assert torch.equal(y, model[0](x) * scale + shift), "no batch statistics in what is computed"
    y.square().sum().backward()
    optimizer.step()
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        assert torch.equal(norm.state_dict()[name], before[name])
    assert not torch.equal(norm.weight, before["weight"]), "its weight is trained"
    update_bn_stats(model)
    model(x)
    assert not torch.equal(norm.running_mean, before["running_mean"])  # type: ignore[arg-type]


def test_frozen_statistics_and_an_absorbed_norm() -> None:
    """Train mode computes both modules, whatever the layer absorbs at inference."""
    torch.manual_seed(0)
    layer = QuantConv.from_float(nn.Conv2d(3, 4, 3), *make_affine())
    norm = BatchNorm.from_float(nn.BatchNorm2d(4))
    layer.absorb(norm)
    model, x = nn.Sequential(layer, norm), torch.randn(5, 3, 6, 6)
    model(x)
    freeze_bn_stats(model)
    disable_observer(model)
    with torch.no_grad():
        # Two roundings more than at inference.
        torch.testing.assert_close(model(x), model.eval()(x), rtol=1e-5, atol=1e-6)


def make_affine() -> tuple[AffineActivation, AffineWeight]:
    return AffineActivation(4, MinMaxObserver()), AffineWeight(4)


@pytest.mark.parametrize("steps", [0, -1, True, 1.5])
def test_no_such_step(steps: int) -> None:
    model = network(Recipe(4))
    with pytest.raises(QCompileError, match="not a number of steps above 0"):
        freeze_after(still(model), model, norms=steps)


# --- the doctor ------------------------------------------------------------------------------------


def health(doctor: TrainingDoctor) -> LayerHealth:
    (only,) = doctor.report()
    return only


def test_flip_ratio() -> None:
    model = nn.Sequential(linear(torch.tensor([[1.0, -1.0, 1.0, -1.0]]), XnorWeight()))
    optimizer = still(model)
    doctor = TrainingDoctor(model).attach(optimizer)
    weight = next(model.parameters())
    optimizer.step()
    assert health(doctor).flip_ratio == 0
    with torch.no_grad():
        weight[0, 0] = -1
    optimizer.step()
    assert health(doctor).last_flip_ratio == 0.25
    assert health(doctor).flip_ratio == 0.125
    optimizer.step()
    assert health(doctor).last_flip_ratio == 0
    doctor.reset()
    with torch.no_grad():
        weight.neg_()
    optimizer.step()
    assert health(doctor).flip_ratio == 1
    assert health(doctor).layer == "0"


def test_saturation_and_dead_channels() -> None:
    model = linear(torch.ones(1, 3), XnorWeight())
    doctor = TrainingDoctor(model).attach(still(model))
    model(torch.tensor([[0.5, 2.0, 0.1], [0.1, -3.0, 1.0]]))
    assert health(doctor).saturation == pytest.approx(2 / 6, abs=1e-6)  # float32 mean
    assert health(doctor).dead_channels == (0, 2)
    model(torch.tensor([[0.5, 2.0, -0.1]]))
    assert health(doctor).dead_channels == (0,)
    assert health(doctor).channels == 3
    assert health(doctor).saturation == pytest.approx((2 / 6 + 1 / 3) / 2, abs=1e-6)


def test_saturation_is_the_mask_of_the_gradient() -> None:
    torch.manual_seed(0)
    x = 3 * torch.randn(4, 6)
    edges = torch.tensor([-1.0, 0.0, 1.0])
    affine = Recipe(4).activation(4)
    affine(torch.tensor([-1.0, 2.0]))
    affine.eval()
    lsq, pact = LsqActivation(3), PactActivation(3)
    lsq(x)
    pact(x)
    unit = UnitActivation(2)
    for activation in (SignActivation("ste"), SignActivation("approx"), unit, affine, lsq, pact):
        # ApproxSign's slope is 0 at ±1, where its mask begins.
        smooth = isinstance(activation, SignActivation) and activation.estimator == "approx"
        points = (x.flatten() if smooth else torch.cat([x.flatten(), edges])).requires_grad_()
        (g,) = torch.autograd.grad(activation(points)[0].sum(), points)
        assert torch.equal(activation.saturated(points), g == 0)


def test_doctor_looks_at_training_only_and_detaches() -> None:
    model = linear(torch.ones(1, 2), XnorWeight())
    optimizer = still(model)
    doctor = TrainingDoctor(model).attach(optimizer)
    model.eval()(torch.randn(2, 2))
    copy.deepcopy(model).train()(torch.randn(2, 2))
    assert health(doctor).channels == 0
    model.train()(torch.tensor([[2.0, 0.1]]))
    doctor.detach()
    model(torch.randn(2, 2))
    with torch.no_grad():
        model.weight.neg_()
    optimizer.step()
    assert health(doctor) == LayerHealth("", 0.0, 0.0, 0.5, (0, 1), 2)


def test_quant_layers() -> None:
    model = network(Recipe())
    assert list(quant_layers(model)) == ["2", "5"]
