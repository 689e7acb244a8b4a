"""ONNX Runtime: a float model, and its int8 form with unsigned activations and signed weights."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qcompile.rivals import onnx_model
from qcompile.rivals.entrant import Call, Entrant, Inputs, Once, Ready, not_installed
from qcompile.rivals.onnx_model import Models

PACKAGE = "onnxruntime"
_ERRORS_ONLY = 3


def entrant(models: Models, precision: str, threads: int) -> Entrant:
    """A network in "float32" or "int8"."""
    if precision == "int8":
        key, made, how = "onnxruntime", models.int8, f"{onnx_model.HOW}, {onnx_model.HOW_INT8}"
    else:
        key, made, how = "onnxruntime-fp32", models.float32, onnx_model.HOW
    run = partial(_prepare, made, threads)
    return Entrant(key, f"ONNX Runtime {precision}", run, precision, how, PACKAGE)


def _prepare(made: Once[Any], threads: int, inputs: Inputs) -> Ready:
    fed = dict(zip(onnx_model.names(inputs), (x.numpy() for x in inputs), strict=True))
    return run(made().SerializeToString(), fed, threads)


def run(model: bytes, inputs: dict[str, np.ndarray[Any, Any]], threads: int) -> Ready:
    """What runs a model on inputs that were handed over once, and copies nothing.

    Raises:
        Unavailable: onnxruntime is not installed.
    """
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise not_installed(PACKAGE) from error
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
    call = partial(session.run_with_iobinding, binding)
    return Ready(call, partial(_output, call, binding), len(model))


def _output(call: Call, binding: Any) -> Tensor:
    call()
    return torch.from_numpy(binding.copy_outputs_to_cpu()[0])
