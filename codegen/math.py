"""Functions of float32 vectors that no processor has: exp, log, tanh, erf.

Within a few units in the last place of the exact value, and vectors all the way: the functions of
the C library work on one number at a time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from tvm import tirx

from qcompile.codegen import expr as e
from qcompile.codegen.expr import Expr


def exp(x: Expr) -> Expr:
    """e^x; 0 and infinity where float32 ends.

    x = n ln 2 + r with |r| <= ln 2 / 2, so that e^x = 2^n e^r; the Taylor series of e^r is cut after
    r^7, 3e-9 of the result. 2^n is multiplied in two halves, for it may lie outside of float32.
    """
    x = e.keep(e.clamp(x, -150.0, 130.0))
    n = e.keep(e.round_even(x * _f(1 / math.log(2))))
    # ln 2 in two parts, the first so short that n times it is exact.
    r = e.keep(x - n * _f(0.693145751953125) - n * _f(math.log(2) - 0.693145751953125))
    power = _polynomial(r, [1 / math.factorial(k) for k in range(8)])
    whole = e.keep(e.cast(n, "int32"))
    half = e.keep(tirx.shift_right(whole, e.splat(e.const(1, "int32"), e.lanes(whole))))
    return power * _power_of_two(half) * _power_of_two(whole - half)


def log(x: Expr) -> Expr:
    """The natural logarithm of normal numbers above 0.

    x = 2^n m with m in [sqrt 1/2, sqrt 2]; log m = 2 artanh s with s = (m - 1) / (m + 1), |s| < 0.172.
    """
    x = e.keep(x)
    bits = e.keep(tirx.reinterpret(e.vector("int32", e.lanes(x)), x))
    # The exponent counts from sqrt 1/2 on, whose bits these are.
    root = e.const(0x3F3504F3, "int32")
    n = e.keep(tirx.shift_right(bits - root, e.splat(e.const(23, "int32"), e.lanes(x))))
    m = e.keep(_float_of(bits - n * e.const(1 << 23, "int32")))
    s = e.keep((m - _f(1)) / (m + _f(1)))
    series = _polynomial(e.keep(s * s), [2 / (2 * k + 1) for k in range(6)])
    return e.cast(n, "float32") * _f(math.log(2)) + s * series


def tanh(x: Expr) -> Expr:
    """1 - 2 / (e^2x + 1); below 0.3, where that cancels, the Taylor series to x^11."""
    x = e.keep(x)
    size = e.keep(e.call("llvm.fabs", x))
    far = e.keep(_f(1) - _f(2) / (exp(size + size) + _f(1)))
    terms = [1, -1 / 3, 2 / 15, -17 / 315, 62 / 2835, -1382 / 155925]
    near = x * _polynomial(e.keep(x * x), terms)
    return e.select(size < _all(0.3, size), near, _with_sign(far, x))


def erf(x: Expr) -> Expr:
    """The error function: its Taylor series below 1; above, Abramowitz and Stegun 7.1.26."""
    x = e.keep(x)
    size = e.keep(e.call("llvm.fabs", x))
    t = e.keep(_f(1) / (_f(1) + _f(0.3275911) * size))
    rest = _polynomial(t, [0, 0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429])
    far = e.keep(_f(1) - rest * exp(-(size * size)))
    scale = 2 / math.sqrt(math.pi)
    terms = [scale * (-1) ** k / (math.factorial(k) * (2 * k + 1)) for k in range(11)]
    near = x * _polynomial(e.keep(x * x), terms)
    return e.select(size < _all(1.0, size), near, _with_sign(far, x))


def _f(value: float) -> Expr:
    return e.const(value, "float32")


def _all(value: float, like: Expr) -> Expr:
    return e.splat(_f(value), e.lanes(like))


def _polynomial(x: Expr, coefficients: Sequence[float]) -> Expr:
    """The sum of coefficients[k] x^k, by Horner's rule."""
    total = _all(coefficients[-1], x)
    for coefficient in reversed(coefficients[:-1]):
        total = total * x + _f(coefficient)
    return e.keep(total)


def _float_of(bits: Expr) -> Expr:
    return tirx.reinterpret(e.vector("float32", e.lanes(bits)), bits)


def _power_of_two(n: Expr) -> Expr:
    """2^n for -126 <= n <= 127."""
    return _float_of((n + e.const(127, "int32")) * e.const(1 << 23, "int32"))


def _with_sign(size: Expr, x: Expr) -> Expr:
    return e.select(x < _all(0.0, x), -size, size)
