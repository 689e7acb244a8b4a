"""TVM's passes that our functions need, and no others: they are half of what compiling costs.

The functions are written as they shall run: no blocks to place, no loops to vectorize, no threads of
a GPU to bind.
"""

from __future__ import annotations

from typing import Any

import tvm
from tvm import relax, tirx
from tvm.s_tir.pipeline import finalize_device_passes, finalize_host_passes

KERNELS = "qcompile"

NETWORK = tvm.transform.Sequential(
    [
        relax.transform.ToNonDataflow(),
        relax.transform.RemovePurityChecking(),
        relax.transform.CallTIRRewrite(),
        relax.transform.StaticPlanBlockMemory(),
        relax.transform.LowerAllocTensor(),
        relax.transform.KillAfterLastUse(),
        relax.transform.LowerRuntimeBuiltin(),
        relax.transform.ComputePrimValue(),
        relax.transform.VMShapeLower(),
        relax.transform.AttachGlobalSymbol(),
    ]
)


def _kernels() -> tuple[Any, Any, Any]:
    passes = [
        tirx.transform.FlattenBuffer(),
        tirx.transform.StorageRewrite(),
        tirx.transform.StmtSimplify(),
        tirx.transform.RemoveNoOp(),
        tirx.transform.CommonSubexprElim(),
        tirx.transform.VerifyMemory(),
        tirx.transform.AnnotateEntryFunc(),
        tirx.transform.SplitHostDevice(),
        tirx.transform.MakePackedAPI(),
    ]
    return tvm.transform.Sequential(passes), finalize_host_passes, finalize_device_passes


tirx.register_tir_pipeline(KERNELS, _kernels)
