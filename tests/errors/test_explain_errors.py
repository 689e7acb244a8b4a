"""What `explain` refuses."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from qcompile import QCompileError, Recipe, cli
from qcompile.explanation import explain

MODEL = """
import torch
from torch import nn

model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 2))
example_inputs = torch.randn(2, 8)
"""


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(MODEL)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("absent.py", "there is no file 'absent.py'"),
        ("net.py --bits 9", "bits must be 1 to 8"),
        ("net.py --bits 4 --recipe r.json", "--bits and --recipe are both given"),
        ("net.py --recipe r.json", "there is no such file"),
        ("net.py --override 7=8", "'7' matches no conv or linear layer"),
        ("net.py --kernel 0=nonsense", "no kernel is called 'nonsense'"),
        ("net.py --kernel 0=xnor-popcount", "cannot be computed by 'xnor-popcount'"),
        ("net.py --target cpu:nonsense", "unknown processor 'nonsense'"),
        ("net.py --target cuda --kernel int8", "this program is for GPUs alone"),
        ("net.py --target cpu,cuda --arch sm_80", "--arch sm_80 is for one target"),
        ("net.py --json absent/e.json", "there is no folder 'absent'"),
        ("net.py --json .", "that is a folder"),
        ("net.py --weights absent.safetensors", "absent.safetensors"),
        ("net.py --input-shape 1,x", "is no list of sizes"),
        ("net.py --threads 0", "--threads is 0"),
    ],
)
def test_the_verb(words: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["explain", *words.split()]) == cli.REFUSED
    out, err = capsys.readouterr()
    assert message in " ".join(err.split())
    assert out == ""
    assert [path.name for path in Path().iterdir() if path.is_file()] == ["net.py"]


def test_what_no_kernel_computes_is_refused_as_by_compile() -> None:
    class Sorts(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.sort().values

    with pytest.raises(QCompileError) as caught:
        explain(Sorts(), torch.randn(2, 8), Recipe(8, mode="static"))
    assert "sort" in str(caught.value)
