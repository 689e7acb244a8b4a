"""PyTorch as a rival: the network stays as it is, and so does what PyTorch keeps globally."""

from __future__ import annotations

import logging
import warnings

import pytest
import torch
from torch import Tensor, nn

from qcompile.rivals import engines, onednn, pytorch
from qcompile.rivals.entrant import Unavailable


class ByValue(nn.Module):
    """Decides by the values of its input, which cannot be traced."""

    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class Numbers(nn.Module):
    """Gives something else than tensors."""

    def forward(self, x: Tensor) -> dict[str, object]:
        return {"x": x, "n": 3}


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout())


def test_float_is_a_copy_in_eval_mode() -> None:
    model, x = network(), torch.randn(2, 2, 6, 6)
    ready = pytorch.eager(model).prepare((x,))
    got = ready.output()
    assert model.training
    assert got is not None
    torch.testing.assert_close(got, model.eval()(x))
    for parameter in model.parameters():
        parameter.detach().zero_()
    again = ready.output()
    assert again is not None
    assert torch.equal(again, got)


def test_int8_is_within_its_steps_of_the_float_network() -> None:
    model, x = network(), torch.randn(4, 2, 6, 6)
    engine, disabled = torch.backends.quantized.engine, logging.root.manager.disable
    for key in pytorch.ENGINES:
        got = pytorch.int8(model, [(x,)], key).prepare((x,)).output()
        expected = model.eval()(x)
        assert got is not None
        # 8 bits over the range of the values: a few steps of max / 255.
        torch.testing.assert_close(got, expected, rtol=0, atol=5 * expected.max().item() / 255)
        assert not torch.equal(got, expected)
    assert torch.backends.quantized.engine == engine
    assert logging.root.manager.disable == disabled


def test_sizes_are_those_of_what_is_stored() -> None:
    x = torch.randn(4, 2, 6, 6)
    model = nn.Sequential(nn.Conv2d(2, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 4))
    weights, biases = 8 * 2 * 9 + 128 * 4, 8 + 4
    assert pytorch.eager(model).prepare((x,)).size == 4 * (weights + biases)
    for key in ("fbgemm", "x86"):
        size = pytorch.int8(model, [(x,)], key).prepare((x,)).size
        assert size is not None
        # int8 weights, float biases; scales and zero points of each layer's activations
        assert 0 < size - (weights + 4 * biases) < 100


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (ByValue(), "torch.ao cannot: symbolically traced variables cannot be used as inputs to"),
        (Numbers(), "torch.ao cannot: the network gives something else than tensors"),
        (nn.Identity(), "torch.ao finds nothing in it to quantize"),
        (nn.Linear(3, 2).double(), "torch.ao cannot: "),
    ],
)
def test_a_network_that_pytorch_cannot_quantize(
    model: nn.Module, why: str, capfd: pytest.CaptureFixture[str]
) -> None:
    x = torch.ones(2, 3, dtype=torch.float64 if isinstance(model, nn.Linear) else None)
    engine = torch.backends.quantized.engine
    with warnings.catch_warnings(record=True) as warned, pytest.raises(Unavailable) as refusal:
        pytorch.int8(model, [(x,)], "fbgemm").prepare((x,))
    assert refusal.value.reason.startswith(why)
    assert "\n" not in refusal.value.reason
    assert warned == []
    assert capfd.readouterr() == ("", "")
    assert torch.backends.quantized.engine == engine


def test_an_engine_that_pytorch_lacks_is_said() -> None:
    x = torch.ones(1, 2, 8, 8)
    with pytest.raises(Unavailable, match="no engine abacus"):
        pytorch.int8(network(), [(x,)], "abacus").prepare((x,))


@pytest.mark.parametrize(
    ("error", "reason", "hint"),
    [
        (
            RuntimeError("InvalidCxxCompiler: No working C++ compiler found in cpp.cxx"),
            "inductor needs a C++ compiler, and finds none",
            "install g++",
        ),
        (RuntimeError("Unsupported: this\nand a trace"), "inductor cannot: Unsupported: this", ""),
        (OSError(), "inductor cannot: OSError", ""),
    ],
)
def test_what_inductor_lacks_is_said(
    error: Exception, reason: str, hint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*inputs: Tensor) -> Tensor:
        raise error

    monkeypatch.setattr(torch, "compile", lambda run, dynamic: fails)
    x = torch.ones(1, 2, 8, 8)
    with pytest.raises(Unavailable) as refusal:
        pytorch.inductor(network()).prepare((x,))
    assert refusal.value.reason == reason
    assert refusal.value.hint.startswith(hint)


def test_each_compiled_network_has_code_of_its_own() -> None:
    """torch.compile keeps at most eight results with a code object."""
    model, x = network().eval(), torch.ones(1, 2, 8, 8)
    runs = [pytorch._with_code_of_its_own(model) for _ in range(2)]
    assert runs[0].__code__ is not runs[1].__code__
    assert torch.equal(runs[1](x), model(x))


def test_the_instructions_are_those_that_the_engine_names() -> None:
    x = torch.ones(1, 3)
    model = nn.Linear(3, 2)
    keys = ["fp32", "fbgemm", "onednn"]
    told = [e.prepare((x,)).instructions for e in engines.entrants(keys, model, [(x,)], 1)]
    own = f"ATen: {torch.backends.cpu.get_cpu_capability()}"
    assert told[1] == own
    below = onednn.instructions()
    assert told[0] == told[2] == (f"{own}, oneDNN: {below}" if below else own)
