"""What of torch.ao may stand in a user's model: what a trace keeps whole, and what it would lose."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.ao.quantization import DeQuantStub, FakeQuantizeBase, ObserverBase, QuantStub
from torch.fx import GraphModule

from qcompile.errors import QCompileError

STUBS = (QuantStub, DeQuantStub)
OBSERVERS = (ObserverBase, FakeQuantizeBase)

_QAT = ("torch.ao.nn.qat.", "torch.ao.nn.intrinsic.qat.")
_CONVERTED = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized")
_STILL_FLOAT = "torch.ao.nn.quantized.modules.functional_modules"


def is_qat(module: nn.Module | None) -> bool:
    """Whether it is a layer with fake-quantized weights."""
    return type(module).__module__.startswith(_QAT)


def is_leaf(module: nn.Module) -> bool:
    """Whether a trace keeps it whole."""
    return isinstance(module, (*STUBS, *OBSERVERS)) or is_qat(module)


def notes(model: nn.Module) -> dict[str, Any]:
    """What the graph of a model does not show, for its meta.

    `no_qconfig`: paths of modules that are not to be quantized, in a model where others are;
    `observes_inputs`: whether each layer that torch.ao would quantize has its input observed.
    """
    modules = [(path, m) for path, m in model.named_modules() if hasattr(m, "qconfig")]
    none = tuple(path for path, m in modules if path and m.qconfig is None)
    wanted = len(none) < len(modules)
    observed = isinstance(model, GraphModule) and "_observed_graph_module_attrs" in model.meta
    return {"no_qconfig": none if wanted else (), "observes_inputs": observed}


def check_not_converted(model: nn.Module) -> None:
    """Refuse a model that torch.ao made int8: its weights are no floats any more.

    Raises:
        QCompileError: naming the first such module.
    """
    for path, module in model.named_modules():
        kind = type(module)
        if kind.__module__.startswith(_CONVERTED) and kind.__module__ != _STILL_FLOAT:
            raise QCompileError(
                f"it is an int8 layer of torch.ao ({kind.__name__}): the model is converted already",
                where=path or None,
                hint="pass the model as it was before convert or convert_fx, prepared or not",
            )
