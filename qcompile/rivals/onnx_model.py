"""Float networks as ONNX models, and those quantized to int8 by ONNX Runtime's own tool."""

from __future__ import annotations

import logging
import operator
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.fx import Node

from qcompile.rivals.entrant import Inputs, Once, Unavailable, not_installed
from qcompile.rivals.folding import folded

OPSET, IR_VERSION = 17, 10  # what all releases of the two engines in use read
INPUT, BATCH = "input", "N"
HOW = "from an ONNX model with BatchNorm folded"
HOW_INT8 = "quantize_static: QDQ, unsigned activations, signed weights per channel"


def names(inputs: Inputs) -> list[str]:
    """The names of a model's inputs."""
    return [INPUT] if len(inputs) == 1 else [f"{INPUT}_{i}" for i in range(len(inputs))]


class Models:
    """A float network and its int8 form, each made once for all engines that read ONNX."""

    def __init__(self, model: nn.Module, calibration: Sequence[Inputs]) -> None:
        self.float32 = Once(lambda: float_model(model, calibration[0]))
        self.int8 = Once(lambda: quantized(self.float32(), calibration))


def float_model(model: nn.Module, inputs: Inputs) -> Any:
    """An ONNX model with BatchNorms folded; its batch is the symbol `N`.

    Raises:
        Unavailable: onnx is not installed, or the network has a layer that is not written here.
    """
    try:
        import onnx
    except ImportError as error:
        raise not_installed("onnx") from error
    if len(inputs) > 1:
        raise Unavailable("several inputs have no spelling in ONNX here")
    (x,) = inputs
    writer = _Writer(onnx)
    graph = folded(model)
    modules = dict(graph.named_modules())
    for node in graph.graph.nodes:
        writer.add(node, modules.get(str(node.target)))
    with torch.no_grad():
        rest = list(graph(x).shape[1:])
    kind = onnx.TensorProto.FLOAT
    takes = onnx.helper.make_tensor_value_info(INPUT, kind, [BATCH, *x.shape[1:]])
    gives = onnx.helper.make_tensor_value_info(writer.result, kind, [BATCH, *rest])
    whole = onnx.helper.make_graph(
        writer.nodes, type(model).__name__, [takes], [gives], writer.constants
    )
    opsets = [onnx.helper.make_opsetid("", OPSET)]
    made = onnx.helper.make_model(whole, opset_imports=opsets, ir_version=IR_VERSION)
    onnx.checker.check_model(made)
    return made


class _Writer:
    """ONNX nodes, one for each node of a traced graph."""

    def __init__(self, onnx: Any) -> None:
        self._onnx = onnx
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.result = ""

    def add(self, node: Node, module: nn.Module | None) -> None:
        """Write one node.

        Raises:
            Unavailable: there is no ONNX for it here.
        """
        if node.op == "placeholder":
            node.meta["onnx"] = INPUT
        elif node.op == "output":
            self.result = node.args[0].meta["onnx"]  # type: ignore[union-attr]
        else:
            names = [a.meta["onnx"] for a in node.args if isinstance(a, Node)]
            node.meta["onnx"] = self._call(node, module, names)

    def _call(self, node: Node, module: nn.Module | None, names: list[str]) -> str:
        key = type(module) if module is not None else node.target
        if key in (nn.Identity, nn.Dropout):
            return names[0]
        if key in (nn.Conv2d, nn.Linear):
            names = [*names, *self._parameters(node.name, module)]
        for keys, write in _SPELLINGS.items():
            if key in keys:
                op, attributes = write(module)
                made = self._onnx.helper.make_node(op, names, [node.name], node.name, **attributes)
                self.nodes.append(made)
                return node.name
        raise Unavailable(f"{node.format_node()} has no spelling in ONNX here")

    def _parameters(self, name: str, module: Any) -> list[str]:
        bias = module.bias if module.bias is not None else torch.zeros(module.weight.shape[0])
        arrays = {f"{name}.weight": module.weight, f"{name}.bias": bias}
        for key, value in arrays.items():
            array = value.detach().numpy()
            self.constants.append(self._onnx.numpy_helper.from_array(array, key))
        return list(arrays)


def _pair(value: Any) -> list[int]:
    return list(value) if isinstance(value, (tuple, list)) else [value, value]


def _conv(m: Any) -> tuple[str, dict[str, Any]]:
    pads = [*_pair(m.padding), *_pair(m.padding)]
    strides, dilations = _pair(m.stride), _pair(m.dilation)
    return "Conv", {
        "strides": strides,
        "dilations": dilations,
        "pads": pads,
        "group": m.groups,
        "kernel_shape": _pair(m.kernel_size),
    }


def _pool(m: Any) -> tuple[str, dict[str, Any]]:
    pads = [*_pair(m.padding), *_pair(m.padding)]
    return "MaxPool", {
        "kernel_shape": _pair(m.kernel_size),
        "strides": _pair(m.stride),
        "pads": pads,
    }


_Spelling = Callable[[Any], tuple[str, dict[str, Any]]]
_SPELLINGS: dict[tuple[Any, ...], _Spelling] = {
    (nn.Conv2d,): _conv,
    (nn.MaxPool2d,): _pool,
    (nn.Linear,): lambda m: ("Gemm", {"transB": 1}),
    (nn.ReLU, torch.relu): lambda m: ("Relu", {}),
    (nn.AdaptiveAvgPool2d,): lambda m: ("GlobalAveragePool", {}),
    (nn.Flatten, torch.flatten): lambda m: ("Flatten", {}),
    (operator.add, torch.add): lambda m: ("Add", {}),
}


class _Calibration:
    """What ONNX Runtime's quantizer reads its ranges from."""

    def __init__(self, batches: Sequence[Inputs]) -> None:
        self._batches: Iterator[Inputs] = iter(batches)

    def get_next(self) -> dict[str, np.ndarray[Any, Any]] | None:
        """The next batch by input name; None after the last."""
        batch = next(self._batches, None)
        return None if batch is None else {INPUT: batch[0].numpy()}


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out advice to simplify the graph beforehand, which it is already, and deprecations."""
    before = logging.root.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.root.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logging.root.setLevel(before)


def quantized(model: Any, calibration: Sequence[Inputs]) -> Any:
    """The model in QDQ form: unsigned activations, signed weights with a scale for each channel.

    Raises:
        Unavailable: onnxruntime is not installed.
    """
    try:
        import onnx
        from onnxruntime import quantization as tool
    except ImportError as error:
        raise not_installed("onnxruntime") from error
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, _quiet():
        source, result = Path(folder, "float.onnx"), Path(folder, "int8.onnx")
        onnx.save(model, source)
        tool.quantize_static(
            source,
            result,
            _Calibration(calibration),
            quant_format=tool.QuantFormat.QDQ,
            activation_type=tool.QuantType.QUInt8,
            weight_type=tool.QuantType.QInt8,
            per_channel=True,
        )
        return onnx.load(result)
