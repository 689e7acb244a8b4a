"""What is said when there is nothing that verification could compare."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import nn
from torch.fx import GraphModule

import qcompile
from qcompile import QCompileError
from qcompile.program import Program
from qcompile.program_file import pack
from qcompile.program_info import KernelInfo

X = torch.randn(4, 8)


@cache
def prepared() -> GraphModule:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3))
    graph = qcompile.prepare(model, X, qcompile.Recipe(bits=8, method="affine"))
    graph.eval()(X)
    return graph


@cache
def converted() -> GraphModule:
    return qcompile.convert(prepared())


@cache
def program() -> Program:
    return qcompile.compile(converted())


def says(function: Callable[[], Any]) -> str:
    with pytest.raises(QCompileError) as caught:
        function()
    return str(caught.value)


def test_another_graph() -> None:
    torch.manual_seed(1)
    other = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3))
    graph = qcompile.prepare(other, X, qcompile.Recipe(bits=8, method="affine"))
    graph.eval()(X)
    message = says(lambda: qcompile.verify(program(), qcompile.convert(graph), X))
    assert "was not compiled from this graph" in message
    assert "pass the converted graph that qcompile.compile took" in message


def test_a_graph_of_another_stage() -> None:
    message = says(lambda: qcompile.verify(program(), prepared(), X))
    assert message == (
        "verify takes the converted graph, this one is prepared\n  pass what qcompile.convert gave"
    )


def test_swapped_arguments() -> None:
    swapped: Any = (converted(), program(), X)
    assert says(lambda: qcompile.verify(*swapped)).startswith(
        "verify got a GraphModule and a Program"
    )


def test_nan() -> None:
    x = X.clone()
    x[2, 3] = torch.nan
    message = says(lambda: qcompile.verify(program(), converted(), [X, x]))
    assert "holds NaN, which no comparison can be made on" in message
    assert program()(x).shape == (4, 3)  # a plain call takes it


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ((), "inputs is empty"),
        (None, "inputs is of type NoneType"),
        (X.numpy(), "inputs is of type ndarray"),
        ([X.numpy()], "inputs holds something of type"),
        ([(X, 3)], "inputs holds something of type int"),
        ([(X, X)], "the program takes 1 input, got 2"),
        (X.double(), "is float64, the program takes float32[N, 8]"),
        ([X, X[:, 1:]], "has the shape [4, 7], the program takes float32[N, 8]"),
        (X[:0], "is an empty batch"),
    ],
    ids=str,
)
def test_inputs_that_do_not_fit(inputs: Any, message: str) -> None:
    assert message in says(lambda: qcompile.verify(program(), converted(), inputs))


def with_kernels(kernels: tuple[KernelInfo, ...]) -> Program:
    """The program, with other things said about it."""
    variant = replace(program().variant, kernels=kernels)
    info = replace(program().info, variants=(variant,))
    return Program(pack(info, [program().library_bytes], [program().constants]))


def test_kernels_that_the_graph_does_not_have() -> None:
    kernels = tuple(replace(k, nodes=("nothing_like_it",)) for k in program().variant.kernels)
    message = says(lambda: qcompile.verify(with_kernels(kernels), converted(), X))
    assert "computes nothing_like_it, which the lowered graph does not have" in message
    assert "the version of qcompile that verifies it" in message
