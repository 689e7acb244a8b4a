"""OpenVINO: float, int8 from ONNX Runtime's quantized model, and Bi-Real Net with binary layers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rivals import onnx_model
from rivals.entrant import Call, Entrant, Unavailable

FP32, INT8 = "OpenVINO fp32", "OpenVINO int8"


def entrants(model: nn.Module, calibration: Sequence[Tensor], threads: int) -> list[Entrant]:
    """Both models of a float network."""
    note = "from ONNX Runtime's QDQ model, u8 s8"
    return [
        Entrant(FP32, partial(_float, model, threads)),
        Entrant(INT8, partial(_int8, model, calibration, threads), note),
    ]


def _float(model: nn.Module, threads: int, x: Tensor) -> Call:
    made = onnx_model.float_model(model, x)
    return run(_read(made, x), x.numpy(), threads, precision="f32")


def _int8(model: nn.Module, calibration: Sequence[Tensor], threads: int, x: Tensor) -> Call:
    made = onnx_model.quantized(onnx_model.float_model(model, x), calibration)
    return run(_read(made, x), x.numpy(), threads)


def openvino() -> Any:
    """The package.

    Raises:
        Unavailable: it is not installed.
    """
    try:
        import openvino
    except ImportError as error:
        raise Unavailable("openvino is not installed") from error
    return openvino


def _read(made: Any, x: Tensor) -> Any:
    model = openvino().Core().read_model(made.SerializeToString())
    model.reshape(list(x.shape))
    return model


def run(model: Any, x: np.ndarray[Any, Any], threads: int, precision: str | None = None) -> Call:
    """A function that runs a model on an input that was handed over once, and copies nothing.

    Args:
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

    return partial(_infer, request)


def _infer(request: Any) -> None:
    request.start_async()
    request.wait()


def result(call: Any) -> Tensor:
    """What a function of `run` computes, the first output."""
    call()
    return torch.from_numpy(call.args[0].get_output_tensor(0).data.copy())
