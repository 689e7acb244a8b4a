"""CUDA C as it is written, and how its kernels are launched: what needs neither compiler nor GPU."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from compiling import Case, joined
from layers import GEOMETRIES, int_conv, xnor_conv
from torch import Tensor

from qcompile.codegen.built import Built
from qcompile.codegen.cuda.build import generate
from qcompile.codegen.cuda.nvcc import GENERATIONS
from qcompile.cuda import nvrtc
from qcompile.cuda.launches import Argument
from qcompile.errors import QCompileError
from qcompile.ir.graph import propagate
from qcompile.ir.target import Target

_aten, _dialect = torch.ops.aten, torch.ops.qcompile
_KERNEL = 'extern "C" __global__'


def _signs_and_levels(x: Tensor, scale: Tensor, shift: Tensor) -> tuple[Tensor, ...]:
    y = _dialect.scale_shift.default(x, scale, shift)
    levels = _dialect.quantize.default(y, 0.25, 3, 0, 15)
    return _dialect.bitpack.default(_dialect.sign.default(y)), levels


def _case() -> Case:
    constants = {"scale": torch.linspace(0.5, 1, 40), "shift": torch.linspace(-1, 1, 40)}
    return Case(_signs_and_levels, [(40, 5, 3)], constants)


def _built(case: Case) -> Built:
    return generate(case.graph(), Target("cuda"))


def test_words_of_signs_are_the_votes_of_a_warp(golden: Callable[[str, str], None]) -> None:
    source = _built(_case()).source
    golden(source[source.rindex(_KERNEL) :], "cuda-signs-and-levels.cu")


def test_nothing_is_included_so_that_nvrtc_takes_it() -> None:
    assert "#include" not in _built(_case()).source


@pytest.mark.skipif(not nvrtc.libraries(), reason="NVRTC is not installed")
@pytest.mark.parametrize("arch", GENERATIONS)
def test_nvrtc_takes_it(arch: int) -> None:
    """Tensor cores, and tiles of threads, with what follows them."""
    same = GEOMETRIES[0]
    cases = [
        _case(),
        xnor_conv(128, 64, *same, tail="pack"),
        int_conv(3, 32, *same, zero_point=9, tail="quantize"),
        Case(_aten.linear.default, [(100,)], {"weight": torch.ones(40, 100)}),
    ]
    code = nvrtc.libraries()[0].compile(generate(joined(cases), Target("cuda")).source, arch)
    assert code.startswith(b"\x7fELF")


def test_a_launch_has_a_thread_for_each_channel_of_a_whole_word() -> None:
    built = _built(_case())
    (launch,) = built.launches
    assert (launch.items, launch.threads, launch.macs) == (5 * 3 * 64, launch.per_block, 0)
    assert [a.kind for a in launch.arguments] == ["input", *["constants"] * 3, *["output"] * 2]
    assert [k.name for k in built.kernels] == [launch.symbol]


def test_values_between_kernels_lie_at_multiples_of_256_bytes_for_each_sample() -> None:
    def two(x: Tensor) -> Tensor:
        wide = _aten.pad.default(x, [1, 1], "constant", 0.0)
        return _aten.pad.default(_aten.relu.default(wide), [1, 1], "constant", 1.0)

    built = _built(Case(two, [(3, 5, 5)]))
    between = {a for launch in built.launches for a in launch.arguments if a.kind == "workspace"}
    assert between == {Argument("workspace", 0)}
    assert built.workspace == 512  # 3 * 5 * 7 floats
    assert built.workspace % 256 == 0


def test_a_result_that_is_an_input_is_copied() -> None:
    built = _built(
        Case(lambda x: (_aten.flatten.using_ints(x, 1), _aten.relu.default(x)), [(3, 2)])
    )
    first, last = built.launches
    assert (last.symbol, last.arguments) == ("copy", (Argument("input", 0), Argument("output", 0)))
    assert built.kernels[last.kernel].results == ()
    assert first.arguments[-1] == Argument("output", 1)


def test_kernels_of_one_shape_are_one_function() -> None:
    def twice(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return _aten.relu.default(x), _aten.relu.default(y)

    built = _built(Case(twice, [(3, 5), (3, 5)]))
    assert len({launch.symbol for launch in built.launches}) == 1
    assert len(built.launches) == 2


def test_samples_are_no_more_than_an_index_counts() -> None:
    built = _built(Case(_aten.relu.default, [(1 << 24,)]))
    assert built.samples == 126
    assert (built.samples + 1) << 24 < 2**31


def test_a_sample_that_no_index_counts_is_refused() -> None:
    gm = Case(_aten.relu.default, [(1 << 10,)]).graph()
    propagate(gm, batch=2)
    for node in gm.graph.nodes:
        if node.op != "output":
            node.meta["spec"] = replace(node.meta["spec"], shape=(2, 1 << 31))
    with pytest.raises(QCompileError, match="a value of 2,147,483,648 elements, and kernels for"):
        generate(gm, Target("cuda"))


def test_one_architecture_or_all() -> None:
    graph = _case().graph()
    every, one = (generate(graph, Target("cuda", arch)) for arch in (None, "sm_86"))
    assert (every.arch, one.arch) == ("cuda", "sm_86")
    assert set(one.features) <= {"sm_86", "compute_80"}
    same = {f.name: getattr(one, f.name) for f in dataclasses.fields(Built)}
    assert same["source"] == every.source
    assert same["launches"] == every.launches
