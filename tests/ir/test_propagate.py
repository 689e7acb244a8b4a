"""Shapes are found without regard to the mode that a model is in, and the mode stays."""

from __future__ import annotations

import torch
from torch import nn

from qcompile import api
from qcompile.ir import graph


def test_a_batch_of_one_in_training_mode() -> None:
    model: nn.Module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout())
    dropout = model.get_submodule("2").eval()
    gm = graph.trace(model, [torch.ones(1, 3)])
    assert gm.training
    assert gm.get_submodule("1").training
    assert not dropout.training
    assert [str(node.meta["spec"]) for node in gm.graph.nodes][:-1] == [
        "f32[1,3]",
        *["f32[1,4]"] * 3,
    ]


def test_prepare_takes_a_batch_of_one_in_training_mode() -> None:
    model = nn.Sequential(nn.Linear(3, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 4))
    prepared = api.prepare(model, torch.ones(1, 3))
    assert prepared.training
    assert prepared(torch.ones(2, 3)).shape == (2, 4)
