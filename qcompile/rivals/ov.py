"""OpenVINO: float, int8 from ONNX Runtime's quantized model, and chains of binary convolutions."""

from __future__ import annotations

import re
from collections import Counter
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qcompile.rivals import onnx_int8, onnx_model
from qcompile.rivals.entrant import Entrant, Inputs, Once, Ready, not_installed, unavailable_if
from qcompile.rivals.onnx_int8 import Models

PACKAGE = "openvino"
INT8, BINARY = "OpenVINO int8", "OpenVINO 1 bit"
_ISA = re.compile(r"sse|avx|amx|neon|sve|asimd")


def entrant(models: Models, precision: str, threads: int) -> Entrant:
    """A network in "float32" or "int8"."""
    if precision == "int8":
        key, made, how = "openvino", models.int8, onnx_int8.HOW
    else:
        key, made, how = "openvino-fp32", models.float32, onnx_model.HOW
    how = f"{how}; latency hint, one stream"
    prepare = partial(_prepare, made, threads, "f32" if precision == "float32" else None)
    return Entrant(key, f"OpenVINO {precision}", prepare, precision, how, PACKAGE)


def _prepare(made: Once[Any], threads: int, floats: str | None, inputs: Inputs) -> Ready:
    core = openvino().Core()  # before a model is made for nothing
    model = made()
    with unavailable_if(RuntimeError, saying="OpenVINO cannot run it: ", line=-1):
        read = core.read_model(model.SerializeToString())
        names = onnx_model.names(model)
        read.reshape({name: list(x.shape) for name, x in zip(names, inputs, strict=True)})
        return run(read, inputs, threads, precision=floats, size=model.ByteSize())


def openvino() -> Any:
    """The package, with its operations.

    Raises:
        Unavailable: it is not installed.
    """
    try:
        import openvino
        import openvino.opset13
    except ImportError as error:
        raise not_installed(PACKAGE) from error
    return openvino


def binary_chain(count: int, threads: int) -> Entrant:
    """So many 3 x 3 BinaryConvolutions after one another, as many outputs as channels."""
    note = "BinaryConvolution, xnor-popcount, zero padding"
    run = partial(_binary_chain, count, threads)
    return Entrant("openvino-binary", BINARY, run, "1 bit", note, PACKAGE)


def _binary_chain(count: int, threads: int, inputs: Inputs) -> Ready:
    (x,) = inputs
    ov = openvino()
    graph = ov.opset13.parameter(list(x.shape), np.float32)
    channels, random = x.shape[1], np.random.default_rng(0)
    value = graph
    for _ in range(count):
        high = random.integers(0, 2, (channels, channels, 3, 3), dtype=np.uint8)
        value = binary_convolution(ov, value, np.zeros(channels, np.float32), high)
    return run(ov.Model([value], [graph], "chain"), inputs, threads, precision="f32")


def binary_convolution(
    ov: Any, value: Any, tau: Any, high: np.ndarray[Any, Any], stride: int = 1
) -> Any:
    """`conv(sign(value - tau), 2 * high - 1)`, 3 x 3, padded by one zero.

    Args:
        tau: float32 `[C]`.
        high: uint8 `[O, C, 3, 3]` of 0 and 1.
    """
    op = ov.opset13
    at = op.constant(np.reshape(tau, (1, -1, 1, 1)).astype(np.float32))
    low, one = op.constant(np.float32(0)), op.constant(np.float32(1))
    signs = op.fake_quantize(value, at, at, low, one, 2)
    # The constructor packs the first bit highest, the kernel reads it lowest.
    flipped = np.unpackbits(np.packbits(high.reshape(-1), bitorder="little")).reshape(high.shape)
    weight = op.constant(flipped, dtype=ov.Type.u1)
    ones, strides = [1, 1], [stride] * 2
    return op.binary_convolution(signs, weight, strides, ones, ones, ones, "xnor-popcount", 0.0)


def run(
    model: Any,
    inputs: Inputs,
    threads: int,
    precision: str | None = None,
    size: int | None = None,
) -> Ready:
    """What runs a model on inputs that were handed over once, and copies nothing.

    Args:
        size: of the model, in bytes.
        precision: of the float parts; what OpenVINO finds best if None, which may be bfloat16.
    """
    ov = openvino()
    config: dict[str, Any] = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_CPU_PINNING": False,
    }
    if precision is not None:
        config["INFERENCE_PRECISION_HINT"] = precision
    compiled = ov.Core().compile_model(model, "CPU", config)
    request = _Request(ov, compiled.create_infer_request(), inputs)
    request()
    return Ready(request, request.output, size, _kernels(compiled))


def _kernels(compiled: Any) -> str:
    """The kernels that it says it runs, the most frequent first, as "brgconv_avx512_I8"."""
    facts = (node.get_rt_info() for node in compiled.get_runtime_model().get_ordered_ops())
    kinds = Counter(info["primitiveType"].astype(str) for info in facts)
    return ", ".join(kind for kind, _ in kinds.most_common() if _ISA.search(kind))


class _Request:
    """A request with its inputs, whose memory it only borrows."""

    def __init__(self, ov: Any, request: Any, inputs: Inputs) -> None:
        self._request = request
        self._arrays = [x.contiguous().numpy() for x in inputs]
        for index, array in enumerate(self._arrays):
            request.set_input_tensor(index, ov.Tensor(array, shared_memory=True))

    def __call__(self) -> None:
        self._request.start_async()
        self._request.wait()

    def output(self) -> Tensor:
        """The first output."""
        self()
        return torch.from_numpy(self._request.get_output_tensor(0).data.copy())
