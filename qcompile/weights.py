"""Weights in files: safetensors, and nothing that runs code when it is read."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_model
from torch import Tensor, nn

from qcompile.errors import QCompileError


def load(model: nn.Module, path: Path) -> None:
    """Fill a model with the weights of a safetensors file.

    Raises:
        QCompileError: no such file, another format, or names and shapes that are not the model's.
    """
    if path.suffix in (".pt", ".pth", ".bin", ".ckpt", ".pkl"):
        raise QCompileError(
            f"{path.suffix} files are Python pickles, which run code when they are read",
            where=str(path),
            hint="save the weights as safetensors: "
            "safetensors.torch.save_model(model, 'model.safetensors')",
        )
    try:
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        raise QCompileError(f"cannot read weights: {error}", where=str(path)) from error
    own = model.state_dict()
    _check_fit(own, weights, path)
    with torch.no_grad():
        for name, value in weights.items():
            own[name].copy_(value)


def save(model: nn.Module, path: Path) -> None:
    """Write a model's weights as safetensors.

    Raises:
        QCompileError: the file cannot be written.
    """
    try:
        save_model(model, str(path))
    except (OSError, SafetensorError) as error:
        raise QCompileError(f"cannot write weights: {error}", where=str(path)) from error


def _check_fit(own: dict[str, Tensor], weights: dict[str, Tensor], path: Path) -> None:
    # A tensor that the model has under two names is saved under one of them.
    filled = {own[name].data_ptr() for name in weights if name in own}
    missing = [
        name
        for name, value in own.items()
        if name not in weights
        and value.data_ptr() not in filled
        and not name.endswith("num_batches_tracked")
    ]
    unexpected = [name for name in weights if name not in own]
    mismatched = [
        f"{name} {tuple(value.shape)}, the model has {tuple(own[name].shape)}"
        for name, value in weights.items()
        if name in own and value.shape != own[name].shape
    ]
    kinds = (("missing", missing), ("unexpected", unexpected), ("of another shape", mismatched))
    complaints = [f"{kind}: {_some(names)}" for kind, names in kinds if names]
    if complaints:
        raise QCompileError(
            f"the weights do not fit the model; {'; '.join(complaints)}", where=str(path)
        )


def _some(names: list[str], limit: int = 6) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
