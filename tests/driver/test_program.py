"""Programs run: on torch and numpy, from any memory, from many threads, in bare processes."""

from __future__ import annotations

import dataclasses
import gc
import os
import subprocess
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toy_library import SCALE, affine_info, affine_program, pair_program

import qcompile
from qcompile import runtime
from qcompile.arguments import Arguments
from qcompile.program import Program
from qcompile.program_info import LayerInfo
from qcompile.program_summary import bits
from qcompile.runtime import cores, default_threads


@pytest.fixture(scope="module")
def affine() -> Program:
    return affine_program()


def expected(x: Any) -> Any:
    """What the affine program computes; exact, for inputs that are small integers."""
    return x * np.asarray(SCALE) + 1 if isinstance(x, np.ndarray) else x * torch.tensor(SCALE) + 1


def samples(batch: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-99, 99, (batch, 3, 8), generator=generator).float()


def in_thread(function: Any) -> Any:
    """The result of a call in a thread of its own, which TVM meets for the first time."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result()


# --- kinds, layouts, alignment -------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 2, 5, 64])
def test_torch_gives_torch_and_numpy_gives_numpy(affine: Program, batch: int) -> None:
    x = samples(batch)
    y = affine(x)
    assert type(y) is torch.Tensor
    assert torch.equal(y, expected(x))
    z = affine(x.numpy())
    assert type(z) is np.ndarray
    assert np.array_equal(z, expected(x.numpy()))


def test_several_inputs_and_outputs() -> None:
    a, b = torch.rand(3, 5), torch.arange(12, dtype=torch.int32).reshape(3, 4)
    result = pair_program()(a, b)
    assert type(result) is tuple
    assert torch.equal(result[0], a * 2)
    assert torch.equal(result[1], b + 1)
    arrays = pair_program()(a.numpy(), b.numpy())
    assert [type(array) for array in arrays] == [np.ndarray, np.ndarray]
    assert np.array_equal(arrays[1], b.numpy() + 1)


def _views() -> dict[str, torch.Tensor]:
    base = samples(9)
    flat = torch.zeros(9 * 24 + 1)
    flat[1:] = base.reshape(-1)
    return {
        "a slice of the batch": base[1:],
        "every other sample": base[::2],
        "transposed": samples(4).transpose(1, 2).contiguous().transpose(1, 2),
        "off by one float": flat[1:].reshape(9, 3, 8),
        "expanded": samples(1).expand(5, 3, 8),
        "odd strides of a single sample": samples(1).as_strided((1, 3, 8), (7, 8, 1)),
        "requires grad": samples(2).requires_grad_(),
        "a negated view": torch.complex(samples(3), samples(3, seed=1)).conj().imag,
    }


@pytest.mark.parametrize("name", _views())
def test_any_stride_and_alignment(affine: Program, name: str) -> None:
    x = _views()[name]
    y = affine(x)
    assert torch.equal(y, expected(x.detach()))
    assert not y.requires_grad


def test_arrays_of_any_stride_and_alignment(affine: Program) -> None:
    base = samples(9).numpy()
    frozen = base.copy()
    frozen.flags.writeable = False
    flat = np.zeros(base.nbytes + 1, np.uint8)
    unaligned = flat[1:].view(np.float32).reshape(base.shape)
    unaligned[...] = base
    for x in (base[1:], base[::-2], np.asfortranarray(base), frozen, unaligned):
        assert np.array_equal(affine(x), expected(x))


def test_what_can_be_read_is_not_copied() -> None:
    info = affine_info()
    arguments = Arguments(info.inputs, info.outputs)
    flat = torch.arange(4 * 24 + 1.0)
    given: list[Any] = []
    for x in (flat[:-1].reshape(4, 3, 8), flat[1:].reshape(4, 3, 8), np.ones((1, 3, 8), "f4")):
        arguments.call(lambda *values: given.append(values), (x,), 7)
        assert given[-1][0] is x
        assert given[-1][2] == 7


@pytest.mark.parametrize("kind", [torch.Tensor, np.ndarray])
def test_what_the_library_refuses_is_looked_at(kind: type) -> None:
    """Refused for no reason that can be seen: the library's own error. Else it is copied."""
    info = affine_info()
    arguments = Arguments(info.inputs, info.outputs)
    x: Any = samples(2) if kind is torch.Tensor else samples(2).numpy()

    def refuse(*_: Any) -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match=r"^no$"):
        arguments.call(refuse, (x,))
    given: list[Any] = []

    def refuse_once(*values: Any) -> None:
        given.append(values[0])
        if len(given) == 1:
            raise ValueError("strides")

    arguments.call(refuse_once, (x[:, :, ::-1] if kind is np.ndarray else x.mT.contiguous().mT,))
    assert given[1] is not given[0]
    assert np.array_equal(given[1], given[0])


def test_results_live_on_by_themselves() -> None:
    program = affine_program()
    first = program(samples(4))
    program(samples(4, seed=1))
    del program
    gc.collect()
    assert torch.equal(first, expected(samples(4)))


def test_a_program_that_is_gone_leaves_no_library_mapped() -> None:
    gc.collect()
    before = _mapped()
    program = affine_program()
    program(samples(1))
    assert len(_mapped()) == len(before) + 1
    del program
    gc.collect()
    assert _mapped() == before


def _mapped() -> set[str]:
    lines = Path("/proc/self/maps").read_text().splitlines()
    return {line.split()[5] for line in lines if "/qcompile-" in line}


# --- threads -------------------------------------------------------------------------------------


def test_eight_threads_at_once() -> None:
    programs = [affine_program(), affine_program()]
    start = threading.Barrier(8)

    def work(seed: int) -> int:
        inputs = [samples(1 + (seed + 3 * i) % 20, seed=i) for i in range(10)]
        start.wait()
        right = 0
        for i in range(200):
            x = inputs[i % 10]  # of more sizes than buffers are kept for
            right += torch.equal(programs[i % 2](x), expected(x))
        return right

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(8))) == [200] * 8


def test_num_threads_is_what_the_pool_is_told() -> None:
    program = affine_program()
    assert program.num_threads == default_threads()

    def used(count: int) -> int:
        program.num_threads = count
        program(samples(8))
        return runtime.ffi().get_global_func("runtime.NumThreads")()

    assert in_thread(lambda: used(cores())) == cores()
    assert program.num_threads == cores()


def test_one_thread_is_the_callers_own(saved: str) -> None:
    code = """
import os, sys
sys.modules["torch"] = None
import qcompile
program = qcompile.load(sys.argv[1])
program.num_threads = 1
before = len(os.listdir("/proc/self/task"))
import numpy as np
program(np.zeros((64, 3, 8), np.float32))
print(len(os.listdir("/proc/self/task")) - before)
"""
    assert run_python(code, saved) == "0"


@pytest.mark.parametrize(
    ("variables", "count"),
    [
        ({}, cores()),
        ({"TVM_NUM_THREADS": "1"}, 1),
        ({"OMP_NUM_THREADS": "1,2"}, 1),
        ({"TVM_NUM_THREADS": "9999"}, cores()),
        ({"TVM_NUM_THREADS": "0"}, 1),
        ({"TVM_NUM_THREADS": "many"}, cores()),
    ],
)
def test_default_threads_follow_the_environment(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], count: int
) -> None:
    monkeypatch.delenv("TVM_NUM_THREADS", raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert affine_program().num_threads == count


def test_a_workspace_goes_with_its_thread(affine: Program) -> None:
    def call() -> Any:
        affine(samples(4))
        return weakref.ref(library_of(affine)._own.memory.base)

    memory = in_thread(call)
    gc.collect()
    assert memory() is None


def test_a_workspace_is_kept_for_any_batch(affine: Program) -> None:
    affine(samples(1))
    before = library_of(affine).workspace(1)
    affine(samples(64))
    assert library_of(affine).workspace(1) == before


def library_of(program: Program) -> runtime.Library:
    library = program.library()
    assert isinstance(library, runtime.Library)
    return library


def test_a_call_leaves_the_callers_affinity_alone(affine: Program) -> None:
    for core in os.sched_getaffinity(0):

        def call(core: int = core) -> set[int]:
            os.sched_setaffinity(0, {core})
            affine(samples(4))
            return os.sched_getaffinity(0)

        assert in_thread(call) == {core}
    everywhere = os.sched_getaffinity(0)
    assert in_thread(lambda: (affine(samples(4)), os.sched_getaffinity(0))[1]) == everywhere


# --- processes -----------------------------------------------------------------------------------


def run_python(code: str, *arguments: str) -> str:
    """The output of a fresh interpreter."""
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def saved(affine: Program, tmp_path: Path) -> str:
    path = tmp_path / "affine.qcp"
    affine.save(path)
    return str(path)


CHECK = """
import numpy as np
program = qcompile.load(sys.argv[1])
x = np.arange(48, dtype=np.float32).reshape(2, 3, 8)
assert np.array_equal(program(x), x * np.arange(8, dtype=np.float32) + 1)
"""


def test_runs_without_torch_and_without_the_compiler(saved: str) -> None:
    code = f"""
import sys
sys.modules["torch"] = None
import qcompile
{CHECK}
print(program.summary())
assert "tvm" not in sys.modules and "rich" not in sys.modules
print([word for word in ("libtvm_compiler", "libtorch") if word in open("/proc/self/maps").read()])
"""
    output = run_python(code, saved)
    assert output.startswith("Affine for cpu")
    assert output.endswith("[]")


@pytest.mark.parametrize("order", ["import tvm; import qcompile", "import qcompile"])
def test_runs_where_tvm_is_imported_too(saved: str, order: str) -> None:
    code = f"""
import sys
{order}
{CHECK}
import tvm
from tvm import relax
assert np.array_equal(tvm.runtime.tensor(x).numpy(), x)
assert np.array_equal(program(x), x * np.arange(8, dtype=np.float32) + 1)
"""
    run_python(code, saved)


def test_runs_in_a_forked_process(saved: str) -> None:
    code = f"""
import os, signal, sys
sys.modules["torch"] = None
import qcompile
{CHECK}
child = os.fork()
if child == 0:
    signal.alarm(60)
    same = np.array_equal(program(x), x * np.arange(8, dtype=np.float32) + 1)
    os._exit(0 if same else 1)
print(os.waitpid(child, 0)[1])
"""
    assert run_python(code, saved) == "0"


def test_importing_the_runtime_imports_neither_torch_nor_tvm() -> None:
    code = """
import sys
import qcompile.program
print(sorted({"torch", "tvm", "tvm_ffi", "rich"} & set(sys.modules)))
"""
    assert run_python(code) == "[]"


# --- what a program says about itself ------------------------------------------------------------


def test_repr_and_summary(affine: Program) -> None:
    assert repr(affine) == (
        f"<Program Affine: float32[N, 3, 8] -> float32[N, 3, 8], cpu, {affine.size:,} bytes>"
    )
    assert str(affine.summary()).splitlines() == [
        f"Affine for cpu: {affine.size:,} bytes",
        "layer   kind    bits w/a  kernel  weights    before    after  note",
        "-" * 76,
        "scale   Linear       1/1  xnor      4,096  16.0 KiB    512 B",
        "[last]  Linear       8/8  int8      1,000   3.9 KiB   1000 B  the last layer",
        "extra   Conv2d     float  float        10      40 B     40 B",
        "-" * 76,
        "total                               5,106  19.9 KiB  1.5 KiB  1/13.2",
        affine.summary().held(),
        "Its weights are untrained.",
    ]


def test_bits_of_layers_in_the_summary() -> None:
    layer = LayerInfo("fc", "Linear", 8, 8, 10, 40, 10)
    changes: list[dict[str, Any]] = [
        {},
        {"dynamic": True},
        {"weight_bits": 4, "activation_bits": 32},
        {"weight_bits": 32, "activation_bits": 32},
    ]
    shown = [bits(dataclasses.replace(layer, **change)) for change in changes]
    assert shown == ["8/8", "8/dynamic 8", "4/float", "float"]


def test_summary_in_rich_holds_every_cell(affine: Program) -> None:
    from rich.console import Console

    console = Console(width=200, file=open(os.devnull, "w"), record=True)  # noqa: SIM115
    console.print(affine.summary())
    text = console.export_text()
    console.file.close()
    for row in (*affine.summary().rows(), affine.summary().total()):
        for cell in row:
            assert cell in text
    assert "Its weights are untrained." in text


def test_the_public_names() -> None:
    assert qcompile.Program is Program
    assert affine_program().info == affine_info()
