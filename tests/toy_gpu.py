"""A small program for GPUs, written by hand: what the GPU's runtime is tested on.

Inputs x [N, 3, 8] float32 and b [N, 4] int32; outputs x * w + 1 with w = 0 .. 7, b + n, and [N, 2]
int32 of which alternative ran (1 for at most 4 samples, 2 for more) and n, the samples of the pass.
A pass takes at most 8 samples.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

from qcompile import emulator
from qcompile.constants import Bytes, Constant, expanded
from qcompile.cuda.launches import Argument, Launch
from qcompile.cuda.library import Code, Shape
from qcompile.program import Program
from qcompile.program_file import pack
from qcompile.program_info import KernelInfo, ProgramInfo, StoredInfo, ValueInfo, Variant

SAMPLES = 8
SCALE = np.arange(8, dtype=np.float32)

cuda_emu = [
    pytest.mark.cuda_emu,
    pytest.mark.skipif(bool(emulator.obstacle()), reason=emulator.obstacle() or "it can"),
]

SOURCE = """
extern "C" __global__ void times(const float *x, const float *w, float *scaled, int n) {
  int i = blockIdx.x * 16 + threadIdx.x;
  if (i < n * 24) scaled[i] = x[i] * w[i % 8];
}

extern "C" __global__ void more(const int *b, const int *ones, int *moved, int n) {
  int i = blockIdx.x * 32 + threadIdx.x;
  if (i < n * 4) moved[i] = b[i] + n * ones[blockIdx.y];
}

static __device__ void add_one(const float *scaled, const int *moved, float *y, int *b, int *tag, int n, int which) {
  int sample = blockIdx.x, j = threadIdx.x;
  if (j < 24) y[sample * 24 + j] = scaled[sample * 24 + j] + 1.0f;
  if (j < 4) b[sample * 4 + j] = moved[sample * 4 + j];
  if (j < 2) tag[sample * 2 + j] = j ? n : which;
}

extern "C" __global__ void few(const float *s, const int *m, float *y, int *b, int *tag, int n) {
  add_one(s, m, y, b, tag, n, 1);
}

extern "C" __global__ void many(const float *s, const int *m, float *y, int *b, int *tag, int n) {
  add_one(s, m, y, b, tag, n, 2);
}
"""

INPUTS = (ValueInfo("x", (3, 8)), ValueInfo("b", (4,), "int32"))
OUTPUTS = (
    ValueInfo("y", (3, 8)),
    ValueInfo("moved", (4,), "int32"),
    ValueInfo("tag", (2,), "int32"),
)
CONSTANTS = (Constant(SCALE), Constant(np.ones(3, np.int32)))  # at 0 and at 64

_LAST = (
    Argument("workspace", 0),
    Argument("workspace", 256),
    *(Argument("output", i) for i in range(3)),
)
LAUNCHES = (
    Launch(
        "times",
        0,
        (Argument("input", 0), Argument("constants", 0), Argument("workspace", 0)),
        items=24,
        per_block=16,
        threads=16,
    ),
    Launch(
        "more",
        0,
        (Argument("input", 1), Argument("constants", 64), Argument("workspace", 256)),
        items=4,
        per_block=32,
        y=3,
        threads=32,
    ),
    Launch("few", 1, _LAST, items=1, per_block=1, threads=32, most=4),
    Launch("many", 1, _LAST, items=1, per_block=1, threads=32, least=5),
)
KERNELS = (
    KernelInfo(
        "scale",
        ("mul", "add"),
        results=(StoredInfo("mul", 96, -1, 0), StoredInfo("add", 16, -1, 256)),
    ),
    KernelInfo(
        "last",
        ("y", "moved", "tag"),
        results=tuple(StoredInfo(v.name, v.nbytes, i, 0) for i, v in enumerate(OUTPUTS)),
    ),
)
VARIANT = Variant("cuda", "cuda", (), KERNELS, 512, SAMPLES, LAUNCHES)
INFO = ProgramInfo("Toy", "cuda", (VARIANT,), INPUTS, OUTPUTS, True, ())
SHAPE = Shape(LAUNCHES, (96, 16), (96, 16, 8), 512, SAMPLES)


def gpu_program(*, fatbin: bytes = b"", source: str = SOURCE, **change: Any) -> Program:
    """The program, with another variant if it is told to."""
    info = replace(INFO, variants=(replace(VARIANT, **change),))
    return Program(pack(info, [fatbin], [CONSTANTS], [source]))


@cache
def toy_code(arch: int = 80) -> Code:
    """For the emulated driver."""
    return Code(emulator.image(SOURCE, arch), "")


@cache
def toy_constants() -> Bytes:
    return expanded(CONSTANTS)


def toy_inputs(n: int, seed: int = 0) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Small integers, so that results are exact."""
    generator = np.random.default_rng(seed)
    x = generator.integers(-99, 99, (n, 3, 8)).astype(np.float32)
    return x, generator.integers(-99, 99, (n, 4), dtype=np.int32)


def toy_outputs(x: Any, b: Any) -> tuple[np.ndarray[Any, Any], ...]:
    """What the program gives, sample by sample."""
    n = len(x)
    parts = np.repeat([SAMPLES] * (n // SAMPLES) + [n % SAMPLES] * (n % SAMPLES > 0), 1)
    passes = np.repeat(parts, parts).astype(np.int32)
    tag = np.stack([np.where(passes > 4, 2, 1), passes], 1).astype(np.int32)
    return x * SCALE + 1, b + passes[:, None], tag
