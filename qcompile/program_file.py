"""The file of a program: a zip archive of `program.json` and a library for each variant.

The same libraries and info always give the same bytes, so the size of the file is known before it
is written.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from qcompile.errors import QCompileError
from qcompile.program_info import InfoError, ProgramInfo, Variant, from_json, to_json

FORMAT = "qcompile program"
VERSION = 3
SUFFIX = ".qcp"

_JSON = "program.json"
_START = b"PK\x03\x04"
_END = b"PK\x05\x06"  # the last record of an archive without a comment, 22 bytes
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest that zip knows
_MAX_JSON = 64 << 20
_MAX_LIBRARY = 8 << 30
_MAX_RATIO = 200  # how much larger than packed a member of more than _FREE_RATIO bytes may be
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


@dataclass(frozen=True)
class _Member:
    """A library in the archive, and what program.json says of it."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Archive:
    """A program's file: what it says of itself, and libraries that are unpacked when asked for.

    Attributes:
        info: about the program.
        data: the bytes of the file.
        where: its name, for messages, or None.
    """

    info: ProgramInfo
    data: bytes = field(repr=False)
    where: str | None
    _members: tuple[_Member, ...] = field(repr=False)

    def library(self, variant: Variant) -> bytes:
        """The shared object of one of the info's variants; the others stay packed.

        Raises:
            QCompileError: it is not the one that was saved.
        """
        member = self._members[self.info.variants.index(variant)]
        with _opened(self.data, self.where) as archive:
            library = archive.read(member.name)
        if hashlib.sha256(library).hexdigest() != member.sha256:
            what = f"{member.name} is not the one that was saved: its SHA-256 differs"
            raise QCompileError(what, where=self.where, hint=_AGAIN)
        return library

    def packed_size(self, variant: Variant) -> int:
        """How many bytes of the file are this variant's library."""
        member = self._members[self.info.variants.index(variant)]
        with _opened(self.data, self.where) as archive:
            return archive.getinfo(member.name).compress_size


def pack(info: ProgramInfo, libraries: Sequence[bytes]) -> Archive:
    """The file of a program; one library for each variant of its info, in their order."""
    members = tuple(
        _Member(_member_name(variant), len(library), hashlib.sha256(library).hexdigest())
        for variant, library in zip(info.variants, libraries, strict=True)
    )
    body = {"info": to_json(info), "libraries": [asdict(member) for member in members]}
    head = {"format": FORMAT, "version": VERSION, "sha256": _digest(body), **body}
    contents = [(_JSON, _json(head))]
    contents += [(m.name, library) for m, library in zip(members, libraries, strict=True)]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in contents:
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.create_system = 3  # Unix, whatever this is
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, data, zipfile.ZIP_DEFLATED, 6)
    return Archive(info, buffer.getvalue(), None, members)


def _member_name(variant: Variant) -> str:
    return f"{variant.arch}.so"


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False).encode()


def _digest(body: Mapping[str, Any]) -> str:
    """Of what program.json says: a feature that somebody took out of it would end in a SIGILL."""
    return hashlib.sha256(_json(body)).hexdigest()


# --- reading -------------------------------------------------------------------------------------


def unpack(data: bytes, where: str) -> Archive:
    """The inverse of `pack`; all but the libraries' content is checked, and nothing of it runs.

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
    with _opened(data, where) as archive:
        info, members = _read(archive, where)
    return Archive(info, data, where, members)


_AGAIN = "save the program again, or copy the file again"
_FOREIGN = "program.save(path) writes one"


@contextmanager
def _opened(data: bytes, where: str | None) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            yield archive
    except _ZIP_ERRORS as error:
        what = f"the file is truncated or damaged ({error})"
        raise QCompileError(what, where=where, hint=_AGAIN) from error


def _read(archive: zipfile.ZipFile, where: str) -> tuple[ProgramInfo, tuple[_Member, ...]]:
    entries = archive.infolist()
    names = [entry.filename for entry in entries]
    if names.count(_JSON) != 1:
        what = f"this is no qcompile program: a zip archive without one {_JSON}"
        raise QCompileError(what, where=where, hint=_FOREIGN)
    entry = entries[names.index(_JSON)]
    _check_size(entry, _MAX_JSON, where)
    head = _head(archive.read(entry), where)
    try:
        info, members = _body(head)
    except (InfoError, KeyError, TypeError) as error:
        what = f"{_JSON} is damaged ({error})"
        raise QCompileError(what, where=where, hint=_AGAIN) from error
    expected = [_JSON, *(member.name for member in members)]
    if names != expected:
        what = f"the archive holds {', '.join(names)} instead of {', '.join(expected)}"
        raise QCompileError(what, where=where, hint=_AGAIN)
    for entry, member in zip(entries[1:], members, strict=True):
        _check_size(entry, _MAX_LIBRARY, where)
        if entry.file_size != member.size:
            what = f"{member.name} is not the one that was saved: it has another size"
            raise QCompileError(what, where=where, hint=_AGAIN)
    return info, members


def _body(head: dict[str, Any]) -> tuple[ProgramInfo, tuple[_Member, ...]]:
    body = {name: head[name] for name in ("info", "libraries")}
    if head["sha256"] != _digest(body):
        raise InfoError("its SHA-256 differs")
    info = from_json(head["info"])
    members = tuple(_Member(**library) for library in head["libraries"])
    if [member.name for member in members] != [_member_name(v) for v in info.variants]:
        raise InfoError("its libraries are not those of its variants")
    return info, members


def _check_size(entry: zipfile.ZipInfo, limit: int, where: str) -> None:
    size, packed = entry.file_size, entry.compress_size
    if size > limit or (size > _FREE_RATIO and size > _MAX_RATIO * packed):
        what = f"{entry.filename} claims {size:,} bytes in {packed:,}"
        raise QCompileError(what, where=where, hint="no program looks like this: do not trust it")


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
    if version != VERSION:
        what = f"the file has format version {version}, this qcompile reads {VERSION}"
        hint = "upgrade qcompile, or " if version > VERSION else ""
        raise QCompileError(what, where=where, hint=f"{hint}compile the model again")
    return head
