"""ONNX Runtime: a float model, and its int8 form with unsigned activations and signed weights."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rivals import onnx_model
from rivals.entrant import Entrant, Ready, Unavailable

FP32, INT8 = "ONNX Runtime fp32", "ONNX Runtime int8"
_ERRORS_ONLY = 3


def entrants(model: nn.Module, calibration: Sequence[Tensor], threads: int) -> list[Entrant]:
    """Both models of a float network."""
    return [
        Entrant(FP32, partial(_float, model, threads)),
        Entrant(INT8, partial(_int8, model, calibration, threads), "quantize_static: QDQ, u8 s8"),
    ]


def _float(model: nn.Module, threads: int, x: Tensor) -> Ready:
    made = onnx_model.float_model(model, x)
    return run(made.SerializeToString(), {onnx_model.INPUT: x.numpy()}, threads)


def _int8(model: nn.Module, calibration: Sequence[Tensor], threads: int, x: Tensor) -> Ready:
    made = onnx_model.quantized(onnx_model.float_model(model, x), calibration)
    return run(made.SerializeToString(), {onnx_model.INPUT: x.numpy()}, threads)


def run(model: bytes, inputs: dict[str, np.ndarray[Any, Any]], threads: int) -> Ready:
    """What runs a model on inputs that were handed over once, and copies nothing.

    Raises:
        Unavailable: onnxruntime is not installed.
    """
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise Unavailable("onnxruntime is not installed") from error
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = _ERRORS_ONLY
    batch = next(iter(inputs.values())).shape[0]
    options.add_free_dimension_override_by_name(onnx_model.BATCH, batch)
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    for name, value in inputs.items():
        binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(value))
    for output in session.get_outputs():
        binding.bind_output(output.name)
    return Ready(partial(session.run_with_iobinding, binding), len(model))


def result(ready: Ready) -> Tensor:
    """What `run` made ready computes, the first output."""
    call: Any = ready.call
    call()
    return torch.from_numpy(call.args[0].copy_outputs_to_cpu()[0])
