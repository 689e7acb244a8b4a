"""What the kernels' hot loops consist of, in the machine code of each family of architectures."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import pytest
from compiling import joined
from layers import GEOMETRIES, int_conv, xnor_conv
from sass_kernels import needs_disassembler

from qcompile.codegen.built import Built
from qcompile.codegen.cuda import nvcc, tensor_cores
from qcompile.codegen.cuda.build import generate
from qcompile.codegen.cuda.matrices import Matrix
from qcompile.codegen.cuda.tiles import TILES, Division
from qcompile.cuda.launches import Launch
from qcompile.ir.target import Target
from qcompile.static.bound import Bound, Job, bound
from qcompile.static.gpus import gpu_of
from qcompile.static.pipes import macs
from qcompile.static.sass import Function, Instruction, functions
from qcompile.static.tools import Resources, disassembled, resources

pytestmark = needs_disassembler

SAMPLES = 64
_SAME = GEOMETRIES[0]
_SIZE = (14, 14)  # as in the third stage of a ResNet
# ptxas makes alike code for 86 to 88, for 100 to 110, and for 120 and 121.
FAMILIES = [arch for arch in nvcc.known_architectures() if arch in (75, 80, 86, 89, 90, 100, 120)]


@dataclass(frozen=True)
class Kernels:
    """Machine code of a graph's launches that multiply."""

    built: Built
    functions: dict[str, Function]
    resources: dict[str, Resources]

    def products(self) -> Iterator[tuple[Launch, str, Function]]:
        """Launches with their methods."""
        for launch in self.built.launches:
            if launch.macs:
                method = self.built.kernels[launch.kernel].method
                yield launch, method, self.functions[launch.symbol]

    def bound(self, launch: Launch, arch: int, samples: int = SAMPLES) -> Bound:
        """Of a launch on the GPU of an architecture."""
        job = Job(
            launch.grid(samples),
            launch.threads,
            8 * len(launch.arguments),
            samples,
            launch.macs * samples,
        )
        function, taken = self.functions[launch.symbol], self.resources[launch.symbol]
        return bound(function, taken, job, gpu_of(arch))


def compiled(built: Built, arch: int) -> Kernels:
    """Its machine code."""
    code = nvcc.cubin(built.source, arch)
    return Kernels(built, functions(disassembled(code)), resources(code, arch))


@cache
def layers() -> Built:
    """Layers as networks have them, divided as the compiler finds best."""
    cases = [
        xnor_conv(256, 256, *_SAME, pad_value=-1, tail="pack", size=_SIZE),
        xnor_conv(64, 64, *_SAME, pad_value=-1, tail="residual", size=_SIZE, seed=1),
        int_conv(256, 256, *_SAME, tail="quantize", size=_SIZE, seed=2),
        int_conv(24, 24, *_SAME, groups=12, size=(5, 5), seed=3),  # without tensor cores
        xnor_conv(64, 32, *_SAME, groups=16, size=(5, 5), seed=4),
    ]
    return generate(joined(cases), Target("cuda"))


@cache
def layers_on(arch: int) -> Kernels:
    """Their machine code."""
    return compiled(layers(), arch)


@cache
def tiles() -> Built:
    """A product of signs and one of bytes for each tile."""
    numbers = itertools.count()

    def divisions(matrix: Matrix, *, packs: bool) -> tuple[Division, Division, int]:
        division = Division(TILES[next(numbers) % len(TILES)])
        return division, division, 0

    tails, ends = ("pack", "residual", "", "threshold"), ("quantize", "pack", "")
    signs = [
        xnor_conv(128, 256, *_SAME, pad_value=-1, tail=tails[i % 4], seed=i)
        for i in range(len(TILES))
    ]
    levels = [int_conv(64, 256, *_SAME, tail=ends[i % 3], seed=i) for i in range(len(TILES))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tensor_cores, "divisions", divisions)
        return generate(joined([*signs, *levels]), Target("cuda"))


def hottest(function: Function) -> tuple[Instruction, ...]:
    """The loop with most of the products of tensor cores, or else of popcounts; all, if unrolled."""
    bodies = [function.body(loop) for loop in function.innermost]

    def work(body: tuple[Instruction, ...]) -> tuple[int, int]:
        return sum(macs(one)[1] for one in body), sum(one.name == "POPC" for one in body)

    best = max(bodies, key=work, default=())
    whole = tuple(one for one in function.instructions if not one.never)
    return best if any(work(best)) else whole


def expected(method: str, arch: int) -> tuple[str, str]:
    """The instruction of tensor cores that a method of one-bit or of 8-bit products uses."""
    if method.startswith("b1"):
        native = {75: "BMMA.88128.XOR", 80: "BMMA.168256.XOR", 90: "BMMA.168256.AND"}
        generation = max(g for g in nvcc.GENERATIONS if g <= arch)
        return "BMMA" if arch < 100 else "IMMA", native.get(generation, "IMMA.16832.U8.U8")
    return "IMMA", "IMMA.8816" if arch == 75 else "IMMA.16832"


def check(kernels: Kernels, arch: int) -> int:
    """Check all products; how many of them are on tensor cores."""
    on_tensor_cores = 0
    for launch, method, function in kernels.products():
        body = hottest(function)
        opcodes = [one.opcode for one in body]
        assert not any(one.calls for one in body), (launch.symbol, method)
        assert not any(one.name in ("LDL", "STL") for one in function.instructions), method
        assert kernels.resources[launch.symbol].stack == 0, method
        if " mma " in method:
            on_tensor_cores += 1
            name, exact = expected(method, arch)
            own = [opcode for opcode in opcodes if opcode.startswith(("BMMA", "IMMA"))]
            assert own, method
            assert all(opcode.startswith(name) for opcode in own), (method, own[0])
            assert own[0].startswith(exact), (method, own[0])
            assert any(opcode.startswith("LDSM") for opcode in opcodes), method
    return on_tensor_cores


@pytest.mark.parametrize("arch", FAMILIES)
def test_hot_loops_of_layers(arch: int) -> None:
    assert check(layers_on(arch), arch) >= 5


@pytest.mark.parametrize("arch", [a for a in FAMILIES if a in (75, 80, 90, 120)])
def test_hot_loops_of_every_tile(arch: int) -> None:
    assert check(compiled(tiles(), arch), arch) == 2 * len(TILES)


def test_shared_memory_is_filled_past_registers_from_sm_80_on() -> None:
    for arch, expected in ((75, False), (80, True), (90, True)):
        for _, method, function in layers_on(arch).products():
            copies = [one.opcode for one in function.instructions if one.name == "LDGSTS"]
            assert bool(copies) == (expected and " mma " in method), method
            assert not copies or any(opcode.endswith(".128") for opcode in copies), method


def test_the_bound_of_a_layer_is_near_the_peak_and_far_below_its_8_bit_twins() -> None:
    """256 channels, 3 x 3, 14 x 14, 64 samples, on A100."""
    kernels = layers_on(80)
    found = {
        (method.split()[0], launch.macs): kernels.bound(launch, 80)
        for launch, method, _ in kernels.products()
        if launch.runs(SAMPLES)
    }
    size = 256 * 256 * 9 * 14 * 14
    signs, levels = found["b1", size], found["u8", size]
    assert signs.exact
    assert levels.exact
    assert signs.peak > 0.8
    assert levels.seconds > 6 * signs.seconds
