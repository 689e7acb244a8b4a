"""The file of a program: a zip archive of `program.json` and `library.so`.

The same library and info always give the same bytes, so the size of the file is known before it is
written.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import secrets
import zipfile
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

from qcompile.errors import QCompileError
from qcompile.program_info import InfoError, ProgramInfo, from_json, to_json

FORMAT = "qcompile program"
VERSION = 1
SUFFIX = ".qcp"

_JSON, _LIBRARY = "program.json", "library.so"
_START = b"PK\x03\x04"
_END = b"PK\x05\x06"  # the last record of an archive without a comment, 22 bytes
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest that zip knows
_MAX_JSON = 64 << 20
_MAX_LIBRARY = 8 << 30
_MAX_RATIO = 200  # how much larger than packed a library of more than _FREE_RATIO bytes may be
_FREE_RATIO = 256 << 20
# What zipfile raises on bytes that are no archive, or one that it cannot read.
_ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    NotImplementedError,
    RuntimeError,
    ValueError,
    KeyError,
    OSError,
)

PathLike = str | os.PathLike[str]


def pack(info: ProgramInfo, library: bytes) -> bytes:
    """The file's bytes."""
    head = {
        "format": FORMAT,
        "version": VERSION,
        "library": {"sha256": hashlib.sha256(library).hexdigest(), "size": len(library)},
        "info": to_json(info),
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in ((_JSON, _json(head)), (_LIBRARY, library)):
            member = zipfile.ZipInfo(name, _EPOCH)
            member.create_system = 3  # Unix, whatever this is
            member.external_attr = 0o644 << 16
            archive.writestr(member, data, zipfile.ZIP_DEFLATED, 6)
    return buffer.getvalue()


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False).encode()


# --- reading -------------------------------------------------------------------------------------


def unpack(data: bytes, where: str) -> tuple[ProgramInfo, bytes]:
    """The inverse of `pack`; everything is checked, and nothing of it runs.

    Raises:
        QCompileError: the bytes are no program, or were changed; `where` is the file's name.
    """
    if not data:
        raise QCompileError("the file is empty", where=where, hint=_AGAIN)
    if not data.startswith(_START):
        raise QCompileError("this is no qcompile program", where=where, hint=_FOREIGN)
    if data[-22:-18] != _END:  # zipfile itself would look for it further up
        raise QCompileError(
            "the file is truncated, or something was added to it", where=where, hint=_AGAIN
        )
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return _members(archive, where)
    except _ZIP_ERRORS as error:
        what = f"the file is truncated or damaged ({error})"
        raise QCompileError(what, where=where, hint=_AGAIN) from error


_AGAIN = "save the program again, or copy the file again"
_FOREIGN = "program.save(path) writes one"


def _members(archive: zipfile.ZipFile, where: str) -> tuple[ProgramInfo, bytes]:
    members = archive.infolist()
    names = [member.filename for member in members]
    if names.count(_JSON) != 1:
        what = f"this is no qcompile program: a zip archive without one {_JSON}"
        raise QCompileError(what, where=where, hint=_FOREIGN)
    head = _head(_bytes(archive, members[names.index(_JSON)], _MAX_JSON, where), where)
    if names != [_JSON, _LIBRARY]:
        what = f"the archive holds {', '.join(names)} instead of {_JSON}, {_LIBRARY}"
        raise QCompileError(what, where=where, hint=_AGAIN)
    library = _bytes(archive, members[1], _MAX_LIBRARY, where)
    try:
        declared = head["library"]
        same = declared["size"] == len(library)
        same = same and declared["sha256"] == hashlib.sha256(library).hexdigest()
        info = from_json(head["info"])
    except (InfoError, KeyError, TypeError) as error:
        what = f"{_JSON} is damaged ({error})"
        raise QCompileError(what, where=where, hint=_AGAIN) from error
    if not same:
        what = f"{_LIBRARY} is not the one that was saved: its SHA-256 differs"
        raise QCompileError(what, where=where, hint=_AGAIN)
    return info, library


def _bytes(archive: zipfile.ZipFile, member: zipfile.ZipInfo, limit: int, where: str) -> bytes:
    size, packed = member.file_size, member.compress_size
    if size > limit or (size > _FREE_RATIO and size > _MAX_RATIO * packed):
        what = f"{member.filename} claims {size:,} bytes in {packed:,}"
        raise QCompileError(what, where=where, hint="no program looks like this: do not trust it")
    return archive.read(member)


def _head(text: bytes, where: str) -> dict[str, Any]:
    try:
        head = json.loads(text)
    except (ValueError, RecursionError) as error:
        what = f"{_JSON} is damaged ({error})"
        raise QCompileError(what, where=where, hint=_AGAIN) from error
    if not isinstance(head, dict) or head.get("format") != FORMAT:
        raise QCompileError("this is no qcompile program", where=where, hint=_FOREIGN)
    version = head.get("version")
    if type(version) is not int or version < 1:
        what = f"{_JSON} is damaged (version {version!r})"
        raise QCompileError(what, where=where, hint=_AGAIN)
    if version > VERSION:
        what = f"the file has format version {version}, this qcompile reads up to {VERSION}"
        raise QCompileError(what, where=where, hint="upgrade qcompile, or compile the model again")
    return head


def read(path: PathLike) -> bytes:
    """The bytes of a file.

    Raises:
        QCompileError: it cannot be read.
    """
    try:
        return Path(path).read_bytes()
    except FileNotFoundError as error:
        raise QCompileError("there is no such file", where=str(path)) from error
    except (OSError, ValueError, TypeError) as error:
        raise QCompileError(f"cannot read the file: {_reason(error)}", where=str(path)) from error


def _reason(error: OSError | ValueError | TypeError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


# --- writing -------------------------------------------------------------------------------------


def write(path: PathLike, data: bytes) -> None:
    """Put a file in place in one step: whatever happens, either the old one is there or the new.

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
        what = f"cannot save the program: {_reason(error)}"
        raise QCompileError(what, where=str(path), hint="what was there before still is") from error


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
