"""Shapes are found without regard to the mode that a model is in, and the mode stays."""

from __future__ import annotations

import torch
from torch import nn

from qcompile.ir import graph


def test_a_batch_of_one_in_training_mode() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout())
    model[2].eval()
    gm = graph.trace(model, [torch.ones(1, 3)])
    assert [module.training for module in model] == [True, True, False]
    assert gm.training
    assert [str(node.meta["spec"]) for node in gm.graph.nodes][:-1] == [
        "f32[1,3]",
        *["f32[1,4]"] * 3,
    ]
