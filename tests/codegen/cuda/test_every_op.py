"""What CPUs compile, GPUs compile: every op, and every kernel that is no product for each GPU."""

from __future__ import annotations

import element_cases
import pool_cases
import pytest
import torch
from compiling import Case, joined
from dynamic_layers import Dynamic
from random_layers import Binary, Float, Integer, Layer, Slide, WeightOnly
from small_nets import levels
from torch import Tensor

from qcompile.codegen.cuda.build import generate
from qcompile.codegen.cuda.nvcc import GENERATIONS, cubin, find_nvcc, known_architectures
from qcompile.codegen.groups import (
    BITPACK,
    FLATTEN,
    FOLLOWED,
    MOVES,
    SAMPLE_RANGE,
    SOFTMAXES,
)
from qcompile.ir.target import Target

q, aten = torch.ops.qcompile, torch.ops.aten
EVERY = FOLLOWED | SOFTMAXES | MOVES | {SAMPLE_RANGE, BITPACK, FLATTEN}


def products() -> list[Case]:
    """One of each kind, over a map and of features, and depthwise."""

    def depthwise(x: Tensor, w: Tensor) -> Tensor:
        return q.conv.default(q.sign.default(x), w, [1, 1], [1] * 4, [1, 1], 33, 0, 1)

    weight = {"w": levels(-9, 9, 33, 1, 3, 3)}
    slide = Slide((3, 3), (1, 1), (1,) * 4, (1, 1))
    families = [
        kind(channels, size, layers, 1)
        for kind, channels in ((Float, 5), (Binary, 40), (Integer, 6), (WeightOnly, 7))
        for size, layers in (((4, 5), (Layer(9, slide),)), ((), (Layer(9),)))
    ]
    return [
        *(family.case() for family in families),
        Case(depthwise, [(33, 6, 6)], weight, name="depthwise"),
        Dynamic(70, 9, 5).case(),
    ]


def others() -> list[Case]:
    return [
        *pool_cases.max_pools(),
        *pool_cases.average_pools(),
        *pool_cases.bit_maxpools(),
        *pool_cases.means_and_maxima(),
        *pool_cases.softmaxes(),
        *pool_cases.pads(),
        *pool_cases.joined_and_flattened(),
        *element_cases.every_unary(),
        *element_cases.two_operands(),
        *element_cases.packed(),
        *element_cases.of_products(),
    ]


def test_every_op_that_cpus_compile_is_compiled() -> None:
    gm = joined([*products(), *others()])
    assert {node.target for node in gm.graph.nodes if node.op == "call_function"} >= EVERY
    kernels = generate(gm, Target("cuda")).kernels
    computed = {name for kernel in kernels for name in kernel.nodes}
    calls = {n.name for n in gm.graph.nodes if n.op == "call_function" and n.target is not FLATTEN}
    assert computed == calls


@pytest.mark.skipif(find_nvcc() is None, reason="there is no nvcc")
@pytest.mark.parametrize("arch", GENERATIONS)
def test_every_kernel_that_is_no_product_is_compiled_for_each_generation(arch: int) -> None:
    if arch not in known_architectures():
        pytest.skip(f"nvcc knows no sm_{arch}")
    cases = [
        *pool_cases.max_pools(),
        *pool_cases.average_pools()[:2],
        *pool_cases.means_and_maxima()[:4],
        *pool_cases.softmaxes(),
        *pool_cases.joined_and_flattened()[:1],
        *element_cases.every_unary(),
        Case(lambda x: q.dynamic_qparams.default(x, 8), [(9000,)]),
    ]
    source = generate(joined(cases), Target("cuda")).source
    assert cubin(source, arch)[:4] == b"\x7fELF"
