from __future__ import annotations

import pytest

from qcompile.errors import QCompileError
from qcompile.ir.target import Target


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("cpu", Target("cpu")),
        ("cpu:haswell", Target("cpu", "haswell")),
        ("cpu:", Target("cpu")),
        (Target("cpu", "znver4"), Target("cpu", "znver4")),
    ],
)
def test_parse(text: str | Target, target: Target) -> None:
    assert Target.parse(text) == target
    assert Target.parse(str(target)) == target


@pytest.mark.parametrize("text", ["tpu", "", "CPU", ":haswell"])
def test_an_unknown_kind_is_refused(text: str) -> None:
    with pytest.raises(QCompileError, match="unknown target") as caught:
        Target.parse(text)
    assert "cpu:haswell" in str(caught.value)
