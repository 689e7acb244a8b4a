"""Three verbs for the tests of passes, and graphs to try them on.

    check_rewrite(pass_, model, expected, *inputs)    the pass turns model into the printed graph
    check_declines(pass_, model, *inputs, conv1=...)  the pass leaves it alone and says why
    check_ignores(pass_, model, *inputs)              the pass leaves it alone: it is not its affair

A model is a module, traced and put at the first stage that the pass takes, or a GraphModule at any.
"""

from __future__ import annotations

import copy
import textwrap
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from qcompile.ir.graph import text, trace, verify
from qcompile.ir.stages import Stage
from qcompile.passes.base import Pass


def staged(stage: Stage, model: nn.Module, *inputs: Tensor) -> GraphModule:
    """Trace a model whose forward calls the ops of a stage, and put the graph at that stage."""
    gm = trace(model, inputs)
    gm.meta["stage"] = stage
    verify(gm)
    return gm


def converted(model: nn.Module, *inputs: Tensor) -> GraphModule:
    """A converted graph without the passes that make one: `forward` calls dialect ops itself."""
    return staged(Stage.CONVERTED, model, *inputs)


def check_rewrite(
    pass_: Pass, model: nn.Module, expected: str, *inputs: Tensor, same_result: bool = True
) -> GraphModule:
    """The pass gives the printed graph, keeps every bit of the result, and keeps its argument.

    Doing it twice does nothing more, and the result does not depend on the examples' batch size.
    `same_result=False` is for a pass that changes the network by design.
    """
    before = _graph(pass_, model, inputs)
    untouched = copy.deepcopy(before)
    result = pass_(before)
    after = result.graph
    printed, wanted = text(after), textwrap.dedent(expected).strip()
    assert printed == wanted, f"{pass_.name} gave\n{printed}\n\nnot\n{wanted}"
    assert result.rewrote, f"{pass_.name} rewrote nothing"
    _assert_untouched(before, untouched)
    if after.meta["stage"] in pass_.stages:
        again = text(pass_(after).graph)
        assert again == printed, f"{pass_.name} is not idempotent: again gave\n{again}"
    if same_result:
        assert_same_result(after, before, *inputs)
    return after


def check_declines(
    pass_: Pass,
    model: nn.Module,
    *inputs: Tensor,
    reasons: Mapping[str, str] | None = None,
    **by_layer: str,
) -> None:
    """The pass leaves the model as it is, and gives exactly these reasons, layer by layer.

    `reasons` is for layers whose paths are no Python names.
    """
    wanted = {**(reasons or {}), **by_layer}
    assert wanted, "name a layer and its reason, or use check_ignores"
    _check_unchanged(pass_, _graph(pass_, model, inputs), wanted)


def check_ignores(pass_: Pass, model: nn.Module, *inputs: Tensor) -> None:
    """The pass leaves the model as it is, and has no reason to give."""
    _check_unchanged(pass_, _graph(pass_, model, inputs), {})


def assert_same_result(after: GraphModule, before: GraphModule, *inputs: Tensor) -> None:
    """Both give the same bits, on the inputs and on a batch twice as large."""
    twice = tuple(torch.cat([x, x]) if x.dim() else x for x in inputs)
    for batch in (inputs, twice):
        a, b = _run(after, batch), _run(before, batch)
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


def _graph(pass_: Pass, model: nn.Module, inputs: tuple[Tensor, ...]) -> GraphModule:
    if isinstance(model, GraphModule):
        return model
    return staged(pass_.stages[0], model, *inputs)


def _run(gm: GraphModule, inputs: tuple[Tensor, ...]) -> Any:
    with torch.no_grad():
        return copy.deepcopy(gm)(*inputs)  # a copy: observers and BatchNorm change when they run


def _assert_untouched(before: GraphModule, untouched: GraphModule) -> None:
    assert text(before) == text(untouched), f"the argument became\n{text(before)}"
    assert before.meta == untouched.meta, "the argument's meta changed"
    torch.testing.assert_close(
        before.state_dict(), untouched.state_dict(), rtol=0, atol=0, equal_nan=True
    )


def _check_unchanged(pass_: Pass, before: GraphModule, reasons: dict[str, str]) -> None:
    untouched = copy.deepcopy(before)
    result = pass_(before)
    assert text(result.graph) == text(untouched), f"{pass_.name} gave\n{text(result.graph)}"
    assert result.rewrote == [], f"{pass_.name} rewrote {result.rewrote}"
    assert result.declined == reasons, f"{pass_.name} declined {result.declined}"
    _assert_untouched(before, untouched)
