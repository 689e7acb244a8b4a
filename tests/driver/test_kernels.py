"""Which kernel computes a layer: chosen, forced, reported; results do not depend on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.fx import GraphModule

import qcompile
from qcompile import QCompileError, Recipe, cli, kernels
from qcompile.codegen.costs.choose import KERNELS
from qcompile.ir.target import Target

SHAPE = (3, 8, 8)


def network() -> nn.Module:
    torch.manual_seed(5)
    return nn.Sequential(
        *[nn.Conv2d(3, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU()],
        *[nn.Conv2d(64, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU()],
        *[nn.Conv2d(64, 2, 3, padding=1), nn.BatchNorm2d(2), nn.ReLU()],
        *[nn.Conv2d(2, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()],
        *[nn.Flatten(), nn.Linear(1024, 10)],
    ).eval()


def converted(weight_bits: int, activation_bits: int) -> GraphModule:
    torch.manual_seed(6)
    method = "bireal" if activation_bits == 1 else "dorefa"
    recipe = Recipe(method=method, weight_bits=weight_bits, activation_bits=activation_bits)
    prepared = qcompile.prepare(network(), torch.randn(2, *SHAPE), recipe)
    prepared(torch.randn(4, *SHAPE))
    return qcompile.convert(prepared)


@pytest.fixture(scope="module")
def binary() -> GraphModule:
    return converted(1, 1)


def taken(program: qcompile.Program) -> dict[str, str]:
    return {layer.layer: layer.kernel for layer in program.info.layers}


@pytest.mark.parametrize("bits", [(1, 1), (1, 4), (2, 1), (4, 4)], ids=str)
def test_results_do_not_depend_on_the_kernel(bits: tuple[int, int]) -> None:
    gm = converted(*bits)
    x = torch.randn(3, *SHAPE)
    expected = gm(x)
    possible = [None, "int8", *(["xnor-popcount"] if bits == (1, 1) else [])]
    for kernel in [*possible, "lookup", "bit-planes"]:
        try:
            program = qcompile.compile(gm, kernel=kernel)
        except QCompileError as error:
            assert kernel not in possible
            assert "no layer can be computed by" in error.what  # noqa: PT017
            continue
        assert torch.equal(program(x), expected), kernel
        if kernel is not None:
            assert kernel in taken(program).values()
            assert {"int8", kernel} >= set(taken(program).values()) - {"xnor-popcount"}


def test_few_channels_stay_bytes_and_the_user_reads_why(binary: GraphModule) -> None:
    program = qcompile.compile(binary, target="cpu:haswell")
    layers = {layer.layer: layer for layer in program.info.layers}
    assert layers["3"].kernel == "xnor-popcount"
    assert layers["3"].why.endswith("times as fast as int8")
    assert layers["9"].kernel == "int8"
    assert layers["9"].reason.startswith("stays int8: XNOR on 2 channels would take")
    assert layers["9"].reason in str(program.summary())
    assert layers["3"].why in str(program.summary())


def test_a_kernel_is_forced_on_layers_by_path_glob_and_class(binary: GraphModule) -> None:
    x = torch.randn(2, *SHAPE)
    forced = qcompile.compile(binary, kernel={"9": "xnor-popcount"})
    assert taken(forced)["9"] == "xnor-popcount"
    assert next(layer.why for layer in forced.info.layers if layer.layer == "9") == "forced"
    every = qcompile.compile(binary, kernel=["Conv2d=int8", "[3-9]=xnor-popcount", "3=int8"])
    assert taken(every) == {
        "0": "int8",
        "3": "int8",
        "6": "xnor-popcount",
        "9": "xnor-popcount",
        "13": "int8",
    }
    assert torch.equal(every(x), forced(x))
    counted = qcompile.compile(binary, kernel="popcount")
    methods = [k.method for k in counted.info.variants[0].kernels if k.kind == "xnor-popcount"]
    assert len(methods) == 3
    assert all(method.startswith("popcount ") for method in methods)


@pytest.mark.parametrize(
    ("kernel", "what", "hint"),
    [
        ("in8", "no kernel is called 'in8'", "did you mean 'int8'?"),
        ("zzzz", "no kernel is called 'zzzz'", "there are xnor-popcount, int8, lookup"),
        (
            {"stem": "int8"},
            "no layer is called 'stem', and kernel 'int8' was for it",
            "its layers are 0, 3",
        ),
        ("Linaer=int8", "no layer is called 'Linaer'", "did you mean 'Linear'?"),
        ("0=xnor-popcount", "it cannot be computed by 'xnor-popcount'", "it can be by "),
        (
            "count",
            "no layer can be computed by 'count' on cpu",
            "0, 13 can be by int8; 3, 6, 9 can",
        ),
        (7, "7 names no kernel", 'kernel="int8"'),
        ("=int8", "'=int8' names no kernel", 'kernel="int8"'),
        ("3=", "'3=' names no kernel", 'kernel="int8"'),
        ({"3": 8}, "('3', 8) names no kernel", 'kernel="int8"'),
    ],
)
def test_what_cannot_be_forced_is_refused(
    binary: GraphModule, kernel: Any, what: str, hint: str
) -> None:
    with pytest.raises(QCompileError) as error:
        kernels.lower(binary, Target(), kernel)
    assert what in error.value.what
    assert hint in str(error.value.hint)


def test_a_layer_that_cannot_have_a_kernel_is_named(binary: GraphModule) -> None:
    with pytest.raises(QCompileError) as error:
        kernels.lower(binary, Target(), {"13": "xnor-popcount"})
    assert error.value.where == "13"
    assert "int8" in str(error.value.hint)


def test_the_manual_names_every_kernel() -> None:
    manual = (Path(__file__).resolve().parents[2] / "docs" / "cli.md").read_text()
    [line] = [line for line in manual.splitlines() if line.startswith("| `--kernel ")]
    assert [kernel for kernel in KERNELS if f"`{kernel}`" not in line] == []


def test_the_command_takes_kernels_and_shows_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, output = tmp_path / "net.py", tmp_path / "net.qcp"
    path.write_text(
        "import torch\n"
        "from torch import nn\n"
        "torch.manual_seed(0)\n"
        "model = nn.Sequential(nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.ReLU(),\n"
        "    nn.Flatten(), nn.Linear(128, 3))\n"
        "example_inputs = torch.randn(2, 1, 6, 6)\n"
    )
    wrong = ["2x=int8", "int9"]
    for kernel in wrong:
        assert cli.main([str(path), "--kernel", kernel, "-o", str(output)]) == cli.REFUSED
    assert not output.exists()
    said = capsys.readouterr().err
    assert "no layer is called '2x'" in said
    assert "no kernel is called 'int9'" in said
    path.write_text(path.read_text() + "def train(model): raise AssertionError\n")
    assert cli.main([str(path), "--bits", "2", "--kernel", "popcount"]) == cli.REFUSED
    said = capsys.readouterr().err
    assert "no layer can be computed by 'popcount'" in said
    assert "can be by int8" in said
    path.write_text(path.read_text().split("def train")[0])
    arguments = ["--bits", "1", "--no-verify", "--kernel", "int8", "--kernel", "2=popcount"]
    assert cli.main([str(path), *arguments, "-o", str(output)]) == cli.OK
    assert "forced" in capsys.readouterr().out
    assert cli.main(["inspect", str(output), "--kernels"]) == cli.OK
    said = capsys.readouterr().out
    assert "2      xnor-popcount  popcount " in said


@pytest.mark.parametrize("channels", [1, 2, 33])
def test_planes_of_any_number_of_channels(channels: int) -> None:
    """One channel and its one word look alike, and are not."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, channels, 1), nn.Conv2d(channels, 8, 5, padding=2), nn.Conv2d(8, 2, 1)
    )
    x = torch.randn(2, 3, 12, 12)
    overrides = {"1": {"weight_bits": 2, "activation_bits": 1}}
    prepared = qcompile.prepare(model.eval(), x, Recipe(8, mode="static", overrides=overrides))
    prepared(x)
    gm = qcompile.convert(prepared)
    for kernel in ("bit-planes", "int8"):
        program = qcompile.compile(gm, kernel={"1": kernel})
        assert taken(program)["1"] == kernel
        assert torch.equal(program(x), gm(x))


def test_depthwise_layers_of_signs_have_no_tables() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 24, 1), nn.Conv2d(24, 24, 3, padding=1, groups=24), nn.Conv2d(24, 2, 1)
    )
    x = torch.randn(2, 3, 9, 9)
    overrides = {"1": {"weight_bits": 1, "activation_bits": 4}}
    prepared = qcompile.prepare(model.eval(), x, Recipe(8, mode="static", overrides=overrides))
    prepared(x)
    gm = qcompile.convert(prepared)
    assert torch.equal(qcompile.compile(gm)(x), gm(x))
