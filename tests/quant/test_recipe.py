"""Which bits and which quantizers a recipe gives."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from qcompile import QCompileError, Recipe
from qcompile.quant.activations import (
    AffineActivation,
    DynamicActivation,
    FloatActivation,
    LsqActivation,
    PactActivation,
    SignActivation,
    UnitActivation,
)
from qcompile.quant.histograms import HistogramObserver, PercentileObserver
from qcompile.quant.observers import MinMaxObserver, MovingAverageObserver, Observer
from qcompile.quant.weights import (
    AffineWeight,
    DorefaWeight,
    LsqWeight,
    MagnitudeSignWeight,
    TernaryWeight,
    XnorWeight,
)


def test_defaults() -> None:
    recipe = Recipe()
    assert recipe.for_layer("a", "Conv2d") == (1, 1)
    assert recipe.for_layer("a", "Conv2d", is_first=True) == (8, 8)
    assert recipe.for_layer("a", "Linear", is_last=True) == (8, 8)
    assert recipe.gradient_bits == 32
    assert recipe.method == "bireal"


def test_weights_and_activations_apart() -> None:
    recipe = Recipe(4, weight_bits=1, first_last_bits=32)
    assert recipe.for_layer("a", "Conv2d") == (1, 4)
    assert recipe.for_layer("a", "Conv2d", True, False) == (32, 32)
    assert Recipe(activation_bits=8).for_layer("a", "Conv2d") == (1, 8)


def test_float_stays_float_at_the_ends() -> None:
    assert Recipe(32).for_layer("a", "Conv2d", is_first=True) == (32, 32)
    assert Recipe(1, activation_bits=32).for_layer("a", "Linear", is_last=True) == (8, 32)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("features.0", (8, 8)),
        ("features.1", (4, 2)),
        ("features.2.conv", (4, 1)),
        ("head", (32, 32)),
        ("other", (1, 1)),
    ],
)
def test_overrides(path: str, expected: tuple[int, int]) -> None:
    recipe = Recipe(
        overrides={
            "features.*": {"weight_bits": 4},
            "features.[01]": {"activation_bits": 2},
            "features.0": 8,
            "head": "float",
        }
    )
    assert recipe.for_layer(path, "Conv2d") == expected


def test_overrides_win_over_first_and_last() -> None:
    recipe = Recipe(overrides={"fc": 2})
    assert recipe.for_layer("fc", "Linear", is_last=True) == (2, 2)
    partly = Recipe(overrides={"fc": {"weight_bits": 2}})
    assert partly.for_layer("fc", "Linear", is_last=True) == (2, 8)


def test_overrides_by_kind() -> None:
    recipe = Recipe(overrides={"Linear": 4})
    assert recipe.for_layer("fc", "Linear") == (4, 4)
    assert recipe.for_layer("fc", "Conv2d") == (1, 1)
    recipe.check_overrides(["conv"])


def test_the_last_override_that_matches_wins() -> None:
    assert Recipe(overrides={"fc": 2, "*": 4}).for_layer("fc", "Linear") == (4, 4)


def test_check_overrides() -> None:
    recipe = Recipe(overrides={"layer1.*": 8, "fc": 4})
    recipe.check_overrides(["layer1.0.conv1", "fc"])
    with pytest.raises(QCompileError, match=r"'layer1\.\*' matches no") as caught:
        recipe.check_overrides(["layer2.0.conv1", "fc"])
    assert "layer2.0.conv1" in str(caught.value)
    with pytest.raises(QCompileError, match="the model has none"):
        recipe.check_overrides([])
    paths = ["conv1", "classifier.fc", "3"]
    for slip, hint in {
        "clasifier.fc": "did you mean 'classifier.fc'",
        "Linaer": "did you mean 'Linear'",
        "ReLU": "its layers are conv1, classifier.fc, 3",
        "1": "its layers are conv1",
        "conv2": "its layers are conv1",  # a module, but without weights
    }.items():
        with pytest.raises(QCompileError, match=f"matches no conv or linear layer\n  {hint}"):
            Recipe(overrides={slip: 8}).check_overrides(paths, ["conv2", "ReLU"])
    with pytest.raises(QCompileError, match="its layers are 0, 1, 2, 3 and 6 more"):
        Recipe(overrides={"stem": 8}).check_overrides(map(str, range(10)))


def test_overrides_in_the_command_lines_notation() -> None:
    recipe = Recipe(overrides={"a": "2/32", "b": "2/4", "c": "8", "d": "float"})
    found = [recipe.for_layer(layer, "Conv2d") for layer in "abcd"]
    assert found == [(2, 32), (2, 4), (8, 8), (32, 32)]


def test_one_bit_quantizers_by_method() -> None:
    bireal, xnor, dorefa = Recipe(), Recipe(method="xnor"), Recipe(method="dorefa")
    activation = bireal.activation(1)
    assert isinstance(activation, SignActivation)
    assert activation.estimator == "approx"
    activation = xnor.activation(1)
    assert isinstance(activation, SignActivation)
    assert activation.estimator == "ste"
    assert isinstance(dorefa.activation(1), UnitActivation)
    assert isinstance(bireal.weight_quantizer(1), MagnitudeSignWeight)
    assert isinstance(xnor.weight_quantizer(1), XnorWeight)
    assert isinstance(dorefa.weight_quantizer(1), DorefaWeight)


def test_estimator() -> None:
    activation = Recipe(method="xnor", estimator="swish").activation(1)
    assert isinstance(activation, SignActivation)
    assert activation.estimator == "swish"


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("method", ["bireal", "xnor", "affine"])
def test_more_bits_are_affine(method: str, bits: int) -> None:
    recipe = Recipe(bits, method=method)
    activation, weight = recipe.activation(bits), recipe.weight_quantizer(bits)
    assert isinstance(activation, AffineActivation)
    assert isinstance(activation.observer, MovingAverageObserver)
    assert isinstance(weight, AffineWeight)
    assert activation.bits == weight.bits == bits


@pytest.mark.parametrize("bits", range(1, 9))
def test_dorefa_has_its_own_for_all_bits(bits: int) -> None:
    recipe = Recipe(bits, method="dorefa")
    activation, weight = recipe.activation(bits), recipe.weight_quantizer(bits)
    assert isinstance(activation, UnitActivation)
    assert isinstance(weight, DorefaWeight)
    assert activation.bits == weight.bits == bits


def test_dorefa_leaves_the_ends_affine() -> None:
    recipe = Recipe(1, method="dorefa")
    assert isinstance(recipe.activation(8, edge=True), AffineActivation)
    assert isinstance(recipe.weight_quantizer(8, edge=True), AffineWeight)
    assert isinstance(recipe.activation(1, edge=True), UnitActivation)
    assert isinstance(recipe.weight_quantizer(1, edge=True), DorefaWeight)


@pytest.mark.parametrize("bits", range(2, 9))
def test_lsq_learns_both_everywhere(bits: int) -> None:
    recipe = Recipe(bits, method="lsq")
    for edge in (False, True):
        activation, weight = recipe.activation(bits, edge=edge), recipe.weight_quantizer(bits)
        assert isinstance(activation, LsqActivation)
        assert isinstance(weight, LsqWeight)
        assert activation.bits == weight.bits == bits


@pytest.mark.parametrize("bits", range(2, 9))
def test_pact_clips_activations_but_at_the_ends(bits: int) -> None:
    recipe = Recipe(bits, method="pact")
    assert isinstance(recipe.activation(bits), PactActivation)
    assert isinstance(recipe.activation(bits, edge=True), AffineActivation)
    assert isinstance(recipe.weight_quantizer(bits), AffineWeight)


# --- modes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "observer", "expected"),
    [
        ("qat", None, MovingAverageObserver),
        ("static", None, HistogramObserver),
        ("static", "min-max", MinMaxObserver),
        ("static", "moving-average", MovingAverageObserver),
        ("qat", "percentile", PercentileObserver),
        ("qat", "histogram", HistogramObserver),
    ],
)
def test_observers(mode: str, observer: str | None, expected: type[Observer]) -> None:
    activation = Recipe(8, mode=mode, observer=observer).activation(8)
    assert isinstance(activation, AffineActivation)
    assert type(activation.observer) is expected


@pytest.mark.parametrize("method", ["lsq", "pact", "affine", "bireal"])
def test_static_mode_observes_whatever_is_learned_in_training(method: str) -> None:
    recipe = Recipe(4, method=method, mode="static")
    assert isinstance(recipe.activation(4), AffineActivation)
    assert isinstance(recipe.weight_quantizer(4), AffineWeight)


def test_static_mode_leaves_fixed_scales_alone() -> None:
    assert isinstance(Recipe(1, mode="static").activation(1), SignActivation)
    assert isinstance(Recipe(2, method="dorefa", mode="static").activation(2), UnitActivation)


def test_dynamic_mode() -> None:
    recipe = Recipe(8, weight_bits=1, mode="dynamic")
    assert recipe.for_layer("a", "Linear") == (1, 8)
    activation = recipe.activation(8)
    assert isinstance(activation, DynamicActivation)
    assert activation.bits == 8
    assert isinstance(recipe.weight_quantizer(1), MagnitudeSignWeight)


def test_weight_only_mode() -> None:
    recipe = Recipe(4, mode="weight-only", overrides={"fc": 2, "head": {"weight_bits": 3}})
    assert recipe.for_layer("a", "Conv2d") == (4, 32)
    assert recipe.for_layer("a", "Conv2d", is_first=True) == (8, 32)
    assert recipe.for_layer("fc", "Linear") == (2, 32)
    assert recipe.for_layer("head", "Linear") == (3, 32)
    assert isinstance(recipe.activation(32), FloatActivation)
    with_bits = Recipe(4, activation_bits=32, mode="weight-only")
    assert with_bits.for_layer("a", "Linear") == (4, 32)


def test_a_layer_of_weights_alone_in_any_mode() -> None:
    recipe = Recipe(8, overrides={"fc": {"weight_bits": 2, "activation_bits": 32}})
    assert recipe.for_layer("fc", "Linear") == (2, 32)


def test_ternary() -> None:
    recipe = Recipe(weight_bits=2, ternary_weights=True)
    assert isinstance(recipe.weight_quantizer(2), TernaryWeight)
    assert isinstance(recipe.weight_quantizer(8), AffineWeight)
    by_override = Recipe(overrides={"conv": {"weight_bits": 2}}, ternary_weights=True)
    assert isinstance(by_override.weight_quantizer(2), TernaryWeight)


def test_each_call_makes_a_new_module() -> None:
    recipe = Recipe(8)
    assert recipe.activation(8) is not recipe.activation(8)


def test_a_recipe_is_a_value() -> None:
    overrides: dict[str, Any] = {"fc": 8}
    recipe = Recipe(2, overrides=overrides)
    overrides["conv"] = 4
    assert recipe == Recipe(2, overrides={"fc": 8})
    assert dataclasses.replace(recipe, bits=4).for_layer("a", "Linear") == (4, 4)
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe.bits = 3  # type: ignore[misc]


def test_k_map() -> None:
    assert Recipe(method="xnor", k_map=True).k_map


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bits": 0}, "bits must be 1 to 8, or 32 for float, not 0"),
        ({"bits": 9}, "bits must be 1 to 8, or 32 for float, not 9"),
        ({"bits": True}, "bits must be 1 to 8"),
        ({"bits": "1"}, "bits must be 1 to 8"),
        ({"bits": 2.0}, "bits must be 1 to 8"),
        ({"weight_bits": 0}, "weight_bits must be"),
        ({"activation_bits": 16}, "activation_bits must be"),
        ({"gradient_bits": 0}, "gradient_bits must be 1 to 8, or 32"),
        ({"gradient_bits": 16}, "gradient_bits must be 1 to 8, or 32"),
        ({"first_last_bits": 1}, "first_last_bits must be 2 to 8, or 32 for float, not 1"),
        ({"first_last_bits": 9}, "first_last_bits must be"),
        ({"method": "xnornet"}, "unknown method 'xnornet'"),
        ({"method": None}, "unknown method None"),
        ({"estimator": "bnn"}, "unknown estimator 'bnn'"),
        ({"method": "dorefa", "estimator": "ste"}, "no sign activation"),
        ({"method": "affine"}, "'affine' has no 1-bit quantizer"),
        ({"method": "affine", "bits": 8, "weight_bits": 1}, "no 1-bit quantizer"),
        ({"method": "affine", "bits": 8, "overrides": {"fc": 1}}, "no 1-bit quantizer"),
        (
            {"method": "affine", "bits": 8, "overrides": {"fc": {"weight_bits": 1}}},
            "no 1-bit quantizer",
        ),
        ({"method": "lsq"}, "'lsq' has no 1-bit quantizer"),
        ({"method": "pact", "bits": 4, "overrides": {"fc": 1}}, "'pact' has no 1-bit quantizer"),
        ({"mode": "ptq"}, "unknown mode 'ptq'"),
        ({"mode": "dynamic"}, "mode 'dynamic' has no 1-bit activations"),
        ({"mode": "dynamic", "bits": 8, "overrides": {"fc": 1}}, "no 1-bit activations"),
        ({"mode": "weight-only", "activation_bits": 8}, "has no 8-bit activations"),
        ({"bits": 8, "observer": "minmax"}, "unknown observer 'minmax'"),
        ({"bits": 8, "observer": "min-max", "mode": "dynamic"}, "nothing is observed with mode"),
        ({"bits": 8, "observer": "min-max", "mode": "weight-only"}, "nothing is observed"),
        ({"bits": 8, "observer": "min-max", "method": "lsq"}, "nothing is observed with method"),
        ({"bits": 8, "equalize": 1}, "equalize must be True or False, not 1"),
        ({"bits": 8, "correct_bias": None}, "correct_bias must be True or False, not None"),
        (
            {"bits": 4, "method": "dorefa", "equalize": True},
            "equalize is for quantizers that round",
        ),
        ({"bits": 4, "method": "dorefa", "correct_bias": True}, "correct_bias is for quantizers"),
        ({"mode": "weight-only", "equalize": True}, "equalize is for quantized activations"),
        ({"k_map": True}, "k_map belongs to method 'xnor'"),
        ({"ternary_weights": True}, "ternary_weights is for 2-bit weights"),
        ({"bits": 2, "method": "dorefa", "ternary_weights": True}, "ternary_weights is for"),
        ({"bits": 2, "method": "lsq", "ternary_weights": True}, "method 'lsq' has its own"),
        ({"overrides": {"fc": "2/9"}}, r"\['activation_bits'\] must be"),
        ({"overrides": {"fc": "2/"}}, r"overrides\['fc'\]: unknown value '2/'"),
        ({"overrides": ["fc"]}, "overrides must map layers to bits, not be a list"),
        ({"overrides": {1: 8}}, "1 is no module path"),
        ({"overrides": {"": 8}}, "'' is no module path"),
        ({"overrides": {"fc": 9}}, r"overrides\['fc'\] must be 1 to 8"),
        ({"overrides": {"fc": None}}, r"overrides\['fc'\] must be 1 to 8"),
        ({"overrides": {"fc": "fp32"}}, r"overrides\['fc'\]: unknown value 'fp32'"),
        ({"overrides": {"fc": {}}}, "cannot set nothing"),
        ({"overrides": {"fc": {"bits": 4}}}, "cannot set 'bits'"),
        ({"overrides": {"fc": {"weight_bits": 0}}}, r"\['weight_bits'\] must be"),
    ],
)
def test_refusals(options: dict[str, Any], message: str) -> None:
    with pytest.raises(QCompileError, match=message):
        Recipe(**options)


def test_a_misspelt_method_is_guessed() -> None:
    with pytest.raises(QCompileError, match="did you mean 'dorefa'"):
        Recipe(method="dorefanet")


@pytest.mark.parametrize("bits", [0, 9, 33])
def test_no_quantizer_of_such_bits(bits: int) -> None:
    with pytest.raises(QCompileError, match=f"activation bits must be 1 to 8, or 32.*not {bits}"):
        Recipe().activation(bits)
    with pytest.raises(QCompileError, match=f"weight bits must be 1 to 8, not {bits}"):
        Recipe().weight_quantizer(bits)
