"""Which method computes a contraction the fastest, as far as the cost model knows."""

from __future__ import annotations

from dataclasses import dataclass

from torch.fx import GraphModule

from qcompile.codegen.costs.effort import effort_of
from qcompile.codegen.costs.model import Coefficients, coefficients_of
from qcompile.codegen.groups import INTEGER_CONTRACTIONS, Group
from qcompile.codegen.kernels.contraction import methods_of
from qcompile.codegen.machine import Machine
from qcompile.codegen.schedules.cpu import NODE_RULES
from qcompile.codegen.writer import Writer

INT8 = "int8"
_LEAST_MARGIN = 0.05  # however well the coefficients fit


@dataclass(frozen=True)
class Pick:
    """A method, and why it was taken, in a few words.

    Attributes:
        method: None where there is only one way.
        why: empty where there was nothing to choose.
    """

    method: str | None
    why: str = ""


def margin_of(known: Coefficients) -> float:
    """How much faster than the default a method must be predicted to be, as a fraction."""
    return max(known.margin, _LEAST_MARGIN)


def pick(gm: GraphModule, group: Group, machine: Machine) -> Pick:
    """The method of a contraction that is the fastest by the model.

    The default one, which is "int8" for integers and else the first of the machine's, stays where no
    other is faster by more than the model's margin. Where nothing is known of it, the first is taken.
    """

    methods = methods_of(Writer(gm, group, machine, NODE_RULES), machine)
    known, times = coefficients_of(machine), predicted(gm, group, machine)
    default = INT8 if group.anchor.target in INTEGER_CONTRACTIONS else methods[0]
    if known is None or default is None or default not in times:
        return Pick(methods[0])
    best = min(times, key=times.__getitem__)
    if times[best] * (1 + margin_of(known)) < times[default]:
        faster = times[default] / times[best]
        return Pick(best, f"{faster:.1f} times as fast as {default}")
    others = {method: took for method, took in times.items() if method != default}
    if not others:
        return Pick(default)
    next_ = min(others, key=others.__getitem__)
    return Pick(default, _no_gain(next_, others[next_] / times[default]))


def predicted(gm: GraphModule, group: Group, machine: Machine) -> dict[str, float]:
    """Seconds for a sample of the methods of a contraction that the model knows."""
    known, found = coefficients_of(machine), {}
    if known is None:
        return {}
    for method in methods_of(Writer(gm, group, machine, NODE_RULES), machine):
        if method is None:
            continue
        w = Writer(gm, group, machine, NODE_RULES)
        seconds = known.seconds(*effort_of(w, machine, method))
        if seconds is not None:
            found[method] = seconds
    return found


def _no_gain(other: str, ratio: float) -> str:
    if ratio < 1:
        return f"{other} is no surer bet"
    return f"{other} would take {ratio:.1f} times as long"


def ordered(gm: GraphModule, group: Group, machine: Machine) -> tuple[str | None, ...]:
    """The methods of a contraction, the one that is taken without tuning first."""
    methods = methods_of(Writer(gm, group, machine, NODE_RULES), machine)
    first = pick(gm, group, machine).method
    return (first, *(method for method in methods if method != first))
