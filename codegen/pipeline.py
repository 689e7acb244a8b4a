"""TVM's passes that our functions need, and no others: they are half of what compiling costs.

The functions are written as they shall run: no blocks to place, no loops to vectorize, no threads of
a GPU to bind.
"""

from __future__ import annotations

from typing import Any

import tvm
from tvm import tirx
from tvm.s_tir.pipeline import finalize_device_passes, finalize_host_passes

KERNELS = "qcompile"

_CPU = 1  # DLPack's number of the kind of device


def _on_cpu(function: Any, *_: Any) -> Any:
    """Say for which device local buffers are allocated, where no tensor says it."""
    body = function.body
    for key, value in (("device_type", _CPU), ("device_id", 0)):
        body = tirx.AttrStmt("default", key, value, body)
    return function.with_body(body)


def _kernels() -> tuple[Any, Any, Any]:
    passes = [
        tirx.transform.FlattenBuffer(),
        tirx.transform.StorageRewrite(),
        tirx.transform.StmtSimplify(),
        tirx.transform.RemoveNoOp(),
        tirx.transform.CommonSubexprElim(),
        tirx.transform.VerifyMemory(),
        tirx.transform.MakePackedAPI(),
        tirx.transform.prim_func_pass(_on_cpu, opt_level=0),
    ]
    return tvm.transform.Sequential(passes), finalize_host_passes, finalize_device_passes


tirx.register_tir_pipeline(KERNELS, _kernels)
