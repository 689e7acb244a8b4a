"""Layers of a report: whose time is whose, what reaches them, what they move, weigh and lose."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from typing import Any

import pytest
import torch
from small_built import built
from torch import Tensor, nn
from torch.fx import symbolic_trace

from qcompile import api
from qcompile.bench import before, ranges
from qcompile.bench import layers as layers_module
from qcompile.bench.built import Built, Made
from qcompile.bench.layers import CALL, layers, plus, times
from qcompile.bench.results import Layer, Parts
from qcompile.bench.traffic import moved, running
from qcompile.errors import QCompileError
from qcompile.profile_report import KernelTime, Profile, Spread
from qcompile.program import Program
from qcompile.program_info import KernelInfo
from qcompile.quant.recipe import Recipe
from qcompile.rivals.pytorch import in_best_layout


@pytest.fixture(scope="module")
def net() -> Built:
    return built(Recipe(1, mode="static"))


@pytest.fixture(scope="module")
def made(net: Built) -> Made:
    assert net.made is not None
    return net.made


@pytest.fixture(scope="module")
def found(net: Built) -> dict[str, Layer]:
    return {layer.path: layer for layer in layers(net, seconds=0.02)}


# --- rows ----------------------------------------------------------------------------------------


def test_layers_are_in_the_order_in_which_they_run(found: dict[str, Layer]) -> None:
    assert list(found) == ["stem", "body", "mean", "head", CALL]
    kinds = [layer.kind for layer in found.values()]
    assert kinds == ["Conv2d", "Conv2d", "AdaptiveAvgPool2d", "Linear", ""]
    assert [layer.bits for layer in found.values()] == [(8, 8), (1, 1), None, (8, 8), None]
    assert all(layer.batch == 1 for layer in found.values())


def test_what_is_known_of_a_layer(net: Built, found: dict[str, Layer]) -> None:
    body = found["body"]
    [known] = [layer for layer in net.program.info.layers if layer.layer == "body"]
    assert body.method.startswith("xnor-popcount")
    assert body.macs == 4 * 4 * 32 * 32 * 9
    assert (body.weights_before, body.weights_after) == (4 * 32 * 32 * 9, known.bytes_after)
    assert re.fullmatch(r".*small_built\.py:\d+", body.where)
    assert body.note.endswith(f"{known.kernel}: {known.why}")
    assert found["stem"].note == "first layer"
    assert found["head"].note == "last layer"


def test_what_a_layer_moves(net: Built, made: Made, found: dict[str, Layer]) -> None:
    levels, map_, words = 64, 4 * 4 * 32 * 4, 4 * 4 * 4
    weights = moved(made, net.program.variant.arch)["stem"] - 5 * levels - map_ - words
    assert weights >= 288  # and what fills vectors
    # Signs and the shortcut come in, a map of floats goes out.
    assert found["body"].moved == words + 2 * map_ + 32 * 32 * 9 // 8
    assert found["mean"].moved == map_ + 4 * 32 + 32


def test_a_variant_that_was_not_compiled(made: Made) -> None:
    with pytest.raises(QCompileError, match="nothing was compiled for haswell9"):
        running(made, "haswell9")


def test_a_program_alone(net: Built) -> None:
    found = layers(Built(net.program, "net.qcp"), seconds=0.01)
    assert [layer.path for layer in found] == ["stem", "body", "mean", "head", CALL]
    body = found[1]
    assert (body.before, body.activations, body.sqnr_db, body.moved) == (None, None, None, 0)
    assert (body.kind, body.bits, body.where) == ("Conv2d", (1, 1), "")
    assert body.after is not None
    assert body.weights_after == 32 * 32 * 9 // 8


def test_a_layer_that_nobody_needs(net: Built) -> None:
    kernels = [k for k in net.program.variant.kernels if k.layer != "body"]
    [known] = [layer for layer in net.program.info.layers if layer.layer == "body"]
    row = layers_module._row("body", replace(known, kernel="", why="", bytes_after=0), kernels)
    assert (row.macs, row.method, row.weights_after) == (0, "", 0)
    assert row.weights_before == 4 * 32 * 32 * 9


# --- after ---------------------------------------------------------------------------------------


@pytest.fixture
def timed(net: Built, monkeypatch: pytest.MonkeyPatch) -> Built:
    """The program alone, whose kernels take 1, 2, 3, ... seconds, and its calls 20."""

    def profile(self: Program, *inputs: Any, seconds: float) -> Profile:
        kernels = self.variant.kernels
        times = [KernelTime.of(k, Spread(i, i, i), 1) for i, k in enumerate(kernels, 1)]
        call, calling = Spread(20, 20, 20), Spread(2, 2, 2)
        return Profile("net", self.variant.arch, 1, 7, call, 20.0, calling, tuple(times))

    monkeypatch.setattr(Program, "profile", profile)
    return Built(net.program, "")


def test_without_phases_products_are_whole(timed: Built) -> None:
    found = layers(timed)
    assert [layer.after for layer in found] == [
        Parts(pack=1, matmul=2),  # the input is quantized by a kernel of its own
        Parts(matmul=3),
        Parts(epilogue=4),
        Parts(matmul=5),
        Parts(other=5),
    ]
    assert found[-1].note == (
        "the program's kernels and calling them add up to 85% of a call (medians of 7 rounds); "
        "packing and epilogues inside of kernels of products count as products"
    )


def test_phases_share_a_kernel_out(timed: Built) -> None:
    shares = [Parts(pack=0.25, matmul=0.5, epilogue=0.125, other=0.125)] * 5
    found = layers(timed, phases=shares)
    assert [layer.after for layer in found] == [
        Parts(pack=1.5, matmul=1, epilogue=0.25, other=0.25),
        Parts(0.75, 1.5, 0.375, 0.375),
        Parts(epilogue=4),
        Parts(1.25, 2.5, 0.625, 0.625),
        Parts(other=5),
    ]
    assert "inside of" not in found[-1].note


def test_parts_that_are_more_than_the_whole_are_told(
    timed: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = timed.program.profile(seconds=1.0)
    short = replace(whole, call=Spread(10, 10, 10))
    monkeypatch.setattr(Program, "profile", lambda *_, **__: short)
    call = layers(timed)[-1]
    assert call.after == Parts()
    assert "170% of a call (medians of 7 rounds); measure longer" in call.note


def test_phases_of_another_program_are_refused(net: Built) -> None:
    with pytest.raises(ValueError, match="zip"):
        layers(Built(net.program, ""), seconds=0.01, phases=[Parts(matmul=1.0)])


def test_arithmetic_of_parts() -> None:
    assert plus(Parts(1, 2, 3, 4), Parts(1, 1, 1, 1)) == Parts(2, 3, 4, 5)
    assert times(Parts(1, 2, 3, 4), 2.0) == Parts(2, 4, 6, 8)


# --- before --------------------------------------------------------------------------------------


def test_the_float_network_is_told_by_the_same_layers(found: dict[str, Layer]) -> None:
    stem, body, mean, head, _ = (layer.before or Parts() for layer in found.values())
    for parts in (stem, body):
        assert min(parts.matmul, parts.epilogue) > 0
        assert parts.pack == parts.other == 0
    assert mean.total == mean.epilogue
    assert head.total == head.matmul
    assert re.search(r"PyTorch's operations add up to \d+% of a call", found[CALL].note)


def test_operations_belong_to_the_layer_whose_kernel_computes_them(net: Built, made: Made) -> None:
    traced = api.traced(made.file.model, made.file.example_inputs)
    kernels = net.program.variant.kernels
    of = before.owners(
        traced.graph, made.lowered.graph, kernels, {"stem", "body", "mean", "head", CALL}
    )
    assert {node.name: layer for node, layer in of.items()} == {
        **dict.fromkeys(("stem", "norm", "relu", "pool"), "stem"),
        # The sum and its ReLU are computed with the convolution.
        **dict.fromkeys(("body", "norm2", "add", "relu_1", "drop"), "body"),
        **dict.fromkeys(("mean", "flatten"), "mean"),
        "head": "head",
    }


def test_what_precedes_all_layers_belongs_to_its_reader() -> None:
    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(2, 2)

        def forward(self, x: Tensor, unused: Tensor) -> tuple[Tensor, Tensor]:
            return self.fc((x - 1).abs()), unused * 2

    traced = symbolic_trace(Shifted())
    for node in traced.graph.nodes:
        node.meta["layer"] = str(node.target) if node.op == "call_module" else node.name
    of = before.owners(traced.graph, symbolic_trace(nn.Identity()).graph, (), {"fc"})
    names = {node.name: layer for node, layer in of.items()}
    assert names == {"sub": "fc", "abs_1": "fc", "fc": "fc", "mul": ""}


class _Clock:
    """Goes on by one at each look, and by as much as networks say that they take."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


class _Takes(nn.Module):
    def __init__(self, clock: _Clock, seconds: float) -> None:
        super().__init__()
        self.clock, self.seconds = clock, seconds

    def forward(self, x: Tensor) -> Tensor:
        self.clock.now += self.seconds
        return x + 1


def test_looking_at_the_clock_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = _Clock()
    monkeypatch.setattr(time, "thread_time", clock)
    network = nn.Sequential(_Takes(clock, 5.0), _Takes(clock, 7.0), nn.Flatten())
    leaves = torch.fx.GraphModule(network, _with_leaves(network))
    threads = torch.get_num_threads()
    told = before.eager(network, leaves, (torch.zeros(1, 2),), 1e-9)
    assert [told.nodes[n] for n in leaves.graph.nodes if n in told.nodes] == [5.0, 7.0, 0.0]
    assert (told.call, told.rounds) == (13.0, 5)
    assert torch.get_num_threads() == threads


def _with_leaves(network: nn.Module) -> torch.fx.Graph:
    class Tracer(torch.fx.Tracer):
        def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
            return True

    return Tracer().trace(network)


def test_functions_and_methods_are_timed_too() -> None:
    class Plain(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.add(x.reshape(-1, 4), 1).mul(2)

    traced = symbolic_trace(Plain())
    told = before.eager(Plain(), traced, (torch.zeros(2, 4),), 1e-9)
    assert [node.name for node in told.nodes] == ["reshape", "add", "mul"]
    assert told.call > 0


class _Viewed(nn.Module):
    """Whose view is of torch's own order."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).view(x.shape[0], -1)


def test_channels_last_where_the_network_can() -> None:
    x = torch.randn(2, 3, 5, 5)
    viewed, given = in_best_layout(_Viewed(), (x,))
    assert given[0] is x
    assert viewed(*given).shape == (2, 36)
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(36, 2))
    made, given = in_best_layout(plain, (x,))
    for value in (given[0], made.get_parameter("0.weight")):
        assert value.is_contiguous(memory_format=torch.channels_last)
    assert plain.get_parameter("0.weight").is_contiguous()
    made, given = in_best_layout(nn.Conv3d(3, 4, 3), (torch.randn(2, 3, 5, 5, 5),))
    for value in (given[0], made.get_parameter("weight")):
        assert value.is_contiguous(memory_format=torch.channels_last_3d)


@pytest.mark.parametrize(
    ("kind", "method", "told"),
    [
        ("int8", "", "int8"),
        ("int8", "int8 4x4x1", "int8"),
        ("xnor-popcount", "carry-save 16x2x4", "xnor-popcount carry-save"),
        ("float32", "8x2x3", "float32"),
    ],
)
def test_methods_are_told_without_tiles(kind: str, method: str, told: str) -> None:
    kernel = KernelInfo("f", (), "fc", kind, method=method, macs=1)
    assert layers_module._row("fc", None, [kernel]).method == told


def test_the_largest_product_tells_the_method(net: Built) -> None:
    [kernel] = [k for k in net.program.variant.kernels if k.layer == "body"]
    small = replace(kernel, kind="float32", method="", macs=9)
    row = layers_module._row("body", None, [small, kernel])
    assert row.method.startswith("xnor-popcount")
    assert row.macs == kernel.macs + 9


# --- what else is told ---------------------------------------------------------------------------


def test_what_reaches_a_layer_and_what_it_loses(made: Made, found: dict[str, Layer]) -> None:
    seen = ranges.observe(made.prepared, made.calibration)
    for path in ("stem", "body", "head"):
        assert found[path].activations == seen.ranges[path]
        assert found[path].sqnr_db == seen.sqnr_db[path]
    assert (found["mean"].activations, found["mean"].sqnr_db) == (None, None)


def test_ranges_that_were_cut_short_are_told(made: Made) -> None:
    seen = ranges.Seen({}, {}, samples=4, of=1200)
    assert layers_module._unseen(seen) == [
        "ranges are those of the first 4 of 1,200 calibration samples"
    ]
    assert layers_module._unseen(replace(seen, samples=1200)) == []
