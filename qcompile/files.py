"""Files, whole: read at once, and put in place in one step."""

from __future__ import annotations

import os
import secrets
import tempfile
from contextlib import suppress
from pathlib import Path

from qcompile.errors import QCompileError

PathLike = str | os.PathLike[str]


def read(path: PathLike, *, limit: int | None = None) -> bytes:
    """The bytes of a file.

    Args:
        limit: more bytes than these are refused, without reading them.

    Raises:
        QCompileError: it cannot be read, or is too large.
    """
    try:
        with Path(path).open("rb") as file:
            data = file.read() if limit is None else file.read(limit + 1)
    except FileNotFoundError as error:
        raise QCompileError("there is no such file", where=str(path)) from error
    except (OSError, ValueError, TypeError) as error:
        raise QCompileError(f"cannot read the file: {_reason(error)}", where=str(path)) from error
    if limit is not None and len(data) > limit:
        raise QCompileError(f"is larger than {limit >> 20} MiB", where=str(path))
    return data


def _reason(error: OSError | ValueError | TypeError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def check_writable(path: Path) -> None:
    """See that a file can be put there.

    Raises:
        QCompileError: it cannot.
    """
    folder = path.parent
    problem = ""
    if path.is_dir():
        problem = "that is a folder"
    elif path.exists() and not path.is_file():
        problem = "that is there already, and is no file"
    elif not folder.is_dir():
        problem = f"there is no folder {str(folder)!r}"
    else:
        try:
            # Permissions do not tell: a superuser has them all, and some file systems take nothing.
            tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            problem = f"the folder {str(folder)!r} takes no files ({error.strerror})"
    if problem:
        raise QCompileError(f"cannot write {str(path)!r}: {problem}")


def write(path: PathLike, data: bytes, *, what: str = "the program") -> None:
    """Put a file in place in one step: whatever happens, either the old one is there or the new.

    Args:
        what: is saved, for the message.

    Raises:
        QCompileError: it cannot be written; the old file, if any, is untouched.
    """
    try:
        real = Path(os.path.realpath(path))  # replace what a link points to, not the link
        if not real.parent.is_dir():
            folder = Path(path).parent
            hint = f"mkdir -p {folder}"
            raise QCompileError(f"there is no folder {folder}", where=str(path), hint=hint)
        if real.exists() and not real.is_file():
            raise QCompileError("is there already, and is no file", where=str(path))
        _replace(real, data)
    except (OSError, ValueError) as error:
        problem = f"cannot save {what}: {_reason(error)}"
        hint = "what was there before still is"
        raise QCompileError(problem, where=str(path), hint=hint) from error


def _replace(path: Path, data: bytes) -> None:
    # In the same folder, as only within a file system a rename is one step.
    temporary = path.with_name(f".{path.name[:100]}.{secrets.token_hex(8)}.tmp")
    mode = path.stat().st_mode & 0o777 if path.exists() else 0o666
    try:
        # Not through tempfile, which ignores the umask.
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with open(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Make the rename itself survive a power cut, where the file system can."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            os.fsync(handle)
    finally:
        os.close(handle)
