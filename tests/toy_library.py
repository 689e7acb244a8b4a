"""Small compiled libraries, made with TVM alone: what the runtime is tested on.

affine_program()   one input x [N, 3, 8], one output x * w + 1 with w = 0 .. 7, in two kernels
pair_program()     inputs a [N, 5] and b [N, 4] int32, outputs (a * 2, b + 1)
"""

from __future__ import annotations

import platform
import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from qcompile.program import Program
from qcompile.program_file import pack
from qcompile.program_info import KernelInfo, LayerInfo, ProgramInfo, ValueInfo, Variant

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
    from tvm import relax, te, tirx

    def times(a: Any, b: Any) -> Any:
        return te.compute(a.shape, lambda i, j, k: a[i, j, k] * b[k], name="times")

    def plus_one(a: Any) -> Any:
        return te.compute(a.shape, lambda *i: a(*i) + te.const(1, "float32"), name="plus_one")

    builder = relax.BlockBuilder()
    batch = tirx.Var("n", "int64")
    x = relax.Var("x", relax.TensorType((batch, 3, 8), "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            y = builder.emit_te(times, x, relax.const(SCALE), primfunc_name_hint="times")
            y = builder.emit_te(plus_one, y, primfunc_name_hint="plus_one")
            y = builder.emit_output(y)
        builder.emit_func_output(y)
    return _export(builder.get())


@cache
def pair_library() -> bytes:
    from tvm import relax, te, tirx

    def twice(a: Any) -> Any:
        return te.compute(a.shape, lambda *i: a(*i) * te.const(2, "float32"), name="twice")

    def plus_one(b: Any) -> Any:
        return te.compute(b.shape, lambda *i: b(*i) + te.const(1, "int32"), name="plus_one")

    builder = relax.BlockBuilder()
    batch = tirx.Var("n", "int64")
    a = relax.Var("a", relax.TensorType((batch, 5), "float32"))
    b = relax.Var("b", relax.TensorType((batch, 4), "int32"))
    with builder.function("main", [a, b]):
        with builder.dataflow():
            first = builder.emit_te(twice, a, primfunc_name_hint="twice")
            second = builder.emit_te(plus_one, b, primfunc_name_hint="plus_one")
            both = builder.emit_output(relax.Tuple([first, second]))
        builder.emit_func_output(both)
    return _export(builder.get())


def _export(module: Any) -> bytes:
    """Compile with a parallel outermost loop, so that calls meet the pool of threads."""
    import tvm
    from tvm import relax

    for name, function in list(module.functions_items()):
        if isinstance(function, relax.Function):
            continue
        schedule = tvm.s_tir.Schedule(function)
        block = schedule.get_child_blocks(schedule.get_sblock("root"))[0]
        schedule.parallel(schedule.get_loops(block)[0])
        module[name] = schedule.mod["main"]
    target = tvm.target.Target({"kind": "llvm"})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "toy.so")
        relax.build(module, target).export_library(str(path))
        return path.read_bytes()
