"""Which flattens move nothing, and which are of a feature map; what may work on either side."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from rewriting import converted
from small_nets import Net, normal
from torch import Tensor

from qcompile.ir.graph import calls
from qcompile.ir.stages import aten
from qcompile.passes.flattens import PASS_A_FLATTEN, is_of_map, is_squeeze
from qcompile.passes.one_bit import argument


@pytest.mark.parametrize(
    ("shape", "start", "squeeze", "of_map"),
    [
        ((2, 3, 1), 1, True, True),
        ((2, 3, 1, 1, 1), 1, True, True),
        ((2, 3, 2, 1), 1, False, True),
        ((2, 1, 3), 1, False, True),
        ((2, 3), 1, False, False),  # leaves all as it is
        ((2, 3, 2, 2), 2, False, False),
    ],
)
def test_flattens(shape: tuple[int, ...], start: int, squeeze: bool, of_map: bool) -> None:
    net = Net(lambda x: aten.flatten.using_ints(x, start))
    [output] = converted(net, normal(*shape)).graph.find_nodes(op="output")
    flatten = argument(output)
    assert calls(flatten, aten.flatten.using_ints)
    assert is_squeeze(flatten) is squeeze
    assert is_of_map(flatten) is of_map


@pytest.mark.parametrize("op", [aten.sigmoid.default, aten.tanh.default])
def test_transcendental_functions_stay_on_their_side(op: Callable[[Tensor], Tensor]) -> None:
    [node] = converted(Net(op), torch.ones(2, 3)).graph.find_nodes(op="call_function", target=op)
    assert not calls(node, *PASS_A_FLATTEN)
