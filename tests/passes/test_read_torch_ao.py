"""Models that torch.ao's stubs, observers or fake-quantized layers are in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from rewriting import check_ignores, check_rewrite
from torch import Tensor, nn
from torch.ao import quantization as ao
from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx, prepare_qat_fx
from torch.fx import GraphModule

import qcompile
from qcompile import QCompileError, Recipe
from qcompile.calibration import calibrate
from qcompile.ir.graph import calls, text, trace
from qcompile.ir.stages import dialect
from qcompile.ir.torch_ao import without_observers
from qcompile.passes.one_bit import argument
from qcompile.passes.read_torch_ao import NO_QCONFIG, OUTSIDE, ReadTorchAo

# torch.ao says that it moves to torchao, and warns of its own choices.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

X = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        yield


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.conv2, self.fc = nn.Conv2d(4, 4, 3), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.conv1(x)))
        x = torch.relu(self.conv2(x))
        return self.fc(x.mean((2, 3)))


class Stubbed(nn.Module):
    """conv1 stands before the stub, fc behind the other."""

    def __init__(self) -> None:
        super().__init__()
        self.quant, self.dequant = ao.QuantStub(), ao.DeQuantStub()
        self.add = torch.ao.nn.quantized.FloatFunctional()
        self.conv1, self.conv2, self.conv3 = (
            nn.Conv2d(3, 4, 3),
            nn.Conv2d(4, 4, 3),
            nn.Conv2d(4, 4, 1),
        )
        self.relu, self.fc = nn.ReLU(), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.quant(self.conv1(x))
        x = self.relu(self.conv2(x))
        x = self.dequant(self.add.add(self.conv3(x), x))
        return self.fc(x.mean((2, 3)))


def read(model: nn.Module) -> GraphModule:
    return ReadTorchAo()(trace(without_observers(model), [X])).graph


# --- stubs ---------------------------------------------------------------------------------------


def test_stubs_go_and_leave_hints() -> None:
    after = check_rewrite(
        ReadTorchAo(),
        Stubbed().eval(),
        """
        %0 = placeholder x() : f32[4,3,8,8]
        %1 = call_module conv1:Conv2d(%0) : f32[4,4,6,6]
        %2 = call_module conv2:Conv2d(%1) : f32[4,4,4,4]
        %3 = call_module relu:ReLU(%2) : f32[4,4,4,4]
        %4 = call_module conv3:Conv2d(%3) : f32[4,4,4,4]
        %5 = call_function add(%4, %3) : f32[4,4,4,4]
        %6 = call_module add.activation_post_process:Identity(%5) : f32[4,4,4,4]
        %7 = call_method mean(%6, [2, 3]) : f32[4,4]
        %8 = call_module fc:Linear(%7) : f32[4,2]
        return %8
        """,
        X,
    )
    assert after.meta["float_layers"] == {"conv1": OUTSIDE, "fc": OUTSIDE}


def test_layers_outside_of_the_stubs_stay_float_and_say_why() -> None:
    plans = qcompile.prepare(Stubbed(), X, Recipe(8)).meta["plans"]
    bits = {layer: (plan.weight_bits, plan.reason) for layer, plan in plans.items()}
    assert bits == {
        "conv1": (32, OUTSIDE),
        "conv2": (8, ""),
        "conv3": (8, ""),
        "fc": (32, OUTSIDE),
    }


def test_an_override_wins_over_a_stub() -> None:
    recipe = Recipe(8, overrides={"conv1": 4, "Linear": 8})
    plans = qcompile.prepare(Stubbed(), X, recipe).meta["plans"]
    assert [plan.weight_bits for plan in plans.values()] == [4, 8, 8, 8]


def test_a_model_without_any_of_it_is_left_alone() -> None:
    check_ignores(ReadTorchAo(), Plain().eval(), X)
    assert read(Plain()).meta["float_layers"] == {}


def test_a_stubbed_model_compiles() -> None:
    model = Stubbed().eval()
    program = qcompile.compile(model, X, bits=8)
    assert (program(X) - model(X)).abs().max() < 0.05 * model(X).abs().max()


# --- eager mode ----------------------------------------------------------------------------------


def eager(prepare: Callable[..., Any], qconfig: Any, mode: bool) -> nn.Module:
    model: Any = Stubbed().train(mode)
    model.qconfig = qconfig
    model.conv3.qconfig = None
    fuse = ao.fuse_modules_qat if mode else ao.fuse_modules
    return prepare(fuse(model, [["conv2", "relu"]]))


def test_an_eager_model_that_was_prepared() -> None:
    model = eager(ao.prepare, ao.get_default_qconfig("fbgemm"), mode=False)
    model(X)
    after = read(model)
    assert not any("Observer" in line or "Stub" in line for line in text(after).splitlines())
    assert after.meta["float_layers"] == {"conv1": OUTSIDE, "fc": OUTSIDE, "conv3": NO_QCONFIG}
    torch.testing.assert_close(after(X), model(X), rtol=0, atol=0)


def test_an_eager_model_in_training() -> None:
    model = eager(ao.prepare_qat, ao.get_default_qat_qconfig("fbgemm"), mode=True)
    model(X)
    after = read(model.eval())
    assert "conv2:Conv2d" in text(after)
    assert "qat" not in text(after)
    weight = model.get_parameter("conv2.weight")
    assert torch.equal(after.get_parameter("conv2.weight"), weight)
    # Its fake quantization is gone: close, not equal.
    assert (after(X) - model(X)).abs().max() < 0.05 * model(X).abs().max()


def test_a_block_without_a_qconfig() -> None:
    model: Any = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU()))
    model.qconfig = ao.get_default_qconfig("fbgemm")
    model[1].qconfig = None
    assert read(model).meta["float_layers"] == {"1.0": NO_QCONFIG}


# --- FX mode -------------------------------------------------------------------------------------


def test_a_graph_that_was_calibrated_keeps_its_ranges() -> None:
    mapping = ao.get_default_qconfig_mapping("x86").set_module_name("conv2", None)
    observed = prepare_fx(Plain().eval(), mapping, (X,))
    observed(X)
    after = read(observed)
    assert "Observer" not in text(after)
    assert after.meta["float_layers"] == {"conv2": NO_QCONFIG}
    assert set(after.meta["ranges"]) == {"conv1", "fc"}
    assert after.meta["ranges"]["conv1"] == (float(X.min()), float(X.max()))
    torch.testing.assert_close(after(X), observed(X), rtol=0, atol=0)


def scale_of_input(converted: GraphModule) -> float:
    quantizers = [n for n in converted.graph.nodes if calls(n, dialect.quantize.default)]
    [first] = [n for n in quantizers if argument(n).op == "placeholder"]
    return float(str(first.args[1]))


def test_calibrated_ranges_count_where_nothing_else_was_seen() -> None:
    observed = prepare_fx(Plain().eval(), ao.get_default_qconfig_mapping("x86"), (X,))
    observed(3 * X)
    width = float(X.max() - X.min())
    recipe = Recipe(8, mode="static", observer="min-max")
    converted = qcompile.convert(qcompile.prepare(observed, X, recipe))
    assert scale_of_input(converted) == pytest.approx(3 * width / 255)
    program = qcompile.compile(observed, X, recipe=recipe)  # and is not calibrated on X
    expected = observed(X)
    assert torch.equal(program(X), converted(X))
    assert not program.info.notes
    assert (program(X) - expected).abs().max() < 0.1 * expected.abs().max()
    calibrated = qcompile.prepare(observed, X, recipe)
    calibrate(calibrated, [X])
    assert scale_of_input(qcompile.convert(calibrated)) == pytest.approx(width / 255)


def test_a_graph_in_training_becomes_float_layers_with_its_batchnorm_folded() -> None:
    observed = prepare_qat_fx(Plain().train(), ao.get_default_qat_qconfig_mapping("x86"), (X,))
    for _ in range(3):
        observed(X)
    observed.eval()
    after = read(observed)
    assert text(after).count("Conv2d") == 2
    assert "BatchNorm" not in text(after)
    assert "FakeQuantize" not in text(after)
    assert (after(X) - observed(X)).abs().max() < 0.05 * observed(X).abs().max()
    plans = qcompile.prepare(observed, X, Recipe(8)).meta["plans"]
    assert [plan.weight_bits for plan in plans.values()] == [8, 8, 8]


# --- refused -------------------------------------------------------------------------------------


def test_a_layer_that_is_called_twice_has_its_relu_twice() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            qconfig = ao.get_default_qat_qconfig("fbgemm")
            self.conv = torch.ao.nn.intrinsic.qat.ConvReLU2d(3, 3, 3, qconfig=qconfig)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(self.conv(x))

    model = Twice().eval()
    conv = model.conv.to_float()
    torch.testing.assert_close(read(model)(X), conv(conv(X)), rtol=0, atol=0)


def test_a_converted_model_is_refused() -> None:
    observed = prepare_fx(Plain().eval(), ao.get_default_qconfig_mapping("x86"), (X,))
    observed(X)
    message = r"conv1: it is an int8 layer of torch.ao.*converted already\n.*before convert"
    with pytest.raises(QCompileError, match=message):
        qcompile.prepare(convert_fx(observed), X)
