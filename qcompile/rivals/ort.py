"""ONNX Runtime: a float model, and its int8 form with unsigned activations and signed weights."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from qcompile.rivals import onnx_int8, onnx_model
from qcompile.rivals.entrant import Entrant, Inputs, Once, Ready, unavailable_if
from qcompile.rivals.onnx_int8 import ERRORS_ONLY, PACKAGE, Models, errors, package


def entrant(models: Models, precision: str, threads: int) -> Entrant:
    """A network in "float32" or "int8"."""
    if precision == "int8":
        key, made, how = "onnxruntime", models.int8, onnx_int8.HOW
    else:
        key, made, how = "onnxruntime-fp32", models.float32, onnx_model.HOW
    prepare = partial(_prepare, made, threads)
    return Entrant(key, f"ONNX Runtime {precision}", prepare, precision, how, PACKAGE)


def _prepare(made: Once[Any], threads: int, inputs: Inputs) -> Ready:
    package()  # before a model is made for nothing
    with unavailable_if(*errors(), saying="ONNX Runtime cannot run it: "):
        return run(made(), inputs, threads)


def run(made: Any, inputs: Inputs, threads: int) -> Ready:
    """What runs an ONNX model on inputs that were handed over once, and copies nothing."""
    ort = package()
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = ERRORS_ONLY
    for value, x in zip(made.graph.input, inputs, strict=True):
        batch = value.type.tensor_type.shape.dim[0].dim_param
        if batch:
            options.add_free_dimension_override_by_name(batch, len(x))
    model = made.SerializeToString()
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    ready = _Bound(session, inputs)
    ready()
    return Ready(ready, ready.output, len(model))


class _Bound:
    """A session with its inputs, whose memory it only borrows."""

    def __init__(self, session: Any, inputs: Inputs) -> None:
        self._run, self._binding = session.run_with_iobinding, session.io_binding()
        wrap = package().OrtValue.ortvalue_from_numpy
        self._values = [wrap(x.contiguous().numpy()) for x in inputs]
        for given, value in zip(session.get_inputs(), self._values, strict=True):
            self._binding.bind_ortvalue_input(given.name, value)
        for result in session.get_outputs():
            self._binding.bind_output(result.name)

    def __call__(self) -> None:
        self._run(self._binding)

    def output(self) -> Tensor:
        """The first output."""
        self()
        return torch.from_numpy(self._binding.copy_outputs_to_cpu()[0])
