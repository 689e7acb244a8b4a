"""The same network at several widths: what is compiled, trained, timed and judged."""

from __future__ import annotations

import io
from dataclasses import replace
from functools import partial
from types import ModuleType
from typing import Any

import pytest
import torch
from rich.console import Console
from small_built import Residual, batches, built
from torch import Tensor, nn
from torch.fx import GraphModule

import qcompile
from qcompile import api
from qcompile.bench import widths as widths_module
from qcompile.bench.built import Built, Made
from qcompile.bench.results import NOT_TRAINED, OURS, Width
from qcompile.bench.widths import recipe_of, widths
from qcompile.errors import QCompileError
from qcompile.quant.recipe import Recipe
from qcompile.rivals.entrant import Unavailable
from qcompile.steps import Steps

EPOCHS: list[int | None] = []  # of each training


def train(model: Any, epochs: int | None = None, progress: Any = None) -> None:
    """A step of nothing: BatchNorm and observers see the data."""
    EPOCHS.append(epochs)
    model.train()
    for (x,) in batches():
        model(x)
    progress(1, 1)


def evaluate(model: Any) -> float:
    """What tells networks apart."""
    return float(torch.sigmoid(model(batches()[0][0])[0, 0]))


def module(**functions: Any) -> ModuleType:
    made = ModuleType("model")
    vars(made).update(functions)
    return made


@pytest.fixture(scope="module")
def net() -> Built:
    return built(Recipe(8, method="affine", mode="static"), module(evaluate=evaluate))


@pytest.fixture(scope="module")
def log() -> io.StringIO:
    return io.StringIO()


@pytest.fixture(scope="module")
def found(net: Built, log: io.StringIO) -> dict[str, Width]:
    told = widths(net, (1, 4), inputs=batches()[0], steps=Steps(Console(file=log)), seconds=0.01)
    return {width.name: width for width in told}


def test_widths_are_told_in_order_and_the_program_is_among_them(
    net: Built, found: dict[str, Width]
) -> None:
    assert list(found) == ["1 bit", "4 bits", "8 bits", "PyTorch float32", "PyTorch int8 fbgemm"]
    assert [w.bits for w in found.values()] == [(1, 1), (4, 4), (8, 8), (32, 32), (8, 8)]
    assert [w.engine for w in found.values()] == [OURS, OURS, OURS, "fp32", "fbgemm"]
    assert found["8 bits"].size == net.program.size
    assert found["PyTorch float32"].size == sum(x.nbytes for x in Residual().state_dict().values())


def test_a_width_that_the_method_lacks_says_so(found: dict[str, Width]) -> None:
    one = found["1 bit"]
    assert one.reason == "method 'affine' has no 1-bit quantizer"
    assert (one.seconds, one.size, one.accuracy, one.sqnr_db) == (None, None, None, None)


def test_all_others_are_timed(found: dict[str, Width]) -> None:
    for width in list(found.values())[1:]:
        assert width.seconds is not None, width.name
        assert width.seconds > 0
        assert not width.reason


def test_more_bits_are_nearer_to_float(found: dict[str, Width]) -> None:
    four, eight = (found[name].sqnr_db or 0.0 for name in ("4 bits", "8 bits"))
    assert 5 < four < eight - 10
    assert found["PyTorch float32"].sqnr_db is None
    assert (found["PyTorch int8 fbgemm"].sqnr_db or 0.0) > 20


def test_accuracy_is_that_of_the_network_that_is_timed(net: Built, found: dict[str, Width]) -> None:
    """Calibrated from 4 bits on; what the float network holds may be trained elsewhere."""
    assert net.made is not None
    x = batches()[0][0]
    with torch.no_grad():
        wanted = torch.sigmoid(net.made.converted(x)[0, 0])
        in_float = torch.sigmoid(net.made.file.model(x)[0, 0])
    assert found["8 bits"].accuracy == pytest.approx(float(wanted), abs=1e-5)
    assert found["PyTorch float32"].accuracy == pytest.approx(float(in_float), abs=1e-5)
    assert found["4 bits"].accuracy not in (None, found["8 bits"].accuracy)
    assert not any(width.trained for width in found.values())


def test_what_takes_long_is_told(found: dict[str, Width], log: io.StringIO) -> None:
    assert found
    lines = [line.rsplit(maxsplit=2)[0] for line in log.getvalue().splitlines()]
    assert lines == [
        "calibrate it at 4 bits",
        "quantize it for PyTorch int8 fbgemm",
        "time the widths",
        *(f"evaluate {name}" for name in list(found)[1:]),
    ]


def test_nothing_of_the_users_is_changed(net: Built, found: dict[str, Width]) -> None:
    assert found
    assert net.made is not None
    torch.manual_seed(0)
    for name, value in Residual().state_dict().items():
        assert torch.equal(net.made.file.model.state_dict()[name], value), name
    assert net.program.num_threads >= 1


def test_fewer_bits_in_more_bytes_say_of_what(net: Built) -> None:
    other = qcompile.compile(nn.Linear(2, 2), torch.randn(2, 2), bits=8)
    assert other.size < net.program.size
    little, much = (
        widths_module._Point(Width(name, OURS, (8, 8)), program)
        for name, program in (("1 bit", other), ("8 bits", net.program))
    )
    none = widths_module._Point(Width("2 bits", OURS, (2, 2), reason="no"))
    assert widths_module.larger([little, none, much]) == []
    swapped = [replace(much, told=little.told), none, replace(little, told=much.told)]
    [text] = widths_module.larger(swapped)
    assert text.startswith("1 bit: ")
    assert "more than at 8 bits" in text
    assert "of machine code" in text


def test_a_program_alone_has_no_widths(net: Built) -> None:
    alone = Built(net.program, "net.qcp")
    assert widths(alone, inputs=batches()[0], steps=Steps(Console(quiet=True))) == ()


def test_each_width_is_trained_where_the_program_was(
    net: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert net.made is not None
    monkeypatch.setattr(net.made.file.module, "train", train, raising=False)
    monkeypatch.setattr(widths_module, "static_int8", refuses)
    EPOCHS.clear()
    recipe = Recipe(8, method="affine", mode="qat")
    trained = replace(net, made=replace(net.made, recipe=recipe, trained=NOT_TRAINED))
    quiet = Steps(Console(quiet=True))
    two, eight, in_float, int8 = widths(
        trained, (2, 8), inputs=batches()[0], steps=quiet, epochs=3, seconds=0.01
    )
    assert EPOCHS == [3]
    assert (two.trained, eight.trained) == (True, True)
    assert two.accuracy is not None  # it is worth it, however narrow
    # Of a file that could train, and was not told to, the float weights are random.
    assert (in_float.accuracy, in_float.trained) == (None, False)
    assert (int8.name, int8.reason) == ("PyTorch int8 fbgemm", "no such engine")
    assert (int8.seconds, int8.size) == (None, None)


def test_weights_that_are_random_have_no_accuracy(
    net: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor have trained ones of few bits, where nothing is trained at that width."""
    assert net.made is not None
    assert widths_module._knows_weights(net.made)  # the file cannot train: it may load weights
    assert not widths_module._knows_weights(replace(net.made, trained=NOT_TRAINED))
    loaded = replace(net.made, trained="from net.safetensors")
    assert widths_module._knows_weights(loaded)
    monkeypatch.setattr(api, "compile", lambda *_, **__: net.program)
    for bits, worth in ((8, True), (2, False)):
        point = widths_module._ours(
            net, loaded, (bits, bits), False, batches()[0], partial(_calibrated, loaded)
        )
        assert (point.worth, point.told.trained) == (worth, False)


def _calibrated(made: Made, recipe: Recipe) -> GraphModule:
    return widths_module._quantized(made, Steps(Console(quiet=True)), None, 0, recipe)


def refuses(*arguments: Any) -> Any:
    """As PyTorch without fbgemm."""
    raise Unavailable("no such engine")


def test_int8_that_fails_when_it_runs_says_so(net: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a network whose `view` does not fit what quantized convolutions give."""

    class Fails(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("view size is not compatible\nmore")

    assert net.made is not None
    monkeypatch.setattr(widths_module, "static_int8", lambda *_: Fails())
    point = widths_module._int8(net.made, batches()[0], Steps(Console(quiet=True)))
    assert point.told.reason == "torch.ao cannot: view size is not compatible"
    assert point.network is None


# --- recipes and names ---------------------------------------------------------------------------


def test_all_but_the_bits_is_as_it_was() -> None:
    base = Recipe(1, method="dorefa", overrides={"head": 8}, first_last_bits=4)
    assert recipe_of(base, (2, 2), True) == Recipe(
        2, method="dorefa", overrides={"head": 8}, first_last_bits=4
    )
    assert recipe_of(base, (2, 2), False).mode == "static"
    # The program was calibrated, whatever the float network was trained to: so are they.
    assert recipe_of(Recipe(8, mode="static"), (2, 2), True).mode == "static"


def test_bits_that_differ_become_alike() -> None:
    base = Recipe(8, weight_bits=2, activation_bits=8, ternary_weights=True, mode="static")
    assert recipe_of(base, (2, 2), False).ternary_weights
    four = recipe_of(base, (4, 4), False)
    assert four.body_bits() == (4, 4)
    assert not four.ternary_weights


@pytest.mark.parametrize("mode", ["weight-only", "dynamic"])
def test_other_modes_stay(mode: str) -> None:
    base = Recipe(8, method="affine", mode=mode)
    assert recipe_of(base, (4, 4), False).mode == mode
    assert recipe_of(base, (4, 4), False).body_bits()[0] == 4


def test_weights_alone_are_told_as_such() -> None:
    """The program's own width is 4 bits and float: it is not compiled once more for 4."""
    own = Recipe(4, method="affine", mode="weight-only").body_bits()
    assert own == (4, 32)
    assert widths_module._wanted(Recipe(4, method="affine", mode="weight-only"), (4, 8)) == [
        (4, 32),
        (8, 32),
    ]


def test_a_mode_without_one_bit_says_so() -> None:
    with pytest.raises(QCompileError, match="mode 'dynamic' has no 1-bit activations"):
        recipe_of(Recipe(8, method="bireal", mode="dynamic"), (1, 1), False)


@pytest.mark.parametrize(
    ("bits", "name"),
    [((1, 1), "1 bit"), ((2, 2), "2 bits"), ((1, 4), "1/4 bits"), ((4, 32), "4/float")],
)
def test_names_of_widths(bits: tuple[int, int], name: str) -> None:
    assert widths_module._name(bits) == name
