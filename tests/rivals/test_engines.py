"""Every engine computes what the float network computes, or says why it cannot."""

from __future__ import annotations

import importlib.util
import logging
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from qcompile.errors import QCompileError
from qcompile.rivals import engines, onnx_int8, onnx_model
from qcompile.rivals.entrant import Entrant, Inputs, Unavailable

NEEDS = {
    "onnxruntime": ["onnx", "onnxscript", "onnxruntime"],
    "openvino": ["onnx", "onnxscript", "onnxruntime", "openvino"],
}
INTERPRETED = [key for key in engines.NAMES if key != "inductor"]  # which takes seconds a network


class Small(nn.Module):
    """Layers of usual networks, and a BatchNorm that follows no convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.BatchNorm2d(3)
        self.conv = nn.Conv2d(3, 8, 3, 2, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.relu = nn.ReLU()
        self.pool = nn.MaxPool2d(3, 2, padding=1)
        self.again = nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=2)
        self.average = nn.AdaptiveAvgPool2d(1)
        self.nothing = nn.Dropout()
        self.fc = nn.Linear(8, 5)
        self.norm = nn.BatchNorm1d(5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.relu(self.bn(self.conv(self.first(x)))))
        x = torch.flatten(self.average(self.again(x) + x), 1)
        return self.norm(self.fc(self.nothing(x)))


class TwoOfEach(nn.Module):
    """Two inputs, and two outputs of which one is in a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 4)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        z = self.fc(torch.cat([x, y], 1))
        return z, {"largest": z.amax(1)}


def small() -> nn.Module:
    torch.manual_seed(1)
    model = Small()
    with torch.no_grad():
        for norm in (model.first, model.bn, model.norm):
            norm.weight.uniform_(0.5, 2)
            norm.bias.uniform_(-1, 1)
            assert norm.running_mean is not None
            norm.running_mean.uniform_(-0.1, 0.1)
    return model.eval()


def lacking(key: str) -> str:
    """The first package that an engine needs and that is not installed, or ""."""
    needed = NEEDS.get(key.removesuffix("-fp32"), [])
    return next((name for name in needed if importlib.util.find_spec(name) is None), "")


@pytest.fixture(scope="module")
def entrants() -> dict[str, Entrant]:
    """All of a small network; ONNX Runtime and OpenVINO share its ONNX models."""
    calibration = [(torch.randn(8, 3, 16, 16),), (torch.randn(2, 3, 16, 16),)]
    found = engines.entrants(engines.NAMES, small(), calibration, 1)
    return {entrant.key: entrant for entrant in found}


@pytest.mark.parametrize("key", INTERPRETED)
def test_it_computes_the_same(
    key: str, entrants: dict[str, Entrant], capfd: pytest.CaptureFixture[str]
) -> None:
    if name := lacking(key):
        pytest.skip(f"{name} is not installed")
    model, entrant = small(), entrants[key]
    for batch in (1, 3):
        x = torch.randn(batch, 3, 16, 16)
        wanted = model(x)
        ready = entrant.prepare((x,))
        got = ready.output()
        assert got is not None
        if entrant.precision == "float32":
            torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)
        else:
            assert entrant.precision == "int8"
            near = 0.1 * wanted.abs().max().item()
            torch.testing.assert_close(got, wanted, rtol=0, atol=near)
            assert not torch.equal(got, wanted)
        assert ready.size is not None
        assert 500 < ready.size < 20000
    assert capfd.readouterr() == ("", "")


def test_onnx_models_are_made_once(
    entrants: dict[str, Entrant], monkeypatch: pytest.MonkeyPatch
) -> None:
    if name := lacking("openvino"):
        pytest.skip(f"{name} is not installed")
    x = torch.randn(2, 3, 16, 16)
    for key in NEEDS:
        entrants[key].prepare((x,))
    monkeypatch.setattr(onnx_model, "float_model", None)  # it would be called now
    monkeypatch.setattr(onnx_int8, "quantized", None)
    for key in NEEDS:
        entrants[key].prepare((x,))
        entrants[f"{key}-fp32"].prepare((x,))


def test_onnx_models_are_kept_for_other_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name := lacking("onnxruntime"):
        pytest.skip(f"{name} is not installed")
    x = torch.randn(2, 3, 16, 16)
    keys = ["onnxruntime-fp32", "onnxruntime"]
    made = [e.prepare((x,)) for e in engines.entrants(keys, small(), [(x,)], 1, tmp_path)]
    assert {file.name for file in tmp_path.glob("*.onnx")} == {"float32.onnx", "int8.onnx"}
    monkeypatch.setattr(onnx_model, "float_model", None)  # it would be called now
    monkeypatch.setattr(onnx_int8, "quantized", None)
    again = [e.prepare((x,)) for e in engines.entrants(keys, small(), [(x,)], 1, tmp_path)]
    for first, second in zip(made, again, strict=True):
        assert first.size == second.size
        torch.testing.assert_close(first.output(), second.output(), rtol=0, atol=0)


@pytest.mark.skipif(bool(lacking("onnxruntime")), reason=f"no {lacking('onnxruntime')} here")
def test_the_int8_model_is_quantized_throughout() -> None:
    """BatchNorm is folded; weights have a scale for each channel; sums and pools are of integers."""
    x = torch.randn(2, 3, 16, 16)
    model = small()
    model.first = nn.Identity()
    models = onnx_int8.Models(model, [(x,)])
    nodes = list(models.float32().graph.node)
    assert sorted(node.op_type for node in nodes) == sorted(
        ["Conv", "Relu", "MaxPool", "Conv", "Add", "ReduceMean", "Reshape", "Gemm"]
    )
    assert not any(node.metadata_props or node.doc_string for node in nodes)
    graph = models.int8().graph
    made = {name: node.op_type for node in graph.node for name in node.output}
    for node in graph.node:
        if node.op_type in ("Conv", "Gemm", "Add", "MaxPool"):
            assert {made[name] for name in node.input} == {"DequantizeLinear"}, node.op_type
    channels = {t.name: list(t.dims) for t in graph.initializer if "weight_scale" in t.name}
    assert sorted(channels.values()) == [[5], [8], [8]]


def test_the_compiled_network_computes_the_same(capfd: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 3), nn.ReLU()).eval(), torch.randn(2, 4)
    (entrant,) = engines.entrants(["inductor"], model, [(x,)], 1)
    ready = entrant.prepare((x,))
    got = ready.output()
    assert got is not None
    torch.testing.assert_close(got, model(x))
    assert ready.size == 60
    assert "torch.compile" in entrant.how
    assert capfd.readouterr() == ("", "")


# --- networks that are out of the ordinary ---------------------------------------------------------


@pytest.fixture(scope="module")
def of_two() -> tuple[nn.Module, Inputs, dict[str, Entrant]]:
    """A network with two inputs and outputs, and its entrants."""
    torch.manual_seed(0)
    model, inputs = TwoOfEach(), (torch.randn(2, 3), torch.randn(2, 3))
    found = engines.entrants(engines.NAMES, model, [inputs], 1)
    return model, inputs, {entrant.key: entrant for entrant in found}


@pytest.mark.parametrize("key", INTERPRETED)
def test_several_inputs_and_outputs(
    key: str, of_two: tuple[nn.Module, Inputs, dict[str, Entrant]]
) -> None:
    """What is compared is the first output."""
    if name := lacking(key):
        pytest.skip(f"{name} is not installed")
    model, inputs, entrants = of_two
    got = entrants[key].prepare(inputs).output()
    assert got is not None
    torch.testing.assert_close(got, model(*inputs)[0], rtol=0, atol=0.05)


# --- what cannot be had ----------------------------------------------------------------------------


class Bessel(nn.Module):
    """An operation without a form in ONNX."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.special.bessel_j0(x)


class ByValue(nn.Module):
    """Decides by the values of its input, which cannot be traced."""

    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


@pytest.mark.parametrize("missing", ["onnxruntime", "openvino"])
def test_an_engine_that_is_not_installed(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    x = torch.ones(2, 3)
    for entrant in engines.entrants([missing, f"{missing}-fp32"], nn.Linear(3, 2), [(x,)], 1):
        with pytest.raises(Unavailable) as refusal:
            entrant.prepare((x,))
        assert refusal.value.reason == f"{missing} is not installed"
        assert refusal.value.hint == 'pip install "qcompile[bench]"'


@pytest.mark.parametrize("missing", ["onnx", "onnxscript"])
def test_without_what_exports_there_is_no_onnx(
    missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "onnx" not in (missing, *sys.modules):
        monkeypatch.setitem(sys.modules, "onnx", ModuleType("onnx"))
    monkeypatch.setitem(sys.modules, missing, None)
    models = onnx_int8.Models(nn.Linear(3, 2), [(torch.ones(2, 3),)])
    with pytest.raises(Unavailable, match=f"^{missing} is not installed$") as refusal:
        models.float32()
    assert refusal.value.hint == 'pip install "qcompile[bench]"'


@pytest.mark.skipif(bool(lacking("openvino")), reason=f"no {lacking('openvino')} here")
@pytest.mark.parametrize(
    ("missing", "kept"), [("onnxruntime", ["openvino-fp32"]), ("openvino", ["onnxruntime-fp32"])]
)
def test_others_go_on_without_it(
    missing: str,
    kept: list[str],
    entrants: dict[str, Entrant],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    for key in kept:
        assert entrants[key].prepare((torch.randn(1, 3, 16, 16),)).output() is not None


@pytest.mark.skipif(bool(lacking("onnxruntime")), reason=f"no {lacking('onnxruntime')} here")
@pytest.mark.parametrize(
    ("model", "why"),
    [
        (Bessel(), "torch.onnx.export cannot follow it: prims.bessel_j0.default has no form in"),
        (ByValue(), "torch.onnx.export cannot follow it: what is computed depends on values"),
    ],
)
def test_a_network_that_has_no_form_in_onnx(
    model: nn.Module, why: str, capfd: pytest.CaptureFixture[str]
) -> None:
    x = torch.ones(2, 3)
    disabled = logging.root.manager.disable
    found = engines.entrants(["onnxruntime-fp32", "onnxruntime"], model, [(x,)], 1)
    for entrant in found:
        with pytest.raises(Unavailable) as refusal:
            entrant.prepare((x,))
        assert refusal.value.reason.startswith(why)
        assert "\n" not in refusal.value.reason
    assert capfd.readouterr() == ("", "")
    assert logging.root.manager.disable == disabled


@pytest.mark.skipif(bool(lacking("onnxruntime")), reason=f"no {lacking('onnxruntime')} here")
def test_a_network_without_anything_to_quantize_is_not_called_int8(
    capfd: pytest.CaptureFixture[str],
) -> None:
    x = torch.ones(2, 3)
    (entrant,) = engines.entrants(["onnxruntime"], nn.ReLU(), [(x,)], 1)
    with pytest.raises(Unavailable, match="ONNX Runtime finds nothing in it to quantize"):
        entrant.prepare((x,))
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(bool(lacking("openvino")), reason=f"no {lacking('openvino')} here")
def test_a_model_that_an_engine_refuses() -> None:
    """Its inputs do not fit: what each engine says of that is a line."""
    model = nn.Linear(3, 2)
    found = engines.entrants(["onnxruntime-fp32", "openvino-fp32"], model, [(torch.ones(2, 3),)], 1)
    for entrant in found:
        with pytest.raises(Unavailable, match=r"^(ONNX Runtime|OpenVINO) cannot run it: .") as why:
            entrant.prepare((torch.ones(2, 4),))
        assert "\n" not in why.value.reason


@pytest.mark.skipif(bool(lacking("openvino")), reason=f"no {lacking('openvino')} here")
def test_openvino_names_its_kernels(entrants: dict[str, Entrant]) -> None:
    told = entrants["openvino"].prepare((torch.randn(2, 3, 16, 16),)).instructions
    assert "_I8" in told
    assert not set(told.split(", ")) & {"", "unknown_f32"}


# --- by name ---------------------------------------------------------------------------------------


def test_keys_are_kept_in_order_and_once() -> None:
    assert engines.check(["x86", "fp32", "x86"]) == ("x86", "fp32")
    assert set(engines.DEFAULT) < set(engines.NAMES)
    found = engines.entrants(engines.NAMES, nn.Identity(), [], 1)
    assert tuple(entrant.key for entrant in found) == engines.NAMES
    assert len({entrant.name for entrant in found}) == len(found)
    for entrant in found:
        assert entrant.how
        assert entrant.package in ("torch", "onnxruntime", "openvino")
        assert entrant.precision in entrant.name


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("onnxruntme", "did you mean 'onnxruntime'? there are fp32, "),
        ("tflite", "there are fp32, "),
    ],
)
def test_unknown_keys_are_refused(key: str, hint: str) -> None:
    with pytest.raises(QCompileError, match=f"there is no engine '{key}'") as refusal:
        engines.entrants(["fp32", key], nn.Identity(), [], 1)
    assert refusal.value.hint is not None
    assert refusal.value.hint.startswith(hint)
