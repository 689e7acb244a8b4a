"""The example of CONTRIBUTING.md works as printed."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

PAGE = Path(__file__).resolve().parents[1] / "CONTRIBUTING.md"


def blocks() -> dict[str, str]:
    """The page's Python blocks, by the path in their first line."""
    found = re.findall(r"```python\n# (\S+)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(found) == PAGE.read_text(encoding="utf-8").count("```python")
    return dict(found)


def load(path: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Import a block as the module that its path stands for."""
    name = path.removesuffix(".py").replace("/", ".").removeprefix("tests.passes.")
    name = f"qcompile.{name}" if name.startswith("passes.") else name
    file = folder / Path(path).name
    file.write_text(blocks()[path], encoding="utf-8")
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


def test_the_example_pass_and_its_tests_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = list(blocks())
    assert paths == ["passes/drop_relu.py", "tests/passes/test_drop_relu.py"]
    load(paths[0], tmp_path, monkeypatch)
    example = vars(load(paths[1], tmp_path, monkeypatch))
    tests = [value for name, value in example.items() if name.startswith("test_")]
    assert len(tests) == 2
    for test in tests:
        test()


# I001 sorts by which files exist, and the example's does not.
@pytest.mark.parametrize("path", blocks())
@pytest.mark.parametrize(
    "command", [["check", "--ignore", "I001"], ["format", "--check"]], ids=" ".join
)
def test_the_example_is_in_our_style(path: str, command: list[str]) -> None:
    ruff = [sys.executable, "-m", "ruff", *command, "--stdin-filename", path, "-"]
    done = subprocess.run(
        ruff, input=blocks()[path], cwd=PAGE.parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_path_that_the_page_names_exists() -> None:
    names = set(re.findall(r"`((?:docs|tests|passes|qcompile|codegen)/[\w./]+)`", PAGE.read_text()))
    assert len(names) >= 6
    for name in names:
        assert (PAGE.parent / name).exists(), name
