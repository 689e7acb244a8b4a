"""What of torch.ao may stand in a user's model: what a trace keeps whole, and what it would lose."""

from __future__ import annotations

import copy
import math
from typing import Any

from torch import Tensor, nn
from torch.ao.quantization import DeQuantStub, FakeQuantizeBase, ObserverBase, QuantStub

from qcompile.errors import QCompileError

STUBS = (QuantStub, DeQuantStub)

_QAT = ("torch.ao.nn.qat.", "torch.ao.nn.intrinsic.qat.")
_CONVERTED = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized")
_STILL_FLOAT = "torch.ao.nn.quantized.modules.functional_modules"


class Observed(nn.Module):
    """What is left of an observer or a fake quantization: the identity, and the range that it saw.

    Attributes:
        range: least and largest value, or None where there is no such pair.
    """

    def __init__(self, observer: nn.Module) -> None:
        super().__init__()
        inner = getattr(observer, "activation_post_process", observer)
        bounds = [getattr(inner, name, None) for name in ("min_val", "max_val")]
        values = [float(b) for b in bounds if isinstance(b, Tensor) and b.numel() == 1]
        finite = len(values) == 2 and all(map(math.isfinite, values))
        self.range = (values[0], values[1]) if finite else None

    def forward(self, x: Tensor) -> Tensor:
        return x


def without_observers(model: nn.Module) -> nn.Module:
    """A copy of a model that torch.ao prepared, with nothing in it that records; any other model itself.

    Observers would see what a trace runs a model on, and decide by values, which a trace has none of.
    """
    found = [
        path
        for path, observer in model.named_modules(remove_duplicate=False)
        if _is_observer(observer) and not _is_part_of_another(model, path)
    ]
    if not found:
        return model
    model = copy.deepcopy(model)
    for path in found:
        model.set_submodule(path, Observed(model.get_submodule(path)))
    return model


def _is_part_of_another(model: nn.Module, path: str) -> bool:
    """Whether an observer belongs to a fake quantization, or to a layer of which it is one."""
    owner = model.get_submodule(path.rpartition(".")[0])
    return _is_observer(owner) or (is_qat(owner) and not path.endswith(".activation_post_process"))


def _is_observer(module: nn.Module) -> bool:
    return isinstance(module, (ObserverBase, FakeQuantizeBase))


def is_qat(module: nn.Module | None) -> bool:
    """Whether it is a layer with fake-quantized weights."""
    return type(module).__module__.startswith(_QAT)


def is_leaf(module: nn.Module) -> bool:
    """Whether a trace keeps it whole."""
    return isinstance(module, (*STUBS, Observed)) or is_qat(module)


def notes(model: nn.Module) -> dict[str, Any]:
    """What the graph of a model does not show, for its meta.

    `no_qconfig`: paths of modules that are not to be quantized, in a model where others are.
    """
    modules = [(path, m) for path, m in model.named_modules() if hasattr(m, "qconfig")]
    none = tuple(path for path, m in modules if path and m.qconfig is None)
    return {"no_qconfig": none if len(none) < len(modules) else ()}


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
