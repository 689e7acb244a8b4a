"""ONNX models in int8, by ONNX Runtime's quantizer."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from qcompile.rivals import onnx_model
from qcompile.rivals.entrant import Inputs, Once, Unavailable, not_installed, unavailable_if
from qcompile.rivals.quiet import quiet

PACKAGE = "onnxruntime"
HOW = f"{onnx_model.HOW}; quantize_static: QDQ, unsigned activations, signed weights per channel"
WARNINGS, ERRORS_ONLY = 2, 3  # how severe what is logged must be; the first is the default


class Models:
    """A float network and its int8 form, each made once for all engines that read ONNX."""

    def __init__(
        self, model: nn.Module, calibration: Sequence[Inputs], folder: Path | None = None
    ) -> None:
        """`folder`: where both are kept, for other processes that have the same network."""

        def once(precision: str, make: Callable[[], Any]) -> Once[Any]:
            file = None if folder is None else folder / f"{precision}.onnx"
            return Once(make if file is None else partial(onnx_model.kept, file, make))

        self.float32 = once("float32", lambda: onnx_model.float_model(model, calibration[0]))
        self.int8 = once("int8", lambda: quantized(self.float32, calibration))


def package() -> Any:
    """ONNX Runtime.

    Raises:
        Unavailable: it is not installed.
    """
    try:
        with quiet():
            import onnxruntime
    except ImportError as error:
        raise not_installed(PACKAGE) from error
    return onnxruntime


def errors() -> tuple[type[Exception], ...]:
    """What ONNX Runtime raises where it refuses a model."""
    state = package().capi.onnxruntime_pybind11_state
    return (
        RuntimeError,
        state.Fail,
        state.InvalidArgument,
        state.InvalidGraph,
        state.NotImplemented,
        state.RuntimeException,
    )


class _Calibration:
    """What the quantizer reads its ranges from."""

    def __init__(self, names: Sequence[str], batches: Sequence[Inputs]) -> None:
        self._names = names
        self._batches: Iterator[Inputs] = iter(batches)

    def get_next(self) -> dict[str, np.ndarray[Any, Any]] | None:
        """The next batch by input name; None after the last."""
        batch = next(self._batches, None)
        if batch is None:
            return None
        return {name: x.numpy() for name, x in zip(self._names, batch, strict=True)}


def quantized(source: Once[Any], calibration: Sequence[Inputs]) -> Any:
    """A model in QDQ form: unsigned activations, signed weights with a scale for each channel.

    Raises:
        Unavailable: a package is missing, or ONNX Runtime cannot run or quantize the model.
    """
    ort = package()  # before a model is made for nothing
    model = source()
    with quiet(), unavailable_if(*errors(), ValueError, saying="ONNX Runtime cannot quantize it: "):
        ort.set_default_logger_severity(ERRORS_ONLY)
        try:
            made = _quantized(model, calibration)
        finally:
            ort.set_default_logger_severity(WARNINGS)
    if not any(node.op_type == "QuantizeLinear" for node in made.graph.node):
        raise Unavailable("ONNX Runtime finds nothing in it to quantize")
    return made


def _quantized(model: Any, calibration: Sequence[Inputs]) -> Any:
    import onnx
    from onnxruntime import quantization as tool

    with tempfile.TemporaryDirectory(prefix="qcompile-") as folder:
        # A model that is handed over in memory is emptied: its weights are moved to a file.
        source, result = Path(folder, "float.onnx"), Path(folder, "int8.onnx")
        onnx.save(model, source)
        tool.quantize_static(
            source,
            result,
            _Calibration(onnx_model.names(model), calibration),
            quant_format=tool.QuantFormat.QDQ,
            activation_type=tool.QuantType.QUInt8,
            weight_type=tool.QuantType.QInt8,
            per_channel=True,
        )
        return onnx.load(result)
