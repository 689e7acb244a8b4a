"""What a target for GPUs changes before code is generated: what is packed, tuned, forced, refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.fx import GraphModule

import qcompile
from qcompile import QCompileError, Recipe, Tuning, building, cli, kernels
from qcompile.codegen.cuda import build
from qcompile.ir.stages import dialect
from qcompile.ir.target import Target
from qcompile.kernels import FOR_GPUS
from qcompile.options import targets
from qcompile.tuning_search import check

CONVOLUTIONS = ("2", "4", "6")


@pytest.fixture(scope="module")
def narrow() -> GraphModule:
    """Binary layers of few channels, which stay in bytes on processors."""
    torch.manual_seed(5)
    model = nn.Sequential(
        *[nn.Conv2d(3, 2, 3), nn.ReLU(), nn.Conv2d(2, 4, 3, padding=1), nn.ReLU()],
        *[nn.Conv2d(4, 2, 3), nn.ReLU(), nn.Conv2d(2, 3, 1), nn.Flatten(), nn.Linear(48, 3)],
    )
    prepared = qcompile.prepare(model.eval(), torch.randn(2, 3, 8, 8), Recipe())
    prepared(torch.randn(4, 3, 8, 8))
    return qcompile.convert(prepared)


def packed(lowered: GraphModule) -> list[str]:
    nodes = lowered.graph.find_nodes(op="call_function", target=dialect.xnor_matmul.default)
    return [node.meta["layer"] for node in nodes]


def lowered(gm: GraphModule, target: str) -> tuple[list[str], dict[str, str]]:
    selection, graph = kernels.lower(gm, Target.parse_all(target))
    return packed(graph), selection.whys


def test_a_gpu_packs_what_a_processor_leaves_in_bytes(narrow: GraphModule) -> None:
    on_cpu, _ = lowered(narrow, "cpu:haswell")
    assert len(on_cpu) < len(CONVOLUTIONS)
    on_gpu, whys = lowered(narrow, "cuda")
    assert tuple(on_gpu) == CONVOLUTIONS
    assert whys == {}


def test_one_graph_serves_both_and_the_reason_is_kept(narrow: GraphModule) -> None:
    on_cpu, _ = lowered(narrow, "cpu:haswell")
    both, whys = lowered(narrow, "cpu:haswell,cuda:sm_80")
    assert tuple(both) == CONVOLUTIONS
    assert [layer for layer in both if whys.get(layer) == FOR_GPUS] == [
        layer for layer in both if layer not in on_cpu
    ]


def test_without_nvcc_the_file_holds_source_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    program = qcompile.compile(nn.Softmax(1), torch.randn(2, 5), target="cuda:sm_86")
    assert program.info.target == "cuda:sm_86"
    [variant] = program.info.variants
    assert (variant.machine, variant.arch, variant.features) == ("cuda", "sm_86", ())
    [note] = program.info.notes
    assert note.startswith("There is no nvcc here, so the file holds CUDA source alone, and NVRTC")
    assert "pip install nvidia-cuda-nvrtc" in note
    assert note in str(program.summary())


def test_what_an_older_nvcc_does_not_know_runs_ptx_and_that_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[object] = []
    monkeypatch.setattr(build, "find_nvcc", lambda: "nvcc")
    monkeypatch.setattr(build, "known_architectures", lambda: (75, 80, 86, 89, 90))
    monkeypatch.setattr(building, "_toolkit", lambda _: "12.4")

    def fatbin(_: str, *codes: object) -> bytes:
        made.append(codes)
        return b"fatbin"

    monkeypatch.setattr(build, "fatbin", fatbin)
    program = qcompile.compile(nn.Softmax(1), torch.randn(2, 5), target="cuda")
    assert made == [((75, 80, 86, 89, 90), 90)]
    [variant] = program.info.variants
    assert variant.features == ("sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "compute_90")
    [note] = program.info.notes
    assert note.startswith("This nvcc makes no machine code for sm_100, sm_120: drivers")
    assert "(compute_90)" in note


def test_kernels_are_forced_on_processors(narrow: GraphModule) -> None:
    with pytest.raises(QCompileError) as error:
        kernels.lower(narrow, "cuda", "int8")
    assert error.value.what == (
        "kernels are forced on processors, and this program is for GPUs alone"
    )
    assert "--kernel" in str(error.value.hint)
    _, graph = kernels.lower(narrow, "cuda,cpu", {"2": "int8"})
    assert tuple(packed(graph)) == CONVOLUTIONS[1:]


def test_tuning_is_for_processors(narrow: GraphModule, tmp_path: Path) -> None:
    tuning = Tuning(trials=1, cache=tmp_path / "cache.json")
    with pytest.raises(QCompileError) as error:
        check(Target.parse_all("cuda:sm_80,cuda:sm_90"), tuning)
    assert error.value.what == "tuning is for processors, and this program is for GPUs alone"
    assert "--tune" in str(error.value.hint)
    with pytest.raises(QCompileError, match="tuning is for processors"):
        qcompile.compile(narrow, target="cuda", tune=tuning)


@pytest.mark.parametrize(
    ("target", "arch", "expected"),
    [
        ("cuda,cpu", None, "cuda,cpu"),
        ("cuda", "sm_86", "cuda:sm_86"),
        ("cuda:sm_86", "sm_86", "cuda:sm_86"),
        ("cpu", "haswell", "cpu:haswell"),
    ],
)
def test_the_architecture_may_be_an_option(target: str, arch: str | None, expected: str) -> None:
    assert targets(target, arch) == Target.parse_all(expected)


@pytest.mark.parametrize(
    ("target", "arch", "what"),
    [
        ("cuda,cpu", "sm_86", "--arch sm_86 is for one target, and --target cuda,cpu is several"),
        ("cuda:sm_80", "sm_86", "--target cuda:sm_80 and --arch sm_86 name two architectures"),
        ("cpu", "sm_90", "--arch sm_90 is of GPUs, and the target is cpu"),
        ("cuda", "sm_52", "too old"),
        ("cuda", "", "no architecture after the colon"),
    ],
)
def test_an_architecture_without_its_target_is_refused(target: str, arch: str, what: str) -> None:
    with pytest.raises(QCompileError, match=what):
        targets(target, arch)


@pytest.mark.parametrize(
    ("target", "what"),
    [
        ("cuda:sm_70", "GPUs of architecture sm_70 are too old"),
        ("cuda:hopper", "unknown GPU architecture 'hopper'"),
        ("cuda,gpu", "unknown target 'gpu'"),
        ("cuda,cuda", "target cuda is named 2 times"),
        ("cuda,", "a target is missing beside a comma of 'cuda,'"),
        ("", "there is no target"),
        ("CUDA", "did you mean cuda? targets:"),
        ("gpu", "did you mean cuda? targets:"),
        ("gpu:sm_86", "did you mean cuda:sm_86? targets:"),
        ("sm_86", "did you mean cuda:sm_86? targets:"),
        ("cpu:sm_86", "did you mean cuda:sm_86?"),
        ("cude,cpu", "did you mean cuda? targets:"),
    ],
)
def test_the_command_refuses_other_targets_at_once(
    target: str, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["there-is-no.py", "--target", target]) == cli.REFUSED
    assert what in " ".join(capsys.readouterr().err.split())


def test_an_architecture_of_gpus_alone_is_answered_with_its_target(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["there-is-no.py", "--arch", "sm_90"]) == cli.REFUSED
    assert "did you mean --target cuda --arch sm_90?" in capsys.readouterr().err
    arguments = ["--target", "cuda:sm_86", "--arch", "sm_90"]
    assert cli.main(["there-is-no.py", *arguments]) == cli.REFUSED
    assert "for code for both, --target cuda:sm_86,cuda:sm_90" in capsys.readouterr().err
