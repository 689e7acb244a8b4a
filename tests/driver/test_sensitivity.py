"""What each layer costs in accuracy: the numbers, the tables, the file."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from rich.console import Console
from small_nets import generator
from torch import Tensor, nn
from torch.nn import functional as F

import qcompile
from qcompile import Recipe, Sensitivity, cli
from qcompile.sensitivity_analysis import decibels
from qcompile.sensitivity_network import Network
from qcompile.sensitivity_noise import Noise
from qcompile.sensitivity_report import tables
from qcompile.sensitivity_widths import FLOAT, Width, parse, pattern_of, widths_of

X = torch.randn(32, 3, 8, 8, generator=generator(1))


class Plain(nn.Module):
    """Two convolutions with BatchNorm, a linear layer, and two that share a weight."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
        self.Linear = nn.Conv2d(8, 8, 3)  # the name of a kind
        self.norm = nn.BatchNorm2d(8)
        self.shared = nn.Linear(128, 128)
        self.head = nn.Linear(128, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm(self.Linear(self.first(x)))).flatten(1)
        return self.head(F.relu(self.shared(F.relu(self.shared(y)))))


def trained(model: nn.Module) -> nn.Module:
    """Its BatchNorms have seen data."""
    model.train()
    with torch.no_grad():
        model(X)
    return model.eval()


@pytest.fixture(scope="module")
def found() -> Sensitivity:
    return qcompile.sensitivity(
        trained(Plain()), X[:1], widths=["8", (4, 4), 2], calibration=[X[:16], X[16:]]
    )


def shown(value: object) -> str:
    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    with console.file:
        console.print(value)
    return console.export_text()


# --- networks ------------------------------------------------------------------------------------


def test_an_exported_program_is_measured_as_its_network_is() -> None:
    model = trained(Plain())
    program = torch.export.export(model, (X[:1],))
    seen: list[nn.Module] = []

    def evaluate(network: nn.Module) -> float:
        seen.append(network)
        return float(network(X).mean())

    expected = float(model(X).detach().mean())
    network = Network(program, X[:1], calibration=[X], evaluate=evaluate)
    assert network.float_accuracy == pytest.approx(expected, abs=1e-5)
    assert [plan.layer for plan in network.quantizable] == ["first.0", "Linear", "head"]
    assert len(seen) == 1


def test_biases_are_corrected_where_the_recipe_says_so() -> None:
    recipes = [Recipe(8, method="affine", correct_bias=flag) for flag in (False, True)]
    model, widths = trained(Plain()), {"head": Width(2, 8)}
    plain, corrected = (
        Network(model, X[:1], recipe=recipe, calibration=[X]).quantize(widths) for recipe in recipes
    )
    assert not torch.equal(corrected.get_parameter("head.bias"), plain.get_parameter("head.bias"))


def test_what_does_not_evaluate_is_refused() -> None:
    with pytest.raises(qcompile.QCompileError, match=r"evaluate is 3\n  a function"):
        Network(Plain(), X, evaluate=3)  # type: ignore[arg-type]


# --- widths --------------------------------------------------------------------------------------


def test_one_width_needs_no_list() -> None:
    assert widths_of(8) == widths_of(Width(8, 8)) == (Width(8, 8),)


def test_widths_as_they_are_written() -> None:
    assert widths_of("8,1/4, float,4/32") == (Width(8, 8), Width(1, 4), FLOAT, Width(4, 32))
    assert widths_of([8, "8", (2, 8), Width(2, 8)]) == (Width(8, 8), Width(2, 8))
    for width in (Width(1, 4), Width(8, 8), FLOAT, Width(4, 32)):
        assert parse(str(width)) == width


@pytest.mark.parametrize("path", ["Linear", "a[0]", "block.*", "what?"])
def test_a_pattern_matches_its_layer_alone(path: str) -> None:
    recipe = Recipe(32, overrides={pattern_of(path): 4})
    assert recipe.for_layer(path, "Conv2d") == (4, 4)
    assert recipe.for_layer("a0", "Linear") == recipe.for_layer("block.x", "Linear") == (32, 32)


# --- numbers -------------------------------------------------------------------------------------


def test_noise_by_hand() -> None:
    noise = Noise()
    noise.add(
        (torch.tensor([3.0]), torch.tensor([4.0])), (torch.tensor([3.0]), torch.tensor([4.5]))
    )
    assert noise.ratio == 0.01
    assert decibels(noise.ratio) == pytest.approx(20)
    assert Noise().ratio == 0
    assert decibels(0) == math.inf
    assert Noise(0, 1).ratio == math.inf


def test_more_bits_less_noise(found: Sensitivity) -> None:
    assert [plan.layer for plan in found.layers] == ["first.0", "Linear", "shared", "head"]
    assert found.samples == 32
    for layer in ("first.0", "Linear", "head"):
        measured = found.of(layer)
        noises = [measured[Width(bits, bits)] for bits in (8, 4, 2)]
        for a, b in pairwise(noises):
            assert 0 < a.layer_noise < b.layer_noise
            assert 0 < a.output_noise < b.output_noise
    assert found.of("shared") == {}
    # The last layer's own result is the network's output.
    assert all(m.layer_noise == m.output_noise for m in found.of("head").values())


def test_eight_bits_have_the_noise_that_the_theory_gives(found: Sensitivity) -> None:
    """Bennett: a step d has the noise power d^2 / 12; of weights and activations each."""
    for layer in ("first.0", "Linear", "head"):
        assert 35 < decibels(found.of(layer)[Width(8, 8)].layer_noise) < 55


def test_only_the_layer_that_is_asked_for_is_quantized() -> None:
    network = Network(trained(Plain()), X[:1], calibration=[X])
    plans = network.quantize({"Linear": Width(4, 8)}).meta["plans"]
    assert {p.layer: (p.weight_bits, p.activation_bits) for p in plans.values()} == {
        "first.0": (32, 32),
        "Linear": (4, 8),
        "shared": (32, 32),
        "head": (32, 32),
    }


def test_all_float_has_no_noise_but_rounding() -> None:
    found = qcompile.sensitivity(trained(Plain()), X[:1], widths=["float"], calibration=[X])
    assert all(m.output_noise < 1e-12 and m.layer_noise < 1e-12 for m in found.measured)


def test_the_result_behind_a_batchnorm_is_compared_behind_it() -> None:
    """A quantized layer computes its BatchNorm too: before it, there is nothing to compare."""
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    torch.manual_seed(0)
    trained(net)
    with torch.no_grad():
        net[1].weight.fill_(-7.0)  # type: ignore[operator]
    [m] = qcompile.sensitivity(net, X[:1], widths=[8], calibration=[X]).measured
    assert m.layer_noise == m.output_noise
    assert decibels(m.layer_noise) > 35


def test_the_model_stays_as_it_is() -> None:
    model = trained(Plain()).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    qcompile.sensitivity(model, X[:1], widths=[1], calibration=[X])
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_accuracy_and_its_measurement_moves_no_range() -> None:
    seen: list[float] = []

    def evaluate(network: nn.Module) -> float:
        assert not network.training
        seen.append(network(100 * X).abs().max().item())
        first = network(X)
        network(1e6 * X)
        assert torch.equal(network(X), first)
        return 1.0 - 0.01 * len(seen)

    progress: list[tuple[int, int]] = []
    found = qcompile.sensitivity(
        trained(Plain()),
        X[:1],
        widths=[8, 4],
        calibration=[X],
        evaluate=evaluate,
        progress=lambda *at: progress.append(at),
    )
    assert found.float_accuracy == 0.99
    assert [m.accuracy for m in found.measured] == [1 - 0.01 * n for n in range(2, 8)]
    assert progress == [(1, 3), (2, 3), (3, 3)]
    assert "accuracy, points lost (float: 99.00%)" in shown(found)


def test_samples_are_the_first() -> None:
    asked = []

    def batches() -> Iterator[Tensor]:
        for i in range(4):
            asked.append(i)
            yield X[8 * i : 8 * i + 8]

    network = Network(trained(Plain()), X[:1], calibration=batches(), samples=12)
    assert [batch[0].shape[0] for batch in network.batches] == [8, 4]
    assert torch.equal(torch.cat([x for (x,) in network.batches]), X[:12])
    assert asked == [0, 1]


def test_a_width_that_one_layer_cannot_have_is_refused_there_alone() -> None:
    """The sums of 2^17 products of 8 bits may leave int32."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(1 << 17, 1, bias=False), nn.Linear(1, 4))
    x = torch.randn(2, 2, 1 << 16, generator=generator(0))
    found = qcompile.sensitivity(net, x, widths=[8, 1])
    assert "32-bit sums" in found.of("1")[Width(8, 8)].refused
    assert found.of("1")[Width(1, 1)].refused == ""
    assert all(not m.refused for m in found.of("2").values())
    assert "1 at 8/8: " in shown(found)


# --- shown, and kept -----------------------------------------------------------------------------


def test_tables_name_layers_and_their_lines(found: Sensitivity) -> None:
    text = shown(found)
    assert "network's output, signal to noise in dB (32 samples)" in text
    assert re.search(r"^ first.0 .* test_sensitivity.py:\d+ *$", text, re.MULTILINE)
    assert text.count("test_sensitivity.py:") == 3
    assert "stays float: shared is called twice" in text
    assert text.index("first.0") < text.index("head")


def test_the_most_sensitive_layer_comes_first(found: Sensitivity) -> None:
    layers = [plan.layer for plan in found.sorted("error")]
    assert layers[-1] == "shared"  # nothing was measured
    errors = [math.prod(m.output_noise for m in found.of(x).values()) for x in layers[:-1]]
    assert errors == sorted(errors, reverse=True)
    rows = [line.split() for line in shown(tables(found, "error")).splitlines()]
    named = [row[0] for row in rows if len(row) > 4 and row[1] in ("Conv2d", "Linear")]
    assert named == 2 * layers  # two tables


def test_json(found: Sensitivity) -> None:
    value = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert value["format"] == "qcompile sensitivity"
    assert value["version"] == 1
    assert value["widths"] == ["8/8", "4/4", "2/2"]
    assert value["float_accuracy"] is None
    first, *_ = value["layers"]
    assert set(first) == {"layer", "kind", "weights", "where", "stays_float", "measured"}
    assert first["layer"] == "first.0"
    assert first["weights"] == 216
    m = first["measured"][1]
    assert (m["width"], m["weight_bits"], m["activation_bits"]) == ("4/4", 4, 4)
    assert m["output_sqnr_db"] == pytest.approx(-10 * math.log10(m["output_noise"]))
    assert value["layers"][2]["stays_float"].startswith("shared is called twice")


# --- the command ---------------------------------------------------------------------------------

MODEL = """
import torch
from torch import nn

torch.manual_seed(0)
model = nn.Sequential(nn.Conv2d(2, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 3))
example_inputs = torch.randn(4, 2, 6, 6)

def calibration_data():
    return [(torch.randn(8, 2, 6, 6), "labels") for _ in range(3)]

def evaluate(model, samples=50):
    print("evaluates", samples)
    return 0.5
"""


def test_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(MODEL)
    words = ["sensitivity", "net.py", "--widths", "8,1/4", "--samples", "10", "--json", "net.json"]
    assert cli.main([*words, "--sort", "error"]) == cli.OK
    out, err = capsys.readouterr()
    assert out.count("evaluates 10") == 5
    assert "network's output, signal to noise in dB (10 samples)" in out
    assert "accuracy, points lost (float: 50.00%)" in out
    assert "wrote net.json" in out
    assert "quantize 2 layers, one by one" in err
    value = json.loads(Path("net.json").read_text())
    assert value["model"] == "net"
    assert [layer["layer"] for layer in value["layers"]] == ["0", "3"]

    assert cli.main(["sensitivity", "net.py", "--widths", "8", "--metric", "sqnr"]) == cli.OK
    out, err = capsys.readouterr()
    assert "evaluates" not in out
    assert "accuracy" not in out
    assert "has no calibration_data" not in err
