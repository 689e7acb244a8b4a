"""Float networks as ONNX models, by PyTorch's exporter."""

from __future__ import annotations

import copy
import fcntl
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from qcompile.rivals.entrant import Inputs, Unavailable, line_of, not_installed
from qcompile.rivals.quiet import quiet

HOW = "by torch.onnx.export, BatchNorm folded"
_OPERATION = re.compile(r"target=torch\.ops\.([\w.]+)")


def float_model(model: nn.Module, inputs: Inputs) -> Any:
    """An ONNX model with BatchNorms folded; its batch is a symbol.

    Args:
        inputs: any; only their shapes and dtypes matter.

    Raises:
        Unavailable: a package is missing, or PyTorch cannot export the network.
    """
    try:
        with quiet():
            import onnx  # noqa: F401 - what is missing is named in this order
            import onnxscript  # noqa: F401
    except ImportError as error:
        raise not_installed(str(error.name).partition(".")[0]) from error
    # An example of one sample would make 1 a constant.
    examples = tuple(torch.cat([x[:1], x[:1]]) for x in inputs)
    with quiet(), torch.no_grad():
        try:
            program: Any = torch.onnx.export(
                copy.deepcopy(model).eval(),
                examples,
                dynamo=True,
                dynamic_shapes=tuple({0: torch.export.Dim.DYNAMIC} for _ in examples),
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            raise Unavailable(f"torch.onnx.export cannot follow it: {_why(error)}") from error
    return _bare(program.model_proto)


def _why(error: BaseException) -> str:
    """What lies below an error of the exporter, in a line."""
    from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

    while error.__cause__ is not None:
        error = error.__cause__
        if isinstance(error, GuardOnDataDependentSymNode):
            return "what is computed depends on values"
        unknown = _OPERATION.search(str(error))
        if unknown:
            return f"{unknown[1]} has no form in ONNX"
    return line_of(error)


def _bare(made: Any) -> Any:
    """Without notes of where nodes come from, which would count as size."""
    graphs = [made.graph, *made.functions]
    for graph in graphs:
        for part in (graph, *graph.node, *graph.value_info):
            del part.metadata_props[:]
            part.doc_string = ""
    for part in (made, *made.graph.input, *made.graph.output, *made.graph.initializer):
        del part.metadata_props[:]
    return made


def kept(file: Path, make: Callable[[], Any]) -> Any:
    """The model in a file; where there is none yet, one is made and put there, whole or not at all.

    Of processes that ask at the same time one makes it, and the others wait.

    Raises:
        Unavailable: it cannot be made.
    """
    with file.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # a process that dies lets go of it
        if not file.exists():
            made = make()
            unfinished = file.with_suffix(".unfinished")
            unfinished.write_bytes(made.SerializeToString())
            unfinished.replace(file)
            return made
    import onnx

    return onnx.load(file)


def names(made: Any) -> list[str]:
    """Of a model's inputs, in order."""
    return [value.name for value in made.graph.input]
