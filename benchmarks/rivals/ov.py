"""OpenVINO: float, int8 from ONNX Runtime's quantized model, and chains of binary convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rivals import onnx_model
from rivals.entrant import Entrant, Ready, Unavailable

FP32, INT8, BINARY = "OpenVINO fp32", "OpenVINO int8", "OpenVINO 1 bit"


def entrants(model: nn.Module, calibration: Sequence[Tensor], threads: int) -> list[Entrant]:
    """Both models of a float network."""
    note = "from ONNX Runtime's QDQ model, u8 s8"
    return [
        Entrant(FP32, partial(_float, model, threads)),
        Entrant(INT8, partial(_int8, model, calibration, threads), note),
    ]


def _float(model: nn.Module, threads: int, x: Tensor) -> Ready:
    made = onnx_model.float_model(model, x)
    return run(_read(made, x), x.numpy(), threads, precision="f32", size=made.ByteSize())


def _int8(model: nn.Module, calibration: Sequence[Tensor], threads: int, x: Tensor) -> Ready:
    made = onnx_model.quantized(onnx_model.float_model(model, x), calibration)
    return run(_read(made, x), x.numpy(), threads, size=made.ByteSize())


def openvino() -> Any:
    """The package, with its operations.

    Raises:
        Unavailable: it is not installed.
    """
    try:
        import openvino
        import openvino.opset13
    except ImportError as error:
        raise Unavailable("openvino is not installed") from error
    return openvino


def binary_chain(count: int, threads: int) -> Entrant:
    """So many 3 x 3 BinaryConvolutions after one another, as many outputs as channels."""
    note = "BinaryConvolution, xnor-popcount, zero padding"
    return Entrant(BINARY, partial(_binary_chain, count, threads), note)


def _binary_chain(count: int, threads: int, x: Tensor) -> Ready:
    ov = openvino()
    graph = ov.opset13.parameter(list(x.shape), np.float32)
    channels, random = x.shape[1], np.random.default_rng(0)
    value = graph
    for _ in range(count):
        high = random.integers(0, 2, (channels, channels, 3, 3), dtype=np.uint8)
        value = binary_convolution(ov, value, np.zeros(channels, np.float32), high)
    return run(ov.Model([value], [graph], "chain"), x.numpy(), threads, precision="f32")


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


def _read(made: Any, x: Tensor) -> Any:
    model = openvino().Core().read_model(made.SerializeToString())
    model.reshape(list(x.shape))
    return model


def run(
    model: Any,
    x: np.ndarray[Any, Any],
    threads: int,
    precision: str | None = None,
    size: int | None = None,
) -> Ready:
    """What runs a model on an input that was handed over once, and copies nothing.

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
    request = ov.Core().compile_model(model, "CPU", config).create_infer_request()
    request.set_input_tensor(ov.Tensor(x, shared_memory=True))

    return Ready(partial(_infer, request), size)


def _infer(request: Any) -> None:
    request.start_async()
    request.wait()


def result(ready: Ready) -> Tensor:
    """What `run` made ready computes, the first output."""
    call: Any = ready.call
    call()
    return torch.from_numpy(call.args[0].get_output_tensor(0).data.copy())
