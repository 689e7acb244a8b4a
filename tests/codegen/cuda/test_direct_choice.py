"""Products without tensor cores: which schedule is chosen, and what nvcc makes of each."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from compiling import Case, joined
from random_layers import Binary, Family, Float, Integer, Layer, Slide, WeightOnly
from small_nets import levels

from qcompile.codegen.built import Built, KernelInfo
from qcompile.codegen.cuda import direct, nvcc, tensor_cores, vectors
from qcompile.codegen.cuda.build import generate
from qcompile.cuda.launches import Launch
from qcompile.errors import QCompileError
from qcompile.ir.target import Target
from qcompile.nvidia import find_tool
from qcompile.static import tools

_aten, _dialect = torch.ops.aten, torch.ops.qcompile
SAME = Slide((3, 3), (1, 1), (1,) * 4, (1, 1))
LARGE = Slide((7, 7), (2, 2), (3,) * 4, (1, 1))
CHOSEN: dict[str, Family] = {
    "elements": Float(3, (16, 16), (Layer(16, SAME),)),
    "tiles 128x64": Float(3, (64, 64), (Layer(64, LARGE, end="relu"),)),
    "tiles 64x128": Float(64, (14, 14), (Layer(128, SAME, end="bits"),)),
    "vectors": Float(512, (), (Layer(10),)),
    "vectors, then tiles 64x128": Float(512, (), (Layer(1000),)),
}
OTHERS: list[tuple[str, Family]] = [
    ("elements", Float(32, (9, 9), (Layer(64, SAME, 16),))),
    ("elements", Binary(96, (9, 9), (Layer(6, SAME, 3, 1),))),
    ("elements, then tiles 128x64", Float(30, (), (Layer(64),))),
    ("elements", Float(5, (), (Layer(64),))),
    ("tiles 128x32", Float(128, (9, 9), (Layer(64, SAME, 2),))),
    ("tiles 64x128", Integer(64, (9, 9), (Layer(96, SAME, end="bits"),), reach=255)),
    ("tiles 128x64", WeightOnly(64, (9, 9), (Layer(160, SAME),))),
    ("vectors", WeightOnly(64, (3, 3), (Layer(10, Slide((3, 3), (1, 1), (0,) * 4, (1, 1))),))),
    ("vectors, then tiles 128x64", WeightOnly(512, (), (Layer(40, end="signs"),))),
]


def built(family: Family) -> Built:
    return generate(family.case().graph(), Target("cuda"))


def product(built: Built) -> tuple[KernelInfo, list[Launch]]:
    """The kernel that multiplies, and its launches."""
    ((number, kernel),) = ((i, k) for i, k in enumerate(built.kernels) if k.method)
    return kernel, [launch for launch in built.launches if launch.kernel == number]


@pytest.mark.parametrize(("method", "family"), [*CHOSEN.items(), *OTHERS])
def test_each_shape_has_a_schedule_that_suits_it(method: str, family: Family) -> None:
    assert product(built(family))[0].method == method


@pytest.mark.parametrize("method", CHOSEN)
def test_one_launch_for_each_batch(method: str) -> None:
    """Alternatives for small and large batches leave none out."""
    _, launches = product(built(CHOSEN[method]))
    for n in range(1, 5000):
        assert sum(launch.runs(n) for launch in launches) == 1, n


@pytest.mark.parametrize(
    ("most", "method", "y"),
    [
        (125, "vectors, then tiles 64x128", 125),
        (124, "vectors, then tiles 64x128", 32),
        (31, "elements", 1),
    ],
)
def test_no_more_blocks_than_a_grid_has(
    most: int, method: str, y: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (direct, vectors):
        monkeypatch.setattr(module, "MOST_BLOCKS", most)
    kernel, launches = product(built(Float(512, (), (Layer(1000),))))
    assert kernel.method == method
    assert launches[0].y == y


def test_a_product_of_more_columns_than_a_grid_has_blocks_is_not_for_tensor_cores(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    family = Integer(512, (), (Layer(1000),))
    assert "mma" in product(built(family))[0].method
    monkeypatch.setattr(tensor_cores, "MOST_BLOCKS", 1)
    assert "mma" not in product(built(family))[0].method


@pytest.mark.parametrize(("reach", "bytes_"), [(1, 128), (7, 256), (127, 512), (255, 1024)])
def test_levels_lie_in_as_few_bits_as_they_need(reach: int, bytes_: int) -> None:
    kernel, _ = product(built(WeightOnly(512, (), (Layer(40),), reach=reach)))
    assert kernel.weights is not None
    assert kernel.weights.form.nbytes == 40 * bytes_
    assert str(kernel.weights.values.dtype) == ("int16" if reach > 127 else "int8")


def test_odd_levels_take_no_bit_more_than_there_are_levels() -> None:
    weight = 2 * levels(0, 3, 8, 256) - 3
    case = Case(lambda x, w: _dialect.weight_only_linear.default(x, w), [(256,)], {"w": weight})
    kernel, _ = product(generate(case.graph(), Target("cuda")))
    assert kernel.weights is not None
    assert kernel.weights.form.nbytes == 8 * 256 * 2 // 8


def test_what_is_refused() -> None:
    def linear(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return _aten.linear.default(x, w)

    def transposed(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        rest = ([1, 1], [0, 0], [1, 1], True, [0, 0], 1)
        return _aten.convolution.default(x, w, None, *rest)

    for case, message in (
        (Case(linear, [(3, 8)], {"w": torch.ones(4, 8)}), "over 3 dimensions is not compiled"),
        (Case(transposed, [(3, 4, 4)], {"w": torch.ones(3, 2, 2, 2)}), "transposed convolutions"),
    ):
        with pytest.raises(QCompileError, match=message) as error:
            generate(case.graph(), Target("cuda"))
        assert error.value.where is not None


@cache
def _source() -> str:
    return generate(joined([f.case() for f in CHOSEN.values()]), Target("cuda")).source


@pytest.mark.skipif(nvcc.find_nvcc() is None, reason="there is no nvcc")
@pytest.mark.parametrize("arch", nvcc.GENERATIONS)
def test_no_register_is_spilled(arch: int) -> None:
    if arch not in nvcc.known_architectures():
        pytest.skip(f"nvcc knows no sm_{arch}")
    code = nvcc.cubin(_source(), arch)
    assert code[:4] == b"\x7fELF"
    if find_tool("cuobjdump") is None:
        pytest.skip("there is no cuobjdump")
    for name, taken in tools.resources(code, arch).items():
        assert taken.stack == 0, name
        assert taken.registers <= 128, name
