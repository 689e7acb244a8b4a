"""Dynamic quantization compiled: ranges, levels and products of each sample, bit for bit."""

from __future__ import annotations

import pytest
import torch
from compiling import Case, check, loaded
from dynamic_layers import SAMPLES, Dynamic, bits_of, dynamic, dynamic_levels
from emulating import emulated, needs_emulator
from hypothesis import given
from hypothesis import strategies as st
from layer_strategies import after_nothing, rounds
from machines import TARGETS, runnable
from small_nets import levels
from torch import Tensor

from qcompile.codegen.build import build
from qcompile.ir.stages import aten, dialect
from qcompile.ir.target import Target
from qcompile.runtime import use_threads

on_every_target = pytest.mark.parametrize("target", TARGETS)


_LAYERS = after_nothing(st.lists(dynamic(), min_size=4, max_size=4))


@on_every_target
@rounds(1)
@given(layers=_LAYERS)
def test_dynamic_layers(target: str, layers: list[Dynamic]) -> None:
    if layers:
        check([layer.case() for layer in layers], runnable(target), range(1, 6))


@on_every_target
def test_every_width_in_batches_worth_code_of_their_own(target: str) -> None:
    cases = [Dynamic(260, 70, bits, after="relu", seed=bits).case() for bits in range(2, 9)]
    built = check(cases, runnable(target), (1, 2, 7, 33))
    kinds = [kernel.kind for kernel in built.kernels]
    # The product, its scales and the relu are one kernel.
    assert sorted(kinds) == ["elementwise"] * 7 + ["int8"] * 7 + ["range"] * 7


@needs_emulator
@pytest.mark.parametrize("arch", ["cortex-a72", "cortex-a76"])
def test_dynamic_layers_on_aarch64(arch: str) -> None:
    layers = [
        Dynamic(300, 37, 8, after="levels"),
        Dynamic(66, 10, 4, before="map", after="relu"),
        Dynamic(5, 1, 2, reach=255, shifted=False),
        Dynamic(129, 64, 7, before="relu", after="signs"),
    ]
    check([layer.case() for layer in layers], f"cpu:{arch}", (1, 3), emulated)


@on_every_target
@pytest.mark.parametrize("repeats", [1, 40])
def test_samples_of_any_values(target: str, repeats: int) -> None:
    """Each alone, and as 200 elements: vectors and what is left of them."""
    case = Case(lambda x: dynamic_levels(x, 8), [(5 * repeats,)])
    gm = case.graph()
    run = loaded(gm, build(gm, Target.parse(runnable(target))))
    x = torch.tensor(list(SAMPLES.values())).repeat(1, repeats)
    for got, wanted in zip(run([x]), gm(x), strict=True):
        assert torch.equal(bits_of(got), bits_of(wanted))


def test_a_sample_has_the_same_result_in_every_batch_and_with_any_threads() -> None:
    case = Dynamic(300, 40, 6, after="relu").case()
    gm = case.graph()
    run = loaded(gm, build(gm, Target()))
    x = case.inputs(9, 1)[0] * torch.arange(1, 10)[:, None]
    wanted = gm(x)[-1]
    for count in (1, 2, 4, 9):
        use_threads(count)
        assert torch.equal(run([x])[-1], wanted)
    for i in range(9):
        assert torch.equal(run([x[i : i + 1]])[-1], wanted[i : i + 1])


def test_levels_of_given_parameters_join_the_kernel_that_computes_the_values() -> None:
    """Parameters of another value: nothing is to be waited for."""

    def function(x: Tensor, y: Tensor) -> Tensor:
        qparams = dialect.dynamic_qparams.default(y, 4)
        return dialect.dynamic_quantize.default(aten.relu.default(x), qparams, 4)

    built = check([Case(function, [(3, 4, 5), (7,)])])
    assert [kernel.kind for kernel in built.kernels] == ["range", "elementwise"]


def test_equal_weights_give_equal_rows() -> None:
    """All rows have one weight: what they give is the same to the bit, in vectors and their rest."""
    weight = levels(-7, 7, 1, 90).expand(35, 90).contiguous()
    layer = Dynamic(90, 35, 4)
    case = layer.case()
    case.constants |= {
        "weight": weight,
        "total": weight.sum(1, dtype=torch.int32),
        "scale": torch.full((1,), 0.3),
        "shift": torch.full((1,), 0.1),
    }
    check([case], batches=(1, 4))
