"""What is said on a machine that cannot run a program, or not the variant that is asked for."""

from __future__ import annotations

import io
import platform
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_library import affine_info, affine_library, affine_variant

import qcompile
from qcompile import QCompileError, cli, cpuinfo
from qcompile.program import Program
from qcompile.program_file import pack, unpack

X = torch.zeros(2, 3, 8)
HINT = (
    '\n  compile it on this machine for target="cpu"; or, on one of its family, for '
    '"cpu:portable", which holds code for older processors too'
)


def says(function: Callable[[], Any]) -> str:
    with pytest.raises(QCompileError) as caught:
        function()
    return str(caught.value)


def program(*variants: tuple[str, tuple[str, ...], str]) -> Program:
    """A program of variants: name, what it needs, family."""
    made = tuple(
        replace(affine_variant(), arch=arch, features=needs, machine=machine)
        for arch, needs, machine in variants
    )
    info = replace(affine_info(), variants=made, target="cpu:portable")
    return Program(pack(info, [affine_library()] * len(made)))


HERE = platform.machine()


def test_another_family(tmp_path: Path) -> None:
    path = tmp_path / "net.qcp"
    program(("rocket", (), "riscv64")).save(path)
    what = f"the code for rocket is for riscv64, this machine is {HERE}"
    assert says(lambda: qcompile.load(path)) == f"{path}: {what}{HINT}"


def test_missing_instructions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Named before any code is loaded, at `load` and at a call."""
    path = tmp_path / "net.qcp"
    made = program(("future", ("sse4_2", "avx9000f", "teleport"), HERE))
    made.save(path)
    monkeypatch.setattr(cpuinfo, "flags", lambda: frozenset(("sse4_2",)))
    what = "the code for future needs avx9000f, teleport, which this machine lacks"
    assert says(lambda: qcompile.load(path)) == f"{path}: {what}{HINT}"
    for run in (lambda: made(X), made.library, made.runnable, lambda: made.library_bytes):
        assert says(run) == what + HINT
    assert made.info.variants[0].arch == "future"  # what it says of itself can be read anywhere


def test_no_variant_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "net.qcp"
    program(("new", ("a", "b"), HERE), ("old", ("a",), HERE), ("rocket", (), "riscv64")).save(path)
    monkeypatch.setattr(cpuinfo, "flags", frozenset)
    assert says(lambda: qcompile.load(path)) == (
        f"{path}: this machine runs none of its variants:\n"
        "  new needs a, b, which this machine lacks\n"
        "  old needs a, which this machine lacks\n"
        f"  rocket is for riscv64, this machine is {HERE}{HINT}"
    )


def test_the_variant_that_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "net.qcp"
    made = program(("haswell", ("avx2",), HERE), ("x86-64-v2", (), HERE))
    made.save(path)
    monkeypatch.setattr(cpuinfo, "flags", frozenset)
    assert says(lambda: qcompile.load(path, arch="haswell")) == (
        f"{path}: the code for haswell needs avx2, which this machine lacks\n"
        "  this machine runs x86-64-v2"
    )
    assert says(lambda: qcompile.load(path, arch="hasswell")) == (
        f"{path}: the program has no variant 'hasswell'\n"
        "  did you mean haswell? it holds haswell, x86-64-v2"
    )
    for odd in ("", "cpu", 3):
        message = says(lambda odd=odd: made.as_variant(odd)(X))  # type: ignore[misc]
        assert message == f"the program has no variant {odd!r}\n  it holds haswell, x86-64-v2"


def test_run_with_a_variant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "net.qcp"
    program(("haswell", ("avx2",), HERE), ("x86-64-v2", (), HERE)).save(path)
    monkeypatch.setattr(cpuinfo, "flags", frozenset)
    assert cli.main(["run", str(path), "--arch", "haswell"]) == cli.REFUSED
    assert "the code for haswell needs avx2" in " ".join(capsys.readouterr().err.split())
    assert cli.main(["run", str(path), "--arch", "x86-64-v2"]) == cli.OK
    assert "thread(s), x86-64-v2" in capsys.readouterr().err
    assert cli.main(["run", str(path)]) == cli.OK
    assert "thread(s), x86-64-v2" in capsys.readouterr().err


# --- damage --------------------------------------------------------------------------------------


def changed(data: bytes, name: str, change: Callable[[bytes], bytes]) -> bytes:
    """The archive with another content of one member."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w") as new:
        for entry in old.infolist():
            content = old.read(entry)
            new.writestr(entry.filename, change(content) if entry.filename == name else content)
    return buffer.getvalue()


TWO = program(("one", ("a",), HERE), ("two", (), HERE))._archive.data


def test_instructions_that_were_taken_out(tmp_path: Path) -> None:
    """Somebody makes a program for another machine run on this one; it would end in a SIGILL."""
    path = tmp_path / "net.qcp"
    path.write_bytes(changed(TWO, "program.json", lambda text: text.replace(b'"a"', b'"b"')))
    assert "program.json is damaged (its SHA-256 differs)" in says(lambda: qcompile.load(path))


def test_a_damaged_variant_is_noticed_where_it_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "net.qcp"
    path.write_bytes(changed(TWO, "one.so", lambda code: code[:-1] + b"x"))
    monkeypatch.setattr(cpuinfo, "flags", frozenset)
    assert qcompile.load(path)(X).shape == X.shape
    monkeypatch.setattr(cpuinfo, "flags", lambda: frozenset("a"))
    message = says(lambda: qcompile.load(path))
    assert message.startswith(f"{path}: one.so is not the one that was saved: its SHA-256 differs")
    assert qcompile.load(path, arch="two")(X).shape == X.shape


def test_libraries_that_changed_places() -> None:
    swapped = TWO.replace(b"one.so", b"xxx.so").replace(b"two.so", b"one.so")
    swapped = swapped.replace(b"xxx.so", b"two.so")
    message = says(lambda: unpack(swapped, "net.qcp"))
    what = "net.qcp: the archive holds program.json, constants, two.so, one.so instead of"
    assert message.startswith(what)


@pytest.mark.parametrize("change", [lambda code: code + b"x", lambda code: b""])
def test_a_library_of_another_size(change: Callable[[bytes], bytes]) -> None:
    message = says(lambda: unpack(changed(TWO, "two.so", change), "net.qcp"))
    assert message.startswith("net.qcp: two.so is not the one that was saved: it has another size")


# --- what Linux says -----------------------------------------------------------------------------


@pytest.fixture
def cpuinfo_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    path = tmp_path / "cpuinfo"
    monkeypatch.setattr(cpuinfo, "_PATH", path)
    cpuinfo.flags.cache_clear()
    yield path
    cpuinfo.flags.cache_clear()


def test_nothing_is_said(cpuinfo_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "net.qcp"
    program(("haswell", ("avx2",), HERE)).save(path)
    for text in (None, "", "processor : 0\nmodel name : ghost\n"):
        if text is not None:
            cpuinfo_file.write_text(text)
        message = says(lambda: qcompile.load(path))
        assert message.startswith("cannot tell which instructions this processor has: ")
        assert "mount /proc" in message


def test_what_every_core_has(cpuinfo_file: Path) -> None:
    cpuinfo_file.write_text(
        "processor\t: 0\nflags\t\t: fpu avx2 avx512f\nvmx flags\t: ept\n\n"
        "processor\t: 1\nflags\t\t: fpu avx2\nbugs\t\t: meltdown\n"
    )
    assert cpuinfo.flags() == {"fpu", "avx2"}


def test_what_every_core_of_arm_has(cpuinfo_file: Path) -> None:
    core = "processor\t: 0\nFeatures\t: fp asimd asimddp\nCPU part\t: 0xd0c\n\n"
    cpuinfo_file.write_bytes(core.encode() * 2 + b"Hardware\t: \xff\n")
    assert cpuinfo.flags() == {"fp", "asimd", "asimddp"}
