from __future__ import annotations

import platform

import pytest

from qcompile.errors import QCompileError
from qcompile.ir.target import VARIANTS, Target


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("cpu", Target("cpu")),
        ("cpu:haswell", Target("cpu", "haswell")),
        ("cpu:portable", Target("cpu", "portable")),
        (" cpu:haswell ", Target("cpu", "haswell")),
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


@pytest.mark.parametrize("text", ["cpu", "cpu:haswell"])
def test_most_targets_are_one(text: str) -> None:
    assert Target.parse(text).variants() == (Target.parse(text),)


@pytest.mark.parametrize("family", VARIANTS)
def test_the_portable_target_is_several(monkeypatch: pytest.MonkeyPatch, family: str) -> None:
    monkeypatch.setattr(platform, "machine", lambda: family)
    variants = Target.parse("cpu:portable").variants()
    assert [str(v) for v in variants] == [f"cpu:{arch}" for arch in VARIANTS[family]]


def test_no_portable_target_for_this_family(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    with pytest.raises(QCompileError) as caught:
        Target.parse("cpu:portable").variants()
    assert str(caught.value) == (
        "there is no cpu:portable on riscv64\n"
        "  it is for aarch64 and x86_64; name a processor, as in cpu:haswell"
    )


def test_a_colon_without_a_processor() -> None:
    with pytest.raises(QCompileError, match="no processor after the colon of 'cpu:'"):
        Target.parse("cpu:")
