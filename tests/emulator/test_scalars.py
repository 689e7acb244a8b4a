"""Functions of one thread, against numpy or against what CUDA's manual says."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
from emulated_gpu import Array, Kernels, needs_emulator

from qcompile import emulator

pytestmark = needs_emulator

# A kernel for each: what it computes of x, y and z, arrays of a type, and the type of the result.
EXPRESSIONS = {
    "fma": ("float", "__fmaf_rn(x, y, z)", "float"),
    "multiply_add": ("float", "x * y + z", "float"),
    "greatest": ("float", "fmaxf(x, y)", "float"),
    "least": ("float", "fminf(x, y)", "float"),
    "max_of_floats": ("float", "max(x, y)", "float"),
    "rint_": ("float", "rintf(x)", "float"),
    "floor_": ("float", "floorf(x)", "float"),
    "absolute": ("float", "fabsf(x)", "float"),
    "quotient": ("float", "x / y", "float"),
    "root": ("float", "sqrtf(x)", "float"),
    "nan": ("float", "(int)isnan(x)", "int"),
    "infinite": ("float", "(int)isinf(x)", "int"),
    "nearest": ("float", "__float2int_rn(x)", "int"),
    "to_zero": ("float", "__float2int_rz(x)", "int"),
    "unsigned_": ("float", "__float2uint_rn(x)", "unsigned"),
    "bits": ("float", "__float_as_uint(x)", "unsigned"),
    "ones": ("unsigned", "__popc(x) + __popcll((unsigned long long)x << 32 | y)", "int"),
    "zeros": ("unsigned", "__clz((int)x)", "int"),
    "reversed": ("unsigned", "__brev(x)", "unsigned"),
    "high": ("unsigned", "__umulhi(x, y)", "unsigned"),
    "permuted": ("unsigned", "__byte_perm(x, y, z & 0xffffu)", "unsigned"),
    "funnel": ("unsigned", "__funnelshift_r(x, y, z)", "unsigned"),
    "dot_signed": ("int", "__dp4a(x, y, z)", "int"),
    "dot_unsigned": ("unsigned", "__dp4a(x, y, z)", "unsigned"),
    "smaller": ("int", "min(x, y)", "int"),
    "larger": ("unsigned", "max(x, y)", "unsigned"),
    "loaded": ("int", "__ldg(&x)", "int"),
    "sum_that_wraps": ("int", "x * y + z", "int"),
}

OTHERS = """
KERNEL add(int *sum, float *total, unsigned *most) {
  atomicAdd(sum, (int)threadIdx.x);
  atomicAdd(total, 0.5f);
  atomicMax(most, threadIdx.x ^ 21u);
}
KERNEL architecture(int *x) { x[0] = QC_EMULATED; }
KERNEL widths(int *x) {
  x[0] = sizeof(int64_t), x[1] = sizeof(uint4), x[2] = alignof(int2), x[3] = alignof(float4);
  x[4] = sizeof(char4), x[5] = make_uint4(1, 2, 3, 4).w, x[6] = warpSize, x[7] = sizeof(uint8_t);
}
"""


@cache
def kernels() -> Kernels:
    return Kernels("".join(itertools.starmap(kernel, EXPRESSIONS.items())) + OTHERS)


def kernel(name: str, what: tuple[str, str, str]) -> str:
    type_, expression, result = what
    return f"""
KERNEL {name}({type_} *xs, {type_} *ys, {type_} *zs, {result} *to) {{
  int i = (int)threadIdx.x;
  {type_} x = xs[i], y = ys[i], z = zs[i];
  to[i] = {expression};
}}"""


TYPES = {"float": np.float32, "int": np.int32, "unsigned": np.uint32}
NUMBERS = (0.0, 0.5, 1.5, 2.5, 1e-45, 1e-40, 3e38, 1e10, 2147483648, np.inf, np.nan, 0.1, 8388609.5)
SPECIAL = np.array([sign * number for number in NUMBERS for sign in (1, -1)], np.float32)


def floats() -> tuple[Array, Array, Array]:
    """All pairs of special numbers, and a third."""
    x, y = map(np.ravel, np.meshgrid(SPECIAL, SPECIAL))
    return x.copy(), y.copy(), np.resize(-SPECIAL, x.size)


def integers(type_: str) -> tuple[Array, Array, Array]:
    rng = np.random.default_rng(7)
    low, high = (-(1 << 31), 1 << 31) if type_ == "int" else (0, 1 << 32)
    x, y, z = (rng.integers(low, high, 64).astype(TYPES[type_]) for _ in range(3))
    x[:2] = 0, high - 1
    return x, y, z


def bytes_of(x: Array) -> Array:
    return x.view(np.uint8).reshape(-1, 4).astype(np.int64)


def dot(x: Array, y: Array, z: Array, signed: bool) -> Array:
    a, b = bytes_of(x), bytes_of(y)
    if signed:
        a, b = a - 256 * (a > 127), b - 256 * (b > 127)
    return (z.astype(np.int64) + (a * b).sum(1)).astype(np.uint64).astype(np.uint32)


def permuted(x: Array, y: Array, z: Array) -> Array:
    both = np.concatenate([bytes_of(x), bytes_of(y)], 1)
    result = np.zeros(x.size, np.int64)
    for i in range(4):
        choice = z.astype(np.int64) >> 4 * i & 15
        byte = both[np.arange(x.size), choice & 7]
        result |= np.where(choice & 8, 255 * (byte >> 7), byte) << 8 * i
    return result.astype(np.uint32)


def saturated(x: Array, low: int, high: int) -> Array:
    return np.clip(np.nan_to_num(x.astype(np.float64), nan=0.0), low, high).astype(np.int64)


def greatest(x: Array, y: Array) -> Array:
    return np.where(x == y, np.where(np.signbit(x), y, x), np.fmax(x, y))


def least(x: Array, y: Array) -> Array:
    return np.where(x == y, np.where(np.signbit(x), x, y), np.fmin(x, y))


def ones(x: Array) -> Array:
    return np.array([int(v).bit_count() for v in x])


def expected(name: str, x: Array, y: Array, z: Array) -> Array:
    """What numpy makes of it."""
    a, b, c = (np.asarray(v, object) for v in (x.tolist(), y.tolist(), z.tolist()))
    tables: dict[str, Callable[[], Any]] = {
        "multiply_add": lambda: x * y + z,
        "greatest": lambda: greatest(x, y),
        "least": lambda: least(x, y),
        "max_of_floats": lambda: greatest(x, y),
        "rint_": lambda: np.rint(x),
        "floor_": lambda: np.floor(x),
        "absolute": lambda: np.abs(x),
        "quotient": lambda: x / y,
        "root": lambda: np.sqrt(x),
        "nan": lambda: np.isnan(x),
        "infinite": lambda: np.isinf(x),
        "nearest": lambda: saturated(np.rint(x), -(1 << 31), (1 << 31) - 1),
        "to_zero": lambda: saturated(np.trunc(x), -(1 << 31), (1 << 31) - 1),
        "unsigned_": lambda: saturated(np.rint(x), 0, (1 << 32) - 1),
        "bits": lambda: x.view(np.uint32),
        "ones": lambda: 2 * ones(x) + ones(y),
        "zeros": lambda: [32 - int(v).bit_length() for v in x],
        "reversed": lambda: [int(f"{v:032b}"[::-1], 2) for v in x],
        "high": lambda: a * b >> 32,
        "permuted": lambda: permuted(x, y, z),
        "funnel": lambda: ((b << 32 | a) >> (c % 32)) % (1 << 32),
        "dot_signed": lambda: dot(x, y, z, True).view(np.int32),
        "dot_unsigned": lambda: dot(x, y, z, False),
        "smaller": lambda: np.minimum(x, y),
        "larger": lambda: np.maximum(x, y),
        "loaded": lambda: x,
        "sum_that_wraps": lambda: x * y + z,
    }
    with np.errstate(all="ignore"):
        return np.asarray(tables[name]())


@pytest.mark.parametrize("name", [name for name in EXPRESSIONS if name != "fma"])
def test_expressions_are_those_of_numpy(name: str) -> None:
    type_, _, result = EXPRESSIONS[name]
    values = floats() if type_ == "float" else integers(type_)
    found = np.zeros(values[0].size, TYPES[result])
    kernels()(name, (1,), (found.size,), *values, found)
    wanted = expected(name, *values).astype(found.dtype)
    if result == "float":  # -0 is not 0; NaNs are alike
        found, wanted = (np.where(np.isnan(v), np.float32(np.nan), v) for v in (found, wanted))
        np.testing.assert_array_equal(np.signbit(found), np.signbit(wanted))
    np.testing.assert_array_equal(found, wanted)


def test_a_fused_multiply_add_rounds_once() -> None:
    rng = np.random.default_rng(8)
    x, y = (rng.standard_normal(512).astype(np.float32) for _ in range(2))
    z = -(x * y)  # what is left is the rounding error, which a product and a sum lose
    found = np.zeros(512, np.float32)
    kernels()("fma", (1,), (512,), x, y, z, found)
    exact = x.astype(np.float64) * y + z
    assert np.count_nonzero(exact) > 400
    np.testing.assert_array_equal(found, exact.astype(np.float32))
    kernels()("multiply_add", (1,), (512,), x, y, z, found)
    np.testing.assert_array_equal(found, 0)


def test_denormals_are_kept_whatever_the_caller_does() -> None:
    import torch

    tiny = np.full(8, 1e-39, np.float32)
    found = np.zeros(8, np.float32)
    assert torch.set_flush_denormal(True)
    try:
        kernels()("multiply_add", (1,), (8,), tiny, np.ones(8, np.float32), tiny, found)
        flushed = torch.tensor([1e-39]) * 1.0
    finally:
        torch.set_flush_denormal(False)
    np.testing.assert_array_equal(found, tiny + tiny)
    assert flushed.item() == 0.0  # the caller's thread is left as it was


def test_atomics() -> None:
    total, count, most = np.zeros(1, np.float32), np.zeros(1, np.int32), np.zeros(1, np.uint32)
    kernels()("add", (4,), (64,), count, total, most)
    assert (count[0], total[0], most[0]) == (4 * sum(range(64)), 128.0, 63)


def test_types_and_macros() -> None:
    x = np.zeros(8, np.int32)
    kernels()("widths", (1,), (1,), x)
    assert x.tolist() == [8, 16, 8, 16, 4, 4, 32, 1]
    source = 'extern "C" __global__ void architecture(int *x) { x[0] = QC_EMULATED; }'
    assert emulator.image(source, 80) != emulator.image(source, 90)
    kernels()("architecture", (1,), (1,), x)
    assert x[0] == 800
