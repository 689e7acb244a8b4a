"""prepare, convert and compile, as a user calls them."""

from __future__ import annotations

import copy
import logging
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from networks import LENET_INPUT, LeNet, train_a_little
from torch import Tensor, nn

import qcompile
from qcompile import Recipe
from qcompile.calibration import calibrate, constant_note, needs_calibration
from qcompile.fingerprint import fingerprint
from qcompile.ir.graph import calls
from qcompile.ir.stages import Stage, dialect
from qcompile.passes.base import Pass, Result
from qcompile.pipelines import convert_passes, lower, lower_passes, prepare_passes
from qcompile.quant.batchnorm import BatchNorm

IMAGES = torch.randn(8, *LENET_INPUT, generator=torch.Generator().manual_seed(0))


class TwoInputs(nn.Module):
    """Two inputs, two results, and arguments that are settings."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(6, 32), nn.Linear(5, 32)
        self.body, self.head = nn.Linear(32, 32), nn.Linear(32, 3)

    def forward(
        self, x: Tensor, y: Tensor, mask: Tensor | None = None, scale: float = 2.0
    ) -> tuple[Tensor, Tensor]:
        z = self.left(x) + self.right(y)
        if mask is not None:
            z = z * mask
        z = F.relu(z * scale)
        z = F.relu(self.body(z))
        return self.head(z), z


PAIR = (torch.randn(4, 6), torch.randn(4, 5))


class Recorder:
    """Notes which passes ran, and the stage that each gave."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, Stage]] = []

    def __call__(self, pass_: Pass, result: Result) -> None:
        self.seen.append((pass_.name, result.graph.meta["stage"]))


def test_a_program_has_its_own_example_inputs() -> None:
    model = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    x = torch.randn(4, 6)
    program = torch.export.export(model, (x,))
    torch.testing.assert_close(qcompile.from_exported(program)(x), model(x))
    assert qcompile.prepare(program, recipe=Recipe(8)).meta["inputs"][0].shape[1:] == (6,)
    compiled = qcompile.compile(program, bits=8, calibration=[x])
    assert torch.equal(compiled(x), qcompile.compile(program, x, bits=8)(x))


def test_calibrate_is_a_public_name() -> None:
    assert qcompile.calibrate is calibrate


def test_from_a_model_to_a_graph_of_integers() -> None:
    model = LeNet()
    state = copy.deepcopy(model.state_dict())
    prepared = qcompile.prepare(model, IMAGES, Recipe(bits=1, method="xnor"))
    train_a_little(prepared, IMAGES)
    converted = qcompile.convert(prepared)
    assert torch.equal(converted(IMAGES), prepared.eval()(IMAGES))
    assert torch.equal(lower(converted)(IMAGES), converted(IMAGES))
    assert not converted.training
    torch.testing.assert_close(model.state_dict(), state, rtol=0, atol=0)


def test_the_mode_of_the_model_is_that_of_the_result() -> None:
    assert qcompile.prepare(LeNet(), IMAGES).training
    assert not qcompile.prepare(LeNet().eval(), IMAGES).training


def test_one_bit_is_what_one_gets_without_a_recipe() -> None:
    plans = qcompile.prepare(LeNet(), IMAGES).meta["plans"]
    assert [p.weight_bits for p in plans.values()] == [8, 1, 1, 8]


def test_convert_freezes_what_was_observed() -> None:
    prepared = qcompile.prepare(LeNet(), IMAGES, Recipe(bits=8)).eval()
    prepared(IMAGES)
    converted = qcompile.convert(prepared)
    prepared(IMAGES * 100)
    assert torch.equal(converted(IMAGES), prepared(IMAGES))
    state = {k: v.clone() for k, v in prepared.state_dict().items() if not k.endswith("frozen")}
    assert torch.equal(qcompile.convert(prepared)(IMAGES), converted(IMAGES))
    for name, value in state.items():
        assert torch.equal(prepared.state_dict()[name], value), name


def test_several_inputs_results_and_settings() -> None:
    prepared = qcompile.prepare(TwoInputs(), PAIR, concrete_args={"scale": 0.5})
    assert [n.target for n in prepared.graph.find_nodes(op="placeholder")] == ["x", "y"]
    train_a_little(FirstOf(prepared), *PAIR)
    converted = qcompile.convert(prepared)
    for got, expected in zip(converted(*PAIR), prepared.eval()(*PAIR), strict=True):
        assert torch.equal(got, expected)


class FirstOf(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.model(*inputs)[0]


def test_a_setting_changes_the_graph() -> None:
    one, other = (
        qcompile.prepare(TwoInputs(), PAIR, Recipe(bits=32), concrete_args={"scale": scale})
        for scale in (0.5, 4.0)
    )
    assert "0.5" in one.code
    assert "4.0" in other.code


def test_every_pass_is_reported_in_order() -> None:
    recorder = Recorder()
    prepared = qcompile.prepare(LeNet().eval(), IMAGES, Recipe(), after_each=recorder)
    prepared(IMAGES)
    lower(qcompile.convert(prepared, after_each=recorder), recorder)
    passes = [*prepare_passes(Recipe()), *convert_passes(), *lower_passes()]
    assert [name for name, _ in recorder.seen] == [pass_.name for pass_ in passes]
    stages = [stage for _, stage in recorder.seen]
    assert stages == sorted(stages, key=list(Stage).index)
    assert stages[-1] is Stage.LOWERED


def test_reasons_stay_with_the_graph() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.fc(x))

    prepared = qcompile.prepare(Shared(), torch.randn(2, 6), Recipe(bits=8))
    converted = qcompile.convert(prepared.eval())
    assert lower(converted).meta["declined"]["fc"].startswith("fc is called twice")


# --- calibration ---------------------------------------------------------------------------------


def test_new_norms_get_the_statistics_of_all_batches() -> None:
    prepared = qcompile.prepare(LeNet(), IMAGES, Recipe(method="xnor"))
    batches = [(IMAGES[:4], torch.zeros(4)), [IMAGES[4:], "labels"]]
    assert calibrate(prepared, batches) == 8
    norm = prepared.get_submodule("conv2_norm")
    assert isinstance(norm, BatchNorm)
    assert norm.momentum == 0.1
    assert norm.num_batches_tracked == 2
    seen: list[Tensor] = []
    norm.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    prepared(IMAGES)
    halves = torch.stack([half.mean((0, 2, 3)) for half in seen[0].split(4)])
    # The batches' means in float32, added in another order.
    torch.testing.assert_close(norm.running_mean, halves.mean(0), rtol=1e-5, atol=1e-6)


def test_calibration_leaves_the_users_norms_alone() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3)).eval()
    prepared = qcompile.prepare(model, IMAGES, Recipe(overrides={"2": 1}))
    before = copy.deepcopy(prepared.get_submodule("1").state_dict())
    calibrate(prepared, [IMAGES])
    after = prepared.get_submodule("1").state_dict()
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    assert not prepared.training


# --- compile -------------------------------------------------------------------------------------


def test_everything_in_one_call(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "qcompile"):
        program = qcompile.compile(LeNet(), IMAGES, bits=1, method="xnor", calibration=[IMAGES])
    [note] = program.info.notes
    assert note.startswith("its 1-bit weights are not trained")
    assert caplog.messages == [note]
    assert program(IMAGES[:3]).shape == (3, 5)
    assert program.info.model == "LeNet"
    assert [layer.weight_bits for layer in program.info.layers] == [8, 1, 1, 8]
    assert [layer.reason for layer in program.info.layers] == ["first layer", "", "", "last layer"]
    assert program.info.layers[1].bytes_after < 4 * 8 * 9  # a word for 6 channels: filters, taps


def test_without_calibration_the_program_says_so() -> None:
    program = qcompile.compile(LeNet(), IMAGES, recipe=Recipe(bits=8))
    [note] = program.info.notes
    assert note.startswith("without calibration data")


@pytest.mark.parametrize("fields", [{"mode": "dynamic"}, {"mode": "weight-only"}], ids=str)
def test_modes_that_observe_nothing_need_no_calibration(
    fields: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    model = LeNet().eval()
    with caplog.at_level(logging.WARNING, "qcompile"):
        program = qcompile.compile(model, IMAGES, bits=8, **fields)
    assert program.info.notes == ()
    assert caplog.messages == []
    prepared = qcompile.prepare(model, IMAGES, Recipe(8, **fields))
    assert not needs_calibration(prepared)
    assert needs_calibration(qcompile.prepare(LeNet(), IMAGES, Recipe(8)))
    converted = qcompile.convert(prepared)
    torch.testing.assert_close(program(IMAGES), converted(IMAGES), rtol=1e-4, atol=1e-4)


def test_one_layer_that_is_not_weight_only_is_calibrated() -> None:
    weights = {"weight_bits": 4, "activation_bits": 32}
    recipe = Recipe(8, overrides={"*": weights, "fc1": 8})
    prepared = qcompile.prepare(LeNet(), IMAGES, recipe)
    assert needs_calibration(prepared)
    assert calibrate(prepared, [IMAGES]) == 8
    assert torch.equal(qcompile.convert(prepared)(IMAGES), prepared(IMAGES))


def test_new_norms_alone_need_calibration() -> None:
    """XNOR-Net's signs have no range, but the BatchNorm that was put before them has statistics."""
    recipe = Recipe(method="xnor", overrides={"conv1": "float", "fc2": "float"})
    assert needs_calibration(qcompile.prepare(LeNet(), IMAGES, recipe))


def test_without_a_recipe_compile_is_static() -> None:
    model = LeNet().eval()
    program = qcompile.compile(model, IMAGES, bits=8, calibration=[IMAGES])
    prepared = qcompile.prepare(model, IMAGES, Recipe(8, mode="static"))
    calibrate(prepared, [IMAGES])
    assert program.info.fingerprint == fingerprint(qcompile.convert(prepared))


@pytest.mark.parametrize("value", [0.0, 3.0, -2.5])
def test_a_constant_batch_computes_and_is_told(value: float) -> None:
    model = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    batch = torch.full((4, 6), value)
    program = qcompile.compile(model, batch, bits=8, calibration=[batch])
    [note] = program.info.notes
    assert note.startswith("calibration saw one number only, everywhere, in front of 0: their")
    got = torch.as_tensor(program(batch))
    torch.testing.assert_close(got, model(batch), rtol=0.05, atol=0.05)


def test_of_many_constant_layers_some_are_named() -> None:
    model = nn.Sequential(*(nn.Linear(6, 6, bias=False) for _ in range(7))).eval()
    prepared = qcompile.prepare(model, torch.zeros(2, 6), Recipe(8))
    calibrate(prepared, [torch.zeros(2, 6)])
    note = constant_note(prepared)
    assert note is not None
    assert "in front of 0, 1, 2, 3 and 3 more: " in note
    calibrate(prepared, [torch.randn(2, 6)])
    assert constant_note(prepared) is None


def test_a_compiled_program_is_the_converted_graph() -> None:
    prepared = qcompile.prepare(TwoInputs(), PAIR, Recipe())
    train_a_little(FirstOf(prepared), *PAIR)
    converted = qcompile.convert(prepared)
    assert any(calls(node, dialect.sign.default) for node in converted.graph.nodes)
    program = qcompile.compile(converted)
    assert program.info.notes == ()
    assert [value.name for value in program.info.inputs] == ["x", "y"]
    assert program.info.returns_tuple
    for got, expected in zip(program(*PAIR), converted(*PAIR), strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=0)


def test_the_public_names_are_these() -> None:
    found: dict[str, Any] = {name: getattr(qcompile, name) for name in qcompile.__all__}
    assert {"Recipe", "prepare", "convert", "compile", "load", "verify", "Target"} <= set(found)


@pytest.mark.parametrize(
    ("method", "bits", "what"),
    [("dorefa", 8, "quantizers of DoReFa-Net"), ("affine", 3, "3-bit weights"), ("lsq", 8, "")],
)
def test_what_is_of_no_use_without_training_is_said(method: str, bits: int, what: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2))
    x = torch.randn(4, 6)
    program = qcompile.compile(model, x, calibration=[x], bits=bits, method=method)
    expected = [f"its {what} are not trained"] if what else []
    assert [note.partition(":")[0] for note in program.info.notes] == expected
