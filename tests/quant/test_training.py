"""Every method learns a toy problem; the hooks do what the papers do between steps."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from qcompile import Recipe
from qcompile.quant.activations import SignActivation, UnitActivation
from qcompile.quant.layers import BatchNorm, QuantConv, QuantLinear
from qcompile.quant.training import (
    LayerHealth,
    TrainingDoctor,
    centre_weights,
    clip_weights,
    quant_layers,
)
from qcompile.quant.weights import (
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
    for activation in (SignActivation("ste"), SignActivation("approx"), UnitActivation(2), affine):
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
