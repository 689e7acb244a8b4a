"""Which of a program's variants this machine runs."""

from __future__ import annotations

import difflib
import platform

from qcompile import cpuinfo
from qcompile.cuda import diagnosis
from qcompile.errors import QCompileError
from qcompile.gpu_arguments import current_device
from qcompile.program_info import CUDA, ProgramInfo, Variant


def obstacle(variant: Variant) -> str:
    """Why this machine cannot run a variant, to follow its name; "" if it can.

    Raises:
        QCompileError: Linux does not say what the processor has.
    """
    if variant.machine == CUDA:
        return diagnosis.obstacle(variant.arch, variant.features, variant.toolkit, current_device())
    if variant.machine != platform.machine():
        return f"is for {variant.machine}, this machine is {platform.machine()}"
    missing = [f for f in variant.features if f not in cpuinfo.flags()]
    return f"needs {', '.join(missing)}, which this machine lacks" if missing else ""


def runnable(info: ProgramInfo) -> tuple[Variant, ...]:
    """The variants that this machine runs, the best first."""
    return tuple(v for v in info.variants if not obstacle(v))


def choose(info: ProgramInfo, arch: str | None = None, where: str | None = None) -> Variant:
    """The best variant that this machine runs, or the one that is asked for.

    Raises:
        QCompileError: this machine runs none of them, or not the one; the message says what it
            lacks. Or there is no such variant.
    """
    variants = info.variants if arch is None else (named(info, arch, where),)
    obstacles = [obstacle(v) for v in variants]
    if "" in obstacles:
        return variants[obstacles.index("")]
    reasons = [f"{v.arch} {why}" for v, why in zip(variants, obstacles, strict=True)]
    what = f"the code for {reasons[0]}"
    if len(reasons) > 1:
        what = "this machine runs none of its variants:\n  " + "\n  ".join(reasons)
    raise QCompileError(what, where=where, hint=_hint(info, arch))


def choose_emulated(
    info: ProgramInfo, arch: str | None, where: str | None, emulated: int
) -> Variant:
    """The first variant for the GPU that is emulated, or the one that is asked for.

    Args:
        emulated: compute capability of that GPU, 80 for 8.0.

    Raises:
        QCompileError: there is none, or the one is for something else.
    """
    variants = info.variants if arch is None else (named(info, arch, where),)
    for variant in variants:
        if variant.machine == CUDA and (
            variant.arch == CUDA or diagnosis.covers(variant.arch, emulated)
        ):
            return variant
    held = ", ".join(v.arch for v in variants)
    gpus = [v.arch for v in variants if v.machine == CUDA]
    if not gpus:
        what = f"only code for GPUs can be emulated, this is for {held}"
        raise QCompileError(what, where=where, hint='compile it for target="cuda"')
    raise QCompileError(
        f"no sm_{emulated} can be emulated: the program has no code for it, but for {held}",
        where=where,
        hint=f'emulate {" or ".join(gpus)}, or compile it for target="cuda", which is for all GPUs',
    )


def _hint(info: ProgramInfo, arch: str | None) -> str:
    if arch is not None and (others := runnable(info)):
        return f"this machine runs {', '.join(v.arch for v in others)}"
    if all(v.machine == CUDA for v in info.variants):
        return (
            'compile it for target="cuda,cpu", which holds code for both; or emulate the GPU, which '
            "is slow: qcompile run --emulate sm_80, or qcompile.load(path, emulate=80)"
        )
    return (
        'compile it on this machine for target="cpu"; or, on one of its family, for '
        '"cpu:portable", which holds code for older processors too'
    )


def named(info: ProgramInfo, arch: str, where: str | None) -> Variant:
    """The variant of this name, whether this machine runs it or not.

    Raises:
        QCompileError: there is none.
    """
    names = [v.arch for v in info.variants]
    if arch in names:
        return info.variants[names.index(arch)]
    close = difflib.get_close_matches(str(arch), names, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    held = f"it holds {', '.join(names)}"
    raise QCompileError(f"the program has no variant {arch!r}", where=where, hint=hint + held)
