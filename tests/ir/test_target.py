from __future__ import annotations

import platform

import pytest

from qcompile.errors import QCompileError
from qcompile.ir.target import VARIANTS, Target, Targets, described, processors
from qcompile.nvidia import ARCHITECTURES


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("cpu", Target("cpu")),
        ("cpu:haswell", Target("cpu", "haswell")),
        ("cuda", Target("cuda")),
        ("cuda:sm_86", Target("cuda", "sm_86")),
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


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        *[("CUDA", "cuda"), ("gpu", "cuda"), ("cude", "cuda"), ("Gpu:sm_90", "cuda:sm_90")],
        *[("CPU", "cpu"), ("haswell", "cpu:haswell"), ("portable", "cpu:portable")],
        *[("sm_86", "cuda:sm_86"), ("tpu", ""), ("rocm", "")],
    ],
)
def test_a_target_that_is_meant(text: str, meant: str) -> None:
    with pytest.raises(QCompileError) as caught:
        Target.parse(text)
    start = f"did you mean {meant}? targets: cpu, cuda" if meant else "targets: cpu, cuda"
    assert str(caught.value.hint).startswith(start)


def test_an_architecture_of_gpus_is_no_processor() -> None:
    with pytest.raises(QCompileError, match="sm_86 is an architecture of GPUs, and the target is"):
        Target.parse("cpu:sm_86")


@pytest.mark.parametrize("text", ["cuda,", ",cpu", "cuda,,cpu", ","])
def test_a_comma_without_a_target(text: str) -> None:
    with pytest.raises(QCompileError, match="a target is missing beside a comma of"):
        Target.parse_all(text)


@pytest.mark.parametrize("text", ["cpu", "cpu:haswell", "cuda", "cuda:sm_120"])
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


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("cpu", ("cpu",)),
        ("cuda,cpu", ("cuda", "cpu")),
        (" cpu:portable , cuda ", ("cpu:portable", "cuda")),
        (Target("cuda"), ("cuda",)),
        (["cuda:sm_80", Target("cpu")], ("cuda:sm_80", "cpu")),
    ],
)
def test_several(given: Targets, expected: tuple[str, ...]) -> None:
    targets = Target.parse_all(given)
    assert tuple(map(str, targets)) == expected
    assert Target.parse_all(described(targets)) == targets == Target.parse_all(targets)


def test_a_target_cannot_be_named_twice() -> None:
    with pytest.raises(QCompileError, match="target cuda is named 2 times"):
        Target.parse_all("cuda,cpu,cuda")


def test_no_target_at_all() -> None:
    with pytest.raises(QCompileError, match="there is no target"):
        Target.parse_all(())
    with pytest.raises(QCompileError, match="there is no target"):
        Target.parse_all(" ")


def test_only_processors_have_names_of_llvm() -> None:
    found = processors(Target.parse_all("cuda,cpu:haswell,cuda:sm_80,cpu"))
    assert found == Target.parse_all("cpu:haswell,cpu")


def test_all_architectures_that_there_are() -> None:
    for number in ARCHITECTURES:
        target = Target.parse(f"cuda:sm_{number}")
        assert target.number == number
        assert not processors([target])
    assert Target("cuda").number == Target("cpu", "haswell").number == 0


@pytest.mark.parametrize("arch", ["sm_70", "sm_61", "sm_35"])
def test_an_old_gpu_is_refused_with_the_list(arch: str) -> None:
    with pytest.raises(QCompileError) as caught:
        Target.parse(f"cuda:{arch}")
    what, hint = str(caught.value).split("\n")
    assert what == f"GPUs of architecture {arch} are too old: code is made for sm_75 and newer"
    assert "there are sm_75, sm_80, " in hint


@pytest.mark.parametrize(
    ("arch", "meant"),
    [("sm_77", ""), ("86", "sm_86"), ("8.6", "sm_86"), ("sm_90a", "sm_90"), ("portable", "")],
)
def test_an_unknown_gpu_is_refused_with_the_list(arch: str, meant: str) -> None:
    with pytest.raises(QCompileError, match=f"unknown GPU architecture {arch!r}") as caught:
        Target.parse(f"cuda:{arch}")
    assert "sm_121; none means all of them" in str(caught.value)
    assert (f"did you mean {meant}? " in str(caught.value)) == bool(meant)


def test_a_colon_without_an_architecture() -> None:
    with pytest.raises(QCompileError, match="no architecture after the colon of 'cuda:'") as caught:
        Target.parse("cuda:")
    assert "cuda alone means all GPUs" in str(caught.value)
