"""Functions of float32 vectors that no processor has: exp, tanh, erf."""

from __future__ import annotations

from tvm import tirx

from qcompile.codegen.expr import Expr


def exp(x: Expr) -> Expr:
    return tirx.exp(x)


def log(x: Expr) -> Expr:
    return tirx.log(x)


def tanh(x: Expr) -> Expr:
    return tirx.tanh(x)


def erf(x: Expr) -> Expr:
    return tirx.erf(x)
