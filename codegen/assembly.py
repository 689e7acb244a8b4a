"""The assembly of kernels, each by itself, as LLVM writes it: nothing is linked, and nothing runs."""

from __future__ import annotations

import re
from collections.abc import Callable

import tvm
from torch.fx import GraphModule
from tvm.ir import GlobalVar

from qcompile.codegen.build import Choose, write
from qcompile.codegen.built import KernelInfo
from qcompile.codegen.layout import check_batch
from qcompile.codegen.machine import machine_of
from qcompile.codegen.pipeline import KERNELS
from qcompile.codegen.writer import Kernel
from qcompile.ir.target import Target

Wanted = Callable[[KernelInfo], bool]

_DEBUG = re.compile(r"^\.L(tmp|func_(begin|end)|debug)\w*:\n", re.MULTILINE)
_DIRECTIVE = re.compile(r"^\t\.(?!p2align)\w+.*\n", re.MULTILINE)


def assembly(
    gm: GraphModule, target: Target, choose: Choose, wanted: Wanted
) -> list[tuple[KernelInfo, str]]:
    """The kernels of a lowered graph that are wanted, with their code.

    Raises:
        QCompileError: as of `build`.
    """
    check_batch(gm)
    machine = machine_of(target)
    placed, written = write(gm, machine, choose)
    described = [(one.kernel, one.described(placed)) for one in written]
    return [(i, _compiled(k, machine.target)) for k, i in described if wanted(i)]


def _compiled(kernel: Kernel, target: tvm.target.Target) -> str:
    """Its function; without directives that are for the assembler."""
    module = tvm.IRModule({GlobalVar("kernel"): kernel.function})
    with tvm.transform.PassContext(opt_level=3):
        module = tvm.tirx.transform.BindTarget(target.with_host(target))(module)
        passes, finalize, _ = tvm.tirx.get_tir_pipeline(KERNELS)
        module = finalize()(passes(module))
        # Only now: a function that had a name before would be called as Python calls it.
        named = {gv: f.with_attr("global_symbol", "kernel") for gv, f in module.functions.items()}
        built = tvm.get_global_func("target.build.llvm")(tvm.IRModule(named), target)
    text = str(built.inspect_source("asm"))
    body = text[text.index("\nkernel:") + 1 :]
    body = body[: body.index(".Lfunc_end0:")]
    return _DIRECTIVE.sub("", _DEBUG.sub("", body)).rstrip()
