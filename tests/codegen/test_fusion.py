"""What one kernel computes: trees of followers, several results, and no circles between kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from compiling import Case, check
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.fx import GraphModule

from qcompile.codegen.fusion import form
from qcompile.codegen.groups import activations, whole

q, aten = torch.ops.qcompile, torch.ops.aten


def floats(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def groups(case: Case) -> list[tuple[list[str], list[str]]]:
    """(nodes, results) of each group of a case."""
    return [([n.name for n in g.nodes], [n.name for n in g.results]) for g in form(case.graph())]


def short(names: list[str]) -> list[str]:
    return [name.replace("_default", "").replace("_tensor", "") for name in names]


def residual(x: Tensor, w: Tensor, a: Tensor) -> Any:
    """Two blocks of Bi-Real Net: the sum is read as floats, and as signs."""
    for _ in range(2):
        bits = q.bitpack.default(q.sign.default(aten.hardtanh.default(x, -1.0, 1.0)))
        patches = q.im2col.default(bits, 40, 1, [3, 3], [1, 1], [1, 1, 1, 1], [1, 1], 1)
        product = q.xnor_matmul.default(patches, w, 360, 1)
        x = aten.add.Tensor(q.scale_shift.default(product, a, a), x)
    return aten.relu.default(x)


def residual_case(size: tuple[int, int] = (5, 6)) -> Case:
    full = (1 << 8) - 1  # of the second word of 40 channels
    words = torch.randint(-(2**31), 2**31, (40, 18), generator=torch.Generator().manual_seed(1))
    words[:, 1::2] &= full
    constants = {"w": words.to(torch.int32), "a": floats(40, seed=2)}
    return Case(residual, [(40, *size)], constants, name="residual")


def test_a_sum_is_stored_as_floats_and_as_signs() -> None:
    found = [(short(nodes), short(results)) for nodes, results in groups(residual_case())]
    assert found == [
        (["hardtanh", "sign", "bitpack"], ["bitpack"]),
        (
            ["im2col", "xnor_matmul", "scale_shift", "add", "hardtanh_1", "sign_1", "bitpack_1"],
            ["add", "bitpack_1"],
        ),
        (["im2col_1", "xnor_matmul_1", "scale_shift_1", "add_1", "relu"], ["relu"]),
    ]
    check([residual_case(), residual_case((1, 1)), residual_case((3, 40))])


def test_all_branches_of_a_sum_of_integers_are_one_kernel() -> None:
    byte = torch.randint(-9, 9, (33, 5, 3, 3), generator=torch.Generator().manual_seed(3))
    constants = {
        "w": byte.to(torch.int8),
        "a": floats(33, seed=4),
        "t": torch.arange(33, dtype=torch.int32),
        "o": torch.ones(33, dtype=torch.int32),
    }

    def function(x: Tensor, w: Tensor, a: Tensor, t: Tensor, o: Tensor) -> Any:
        levels = q.quantize.default(x, 0.1, 3, 0, 255)
        y = q.conv.default(levels, w, [1, 1], [1] * 4, [1, 1], 1, 3, 0)
        scaled = q.scale_shift.default(y, a, None)
        low = q.threshold.default(y, t, o, -1)
        again = q.quantize.default(aten.relu.default(scaled), 0.3, 1, 0, 15)
        return aten.neg.default(scaled), q.bitpack.default(low), again, scaled

    case = Case(function, [(5, 6, 7)], constants, name="branches")
    [_, (_, results)] = groups(case)
    assert set(short(results)) == {"neg", "bitpack", "quantize_1", "scale_shift"}
    check([case])


def test_signs_of_inexact_values_are_taken_where_they_are_stored() -> None:
    def function(x: Tensor, w: Tensor, a: Tensor) -> Any:
        y = aten.convolution.default(x, w, None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1)
        y = q.scale_shift.default(y, a, a)
        return q.sign.default(aten.hardtanh.default(y, -1.0, 1.0)), aten.relu.default(y)

    def sums(x: Tensor, w: Tensor, a: Tensor) -> Any:
        """As many paths as 2^40 lead to the last sum."""
        y = z = aten.convolution.default(x, w, None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1)
        for _ in range(40):
            y, z = aten.add.Tensor(y, z), aten.mul.Scalar(y, 0.5)
        return q.sign.default(y), q.scale_shift.default(z, a, a)

    constants = {"w": floats(4, 3, 1, 1, seed=1), "a": floats(4, seed=2)}
    cases = [Case(f, [(3, 4, 4)], constants, tolerance=(1e-5, 1e-5)) for f in (function, sums)]
    [(_, results)] = groups(cases[0])
    assert sorted(short(results)) == ["convolution", "relu", "sign"]
    [(_, results)] = groups(cases[1])
    assert sorted(short(results)) == ["add_39", "scale_shift", "sign"]
    check(cases)


def test_kernels_that_would_need_each_other_stay_apart() -> None:
    """b reads a, and what follows a reads b: one kernel for a and its follower would wait for b."""

    def function(x: Tensor, w: Tensor) -> Any:
        a = aten.max_pool2d.default(x, [3, 3], [1, 1], [1, 1])
        b = aten.max_pool2d.default(aten.neg.default(a), [3, 3], [1, 1], [1, 1])
        return aten.add.Tensor(aten.relu.default(a), b), aten.mul.Tensor(b, w)

    def crossed(x: Tensor, y: Tensor) -> Any:
        a = aten.max_pool2d.default(x, [3, 3], [1, 1], [1, 1])
        b = aten.max_pool2d.default(y, [3, 3], [1, 1], [1, 1])
        return aten.add.Tensor(aten.relu.default(a), b), aten.sub.Tensor(aten.neg.default(b), a)

    cases = [
        Case(function, [(4, 5, 5)], {"w": floats(4, 1, 1, seed=5)}, name="circle"),
        Case(crossed, [(4, 5, 5), (4, 5, 5)], name="crossed"),
    ]
    check(cases)
    for case in cases:
        check_order(case.graph())


def check_order(gm: GraphModule) -> None:
    """Each group reads what is stored before it; each node is in one group, after what it reads."""
    known = set(gm.graph.find_nodes(op="placeholder"))
    seen: set[Any] = set()
    for group in form(gm):
        assert all(whole(value) in known for value in group.inputs)
        own: set[Any] = set()
        for node in group.nodes:
            assert node not in seen
            assert all(v in own or v in group.inputs for v in activations(node))
            own.add(node)
        seen |= own
        known |= set(group.results)
    calls = [n for n in gm.graph.nodes if n.op == "call_function" and whole(n) is n]
    assert seen == set(calls)


UNARY: list[Callable[[Tensor], Tensor]] = [
    aten.relu.default,
    aten.neg.default,
    lambda x: aten.max_pool2d.default(x, [3, 3], [1, 1], [1, 1]),
    lambda x: aten.avg_pool2d.default(x, [3, 3], [1, 1], [1, 1]),
]


@settings(deadline=None, max_examples=25, phases=(Phase.explicit, Phase.generate))
@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 99), st.integers(0, 99)), min_size=2, max_size=9
    ),
    st.sets(st.integers(0, 9), min_size=1),
)
def test_any_graph_is_cut_so_that_it_can_be_run(
    ops: list[tuple[int, int, int]], returned: set[int]
) -> None:
    def function(x: Tensor) -> Any:
        values = [x]
        for kind, left, right in ops:
            value = UNARY[kind](values[left % len(values)])
            if right % 3:
                value = aten.add.Tensor(value, values[right % len(values)])
            values.append(value)
        return tuple(values[1 + i % (len(values) - 1)] for i in sorted(returned))

    gm = Case(function, [(3, 4, 5)]).graph()
    gm.graph.eliminate_dead_code()
    check_order(gm)
    tolerance = (1e-6, 1e-6) if any(kind == 3 for kind, _, _ in ops) else (0, 0)
    if len(ops) > 5:
        check([Case(function, [(3, 4, 5)], tolerance=tolerance)], batches=(2,))
