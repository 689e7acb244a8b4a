"""The engines by name, and what runs a float network in each."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from qcompile.errors import QCompileError
from qcompile.rivals import ort, ov, pytorch
from qcompile.rivals.entrant import Entrant, Inputs
from qcompile.rivals.onnx_int8 import Models

NAMES = (
    *("fp32", "inductor", *pytorch.ENGINES),
    *("onnxruntime-fp32", "onnxruntime", "openvino-fp32", "openvino"),
)
DEFAULT = ("fp32", "inductor", "fbgemm", "x86", "onnxruntime", "openvino")


def check(keys: Sequence[str]) -> tuple[str, ...]:
    """The keys, each once, in the order given.

    Raises:
        QCompileError: one of them is no engine's.
    """
    for key in keys:
        if key not in NAMES:
            near = difflib.get_close_matches(key, NAMES, 1)
            meant = f"did you mean {near[0]!r}? " if near else ""
            raise QCompileError(
                f"there is no engine {key!r}", hint=f"{meant}there are {', '.join(NAMES)}"
            )
    return tuple(dict.fromkeys(keys))


def entrants(
    keys: Sequence[str],
    model: nn.Module,
    calibration: Sequence[Inputs],
    threads: int,
    folder: Path | None = None,
) -> list[Entrant]:
    """What runs a float network in some engines; those that cannot say so when they are prepared.

    Args:
        keys: of engines, from `NAMES`.
        model: stays as it is.
        calibration: inputs by which those in int8 find their ranges.
        threads: of ONNX Runtime and OpenVINO; PyTorch's are `torch.set_num_threads`.
        folder: keeps ONNX models, for other processes that run the same network in the same engines.

    Raises:
        QCompileError: a key is no engine's.
    """
    models = Models(model, calibration, folder)
    return [_entrant(key, model, calibration, models, threads) for key in check(keys)]


def _entrant(
    key: str, model: nn.Module, calibration: Sequence[Inputs], models: Models, threads: int
) -> Entrant:
    if key in pytorch.ENGINES:
        return pytorch.int8(model, calibration, key)
    if key in ("fp32", "inductor"):
        return pytorch.eager(model) if key == "fp32" else pytorch.inductor(model)
    family = ort if key.startswith("onnxruntime") else ov
    precision = "float32" if key.endswith("fp32") else "int8"
    return family.entrant(models, precision, threads)
