"""Programs for GPUs, run through the emulated driver: batches, parts, threads, files, refusals."""

from __future__ import annotations

import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toy_gpu import (
    CONSTANTS,
    INFO,
    LAUNCHES,
    SAMPLES,
    SOURCE,
    VARIANT,
    cuda_emu,
    gpu_program,
    toy_inputs,
    toy_outputs,
)
from toy_library import affine_program, affine_variant

import qcompile
from qcompile import QCompileError, cli, emulator
from qcompile.cuda.library import GpuLibrary
from qcompile.gpu import Gpu
from qcompile.program import Program
from qcompile.program_file import pack, unpack

pytestmark = cuda_emu


@pytest.fixture(scope="module")
def program() -> Program:
    return gpu_program().emulated()


def check(program: Program, n: int, seed: int = 0) -> None:
    inputs = toy_inputs(n, seed)
    for got, wanted in zip(program(*inputs), toy_outputs(*inputs), strict=True):
        assert got.dtype == wanted.dtype
        assert np.array_equal(got, wanted)


# --- batches -------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 4, 5, 8, 9, 12, 16, 37])
def test_any_batch_in_parts_with_the_alternatives_of_each(program: Program, n: int) -> None:
    check(program, n)


def test_larger_and_smaller_batches_one_after_another(program: Program) -> None:
    for n in (1, 8, 2, 20, 1, 5):
        check(program, n, seed=n)


def test_torch_gives_torch_and_numpy_gives_numpy(program: Program) -> None:
    x, b = toy_inputs(6)
    results = program(torch.from_numpy(x), torch.from_numpy(b))
    assert isinstance(results, tuple)
    for got, wanted in zip(results, toy_outputs(x, b), strict=True):
        assert type(got) is torch.Tensor
        assert np.array_equal(got.numpy(), wanted)


def test_any_stride_and_alignment(program: Program) -> None:
    x, b = toy_inputs(6)
    wanted = toy_outputs(x, b)
    flat = np.zeros(x.nbytes + 1, np.uint8)
    unaligned = flat[1:].view(np.float32).reshape(x.shape)
    unaligned[...] = x
    frozen = x.copy()
    frozen.flags.writeable = False
    for value in (np.asfortranarray(x), np.repeat(x, 2, 0)[::2], unaligned, frozen):
        assert np.array_equal(program(value, b)[0], wanted[0])
    tensor = torch.from_numpy(x).mT.contiguous().mT
    assert np.array_equal(program(tensor, torch.from_numpy(b))[0], wanted[0])
    grad = torch.from_numpy(x).requires_grad_()
    assert not program(grad, torch.from_numpy(b))[0].requires_grad


# --- kernel by kernel ----------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 3, 8])
def test_steps_give_what_each_kernel_stores(program: Program, n: int) -> None:
    x, b = toy_inputs(n)
    steps = iter(program.steps(x, b))
    kernel, run = next(steps)
    stored = run()
    assert kernel.name == "scale"
    assert {name: value.shape for name, value in stored.items()} == {"mul": (n, 96), "add": (n, 16)}
    scaled = stored["mul"].view(np.float32).reshape(x.shape)
    assert np.array_equal(scaled + 1, toy_outputs(x, b)[0])
    _, run = next(steps)
    for got, wanted in zip(run().values(), toy_outputs(x, b), strict=True):
        assert np.array_equal(got.view(wanted.dtype).reshape(wanted.shape), wanted)
    assert next(steps, None) is None


def test_a_step_runs_the_launches_of_its_kernel_alone(program: Program) -> None:
    """The last kernel reads what the first left; nobody has run it, so nothing is there."""
    x, b = toy_inputs(2)
    (_, first), (_, last) = program.steps(x, b)
    assert not np.array_equal(last()["moved"].view(np.int32).reshape(2, 4), b + 2)
    first()
    assert np.array_equal(last()["moved"].view(np.int32).reshape(2, 4), b + 2)


def test_steps_of_too_many_samples(program: Program) -> None:
    with pytest.raises(QCompileError, match="9 samples cannot be run kernel by kernel"):
        next(iter(program.steps(*toy_inputs(SAMPLES + 1))))


# --- threads and memory --------------------------------------------------------------------------


def test_eight_threads_at_once(program: Program) -> None:
    start = threading.Barrier(8)

    def work(seed: int) -> None:
        start.wait()
        for i in range(10):
            check(program, 1 + (seed + 3 * i) % 20, seed)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))


def test_memory_of_a_call_is_used_again(program: Program) -> None:
    gpu = loaded(program)
    check(program, 3)
    idle = list(gpu._idle[0])
    check(program, 3)
    assert gpu._idle[0] == idle
    places = [host._places for host in idle]
    check(program, 2)
    assert [host._places for host in idle] == places


def loaded(program: Program) -> Gpu:
    gpu = program.library()
    assert isinstance(gpu, Gpu)
    return gpu


def library_of(program: Program) -> GpuLibrary:
    return loaded(program)._libraries[0]


def test_a_program_that_is_gone_leaves_nothing_on_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    made = gpu_program().emulated()
    check(made, 3)
    driver = library_of(made).context.driver
    gc.collect()  # what other tests left
    freed: list[str] = []
    original = driver.try_

    def try_(name: str, *arguments: Any) -> int:
        freed.append(name)
        return original(name, *arguments)

    monkeypatch.setattr(driver, "try_", try_)
    allocated = len(loaded(made)._idle[0][0]._memory) + 1  # and the constants
    gone = weakref.ref(library_of(made))
    del made
    gc.collect()
    assert gone() is None
    assert freed.count("cuMemFree_v2") == allocated
    assert [freed.count(name) for name in ("cuModuleUnload", "cuStreamDestroy_v2")] == [1, 1]


# --- variants and files --------------------------------------------------------------------------


def test_architectures_and_orders() -> None:
    made = gpu_program()
    assert made.emulates is None
    for arch, order in ((75, 0), (90, 1), (120, 3)):
        emulated = made.emulated(arch, order=order)
        assert emulated.emulates == arch
        assert emulated.runnable() == (emulated,)
        check(emulated, 3)


def test_the_first_call_is_in_the_order_that_was_asked_for() -> None:
    last = "__shared__ int last; last = threadIdx.x; __syncthreads(); add_one("
    source = SOURCE.replace("add_one(s, m, y, b, tag, n, 1)", f"{last}s, m, y, b, tag, n, last)")
    made = gpu_program(source=source)
    for order, thread in ((1, 0), (0, 31), (3, 0)):
        emulated = made.emulated(order=order)
        for _ in range(2):
            assert emulated(*toy_inputs(1))[2][0, 0] == thread


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"arch": 61}, "there is no GPU sm_61 to emulate\n  there are sm_75, sm_80, "),
        ({"arch": "sm_61"}, "there is no GPU 'sm_61' to emulate\n  there are sm_75, sm_80, "),
        ({"arch": "sm_sm_80"}, "there is no GPU 'sm_sm_80' to emulate"),
        ({"arch": "cuda"}, "there is no GPU 'cuda' to emulate"),
        ({"arch": True}, "there is no GPU True to emulate"),
        ({"order": -1}, "order is -1\n  a number from 0 to 3"),
        ({"order": 4}, "order is 4\n  a number from 0 to 3"),
    ],
)
def test_nothing_else_is_emulated(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(QCompileError) as caught:
        gpu_program().emulated(**arguments)
    assert str(caught.value).startswith(message)


def test_a_saved_program_is_emulated(tmp_path: Path) -> None:
    path = tmp_path / "net.qcp"
    gpu_program().save(path)
    loaded = qcompile.load(path, emulate=86)
    assert (loaded.emulates, loaded.variant.arch) == (86, "cuda")
    assert "few(" in loaded.source
    check(loaded, 4)
    loaded.save(tmp_path / "again.qcp")
    assert (tmp_path / "again.qcp").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("name", ["sm_86", "86", 86])
def test_numbers_and_names(name: int | str, tmp_path: Path) -> None:
    assert gpu_program().emulated(name).emulates == 86
    gpu_program().save(tmp_path / "net.qcp")
    assert qcompile.load(tmp_path / "net.qcp", emulate=name).emulates == 86


def test_code_for_one_architecture_is_emulated_as_that(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "net.qcp"
    made = gpu_program(arch="sm_86")
    made.save(path)
    check(made.emulated("sm_86"), 3)
    message = "no sm_80 can be emulated: the program has no code for it, but for sm_86"
    for run in (made.emulated, lambda: qcompile.load(path, emulate=80)):
        with pytest.raises(QCompileError, match=message) as caught:
            run()
        assert str(caught.value.hint).startswith('emulate sm_86, or compile it for target="cuda"')
    assert cli.main(["run", str(path), "--emulate", "sm_80"]) == cli.REFUSED
    assert message in " ".join(capsys.readouterr().err.split())
    assert cli.main(["run", str(path), "--emulate", "86"]) == cli.OK
    assert "emulated on the CPU as sm_86" in capsys.readouterr().err


def test_of_several_the_code_for_the_emulated_gpu_runs() -> None:
    variants = tuple(replace(VARIANT, arch=arch) for arch in ("sm_86", "sm_90", "cuda"))
    archive = pack(replace(INFO, variants=variants), [b""] * 3, [CONSTANTS] * 3, [SOURCE] * 3)
    made = Program(archive)
    for arch, chosen in ((86, "sm_86"), (89, "sm_86"), (90, "sm_90"), (80, "cuda")):
        assert made.emulated(arch).variant.arch == chosen
    with pytest.raises(QCompileError, match=r"no sm_80 can be emulated: .*but for sm_90"):
        made.as_variant("sm_90").emulated(80)


def test_only_code_for_gpus_is_emulated() -> None:
    with pytest.raises(QCompileError, match="only code for GPUs can be emulated, this is for gen"):
        affine_program().emulated()
    made = replace(INFO, variants=(VARIANT, affine_variant()))
    program = Program(pack(made, [b"", b""], [CONSTANTS, ()], [SOURCE, ""]), "generic")
    with pytest.raises(QCompileError, match="only code for GPUs can be emulated, this is for gen"):
        program.emulated()
    check(Program(program._archive).emulated(), 3)
    check(program.as_variant("cuda").emulated(), 3)


def test_an_emulated_program_says_so(program: Program) -> None:
    start = (
        "<Program Toy: float32[N, 3, 8], int32[N, 4] -> float32[N, 3, 8], int32[N, 4], int32[N, 2]"
    )
    assert repr(program) == f"{start}, cuda emulated as sm_80, {program.size:,} bytes>"


def test_nothing_can_be_emulated_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "net.qcp"
    gpu_program().save(path)
    monkeypatch.setattr(emulator, "obstacle", lambda: "the emulator needs g++")
    with pytest.raises(QCompileError, match="no GPU can be emulated here: the emulator needs g"):
        qcompile.load(path, emulate=80)


def test_a_file_for_processors_is_not_emulated(tmp_path: Path) -> None:
    path = tmp_path / "net.qcp"
    affine_program().save(path)
    with pytest.raises(QCompileError) as caught:
        qcompile.load(path, emulate=80)
    assert str(caught.value).startswith(f"{path}: only code for GPUs can be emulated, this is for ")


def test_source_that_the_emulator_cannot_compile() -> None:
    with pytest.raises(QCompileError, match="cannot compile the emulated kernels"):
        gpu_program(source=SOURCE + "this is no C").emulated().library()


def test_a_source_without_the_kernels() -> None:
    empty = 'extern "C" __global__ void few(int n) {}'
    with pytest.raises(QCompileError, match="the program's code has no kernel times"):
        gpu_program(source=empty).emulated().library()


def test_a_kernel_that_fails_is_reported() -> None:
    far = "y[sample * 24 + j + 1] ="  # behind the last
    source = SOURCE.replace("y[sample * 24 + j] =", far)
    with pytest.raises(QCompileError, match=r"launching few failed on the GPU: CUDA_ERROR_ILLEGAL"):
        gpu_program(source=source).emulated()(*toy_inputs(2))


def test_num_threads_says_nothing(program: Program) -> None:
    program.num_threads = 1
    check(program, 3)
    assert program.emulated(75).num_threads == 1


def test_what_is_not_launched_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qcompile.program_file.check_cuda", lambda *_: None)
    with pytest.raises(QCompileError, match="nothing is launched for kernel 1"):
        unpack(gpu_program(launches=LAUNCHES[:2])._archive.data, "net.qcp")
