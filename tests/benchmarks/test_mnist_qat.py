"""The experiment on MNIST, with a training of two batches."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import mnist_qat
import qcompile
from mnist_qat import Experiment, Stubbed
from qcompile import digits
from timed_rows import Settings


@pytest.fixture(scope="module")
def experiment() -> Experiment:
    images, labels = digits.load("train", limit=128).tensors()

    def train(model: nn.Module, epochs: int) -> None:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.5)
        model.train()
        for x, y in zip(images.split(64), labels.split(64), strict=True):
            optimizer.zero_grad()
            F.nll_loss(model(x), y).backward()
            optimizer.step()

    whole = mnist_qat.experiment(epochs=1)
    return replace(whole, train=train, evaluate=lambda model: 0.5, images=whole.images[:200])


def test_the_network_with_stubs_is_the_examples(experiment: Experiment) -> None:
    stubbed, plain = Stubbed(experiment.model).eval(), experiment.model.eval()
    x = experiment.images[:8]
    torch.testing.assert_close(stubbed(x), plain(x), rtol=0, atol=0)


def test_every_row_begins_with_the_same_weights() -> None:
    first, second = (mnist_qat.experiment(epochs=1).model.state_dict() for _ in range(2))
    torch.testing.assert_close(first, second, rtol=0, atol=0)


@pytest.mark.slow
def test_all_rows(experiment: Experiment, monkeypatch: Any, tmp_path: Path, capsys: Any) -> None:
    monkeypatch.setattr(mnist_qat, "experiment", lambda epochs: experiment)
    file = tmp_path / "mnist.json"
    mnist_qat.main(["--epochs", "1", "--bits", "8,1", "--seconds", "0.01", "--json", str(file)])
    printed = capsys.readouterr().out
    assert "the sample of MNIST" in printed
    assert "97.59%" in printed
    rows = json.loads(file.read_text())["rows"]
    assert [row["name"] for row in rows] == [
        "PyTorch, float32",
        "torch.ao QAT, int8",
        "qcompile, 8 bit",
        "qcompile, 1 bit",
    ]
    assert [row["verified"] for row in rows] == ["", "", "200 of 200", "200 of 200"]
    assert all(row["seconds"] > 0 for row in rows)
    assert rows[0]["size"] > 3 * rows[1]["size"] > rows[3]["size"]


def test_a_program_that_differs_is_said(experiment: Experiment, monkeypatch: Any) -> None:
    class Wrong:
        ok, samples = False, 200

    monkeypatch.setattr(qcompile, "verify", lambda *_: Wrong())
    row = mnist_qat.qcompile_row(experiment, 8)
    assert row.verified == "NO"
    assert Settings(seconds=0.01).take_turns([lambda: row.run(experiment.images[:1])])
