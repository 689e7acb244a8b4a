"""Where the time inside a kernel goes: a stopwatch that the kernels of a timed library stop.

A lap adds the cycles since the lap before to what it is told that they went to. The counter is the
processor's own (LLVM's `readcyclecounter`: on x86-64 that of the time stamps), read without waiting for
what is still under way: a border between two laps is blurred by some hundred instructions, to both sides
alike. A library that is not timed has none of it.
"""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as tb

from qcompile.codegen import expr as e
from qcompile.errors import QCompileError

OTHER, PACK, MATMUL, EPILOGUE = range(4)
PARTS = 4
FAMILIES = ("x86_64",)  # on AArch64 the counter is the system's, and reading it is an error

# Cycles of each part, then how many laps were added to it.
LLVM = f"""
@qcompile_cycles = internal global [{2 * PARTS} x i64] zeroinitializer
@qcompile_last = internal global i64 0
declare i64 @llvm.readcyclecounter()
define i32 @qcompile_start() alwaysinline {{
  %now = call i64 @llvm.readcyclecounter()
  store i64 %now, ptr @qcompile_last
  ret i32 0
}}
define i32 @qcompile_lap(i64 %part) alwaysinline {{
  %now = call i64 @llvm.readcyclecounter()
  %last = load i64, ptr @qcompile_last
  %taken = sub i64 %now, %last
  %cycles = getelementptr i64, ptr @qcompile_cycles, i64 %part
  %before = load i64, ptr %cycles
  %after = add i64 %before, %taken
  store i64 %after, ptr %cycles
  %second = add i64 %part, {PARTS}
  %laps = getelementptr i64, ptr @qcompile_cycles, i64 %second
  %count = load i64, ptr %laps
  %more = add i64 %count, 1
  store i64 %more, ptr %laps
  store i64 %now, ptr @qcompile_last
  ret i32 0
}}
define i32 @qcompile_laps(i64 %address) {{
  %to = inttoptr i64 %address to ptr
  call void @llvm.memcpy.p0.p0.i64(ptr %to, ptr @qcompile_cycles, i64 {16 * PARTS}, i1 false)
  call void @llvm.memset.p0.i64(ptr @qcompile_cycles, i8 0, i64 {16 * PARTS}, i1 false)
  ret i32 0
}}
declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)
declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)
"""


def check(family: str) -> None:
    """See that a processor's kernels can be timed from within.

    Raises:
        QCompileError: they cannot.
    """
    if family not in FAMILIES:
        raise QCompileError(
            f"kernels for {family} cannot be timed from within: programs may not read its counter",
            hint=f"the parts of kernels are measured on {' and '.join(FAMILIES)}",
        )


def start() -> None:
    """Begin a lap; what went before is nobody's."""
    tb.evaluate(tirx.call_extern("int32", "qcompile_start"))


def lap(part: int) -> None:
    """End a lap, and begin the next."""
    tb.evaluate(tirx.call_extern("int32", "qcompile_lap", e.const(part, "int64")))


def functions() -> dict[str, Any]:
    """What a timed library exports beside the rest.

    laps(address)   int64 [8]: cycles of each part, laps of each; they begin at zero after that
    empty(count)    so many laps of nothing, which count as OTHER: what a lap itself takes
    """
    with IRBuilder() as read, tb.prim_func(s_tir=True):
        tb.func_name("laps")
        address = tb.arg("address", tirx.Var("address", "int64"))
        tb.evaluate(tirx.call_extern("int32", "qcompile_laps", address))
    with IRBuilder() as empty, tb.prim_func(s_tir=True):
        tb.func_name("empty")
        count = tb.arg("count", tirx.Var("count", "int64"))
        start()
        with tb.serial(count):
            lap(OTHER)
    return {"laps": read.get(), "empty": empty.get()}
