"""Programs of torch.export: the same graphs as those of the models they were made of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import qcompile
from qcompile import QCompileError, Recipe
from qcompile.ir.exported import graph_of
from qcompile.ir.graph import text, trace
from qcompile.passes.canonicalize import Canonicalize
from qcompile.passes.read_exported import ReadExported
from qcompile.zoo.lenet import lenet
from qcompile.zoo.resnet import resnet18


class SmallNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(2, 4, 3), nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.conv(x)).flatten(1))


IMAGE = torch.linspace(-2, 2, 2 * 2 * 6 * 6).reshape(2, 2, 6, 6)


class Function(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


FUNCTIONS: tuple[Callable[[Tensor], Tensor], ...] = (
    F.relu,
    lambda x: (x + 1).relu_(),
    F.relu6,
    lambda x: F.relu6(x + 1, inplace=True),
    lambda x: torch.clamp(x, -1, 0.5),
    lambda x: x.clamp(min=0),
    lambda x: F.hardtanh(x, -0.5, 0.5),
    lambda x: F.leaky_relu(x, 0.2),
    lambda x: F.leaky_relu(x + 1, 0.2, inplace=True),
    torch.sigmoid,
    torch.tanh,
    F.hardsigmoid,
    F.hardswish,
    F.silu,
    lambda x: F.silu(x * 2, inplace=True),
    F.gelu,
    torch.abs,
    lambda x: -x,
    lambda x: x + 1,
    lambda x: 2 - x,
    lambda x: torch.add(x, x, alpha=2),
    lambda x: x * x,
    lambda x: x / 3,
    lambda x: F.relu(x).add_(x),
    lambda x: F.max_pool2d(x, 2),
    lambda x: F.max_pool2d(x, 3, 1, 1),
    lambda x: F.avg_pool2d(x, 2),
    lambda x: F.adaptive_avg_pool2d(x, 1),
    lambda x: F.adaptive_max_pool2d(x, 1),
    lambda x: F.adaptive_avg_pool2d(x, (3, 2)),
    lambda x: x.mean((2, 3), keepdim=True),
    lambda x: x.amax((2, 3)),
    lambda x: torch.flatten(x, 1),
    lambda x: x.view(x.size(0), -1),
    lambda x: x.reshape(x.shape[0], 72),
    lambda x: F.pad(x, [1, 2, 0, 1]),
    lambda x: torch.cat([x, x + 1], 1),
    lambda x: F.softmax(x, 1),
    lambda x: F.log_softmax(x, dim=1),
    lambda x: F.softmax(x, 1, dtype=torch.float32),
    lambda x: x.contiguous().clone(),
)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_what_is_exported_becomes_what_is_traced(function: Callable[[Tensor], Tensor]) -> None:
    model = Function(function)
    batch = torch.export.Dim("batch")
    program = torch.export.export(model, (IMAGE,), dynamic_shapes={"x": {0: batch}})
    exported = Canonicalize()(ReadExported()(graph_of(program, [IMAGE])).graph).graph
    assert text(exported) == text(Canonicalize()(trace(model, [IMAGE])).graph)
    three = torch.cat([IMAGE, IMAGE[:1]])
    torch.testing.assert_close(exported(three), model(three), rtol=0, atol=0)


@pytest.mark.parametrize("build", [lenet, resnet18])
def test_an_exported_network_is_prepared_as_the_network_is(build: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    model = build().eval()
    x = torch.randn(2, 1, 28, 28) if build is lenet else torch.randn(2, 3, 32, 32)
    program = torch.export.export(model, (x,))
    exported = qcompile.prepare(program, x, Recipe(4))
    plain = qcompile.prepare(model, x, Recipe(4))
    assert list(exported.meta["plans"]) == list(plain.meta["plans"])
    assert exported.meta["model"] == type(model).__name__
    states = exported.state_dict(), plain.state_dict()
    assert set(states[0]) == set(states[1])
    five = torch.randn(5, *x.shape[1:])  # exported for two samples, it takes five
    for prepared in (exported, plain):
        prepared.eval()(five)
    torch.testing.assert_close(exported(five), plain(five), rtol=0, atol=0)


def test_places_in_the_users_code_survive() -> None:
    plans = qcompile.prepare(torch.export.export(SmallNet().eval(), (IMAGE,)), IMAGE).meta["plans"]
    assert list(plans) == ["conv", "fc"]
    assert all(Path(__file__).name in plan.where for plan in plans.values())


def test_training_a_prepared_program_leaves_the_program_alone() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 2)).eval()
    x = torch.randn(8, 4)
    program = torch.export.export(model, (x,))
    before = {name: value.clone() for name, value in program.state_dict.items()}
    prepared = qcompile.prepare(program, x, Recipe(8)).train()
    prepared(x).sum().backward()
    torch.optim.SGD(prepared.parameters(), 0.1).step()
    assert prepared.get_parameter("0.weight").grad is not None
    assert prepared.get_submodule("2").training
    assert not torch.equal(prepared.get_buffer("1.running_mean"), before["1.running_mean"])
    torch.testing.assert_close(dict(program.state_dict), before, rtol=0, atol=0)


def test_a_tuple_of_results_stays_one() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            z = self.fc(x) + y
            return z, z * 2

    x = torch.randn(2, 4)
    program = qcompile.compile(torch.export.export(Two().eval(), (x, x)), (x, x), bits=8)
    assert isinstance(program(x, x), tuple)


def test_it_is_in_the_mode_that_it_was_exported_in() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout())
    x = torch.randn(4, 3)
    for mode in (True, False):
        program = torch.export.export(model.train(mode), (x,))
        before = program.state_dict["1.running_mean"].clone()
        assert qcompile.prepare(program, x, Recipe(8)).training is mode
        assert torch.equal(program.state_dict["1.running_mean"], before)


# --- refused -------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # of torch's own
def test_a_program_that_writes_to_its_buffers_is_refused() -> None:
    x = torch.randn(4, 3)
    program = torch.export.export(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).train(), (x,))
    with pytest.raises(QCompileError, match=r"writes to 1\.running_mean\n.*eval.*not decomposed"):
        qcompile.prepare(program.run_decompositions(), x)


def test_another_number_of_inputs_is_refused() -> None:
    x = torch.randn(4, 3)
    program = torch.export.export(nn.Linear(3, 3), (x,))
    with pytest.raises(QCompileError, match="takes 1 inputs, and there are 2 example inputs"):
        qcompile.prepare(program, (x, x))


def test_what_no_function_of_torch_is_is_refused_by_its_name() -> None:
    program = torch.export.export(Function(lambda x: torch.cumsum(x, 1)), (IMAGE,))
    with pytest.raises(QCompileError, match=r"cumsum"):
        qcompile.prepare(program, IMAGE)


@pytest.mark.parametrize("function", [F.softmax, F.log_softmax])
def test_results_of_another_dtype_are_refused(function: Callable[..., Tensor]) -> None:
    program = torch.export.export(Function(lambda x: function(x, 1, dtype=torch.float64)), (IMAGE,))
    with pytest.raises(QCompileError, match=r"results of torch.float64 are not supported"):
        qcompile.prepare(program, IMAGE)


def test_the_network_of_a_program_can_be_trained_and_prepared_again() -> None:
    x = torch.randn(4, 3)
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout()).eval()
    network = qcompile.from_exported(torch.export.export(model, (x,)), x)
    assert not network.training
    torch.testing.assert_close(network(x), model(x), rtol=0, atol=0)
    assert not torch.equal(network.train()(x), network(x))  # Dropout
    prepared = qcompile.prepare(network.eval(), torch.randn(9, 3), Recipe(8))
    assert torch.equal(prepared.get_parameter("0.weight"), network.get_parameter("0.weight"))
