"""Small compiled libraries, made with TVM alone: what the runtime is tested on.

affine_program()   one input x [N, 3, 8], one output x * w + 1 with w = 0 .. 7, in two kernels
pair_program()     inputs a [N, 5] and b [N, 4] int32, outputs (a * 2, b + 1)
"""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from qcompile.program import Program
from qcompile.program_file import pack
from qcompile.program_info import KernelInfo, LayerInfo, ProgramInfo, ValueInfo, Variant

Shapes = Sequence[tuple[tuple[int, ...], str]]
SCALE = np.arange(8, dtype=np.float32)


def affine_program() -> Program:
    return Program(pack(affine_info(), [affine_library()]))


def pair_program() -> Program:
    return Program(pack(pair_info(), [pair_library()]))


def affine_info() -> ProgramInfo:
    return ProgramInfo(
        model="Affine",
        target="cpu",
        variants=(affine_variant(),),
        inputs=(ValueInfo("x", (3, 8)),),
        outputs=(ValueInfo("output", (3, 8)),),
        returns_tuple=False,
        layers=(
            LayerInfo("scale", "Linear", 1, 1, 4096, 16384, 512, "xnor"),
            LayerInfo("[last]", "Linear", 8, 8, 1000, 4000, 1000, "int8", "the last layer"),
            LayerInfo("extra", "Conv2d", 32, 32, 10, 40, 40, "float"),
        ),
        fingerprint="0" * 64,
        notes=("Its weights are untrained.",),
        versions={"qcompile": "0.1.0"},
    )


def affine_variant() -> Variant:
    kernels = (KernelInfo("times", ("mul",), "scale"), KernelInfo("plus_one", ("add",)))
    return Variant(platform.machine(), "generic", (), kernels)


def pair_info() -> ProgramInfo:
    return replace(
        affine_info(),
        model="Pair",
        inputs=(ValueInfo("a", (5,)), ValueInfo("b", (4,), "int32")),
        outputs=(ValueInfo("first", (5,)), ValueInfo("second", (4,), "int32")),
        returns_tuple=True,
    )


@cache
def affine_library() -> bytes:
    from tvm import tirx
    from tvm.tirx.script import builder as tb

    def sample(n: Any, x: Any, y: Any) -> None:
        with tb.grid(3, 8) as (j, k):
            scale = tirx.Cast("float32", k)
            tb.buffer_store(y, x[n, j, k] * scale + tirx.const(1, "float32"), [n, j, k])

    shape = ((3, 8), "float32")
    return _library([shape], [shape], sample)


@cache
def pair_library() -> bytes:
    from tvm import tirx
    from tvm.tirx.script import builder as tb

    def sample(n: Any, a: Any, b: Any, first: Any, second: Any) -> None:
        with tb.serial(5) as i:
            tb.buffer_store(first, a[n, i] * tirx.const(2, "float32"), [n, i])
        with tb.serial(4) as i:
            tb.buffer_store(second, b[n, i] + tirx.const(1, "int32"), [n, i])

    shapes = [((5,), "float32"), ((4,), "int32")]
    return _library(shapes, shapes, sample)


def _library(inputs: Shapes, outputs: Shapes, sample: Callable[..., None]) -> bytes:
    """A library whose `run` computes sample by sample, on all threads, so that they are met."""
    import tvm
    from tvm import tirx
    from tvm.script.ir_builder import IRBuilder
    from tvm.tirx.script import builder as tb

    n = tirx.Var("n", "int64")
    with IRBuilder() as ib, tb.prim_func(s_tir=True):
        tb.func_name("run")
        tensors = [
            tb.arg(f"tensor{i}", tb.buffer((n, *shape), dtype, align=np.dtype(dtype).itemsize))
            for i, (shape, dtype) in enumerate([*inputs, *outputs])
        ]
        for name in ("workspace", "threads", "only"):
            tb.arg(name, tirx.Var(name, "int64"))
        with tb.parallel(n) as i:
            sample(i, *tensors)
    target = tvm.target.Target({"kind": "llvm"})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "toy.so")
        tvm.tirx.build(tvm.IRModule({"run": ib.get()}), target).export_library(str(path))
        return path.read_bytes()
