"""What NVRTC compiled is compiled once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from qcompile.cuda import code_cache
from qcompile.cuda.code_cache import folder, kept


class Compiler:
    """Counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self) -> bytes:
        self.asked += 1
        return b"code %d" % self.asked


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "qcompile" / "nvrtc"


def test_the_same_is_compiled_once(cache: Path) -> None:
    make = Compiler()
    assert [kept(("source", "80"), make) for _ in range(3)] == [b"code 1"] * 3
    assert kept(("source", "90"), make) == b"code 2"
    assert kept(("source8", "0"), make) == b"code 3"
    assert folder() == cache
    assert len(list(cache.iterdir())) == 3


@pytest.mark.parametrize("data", [b"", b"code", b"x" * 100])
def test_what_was_damaged_is_compiled_again(cache: Path, data: bytes) -> None:
    make = Compiler()
    kept(("source",), make)
    [path] = cache.iterdir()
    path.write_bytes(data)
    assert [kept(("source",), make) for _ in range(2)] == [b"code 2"] * 2


def test_a_folder_that_takes_no_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    make = Compiler()
    assert [kept(("source",), make) for _ in range(2)] == [b"code 1", b"code 2"]


def test_no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    def home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("pathlib.Path.home", home)
    assert kept(("source",), Compiler()) == b"code 1"


def test_what_was_not_used_for_longest_goes(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code_cache, "_KEPT", 3)
    make = Compiler()
    for number in range(3):
        kept((str(number),), make)
        for path in cache.iterdir():  # as if it were long ago
            os.utime(path, (path.stat().st_atime - 100, path.stat().st_mtime - 100))
    assert kept(("0",), make) == b"code 1"
    kept(("3",), make)
    assert len(list(cache.iterdir())) == 3
    assert kept(("0",), make) == b"code 1"
    assert kept(("1",), make) == b"code 5"
