"""Expressions for any number of lanes: the words in which kernels say what is computed.

Everything here takes scalars and vectors alike: a kernel is written once, and is a vector's where
the schedule gives it a vector of channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as tb

Expr = Any  # a tvm PrimExpr; the package has no types


@dataclass(frozen=True)
class Language:
    """What the code is generated in, as far as it decides how something is said.

    Attributes:
        functions: what LLVM's intrinsics are called there; {} where it is LLVM.
        registers: TVM's name of the memory whose small buffers become registers.
    """

    functions: Mapping[str, str]
    registers: str


LLVM = Language({}, "global")
# Compiled without fast math, and without fusing of products and sums.
CUDA = Language({"llvm.fabs": "fabsf", "llvm.fma": "__fmaf_rn", "llvm.roundeven": "rintf"}, "local")
_language = ContextVar("language", default=LLVM)


@contextmanager
def speaking(language: Language) -> Iterator[None]:
    """Generate this language's code inside; by itself it is LLVM's."""
    before = _language.set(language)
    try:
        yield
    finally:
        _language.reset(before)


def dtype(e: Expr) -> str:
    """Element type of an expression: "float32", "int8", "bool", ..."""
    return str(e.ty.dtype).partition("x")[0]


def lanes(e: Expr) -> int:
    """How many lanes an expression has; 1 for a scalar."""
    return int(e.ty.dtype.lanes)


def vector(element: str, count: int) -> str:
    """The name of a vector type."""
    return f"{element}x{count}" if count > 1 else element


def const(value: float, element: str) -> Expr:
    return tirx.const(value, element)


def number(value: float) -> Expr:
    """A float32 that the network has as a number, for arithmetic with whatever it is given.

    TVM takes x * 0 for 0 and x + 0 for x; NaN, infinities and -0 say otherwise.
    """
    return const(value, "float32") if value else _stored(const(value, "float32"))


def splat(e: Expr, count: int) -> Expr:
    """The scalar in each of `count` lanes; a vector passes through."""
    return e if count == 1 or lanes(e) == count else tirx.Broadcast(e, count)


def ramp(start: Expr, stride: int, count: int) -> Expr:
    return start if count == 1 else tirx.Ramp(start, stride, count)


def cast(e: Expr, element: str) -> Expr:
    return e if dtype(e) == element else tirx.Cast(vector(element, lanes(e)), e)


def select(condition: Expr, yes: Expr, no: Expr) -> Expr:
    """Lane by lane; both sides are computed."""
    count = max(lanes(condition), lanes(yes), lanes(no))
    return tirx.Select(splat(condition, count), splat(yes, count), splat(no, count))


def call(name: str, *args: Expr) -> Expr:
    """An LLVM intrinsic whose result has the type of its first argument."""
    language = _language.get()
    if language is not LLVM:
        return tirx.call_pure_extern(dtype(args[0]), language.functions[name], *args)
    return tirx.call_llvm_pure_intrin(vector(dtype(args[0]), lanes(args[0])), name, *args)


def fence(product: Expr) -> Expr:
    """Keep a product rounded: without it LLVM fuses it with an addition that follows.

    TVM lets LLVM contract a * b + c to one instruction of one rounding, in all of its code.
    """
    return call("llvm.arithmetic.fence", product) if _language.get() is LLVM else product


def round_even(e: Expr) -> Expr:
    """Round half to even, whatever the processor's mode. (`tirx.round` rounds half away.)"""
    return call("llvm.roundeven", e)


def nearest(e: Expr) -> Expr:
    """An int32 whose lower 16 bits are those of the nearest integer, half to even; |e| < 2^15.

    Between 2^23 and 2^24, float32 numbers are the integers: an addition rounds, one for three.
    """
    return tirx.reinterpret(
        vector("int32", lanes(e)), e + splat(const(1.5 * 2**23, "float32"), lanes(e))
    )


def larger(a: Expr, b: Expr) -> Expr:
    """The larger of two numbers; the first where they are equal, or where the second is NaN."""
    return select(splat(b, lanes(a)) > a, b, a)


def smaller(a: Expr, b: Expr) -> Expr:
    """The smaller of two numbers; the first where they are equal, or where the second is NaN."""
    return select(splat(b, lanes(a)) < a, b, a)


def maximum(a: Expr, b: Expr) -> Expr:
    """The larger, or NaN where one is NaN; the first where they are equal."""
    a, b = keep(a), keep(b)
    return select(tirx.isnan(b), b, larger(a, b))


def at_least(e: Expr, low: float) -> Expr:
    """max(e, low), NaN stays NaN."""
    e, bound = keep(e), const(low, dtype(e))
    return select(e < splat(bound, lanes(e)), bound, e)


def at_most(e: Expr, high: float) -> Expr:
    """min(e, high), NaN stays NaN."""
    e, bound = keep(e), const(high, dtype(e))
    return select(e > splat(bound, lanes(e)), bound, e)


def clamp(e: Expr, low: float, high: float) -> Expr:
    return at_most(at_least(e, low), high)


def interleave(vectors: Sequence[Expr]) -> Expr:
    """The first lanes of all vectors, then the second ones, and so on."""
    count = lanes(vectors[0])
    if count == 1 and len(vectors) == 1:
        return vectors[0]
    order = [v * count + lane for lane in range(count) for v in range(len(vectors))]
    return tirx.Shuffle(list(vectors), order)


def bits_of(condition: Expr) -> Expr:
    """An int32 whose bit i is lane i of the condition, of at most 32 lanes; the rest is 0."""
    count = lanes(condition)
    if count == 32:
        return tirx.call_intrin("int32", "tirx.reinterpret", condition)
    if count == 1:
        return select(condition, const(1, "int32"), const(0, "int32"))
    one = splat(const(1, "int32"), count)
    powers = tirx.shift_left(one, ramp(const(0, "int32"), 1, count))
    chosen = select(condition, powers, splat(const(0, "int32"), count))
    return tirx.call_llvm_pure_intrin("int32", "llvm.vector.reduce.or", chosen)


def bind(e: Expr) -> Expr:
    """Compute an index or a load once, here."""
    if isinstance(e, (int, tirx.Var, tirx.IntImm)):
        return e
    return tb.Bind(e)


def keep(e: Expr) -> Expr:
    """Compute a value once, here; for all values that may be used twice.

    It goes through a buffer, which becomes a register. TVM looks through variables: after a chain of
    n clamps, each of which reads its argument twice, it would work on an expression of 4^n terms.
    """
    return e if isinstance(e, tirx.FloatImm) else _stored(e)


def _stored(e: Expr) -> Expr:
    count = lanes(e)
    place = ramp(const(0, "int32"), 1, count)
    buffer = tb.alloc_buffer((count,), dtype(e), scope=_language.get().registers)
    tb.buffer_store(buffer, e, [place])
    return buffer[place]


def prefetch(buffer: Any, index: Expr) -> None:
    """Bring an element's cache line to a core's second cache, without waiting; it need not exist."""
    place = tirx.address_of(buffer[index])
    read, second, data = (const(value, "int32") for value in (0, 2, 1))
    tb.evaluate(tirx.call_llvm_intrin("void", "llvm.prefetch", place, read, second, data))
