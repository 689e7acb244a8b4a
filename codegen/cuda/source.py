"""CUDA C of a program's kernels: TVM's, behind the device functions that it calls.

The text includes no header, so that NVRTC takes it as nvcc does. Where it is compiled for a CPU that
emulates a GPU, `QC_EMULATED` is defined, as the architecture (800 for sm_80), and what stands for
single instructions comes from there.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import tvm
from tvm import tirx
from tvm.ir import GlobalVar

_DEVICE = Path(__file__).parent / "device"
# Types and numbers as TVM spells them; all compilers but NVRTC know the integers of <stdint.h>.
_TYPES = """\
#ifdef __CUDACC_RTC__
typedef signed char int8_t;
typedef unsigned char uint8_t;
typedef short int16_t;
typedef unsigned short uint16_t;
typedef int int32_t;
typedef unsigned int uint32_t;
typedef long long int64_t;
typedef unsigned long long uint64_t;
#endif
#define uint unsigned int
#define uchar unsigned char
#define ushort unsigned short
#define CUDART_INF_F __int_as_float(0x7f800000)
#define CUDART_NAN_F __int_as_float(0x7fffffff)
"""
_KERNEL = 'extern "C" __global__'
_DEVICE_CALL = 2  # TVM's number of the convention by which a host launches a function
# No host code, and no pass that moves allocations: shared memory is used again only where a schedule
# says so, since it places the barriers.
_PASSES = (
    tirx.transform.FlattenBuffer(),
    tirx.transform.StmtSimplify(),
    tirx.transform.RemoveNoOp(),
    tirx.transform.CommonSubexprElim(),
    tirx.transform.LowerIntrin(),
)


def cuda_target() -> Any:
    """What TVM is told; the text it gives is the same for all architectures from sm_75 on."""
    return tvm.target.Target({"kind": "cuda", "arch": "sm_75"})


def source_of(functions: dict[GlobalVar, Any]) -> str:
    """The CUDA C of device functions, each called as its GlobalVar."""
    target = cuda_target()
    axes = ["blockIdx.x", "blockIdx.y", "blockIdx.z", "threadIdx.x"]
    attributes = {
        "target": target,
        "calling_conv": _DEVICE_CALL,
        "tirx.kernel_launch_params": axes,
    }
    module = tvm.IRModule(
        {
            symbol: function.with_attr({**attributes, "global_symbol": symbol.name_hint})
            for symbol, function in functions.items()
        }
    )
    module = tvm.transform.Sequential(list(_PASSES))(module)
    text = str(tvm.get_global_func("target.build.cuda")(module, target).inspect_source())
    return _TYPES + _prelude() + text[text.index(_KERNEL) :]


@cache
def _prelude() -> str:
    instructions, functions = (
        (_DEVICE / name).read_text(encoding="utf-8") for name in ("ptx.cuh", "prelude.cuh")
    )
    return f"#ifndef QC_EMULATED\n{instructions}#endif\n{functions}"
