"""Dynamic quantization on a GPU: ranges, levels and products of each sample, bit for bit."""

from __future__ import annotations

import torch
from dynamic_layers import Dynamic, dynamic
from emulated_gpu import needs_emulator
from hypothesis import given
from hypothesis import strategies as st
from layer_strategies import after_nothing, rounds
from running import check, emulated

from qcompile.codegen.cuda.build import generate
from qcompile.ir.target import Target

pytestmark = needs_emulator


def test_every_width() -> None:
    layers = [
        *(Dynamic(260, 70, bits, after="relu", seed=bits) for bits in range(2, 9)),
        Dynamic(300, 37, 8, after="levels"),
        Dynamic(66, 10, 4, before="map", after="relu"),
        Dynamic(5, 1, 2, reach=255, shifted=False),
        Dynamic(129, 64, 7, before="relu", after="signs"),
        Dynamic(64, 33, 5, after="twice"),
    ]
    built = check([layer.case() for layer in layers], (1, 2, 7))
    assert sum(kernel.kind == "range" for kernel in built.kernels) == len(layers) + 1


@rounds(1)
@given(layers=after_nothing(st.lists(dynamic(), min_size=4, max_size=4)))
def test_random_layers(layers: list[Dynamic]) -> None:
    if layers:
        check([layer.case() for layer in layers], range(1, 6), orders=(1,))


def test_a_sample_has_the_same_result_in_every_batch() -> None:
    case = Dynamic(300, 40, 6, after="relu").case()
    gm = case.graph()
    run = emulated(gm, generate(gm, Target("cuda")))
    x = case.inputs(9, 1)[0] * torch.arange(1, 10)[:, None]
    wanted = gm(x)[-1]
    assert torch.equal(run([x])[-1], wanted)
    for i in range(9):
        assert torch.equal(run([x[i : i + 1]])[-1], wanted[i : i + 1])
