"""The file of a program: a zip archive of `program.json`, the constants, a library for each variant.

The same libraries, constants and info always give the same bytes, so the size of the file is known before it
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
from functools import cached_property
from typing import Any

from qcompile.constants import Bytes, Constant, ConstantError, expanded
from qcompile.errors import QCompileError
from qcompile.program_constants import Arrays, Placed, gathered
from qcompile.program_info import (
    InfoError,
    ProgramInfo,
    Variant,
    dataclass_from_json,
    from_json,
    to_json,
)

FORMAT = "qcompile program"
VERSION = 4
SUFFIX = ".qcp"

_JSON = "program.json"
_CONSTANTS = "constants"
_START = b"PK\x03\x04"
_END = b"PK\x05\x06"  # the last record of an archive without a comment, 22 bytes
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest that zip knows
_LEVEL = 6  # of zlib
_MAX_JSON = 64 << 20
_MAX_MEMBER = 8 << 30
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
class _Library:
    """A library in the archive, and what program.json says of it.

    Attributes:
        memory: bytes of its constants, as it reads them.
    """

    name: str
    size: int
    sha256: str
    memory: int
    constants: tuple[Placed, ...]


@dataclass(frozen=True)
class _Contents:
    """What program.json says of the other members, in their order: the constants, the libraries."""

    constants: Arrays
    libraries: tuple[_Library, ...]

    @property
    def members(self) -> list[tuple[str, int, str]]:
        """Names, sizes, SHA-256 of what they hold."""
        one = (_CONSTANTS, self.constants.size, self.constants.sha256)
        return [one, *((m.name, m.size, m.sha256) for m in self.libraries)]


@dataclass(frozen=True)
class Sizes:
    """Bytes of a program's file.

    Attributes:
        code: of each library, as it is packed.
        constants: as they are packed.
        rest: `program.json`, and the archive's own.
    """

    code: tuple[int, ...]
    constants: int
    rest: int


@dataclass(frozen=True)
class Archive:
    """A program's file: what it says of itself; all else is unpacked when asked for.

    Attributes:
        info: about the program.
        data: the bytes of the file.
        where: its name, for messages, or None.
    """

    info: ProgramInfo
    data: bytes = field(repr=False)
    where: str | None
    _contents: _Contents = field(repr=False)

    def library(self, variant: Variant) -> bytes:
        """The shared object of one of the info's variants; the others stay packed.

        Raises:
            QCompileError: it is not the one that was saved.
        """
        library = self._library(variant)
        return self._member(library.name, library.sha256)

    def constants(self, variant: Variant) -> tuple[Constant, ...]:
        """What one of the libraries reads.

        Raises:
            QCompileError: the constants are not those that were saved.
        """
        arrays = self._contents.constants
        data = self._member(_CONSTANTS, arrays.sha256)
        try:
            return arrays.restored(data, self._library(variant).constants)
        except ConstantError as error:
            what = f"{_CONSTANTS} is damaged ({error})"
            raise QCompileError(what, where=self.where, hint=_AGAIN) from error

    def memory(self, variant: Variant) -> Bytes:
        """The same as it reads them: read-only, of the size that program.json says.

        Raises:
            QCompileError: the constants are not those that were saved.
        """
        return expanded(self.constants(variant))

    @cached_property
    def sizes(self) -> Sizes:
        """What takes how many bytes of the file; the variants' code in their order."""
        with _opened(self.data, self.where) as archive:
            constants, *code = (
                archive.getinfo(name).compress_size for name, _, _ in self._contents.members
            )
        return Sizes(tuple(code), constants, len(self.data) - constants - sum(code))

    def _library(self, variant: Variant) -> _Library:
        return self._contents.libraries[self.info.variants.index(variant)]

    def _member(self, name: str, sha256: str) -> bytes:
        with _opened(self.data, self.where) as archive:
            data = archive.read(name)
        if hashlib.sha256(data).hexdigest() != sha256:
            what = f"{name} is not the one that was saved: its SHA-256 differs"
            raise QCompileError(what, where=self.where, hint=_AGAIN)
        return data


def pack(
    info: ProgramInfo,
    libraries: Sequence[bytes],
    constants: Sequence[Sequence[Constant]] | None = None,
) -> Archive:
    """The file of a program.

    Args:
        libraries: one for each variant of its info, in their order.
        constants: what each of them reads; None means nothing.
    """
    arrays, data, placed = gathered(constants or [()] * len(libraries))
    members = tuple(
        _Library(
            _member_name(variant),
            len(library),
            hashlib.sha256(library).hexdigest(),
            arrays.memory(own),
            own,
        )
        for variant, library, own in zip(info.variants, libraries, placed, strict=True)
    )
    contents = _Contents(arrays, members)
    body = {"info": to_json(info), **asdict(contents)}
    head = {"format": FORMAT, "version": VERSION, "sha256": _digest(body), **body}
    parts = [(_JSON, _json(head)), (_CONSTANTS, data)]
    parts += [(m.name, library) for m, library in zip(members, libraries, strict=True)]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in parts:
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.create_system = 3  # Unix, whatever this is
            entry.external_attr = 0o644 << 16
            smaller = len(zlib.compress(data, _LEVEL)) < len(data)
            how = zipfile.ZIP_DEFLATED if smaller else zipfile.ZIP_STORED
            archive.writestr(entry, data, how, _LEVEL)
    return Archive(info, buffer.getvalue(), None, contents)


def _member_name(variant: Variant) -> str:
    return f"{variant.arch}.so"


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False).encode()


def _digest(body: Mapping[str, Any]) -> str:
    """Of what program.json says: a feature that somebody took out of it would end in a SIGILL."""
    return hashlib.sha256(_json(body)).hexdigest()


# --- reading -------------------------------------------------------------------------------------


def unpack(data: bytes, where: str) -> Archive:
    """The inverse of `pack`; all but what other members hold is checked, and nothing of it runs.

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
        info, contents = _read(archive, where)
    return Archive(info, data, where, contents)


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


def _read(archive: zipfile.ZipFile, where: str) -> tuple[ProgramInfo, _Contents]:
    entries = archive.infolist()
    names = [entry.filename for entry in entries]
    if names.count(_JSON) != 1:
        what = f"this is no qcompile program: a zip archive without one {_JSON}"
        raise QCompileError(what, where=where, hint=_FOREIGN)
    entry = entries[names.index(_JSON)]
    _check_size(entry, _MAX_JSON, where)
    head = _head(archive.read(entry), where)
    try:
        info, contents = _body(head)
    except (InfoError, ConstantError, KeyError, TypeError) as error:
        what = f"{_JSON} is damaged ({error})"
        raise QCompileError(what, where=where, hint=_AGAIN) from error
    expected = [_JSON, *(name for name, _, _ in contents.members)]
    if names != expected:
        what = f"the archive holds {', '.join(names)} instead of {', '.join(expected)}"
        raise QCompileError(what, where=where, hint=_AGAIN)
    for entry, (name, size, _) in zip(entries[1:], contents.members, strict=True):
        _check_size(entry, _MAX_MEMBER, where)
        if entry.file_size != size:
            what = f"{name} is not the one that was saved: it has another size"
            raise QCompileError(what, where=where, hint=_AGAIN)
    return info, contents


def _body(head: dict[str, Any]) -> tuple[ProgramInfo, _Contents]:
    body = {name: head[name] for name in ("info", "constants", "libraries")}
    if head["sha256"] != _digest(body):
        raise InfoError("its SHA-256 differs")
    info = from_json(head["info"])
    parts = {name: head[name] for name in ("constants", "libraries")}
    contents = dataclass_from_json(_Contents, parts, "file")
    libraries = contents.libraries
    if [library.name for library in libraries] != [_member_name(v) for v in info.variants]:
        raise InfoError("its libraries are not those of its variants")
    contents.constants.check()
    for library in libraries:
        size = contents.constants.memory(library.constants)
        if size != library.memory:
            raise InfoError(f"{library.name} has {size} bytes of constants, not {library.memory}")
    return info, contents


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
