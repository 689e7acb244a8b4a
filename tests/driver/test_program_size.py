"""How large a program's file is: weights of k bits take k bits, once, whatever reads them."""

from __future__ import annotations

import gc
import re
import weakref
import zipfile
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import qcompile
from qcompile import cli
from qcompile.constants import Constant, expanded
from qcompile.ir.target import VARIANTS
from qcompile.program import Program
from qcompile.program_file import Archive, pack

X = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))


class Net(nn.Module):
    """195,008 weights; 100 channels are no whole number of vectors, 27 and 900 no whole quads."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        self.one_norm = nn.BatchNorm2d(64)
        self.two = nn.Conv2d(64, 100, 3, padding=1, bias=False)
        self.two_norm = nn.BatchNorm2d(100)
        self.three = nn.Conv2d(100, 128, 3, 2, padding=1, bias=False)
        self.three_norm = nn.BatchNorm2d(128)
        self.last = nn.Linear(128 * 16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.one_norm(self.one(x)))
        x = torch.relu(self.two_norm(self.two(x)))
        x = torch.relu(self.three_norm(self.three(x)))
        return self.last(torch.flatten(x, 1))


CHANNELS = 64 + 100 + 128 + 10


@cache
def program(bits: int, target: str = "cpu", **fields: Any) -> Program:
    torch.manual_seed(0)
    recipe = {"activation_bits": 8, "first_last_bits": max(2, bits), "method": "dorefa", **fields}
    prepared = qcompile.prepare(Net(), X, qcompile.Recipe(bits, **recipe))
    prepared.train()
    prepared(X)
    return qcompile.compile(qcompile.convert(prepared.eval()), target=target)


def archive(of: Program) -> Archive:
    return of._archive


def others(of: Program) -> int:
    """Bytes of arrays that are no weights."""
    stored: int = archive(of)._contents.constants.size
    return stored - sum(layer.bytes_after for layer in of.info.layers)


@pytest.mark.parametrize("bits", range(2, 9))
def test_weights_take_their_bits(bits: int) -> None:
    """The whole file: 5 % beside the weights, what each channel has, code and program.json."""
    made = program(bits)
    layers, sizes = made.info.layers, archive(made).sizes
    assert [layer.weight_bits for layer in layers] == [bits] * 4
    weights = sum(layer.weights for layer in layers)
    assert weights == 195_008
    per_channel = 3 * 4 * CHANNELS + 64 * 8  # a bias, a scale, a shift; scalars of each kernel
    assert made.size <= 1.05 * weights * bits / 8 + per_channel + sum(sizes.code) + sizes.rest
    assert sizes.constants <= 1.05 * weights * bits / 8 + per_channel
    assert others(made) <= per_channel
    for layer in layers:
        palette = (1 << bits) * (2 if bits == 8 else 1)
        assert layer.bytes_after <= layer.weights * bits / 8 + palette + 3


@pytest.mark.parametrize("bits", [2, 8])
def test_the_rest_of_a_file_is_small(bits: int) -> None:
    sizes = archive(program(bits)).sizes
    assert sizes.rest < 4000
    assert sum(sizes.code) < 60_000


def test_ternary_weights_take_two_bits_and_less() -> None:
    made = program(2, method="affine", ternary_weights=True)
    for layer in made.info.layers:
        assert layer.bytes_after <= layer.weights / 4 + 4
    assert archive(made).sizes.constants < sum(layer.weights for layer in made.info.layers) / 4


@pytest.mark.parametrize("method", ["bireal", "dorefa"])
def test_binary_weights_take_one_bit(method: str) -> None:
    """Whether words of signs, also of 100 channels, or bytes of +1 and -1 are what a kernel reads."""
    made = program(1, method=method, activation_bits=1 if method == "bireal" else 8)
    for layer in made.info.layers[1:3]:
        assert layer.weight_bits == 1
        assert layer.bytes_after <= layer.weights / 8 + 4


def test_variants_share_their_weights() -> None:
    """One copy of the weights, and a few numbers by channel that differ."""
    one, portable = program(2), program(2, "cpu:portable")
    assert len(portable.info.variants) == len(VARIANTS[portable.variant.machine])
    assert others(portable) <= others(one) + 8 * CHANNELS + 64
    assert archive(portable).sizes.constants <= 1.1 * archive(one).sizes.constants


def test_sizes_add_up_to_the_file() -> None:
    made = program(2, "cpu:portable")
    sizes = archive(made).sizes
    assert sum(sizes.code) + sizes.constants + sizes.rest == made.size == len(archive(made).data)
    with zipfile.ZipFile(BytesIO(archive(made).data)) as file:
        packed = {entry.filename: entry.compress_size for entry in file.infolist()}
    assert sizes.constants == packed["constants"]
    assert sizes.code == tuple(packed[f"{v.arch}.so"] for v in made.info.variants)


@pytest.mark.parametrize("target", ["cpu", "cpu:portable", "cuda,cpu"])
def test_what_is_said_of_sizes_adds_up(
    target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qcompile.codegen.cuda.build.find_nvcc", lambda: None)  # it is slow
    made = program(2, target)
    path = tmp_path / "net.qcp"
    made.save(path)
    assert cli.main(["inspect", str(path)]) == cli.OK
    out = " ".join(capsys.readouterr().out.split())
    for text in (out, str(made.summary())):
        [(whole, held)] = re.findall(r"([\d,]+) bytes = (.*? metadata)", text)
        parts = re.findall(r"(-?) ?([\d,]+) ([a-z].*?)(?= [+-] |$)", held)
        sizes = {what: int(sign + size.replace(",", "")) for sign, size, what in parts}
        assert int(whole.replace(",", "")) == sum(sizes.values()) == path.stat().st_size
        assert sizes == {name: size for name, size in made.summary().parts().items() if size}
        assert sizes["weights"] == sum(layer.bytes_after for layer in made.info.layers)
        codes = [sizes[f"code for {variant.arch}"] for variant in made.info.variants]
        assert tuple(codes) == archive(made).sizes.code
    assert all(f"{size:,}" in out for size in archive(made).sizes.code)


def test_equal_weights_are_there_once() -> None:
    one, other = nn.Linear(64, 64, bias=False), nn.Linear(64, 64, bias=False)
    other.load_state_dict(one.state_dict())
    made = qcompile.compile(nn.Sequential(one, other), torch.randn(2, 64), bits=8)
    parts = made.summary().parts()
    assert parts["weights"] == 2 * made.info.layers[0].bytes_after
    assert parts["shared"] < 0
    assert sum(parts.values()) == made.size


def test_every_variant_gets_the_constants_that_it_was_built_with() -> None:
    made = program(2, "cpu:portable")
    for variant in made.info.variants:
        constants = archive(made).constants(variant)
        memory = archive(made).memory(variant)
        assert memory.tobytes() == expanded(constants).tobytes()
        weights = [c for c in constants if c.values.size == 128 * 100 * 9]
        [largest] = weights
        assert largest.form.size >= largest.values.size
        assert np.array_equal(np.unique(largest.values), [-3, -1, 1, 3])


# --- in memory -----------------------------------------------------------------------------------


def test_constants_go_with_the_program() -> None:
    made = Program(archive(program(2)))
    made(X)
    memory = made.library()._constants
    assert not memory.flags.writeable
    gone = weakref.ref(memory.base)
    del memory, made
    gc.collect()
    assert gone() is None


def test_other_constants_give_other_results() -> None:
    """The library reads the file's constants, and no others."""
    made = program(2)
    found = archive(made)
    zeros = [Constant(np.zeros_like(c.values), c.steps) for c in made.constants]
    changed = Program(pack(made.info, [made.library_bytes], [zeros]))
    assert not torch.equal(changed(X), made(X))
    assert torch.equal(Program(found)(X), made(X))


def test_steps_are_not_disturbed_by_calls() -> None:
    """They have a workspace of their own: the caller may run the program between two of them."""
    made = Program(archive(program(2)))
    made.num_threads = 1
    x = X[: made.variant.samples]
    alone = [{name: value.copy() for name, value in run().items()} for _, run in made.steps(x)]
    between = []
    for _, run in made.steps(x):
        made(-3 * X)
        between.append({name: value.copy() for name, value in run().items()})
    for before, after in zip(alone, between, strict=True):
        assert all(np.array_equal(before[name], after[name]) for name in before)
