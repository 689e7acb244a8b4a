"""What NVRTC compiled, kept in the user's cache folder: a large network takes it seconds."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

_KEPT = 64  # files
_DIGEST = hashlib.sha256().digest_size


def kept(parts: tuple[str, ...], make: Callable[[], bytes]) -> bytes:
    """What `make` gives, or gave before for the same parts.

    A folder that takes no files is no error, and a file that was damaged is made again.
    """
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]
    try:
        path = folder() / f"{key}.cubin"
        if (code := _read(path)) is not None:
            return code
    except (OSError, RuntimeError):  # there is no home, or it is closed
        return make()
    code = make()
    with suppress(OSError):
        _write(path, code)
        _prune(path.parent)
    return code


def folder() -> Path:
    """XDG's cache folder, as for everything else that qcompile keeps."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base, "qcompile", "nvrtc")


def _read(path: Path) -> bytes | None:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    code = data[_DIGEST:]
    if hashlib.sha256(code).digest() != data[:_DIGEST]:
        return None
    with suppress(OSError):
        os.utime(path)
    return code


def _write(path: Path, code: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".making-", dir=path.parent) as place:
        made = Path(place, path.name)
        made.write_bytes(hashlib.sha256(code).digest() + code)
        os.replace(made, path)


def _prune(place: Path) -> None:
    """Remove what was not used for longest; another process may do so too."""
    ages = []
    for path in place.glob("*.cubin"):
        with suppress(FileNotFoundError):
            ages.append((path.stat().st_mtime, path))
    for _, path in sorted(ages)[:-_KEPT]:
        path.unlink(missing_ok=True)
