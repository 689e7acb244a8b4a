"""What is read from machine code of a launch: resources, hot loops, least times."""

from __future__ import annotations

from collections import Counter

import pytest
from sass_kernels import ARCHITECTURES, compiled, needs_disassembler

from qcompile.static.bound import Bound, Job, bound
from qcompile.static.gpus import GPUS, gpu_of
from qcompile.static.pipes import cycles, loaded_bytes, macs
from qcompile.static.sass import Instruction

each_architecture = pytest.mark.parametrize("arch", ARCHITECTURES)


def bound_of(name: str, arch: int, job: Job) -> Bound:
    functions, taken = compiled(arch)
    return bound(functions[name], taken[name], job, gpu_of(arch))


def job(blocks: int = 100, **more: int) -> Job:
    return Job((blocks, 1, 1), 128, parameters=24, samples=10_000, **more)


@needs_disassembler
@each_architecture
def test_one_bit_products_run_on_tensor_cores(arch: int) -> None:
    found = bound_of("bits", arch, job())
    work = Counter[str]()
    for opcode, count in found.hot.items():
        work[opcode.split(".")[0]] += count
    assert found.spills == 0
    assert found.exact
    if arch < 100:
        assert found.calls == 0
        assert work["BMMA"] == 1
        assert found.kind == "b1"
        assert found.trips == 12
    else:  # these have no such instruction: a subroutine does it
        assert found.calls


@needs_disassembler
@each_architecture
def test_a_popcount_kernel_is_bound_by_popcounts(arch: int) -> None:
    gpu = gpu_of(arch)
    found = bound_of("words", arch, job(gpu.multiprocessors * 3))
    assert found.kind == ""
    assert found.peak == 0.0
    # 4 warps of 3 blocks on 4 partitions, 144 popcounts of 32 lanes on 4.
    assert found.times["xu"] == pytest.approx(3 * 144 * 8 / (gpu.clock * 1e9))
    assert found.trips * found.hot["POPC"] == 144
    assert found.limit in ("xu", "l1")


@needs_disassembler
@each_architecture
def test_time_grows_with_the_blocks_of_the_fullest_multiprocessor(arch: int) -> None:
    sms = gpu_of(arch).multiprocessors
    one, same, two = (bound_of("words", arch, job(blocks)) for blocks in (1, sms, sms + 1))
    assert one.times["xu"] == same.times["xu"]
    assert two.times["xu"] == 2 * same.times["xu"]
    assert two.waves == pytest.approx((sms + 1) / (sms * two.occupancy.blocks))


@needs_disassembler
@each_architecture
def test_local_memory_is_counted(arch: int) -> None:
    found = bound_of("spilling", arch, job())
    assert found.spills > 0
    assert found.resources.stack >= 256
    assert bound_of("words", arch, job()).resources.stack == 0


@needs_disassembler
@each_architecture
def test_shared_memory_is_what_the_source_says(arch: int) -> None:
    assert bound_of("halves", arch, job()).resources.shared == 1024


@needs_disassembler
@each_architecture
def test_a_loop_of_unknown_length_is_said_to_be_so(arch: int) -> None:
    assert not bound_of("loaded", arch, job()).exact


@needs_disassembler
def test_memory_limits_what_does_little() -> None:
    gpu = gpu_of(ARCHITECTURES[-1])
    found = bound_of("samples", gpu.arch, job(bytes=gpu.l2 + 10**9))
    assert found.limit == "memory"
    assert found.seconds == pytest.approx(1e9 / gpu.memory)
    fits = bound_of("samples", gpu.arch, job(bytes=gpu.l2))
    assert fits.times["memory"] == 0
    assert fits.times["L2"] == pytest.approx(gpu.l2 / (gpu.l2_clock * gpu.clock * 1e9))


@pytest.mark.parametrize(
    ("opcode", "expected"),
    [
        ("BMMA.88128.XOR.POPC", ("b1", 8 * 8 * 128)),
        ("BMMA.168256.AND.POPC", ("b1", 16 * 8 * 256)),
        ("IMMA.8816.S8.S8", ("s8", 8 * 8 * 16)),
        ("IMMA.16832.U8.S8", ("s8", 16 * 8 * 32)),
        ("IMMA.16864.U4.S4", ("s4", 16 * 8 * 64)),
        ("IMAD", ("", 0)),
    ],
)
def test_products_of_tensor_instructions(opcode: str, expected: tuple[str, int]) -> None:
    assert macs(Instruction(opcode, ())) == expected


@pytest.mark.parametrize(
    ("opcode", "expected"),
    [
        ("LDG.E", 4),
        ("LDG.E.U8", 1),
        ("LDG.E.128.CONSTANT", 16),
        ("STS.64", 8),
        ("LDGSTS.E.BYPASS.128", 16),
        ("LDSM.16.M88.4", 16),
        ("LDSM.16.M88", 4),
        ("IMAD", 0),
    ],
)
def test_bytes_of_loads_and_stores(opcode: str, expected: int) -> None:
    assert loaded_bytes(Instruction(opcode, ())) == expected


def test_every_gpu_reaches_its_rate_with_nothing_but_products() -> None:
    for gpu in GPUS:
        for kind, opcode in (("s8", "IMMA.16832.S8.S8"), ("b1", "BMMA.168256.AND.POPC")):
            if kind in gpu.tensor:
                one = Instruction(opcode, ())
                took = cycles(one, gpu)["tensor"]
                assert macs(one)[1] / took * 4 == pytest.approx(gpu.tensor[kind])


def test_pipes_of_instructions() -> None:
    a100, ada = gpu_of(80), gpu_of(89)
    assert cycles(Instruction("POPC", ()), a100) == {"issue": 1, "xu": 8}
    assert cycles(Instruction("LOP3.LUT", ()), a100) == {"issue": 1, "alu": 2}
    assert cycles(Instruction("FFMA", ()), a100)["fma"] == 2
    assert cycles(Instruction("FFMA", ()), ada)["fma"] == 1
    assert cycles(Instruction("IMAD", ()), ada) == {"issue": 1, "imad": 2, "fma": 1}
    assert cycles(Instruction("LDSM.16.M88.4", ()), a100) == {"issue": 1, "l1": 4}
    assert cycles(Instruction("LDG.E.U8", ()), a100) == {"issue": 1, "l1": 1}
