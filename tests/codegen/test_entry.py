"""The function that runs a library: parts of a batch, threads, one kernel alone, memory of the caller."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from compiling import Case
from torch import Tensor
from torch.fx import GraphModule

from qcompile.codegen.build import build
from qcompile.codegen.built import Built
from qcompile.codegen.entry import KERNEL_FROM, REST_FROM
from qcompile.constants import expanded
from qcompile.ir.target import Target
from qcompile.runtime import Library, cores, use_threads

q, aten = torch.ops.qcompile, torch.ops.aten


def floats(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def network(x: Tensor, w: Tensor, v: Tensor, a: Tensor) -> Any:
    """Kernels that are worth sharing, small ones between them, and two results."""
    levels = q.quantize.default(x, 0.03, 7, 0, 255)
    y = q.conv.default(levels, w, [1, 1], [1, 1, 1, 1], [1, 1], 1, 7, 0)
    y = q.scale_shift.default(y, a, a)
    bits = q.bitpack.default(q.sign.default(y))
    patches = q.im2col.default(bits, 32, 1, [3, 3], [1, 1], [1, 1, 1, 1], [1, 1], 1)
    z = aten.add.Tensor(q.scale_shift.default(q.xnor_matmul.default(patches, v, 288, 1), a, a), y)
    pooled = aten.amax.default(z, [2, 3])
    return aten.max_pool2d.default(z, [2, 2], [2, 2]), aten.neg.default(pooled)


@cache
def graph() -> GraphModule:
    generator = torch.Generator().manual_seed(0)
    constants = {
        "w": torch.randint(-99, 99, (32, 3, 3, 3), generator=generator).to(torch.int8),
        "v": torch.randint(-(2**31), 2**31, (32, 9), generator=generator).to(torch.int32),
        "a": floats(32, seed=1) / 1000,
    }
    return Case(network, [(3, 20, 22)], constants).graph()


@cache
def built() -> Built:
    return build(graph(), Target())


@cache
def library() -> Library:
    return Library(built().library, built().workspace, expanded(built().constants))


def outputs(size: int) -> list[Tensor]:
    return [torch.full((size, *shape), 7.0) for shape, _ in built().outputs]


def call(x: Any, results: Sequence[Any], threads: int, only: int = -1) -> None:
    use_threads(min(threads, cores()))
    library().run(x, *results, library().workspace(threads), threads, only)


def check(x: Tensor, threads: int) -> bool:
    results = outputs(x.shape[0])
    call(x, results, threads)
    return all(torch.equal(a, b) for a, b in zip(results, graph()(x), strict=True))


def test_the_network_is_shared_and_so_are_kernels() -> None:
    """Else the tests below are about nothing."""
    work = 32 * 20 * 22 * (27 + 288)
    assert work > REST_FROM > KERNEL_FROM
    assert b"TVMBackendParallelBarrier" in built().library
    assert built().samples < 8


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 23])
def test_any_batch_on_any_number_of_threads(size: int, threads: int) -> None:
    """Also on more than there are workers: each then has several parts."""
    assert check(floats(size, 3, 20, 22, seed=size), threads)


def test_small_networks_share_samples_alone() -> None:
    small = build(Case(lambda x: aten.relu.default(x), [(1000,)]).graph(), Target())
    assert b"TVMBackendParallelBarrier" not in small.library
    loaded = Library(small.library, small.workspace, expanded(small.constants))
    x = floats(701, 1000, seed=1)
    y = torch.empty_like(x)
    for threads in (1, 2):
        use_threads(min(threads, cores()))
        loaded.run(x, y.zero_(), loaded.workspace(threads), threads, -1)
        assert torch.equal(y, x.relu())


@pytest.mark.parametrize("offset", [1, 5])
def test_inputs_and_outputs_of_any_alignment(offset: int) -> None:
    x = floats(5, 3, 20, 22, seed=3)
    moved = torch.zeros(x.numel() + offset)[offset:].view_as(x).copy_(x)
    results = [torch.zeros(y.numel() + offset)[offset:].view_as(y) for y in outputs(5)]
    for threads in (1, 2):
        call(moved, results, threads)
        for got, wanted in zip(results, graph()(x), strict=True):
            assert torch.equal(got, wanted)


def test_nothing_is_written_beyond_the_results() -> None:
    x = floats(3, 3, 20, 22, seed=4)
    wide = [torch.full((5, *y.shape[1:]), 7.0) for y in outputs(3)]
    for threads in (1, 2):
        call(x, [y[1:4] for y in wide], threads)
        for y, wanted in zip(wide, graph()(x), strict=True):
            assert torch.equal(y[1:4], wanted)
            assert bool((y[[0, 4]] == 7).all())


def test_kernels_one_by_one_give_the_same() -> None:
    x = floats(built().samples, 3, 20, 22, seed=5)
    results = outputs(built().samples)
    for number in range(len(built().kernels)):
        call(x, results, 1, number)
    for got, wanted in zip(results, graph()(x), strict=True):
        assert torch.equal(got, wanted)


def test_many_callers_at_once() -> None:
    def caller(seed: int) -> bool:
        sizes = (1 + seed % 4, 1, 5)
        xs = [floats(size, 3, 20, 22, seed=10 * seed + i) for i, size in enumerate(sizes)]
        return all(check(x, 1 + (seed + i) % 2) for i in range(4) for x in xs)

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(caller, range(6)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x.double(), "dtype"),
        (lambda x: x[:, :2], "shape"),
        (lambda x: x.mT.contiguous().mT, "strides"),
        (lambda x: x[0], "ndim"),
    ],
)
def test_what_cannot_be_read_is_refused(change: Callable[[Tensor], Tensor], message: str) -> None:
    x = floats(2, 3, 20, 22, seed=6)
    results = outputs(2)
    with pytest.raises((TypeError, ValueError), match=message):
        call(change(x), results, 1)
    assert all(bool((y == 7).all()) for y in results)


CODE = """
import os, signal, sys
sys.modules["torch"] = None
import numpy as np
from qcompile.constants import aligned
from qcompile.runtime import Library, use_threads, cores
code, workspace, threads = open(sys.argv[1], "rb").read(), int(sys.argv[2]), cores()
x = np.load(sys.argv[3])
data = np.fromfile(sys.argv[4], np.uint8)
constants = aligned(data.size)
constants[:] = data
library = Library(code, workspace, constants)

def run():
    use_threads(threads)
    results = [np.zeros((len(x), 32, 10, 11), "f4"), np.zeros((len(x), 32), "f4")]
    library.run(x, *results, library.workspace(threads), threads, -1)
    return results

first = run()
child = os.fork()
if child == 0:
    signal.alarm(60)
    same = all(np.array_equal(a, b) for a, b in zip(first, run()))
    os._exit(0 if same else 1)
print(os.waitpid(child, 0)[1], all(np.array_equal(a, b) for a, b in zip(first, run())))
"""


@pytest.mark.parametrize("size", [1, 5])
def test_a_forked_process_and_its_parent_go_on(size: int, tmp_path: Path) -> None:
    (tmp_path / "library").write_bytes(built().library)
    np.save(tmp_path / "x.npy", floats(size, 3, 20, 22, seed=8).numpy())
    expanded(built().constants).tofile(tmp_path / "constants")
    paths = [str(tmp_path / "library"), str(built().workspace), str(tmp_path / "x.npy")]
    paths.append(str(tmp_path / "constants"))
    command = [sys.executable, "-c", CODE, *paths]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["0", "True"]
