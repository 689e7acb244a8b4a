"""The disassemblers, and what is said where they are missing or do not work."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from sass_kernels import SOURCE, compiled, needs_disassembler

from qcompile.codegen.cuda import nvcc
from qcompile.errors import QCompileError
from qcompile.static import tools


@needs_disassembler
def test_the_code_for_an_architecture_is_taken_out_of_an_image() -> None:
    source = SOURCE.read_text(encoding="utf-8")
    image = nvcc.fatbin(source, (80, 90), 90)
    found = tools.extracted(image, 90)
    assert found is not None
    assert tools.resources(found, 90) == compiled(90)[1]
    assert tools.extracted(image, 75) is None


CALLS: dict[str, Callable[[], object]] = {
    "nvdisasm": lambda: tools.disassembled(b"no code"),
    "cuobjdump": lambda: tools.resources(b"no code", 80),
}


@needs_disassembler
@pytest.mark.parametrize("tool", CALLS)
def test_what_is_no_machine_code_is_refused(tool: str) -> None:
    with pytest.raises(QCompileError, match=rf"{tool} fails: .+"):
        CALLS[tool]()


@pytest.mark.parametrize("tool", CALLS)
def test_a_missing_tool(tool: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools, "find_tool", lambda name: None)
    with pytest.raises(QCompileError, match=f"{tool} was not found") as caught:
        CALLS[tool]()
    assert f"nvidia-cuda-{tool}" in str(caught.value.hint)
    with pytest.raises(QCompileError, match="cuobjdump was not found"):
        tools.extracted(b"no image", 80)


@pytest.mark.parametrize("tool", CALLS)
def test_a_tool_that_does_not_work(
    tool: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / tool
    path.write_text(f"#!{sys.executable}\nraise SystemExit(1)\n", encoding="utf-8")
    path.chmod(0o755)
    monkeypatch.setattr(tools, "find_tool", lambda name: str(path))
    with pytest.raises(QCompileError, match="fails: it says nothing"):
        CALLS[tool]()
    path.write_text("no program", encoding="utf-8")
    with pytest.raises(QCompileError, match="cannot be run"):
        CALLS[tool]()
