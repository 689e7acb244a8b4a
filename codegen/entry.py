"""The library's functions: `constants(address)`, called once, says where what kernels read lies;
then `run(*inputs, *outputs, workspace, threads, only)` runs all kernels.

Inputs and outputs are tensors of the caller, of any alignment, whose shapes and dtypes are checked
here; `workspace` is the address of `threads` workspaces, one after another. If `only` is not
negative, that kernel runs alone, on at most `samples` samples: so the values of each can be seen.

threads share   samples   as long as there is one for each: each runs all kernels on its own
                tasks     of each kernel, for the samples that are left; a barrier between two kernels
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import tirx
from tvm.ir import Call, GlobalVar, PointerType, PrimType
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as tb

from qcompile.codegen import expr as e
from qcompile.codegen import laps
from qcompile.codegen.expr import Expr
from qcompile.codegen.plan import Place
from qcompile.codegen.writer import Kernel
from qcompile.constants import ALIGNMENT

# Addresses as pointers, in LLVM's language.
_POINTERS = """
@qcompile_data = internal global ptr null
define i32 @qcompile_keep(i64 %x) {
  %p = inttoptr i64 %x to ptr
  store ptr %p, ptr @qcompile_data
  ret i32 0
}
define ptr @qcompile_constants() alwaysinline {
  %p = load ptr, ptr @qcompile_data
  ret ptr %p
}
define ptr @qcompile_pointer(i64 %x) alwaysinline {
  %p = inttoptr i64 %x to ptr
  ret ptr %p
}
"""

# Scalar operations that are worth another thread: of all samples, if each thread takes some; of those
# that are left, if threads meet after every kernel; of such a kernel. (2^18 are some 8 us.)
SAMPLES_FROM, REST_FROM, KERNEL_FROM = 1 << 18, 1 << 20, 1 << 15

Values = Sequence[tuple[tuple[int, ...], str]]  # shapes after the batch, and dtypes


@dataclass(frozen=True)
class Step:
    """A call of a kernel.

    Attributes:
        places: of its inputs, then of its results.
        constants: where they begin among those of the library.
    """

    symbol: GlobalVar
    kernel: Kernel
    inputs: tuple[Place, ...]
    constants: tuple[int, ...]
    results: tuple[Place, ...]


def entry(
    steps: Sequence[Step],
    inputs: Values,
    outputs: Values,
    workspace: int,
    samples: int,
    *,
    timed: bool = False,
) -> dict[GlobalVar, Any]:
    """The functions that call kernels; those named `run` and `constants` are exported.

    Args:
        inputs, outputs: shapes after the batch, and dtypes.
        workspace: bytes of one.
        samples: how many are run at once.
        timed: kernels count cycles (`laps`), and what reads them is exported.
    """
    program = _Program(steps, len(inputs), len(outputs), workspace, samples)
    functions = {program.serial: program.in_parts(), program.single: program.one_kernel()}
    if program.pays:
        functions[program.shared] = program.with_barriers()
    written = _POINTERS + (laps.LLVM if timed else "")
    exported = {"run": program.run(inputs, outputs, written), "constants": _keep_constants()}
    if timed:
        exported |= laps.functions()
    return {**functions, **{GlobalVar(name): made for name, made in exported.items()}}


def _keep_constants() -> Any:
    with IRBuilder() as ib, tb.prim_func(s_tir=True):
        tb.func_name("constants")
        address = tb.arg("address", tirx.Var("address", "int64"))
        tb.evaluate(tirx.call_extern("int32", "qcompile_keep", address))
    return ib.get()


def alone(kernel: Kernel, name: str, inputs: Values, outputs: Values) -> dict[GlobalVar, Any]:
    """A kernel as a function `name(*inputs, *constants, *outputs, threads)` of aligned tensors."""
    symbol, n = GlobalVar(f"{name}.0"), tirx.Var("n", "int64")
    shapes = [((n, *shape), dtype) for shape, dtype in inputs]
    shapes += [((value.form.size,), value.dtype) for value in kernel.constants]
    shapes += [((n, *shape), dtype) for shape, dtype in outputs]
    with IRBuilder() as ib, tb.prim_func(s_tir=True):
        tb.func_name(name)
        pointers = [
            tb.arg(f"tensor{i}", tb.buffer(shape, dtype)).data
            for i, (shape, dtype) in enumerate(shapes)
        ]
        threads = tb.arg("threads", tirx.Var("threads", "int64"))
        with tb.parallel(threads) as part:
            _check(Call(symbol, [*pointers, n, part, threads], ret_ty="int32"))
    return {symbol: kernel.function, GlobalVar(name): ib.get()}


class _Program:
    """The functions between `run` and the kernels.

    All of them take pointers to inputs and outputs, the workspace and the constants, the first sample
    and the number of samples; they give 0, or -1 where there was no memory.
    """

    def __init__(
        self, steps: Sequence[Step], inputs: int, outputs: int, workspace: int, samples: int
    ) -> None:
        self._steps, self._workspace, self._samples = steps, workspace, samples
        self._inputs, self._outputs = inputs, outputs
        self.serial, self.shared, self.single = map(GlobalVar, ("in_parts", "shared", "single"))
        self.work = sum(step.kernel.work for step in steps)
        self.pays = any(step.kernel.work >= KERNEL_FROM for step in steps)

    # --- calls -----------------------------------------------------------------------------------

    def _call(self, step: Step, at: _Pointers, base: Expr, n: Expr, part: Expr, of: Expr) -> Expr:
        pointers = [at.of(place, base) for place in step.inputs]
        pointers += [at.constant(offset) for offset in step.constants]
        pointers += [at.of(place, base) for place in step.results]
        return Call(step.symbol, [*pointers, n, part, of], ret_ty="int32")

    def in_parts(self) -> Any:
        """All kernels for all samples, so many of them at once as a workspace holds."""

        def body(at: _Pointers, first: Expr, count: Expr) -> None:
            with tb.serial(tirx.ceildiv(count, self._samples)) as part:
                done = e.bind(part * self._samples)
                base, n = e.bind(first + done), e.bind(tirx.min(count - done, self._samples))
                for step in self._steps:
                    _check(self._call(step, at, base, n, _long(0), _long(1)))

        return self._function(body, "first", "count")

    def one_kernel(self) -> Any:
        """One kernel, for the first samples."""

        def body(at: _Pointers, number: Expr, n: Expr) -> None:
            for i, step in enumerate(self._steps):
                with tb.If(tirx.EQ(number, _long(i))), tb.Then():
                    _check(self._call(step, at, _long(0), n, _long(0), _long(1)))

        return self._function(body, "number", "n")

    def with_barriers(self) -> Any:
        """All kernels for a few samples, the tasks of each shared out to the threads."""

        def kernel(
            step: Step, at: _Pointers, status: Any, base: Expr, n: Expr, threads: Expr
        ) -> None:
            # A thread that left would be waited for: what failed is said at the end.
            def call(part: Expr, of: Expr) -> None:
                failed = self._call(step, at, base, n, part, of)
                with tb.If(tirx.NE(failed, 0)), tb.Then():
                    tb.buffer_store(status, e.const(1, "int32"), [0])

            with tb.parallel(threads) as t:
                if step.kernel.work >= KERNEL_FROM:
                    call(t, threads)
                else:
                    with tb.If(tirx.EQ(t, _long(0))), tb.Then():
                        call(_long(0), _long(1))

        def body(at: _Pointers, first: Expr, count: Expr, threads: Expr) -> None:
            status = at.status
            tb.buffer_store(status, e.const(0, "int32"), [0])
            with tb.serial(tirx.ceildiv(count, self._samples)) as part:
                done = e.bind(part * self._samples)
                base, n = e.bind(first + done), e.bind(tirx.min(count - done, self._samples))
                with tb.attr(0, "pragma_parallel_launch_point", 1):
                    for step in self._steps:
                        with tb.attr(0, "pragma_parallel_barrier_when_finish", 1):
                            kernel(step, at, status, base, n, threads)
            _check(status[0])

        return self._function(body, "first", "count", "threads")

    # --- functions -------------------------------------------------------------------------------

    def _function(self, body: Callable[..., None], *numbers: str) -> Any:
        names = [f"input{i}" for i in range(self._inputs)]
        names += [f"output{i}" for i in range(self._outputs)]
        names += ["workspace", "constants"]
        pointers = [tirx.Var(name, PointerType(PrimType("uint8"))) for name in names]
        values = [tirx.Var(name, "int64") for name in numbers]
        with IRBuilder() as ib, tb.prim_func(s_tir=True):
            tb.func_name("entry")
            body(_Pointers(pointers, self._inputs, self._workspace), *values)
        return tirx.PrimFunc([*pointers, *values], ib.get().body, ret_type=PrimType("int32"))

    def run(self, inputs: Values, outputs: Values, llvm: str) -> Any:
        """The function that the program calls; `llvm` is what all functions may call."""
        n = tirx.Var("n", "int64")
        with IRBuilder() as ib, tb.prim_func(s_tir=True):
            tb.func_name("run")
            pointers = []
            for name, values in (("input", inputs), ("output", outputs)):
                for i, (shape, dtype) in enumerate(values):
                    align = np.dtype(dtype).itemsize
                    buffer = tb.buffer((n, *shape), dtype, align=align)
                    pointers.append(tb.arg(f"{name}{i}", buffer).data)
            address, threads, only = (
                tb.arg(name, tirx.Var(name, "int64")) for name in ("workspace", "threads", "only")
            )
            with tb.attr(0, "pragma_import_llvm", llvm):
                workspace = tb.Bind(tirx.call_pure_extern("handle", "qcompile_pointer", address))
                constants = tb.Bind(tirx.call_pure_extern("handle", "qcompile_constants"))
                at = _Pointers([*pointers, workspace, constants], len(inputs), self._workspace)
                with tb.If(only >= 0):
                    with tb.Then():
                        self._then(self.single, at, only, n)
                    with tb.Else():
                        self._share(at, n, threads)
        return ib.get()

    def _share(self, at: _Pointers, n: Expr, threads: Expr) -> None:
        """Samples for all threads, then those that are left, together."""
        with tb.If(tirx.any(threads <= 1, n * self.work < SAMPLES_FROM)):
            with tb.Then():
                self._then(self.serial, at, _long(0), n)
            with tb.Else():
                each = e.bind(tirx.floordiv(n, threads))
                shared = e.bind(each * threads)
                with tb.If(each > 0), tb.Then(), tb.parallel(threads) as t:
                    self._then(self.serial, at.thread(t), t * each, each)
                with tb.If(shared < n), tb.Then():
                    self._rest(at, shared, n - shared, threads)

    def _rest(self, at: _Pointers, first: Expr, count: Expr, threads: Expr) -> None:
        """Fewer samples than threads."""
        if not self.pays:
            self._then(self.serial, at, first, count)
            return
        with tb.If(count * self.work < REST_FROM):
            with tb.Then():
                self._then(self.serial, at, first, count)
            with tb.Else():
                self._then(self.shared, at, first, count, threads)

    def _then(self, function: GlobalVar, at: _Pointers, *numbers: Expr) -> None:
        _check(Call(function, [*at.all, *numbers], ret_ty="int32"))


class _Pointers:
    """Pointers to inputs and outputs, to a workspace and to the constants, and what lies there."""

    def __init__(self, pointers: Sequence[Expr], inputs: int, workspace: int) -> None:
        self.all = list(pointers)
        self._inputs, self._workspace = inputs, workspace

    def of(self, place: Place, first: Expr) -> Expr:
        """Where the samples of a value begin, from the sample `first` on."""
        if place.kind == "workspace":
            return _moved(self.all[-2], place.at)
        number = place.at if place.kind == "input" else self._inputs + place.at
        return _moved(self.all[number], first * place.size)

    def constant(self, offset: int) -> Expr:
        return _moved(self.all[-1], offset)

    def thread(self, number: Expr) -> _Pointers:
        """The same with a thread's own workspace."""
        own = _moved(self.all[-2], number * stride_of(self._workspace))
        return _Pointers([*self.all[:-2], own, self.all[-1]], self._inputs, self._workspace)

    @property
    def status(self) -> Any:
        """An int32 after the values: whether a thread failed."""
        place = _moved(self.all[-2], self._workspace)
        return tb.decl_buffer((1,), "int32", data=tb.Bind(place))


def stride_of(workspace: int) -> int:
    """Bytes from one thread's workspace to the next."""
    return workspace + ALIGNMENT


def _moved(pointer: Expr, offset: Expr) -> Expr:
    return tirx.handle_add_byte_offset(pointer, offset)


def _long(value: int) -> Expr:
    return e.const(value, "int64")


def _check(status: Expr) -> None:
    """Leave the function where a call gave anything but 0."""
    with tb.Assert(tirx.EQ(status, 0), "out of memory", "MemoryError"):
        pass
