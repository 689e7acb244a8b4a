"""What a graph would be compiled to, kernel by kernel, and how long each would take; nothing is compiled.

    products that were measured     the cost model (`model.py`)
    other products                  the longer of arithmetic and memory (a roofline)
    everything else                 memory

The roofline's two rates are rough: half of what a core of some years can do, for its width of vectors.
They serve to tell a kernel of a tenth of the time from one of a hundredth.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch.fx import GraphModule

from qcompile.codegen.build import Choose, write
from qcompile.codegen.built import KernelInfo
from qcompile.codegen.costs.model import class_of, coefficients_of, nearest, shipped
from qcompile.codegen.costs.ranking import pick, predicted
from qcompile.codegen.groups import Group, macs_of
from qcompile.codegen.layout import check_batch, layout_of
from qcompile.codegen.machine import Machine, machine_of
from qcompile.codegen.schedules.tile import Choice
from qcompile.ir.target import Target

_MACS = 3e9  # in a second, for each lane of a vector
_BYTES = 1.5e9  # read and written between kernels, in a second, for each such lane


@dataclass(frozen=True)
class Expected:
    """A kernel that would be compiled.

    Attributes:
        kernel: what is known of it.
        macs: multiply-accumulates of a sample.
        seconds: for a sample, on one thread, about; None where nothing can be said.
        measured: whether that follows from costs that were measured on such a processor.
    """

    kernel: KernelInfo
    macs: int
    seconds: float | None = None
    measured: bool = False


@dataclass(frozen=True)
class Survey:
    """The kernels that a target would get.

    Attributes:
        arch: LLVM's name of the processor, "cuda", or a GPU's architecture.
        basis: what times follow from, a sentence; "" where there are none.
    """

    arch: str
    kernels: tuple[Expected, ...]
    basis: str = ""


def survey(gm: GraphModule, target: Target, choose: Choose) -> Survey:
    """Look at what `build` would make of a lowered graph.

    Raises:
        QCompileError: as of `build`, but for what LLVM or nvcc find.
    """
    check_batch(gm)
    if target.is_gpu:
        from qcompile.codegen.cuda.build import generate

        made = generate(gm, target)
        return Survey(made.arch, tuple(Expected(k, k.macs) for k in made.kernels))
    machine = machine_of(target)
    placed, written = write(gm, machine, choose)
    found = []
    for one in written:
        seconds, measured = _seconds(gm, one.group, machine, one.choice)
        info = one.described(placed)
        found.append(Expected(info, info.macs, seconds, measured))
    return Survey(machine.arch, tuple(found), _basis(machine))


def _seconds(
    gm: GraphModule, group: Group, machine: Machine, choice: Choice | None
) -> tuple[float, bool]:
    """Of a sample, and whether that was measured."""
    macs = macs_of(group.anchor)
    if macs:
        method = choice.method if choice is not None else pick(gm, group, machine).method
        known = predicted(gm, group, machine)
        if method in known:
            return known[method], True
    moved = sum(layout_of(node).bytes for node in (*group.inputs, *group.results))
    return max(macs / (_MACS * machine.lanes), moved / (_BYTES * machine.lanes)), False


def _basis(machine: Machine) -> str:
    """What is known of a machine's class."""
    known, name = coefficients_of(machine), nearest(machine, shipped())
    if known is None:
        return "nothing was measured on such processors: times are those of memory and arithmetic"
    other = class_of(machine)
    nearby = f", the nearest to {other} that there is" if other != name else ""
    return f"costs of products were measured on {known.processor} ({name}, {known.date}){nearby}"
