"""Weights to and from safetensors files."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from qcompile import weights


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4))


def test_round_trip(tmp_path: Path) -> None:
    one, other = network(), network()
    weights.save(one, tmp_path / "w.safetensors")
    weights.load(other, tmp_path / "w.safetensors")
    for name, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[name])


def test_shared_tensors_are_saved_once(tmp_path: Path) -> None:
    def tied() -> nn.Sequential:
        linear = nn.Linear(3, 3)
        return nn.Sequential(linear, nn.ReLU(), linear)

    one, other = tied(), tied()
    weights.save(one, tmp_path / "w.safetensors")
    weights.load(other, tmp_path / "w.safetensors")
    assert torch.equal(one.state_dict()["0.weight"], other.state_dict()["2.weight"])


def test_half_precision_weights_and_no_batch_counter(tmp_path: Path) -> None:
    one, other = network(), network()
    half = {n: v.half() for n, v in one.state_dict().items() if v.is_floating_point()}
    save_file(half, tmp_path / "w.safetensors")
    weights.load(other, tmp_path / "w.safetensors")
    value = other.state_dict()["0.weight"]
    assert value.dtype == torch.float32
    assert torch.equal(value, half["0.weight"].float())
