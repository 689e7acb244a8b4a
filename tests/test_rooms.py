"""Who may import whom, and which file goes with which: the rules of docs/architecture.md, read with ast."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from qcompile.passes import PASSES

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("ir", "quant", "zoo", "passes", "codegen", "cuda", "static", "emulator", "rivals", "bench")
# Beside itself and what is for ALL, a room may import these; the driver, all.
ALL = ("constants", "cpuinfo", "errors", "nvidia")
MAY_IMPORT = {
    "ir": set(),
    "quant": {"ir"},
    "zoo": set(),
    "passes": {"ir", "quant"},
    "codegen": {"ir", "cuda"},
    "cuda": set(),
    "static": set(),
    "emulator": set(),
    "rivals": {"ir"},
    "bench": {"ir", "quant", "passes", "codegen", "rivals", "driver"},
    "driver": {*ROOMS, "driver"},
}
TVM_ROOM = "codegen"
COMPILER_ONLY = {"torch", "tvm"}
RUNTIME_ROOM = "cuda"  # what a program runs with, as some of the driver


def files() -> list[tuple[str, Path]]:
    """Every source file with its room."""
    found = [("driver", p) for p in sorted((ROOT / "qcompile").glob("*.py"))]
    for room in ROOMS:
        folder = ROOT / room if (ROOT / room).is_dir() else ROOT / "qcompile" / room
        found += [(room, p) for p in sorted(folder.rglob("*.py"))]
    return found


def imports(tree: ast.AST, *, deferred: bool = True) -> Iterator[str]:
    """Full names of what is imported, inside functions too unless `deferred` is False.

    What stands under `if TYPE_CHECKING` is never imported.
    """
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)) and not deferred:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        yield from imports(node, deferred=deferred)


def room_of(name: str) -> str | None:
    """The room of an imported name, None outside of qcompile and for what all may import."""
    top, _, rest = f"{name}.".partition(".")
    first = rest.split(".")[0]
    if top != "qcompile" or first in ALL:
        return None
    return first if first in ROOMS else "driver"


def offences(room: str, source: str) -> list[str]:
    """The imports of a source file that its room does not allow."""
    found = []
    for name in imports(ast.parse(source)):
        other = room_of(name)
        if other is not None and other != room and other not in MAY_IMPORT[room]:
            found.append(f"{room} imports {name}")
        if name.split(".")[0] == "tvm" and room != TVM_ROOM:
            found.append(f"tvm belongs in {TVM_ROOM}")
    return found


@pytest.mark.parametrize(
    ("room", "path"), files(), ids=lambda v: str(v.relative_to(ROOT)) if isinstance(v, Path) else v
)
def test_a_room_imports_what_it_may(room: str, path: Path) -> None:
    assert offences(room, path.read_text(encoding="utf-8")) == []


def test_the_rule_sees_offences() -> None:
    assert offences("ir", "from qcompile.passes.base import Pass") == [
        "ir imports qcompile.passes.base.Pass"
    ]
    assert offences("passes", "def f():\n    import qcompile.codegen.build") == [
        "passes imports qcompile.codegen.build"
    ]
    assert offences("codegen", "from qcompile import cli") == ["codegen imports qcompile.cli"]
    assert offences("driver", "import tvm.relax") == ["tvm belongs in codegen"]
    assert offences("codegen", "import tvm\nfrom qcompile.errors import QCompileError") == []
    assert offences("passes", "from qcompile.quant.recipe import Recipe") == []
    assert offences("codegen", "from qcompile.cpuinfo import flags") == []
    typing_only = "if TYPE_CHECKING:\n    from qcompile.codegen import build"
    assert offences("ir", typing_only) == []


def loaded_with(path: Path) -> dict[str, Path]:
    """The files of the driver that importing one of them imports at once, by what they are called."""
    found: dict[str, Path] = {}
    queue = [path]
    while queue:
        current = queue.pop()
        name = current.relative_to(ROOT / "qcompile").as_posix()
        if name in found:
            continue
        found[name] = current
        tree = ast.parse(current.read_text(encoding="utf-8"))
        for name in imports(tree, deferred=False):
            parts = name.split(".")
            if parts[0] == "qcompile":
                paths = [ROOT.joinpath(*parts[:end]) for end in range(2, len(parts) + 1)]
                queue += [p.with_suffix(".py") for p in paths if p.with_suffix(".py").exists()]
    return found


def test_what_all_may_import_imports_nothing_of_them() -> None:
    for name in ALL:
        tree = ast.parse((ROOT / "qcompile" / f"{name}.py").read_text(encoding="utf-8"))
        assert {room_of(n) for n in imports(tree)} == {None}, name
        assert not COMPILER_ONLY & {n.split(".")[0] for n in imports(tree)}, name


def test_the_runtime_loads_neither_torch_nor_the_compiler() -> None:
    runtime = loaded_with(ROOT / "qcompile" / "program.py")
    assert {"program.py", "runtime.py", "errors.py", "cuda/launches.py"} <= runtime.keys()
    for path in [*runtime.values(), ROOT / "qcompile" / "__init__.py"]:
        names = list(imports(ast.parse(path.read_text(encoding="utf-8")), deferred=False))
        assert not COMPILER_ONLY & {n.split(".")[0] for n in names}, path
        assert {room_of(n) for n in names} <= {None, "driver", RUNTIME_ROOM}, path


@pytest.mark.parametrize("room", [RUNTIME_ROOM, "emulator"])
def test_the_rooms_of_the_gpu_import_neither_torch_nor_tvm(room: str) -> None:
    for path in sorted((ROOT / "qcompile" / room).glob("*.py")):
        names = list(imports(ast.parse(path.read_text(encoding="utf-8"))))
        assert not {"torch", "tvm", "tvm_ffi", "cupy"} & {n.split(".")[0] for n in names}, path


def test_every_pass_has_its_file_and_every_file_its_test() -> None:
    names = {p.name for p in PASSES}
    assert {p.__module__ for p in PASSES} == {
        f"qcompile.passes.{name.replace('-', '_')}" for name in names
    }
    for path in (ROOT / "passes").glob("*.py"):
        if path.stem != "__init__":
            assert (ROOT / "tests" / "passes" / f"test_{path.name}").exists(), path


def test_passes_are_named_as_their_classes() -> None:
    for pass_ in PASSES:
        assert pass_.__name__ == "".join(w.capitalize() for w in pass_.name.split("-"))


def test_passes_says_only_these_names() -> None:
    import qcompile.passes

    assert set(qcompile.passes.__all__) == {"PASSES", "Declined", "Pass", "Result", "run"}
