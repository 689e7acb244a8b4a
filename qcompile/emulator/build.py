"""What g++ makes for the emulator, kept in the user's cache folder."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

from qcompile.errors import QCompileError

NATIVE = Path(__file__).parent / "native"
COMPILER = "g++"
# Every x86-64 processor since 2009 has these: a cache may be shared between machines.
_PROCESSOR = ("-msse4.2", "-mpopcnt")
_LANGUAGE = ("-std=c++17", "-fPIC", "-fvisibility=hidden", *_PROCESSOR)
_KEPT = 256 << 20  # bytes in the cache folder
_HINT = "XDG_CACHE_HOME names another folder for caches"


def made(name: str, source: str, options: Sequence[str], libraries: Sequence[str] = ()) -> Path:
    """The shared library of a C++ source, compiled unless it was before.

    Args:
        name: what the file's name starts with.
        source: compiled in the folder of the emulator's own files.

    Raises:
        QCompileError: g++ is not there or refuses the source, or the cache takes no files.
    """
    arguments = (*_LANGUAGE, *options)
    parts = (_compiler(), _native(), " ".join((*arguments, *libraries)), source)
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]
    try:
        folder = _folder()
        path = folder / f"{name}-{key}.so"
        if path.exists():
            os.utime(path)
            return path
        with tempfile.TemporaryDirectory(prefix=".making-", dir=folder) as place:
            result = Path(place, path.name)
            _compile(source, (*arguments, "-shared", "-o", str(result)), libraries)
            os.replace(result, path)
        _prune(folder)
    except OSError as error:
        what = f"the emulator's cache takes no files: {error.filename}: {error.strerror}"
        raise QCompileError(what, hint=_HINT) from error
    return path


def _compile(source: str, arguments: Sequence[str], libraries: Sequence[str]) -> None:
    command = [COMPILER, *arguments, "-x", "c++", "-", *libraries]
    english = {**os.environ, "LC_ALL": "C"}
    done = subprocess.run(
        command, input=source, capture_output=True, text=True, cwd=NATIVE, env=english, check=False
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"]
        first = next((line for line in lines if "error" in line), lines[0])
        match = re.match(r"(.*?:\d+):(?:\d+:)? (?:fatal )?error: (.*)", first)
        where, what = (match[1], match[2]) if match else (None, first)
        raise QCompileError(f"{COMPILER} cannot compile the emulated kernels: {what}", where=where)


@cache
def _compiler() -> str:
    """What the compiler says of itself."""
    try:
        done = subprocess.run([COMPILER, "--version"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise QCompileError(f"{COMPILER} does not run ({error})") from error
    return done.stdout.partition("\n")[0]


def fills_variables() -> bool:
    """Whether the compiler can fill what a kernel does not initialise (GCC 12)."""
    version = re.search(r"\b(\d+)\.\d+\.\d+", _compiler().partition(")")[2])
    return version is not None and int(version[1]) >= 12


@cache
def _native() -> str:
    """A digest of the emulator's C++."""
    files = sorted(NATIVE.rglob("*pp"))
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in files)).hexdigest()


def _folder() -> Path:
    import pooch

    folder = Path(pooch.os_cache("qcompile")) / "emulator"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _prune(folder: Path) -> None:
    """Remove what was not used for longest; another process may do so too."""
    files = []
    for path in folder.glob("*.so"):
        with suppress(FileNotFoundError):
            state = path.stat()
            files.append((state.st_mtime, state.st_size, path))
    left = _KEPT
    for _, size, path in sorted(files, reverse=True):
        left -= size
        if left < 0:
            path.unlink(missing_ok=True)


def found() -> bool:
    """Whether there is a compiler."""
    return shutil.which(COMPILER) is not None
