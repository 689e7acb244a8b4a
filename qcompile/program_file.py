"""The file of a program: a zip archive of `program.json`, the constants, a library for each variant.

A variant for GPUs has a fatbin, which may be empty, and its CUDA source.

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
from qcompile.program_constants import gathered
from qcompile.program_contents import (
    CONSTANTS,
    PARTS,
    Contents,
    Library,
    contents_from_json,
    library_name,
    library_of,
    source_name,
    source_of,
)
from qcompile.program_info import (
    CUDA,
    InfoError,
    ProgramInfo,
    Variant,
    check_cuda,
    from_json,
    to_json,
)

FORMAT = "qcompile program"
VERSION = 5
SUFFIX = ".qcp"

_JSON = "program.json"
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
class Sizes:
    """Bytes of a program's file.

    Attributes:
        code: of each variant's library and source, as they are packed.
        constants: as they are packed; arrays: before, when each has its own place.
        rest: `program.json`, and the archive's own.
    """

    code: tuple[int, ...]
    constants: int
    rest: int
    arrays: int

    @property
    def total(self) -> int:
        """Of the file."""
        return sum(self.code) + self.constants + self.rest


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
    _contents: Contents = field(repr=False)

    def library(self, variant: Variant) -> bytes:
        """The shared object of one of the info's variants; the others stay packed.

        Of a variant for GPUs it is a fatbin, or empty where the file holds its source alone.

        Raises:
            QCompileError: it is not the one that was saved.
        """
        library = self._library(variant)
        return self._member(library.name, library.sha256)

    def source(self, variant: Variant) -> str:
        """The CUDA source of a variant for GPUs, "" of any other.

        Raises:
            QCompileError: it is not the one that was saved.
        """
        for one in self._contents.sources:
            if one.name == source_name(variant):
                return self._text(self._member(one.name, one.sha256), one.name)
        return ""

    def constants(self, variant: Variant) -> tuple[Constant, ...]:
        """What one of the libraries reads.

        Raises:
            QCompileError: the constants are not those that were saved.
        """
        arrays = self._contents.constants
        data = self._member(CONSTANTS, arrays.sha256)
        try:
            return arrays.restored(data, self._library(variant).constants)
        except ConstantError as error:
            what = f"{CONSTANTS} is damaged ({error})"
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
            packed = {entry.filename: entry.compress_size for entry in archive.infolist()}
        code = tuple(
            sum(packed.get(name, 0) for name in (library_name(v), source_name(v)))
            for v in self.info.variants
        )
        constants = packed[CONSTANTS]
        rest = len(self.data) - constants - sum(code)
        return Sizes(code, constants, rest, self._contents.constants.size)

    def _text(self, data: bytes, name: str) -> str:
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            what = f"{name} is damaged ({error})"
            raise QCompileError(what, where=self.where, hint=_AGAIN) from error

    def _library(self, variant: Variant) -> Library:
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
    sources: Sequence[str] | None = None,
) -> Archive:
    """The file of a program.

    Args:
        libraries: one for each variant of its info, in their order.
        constants: what each of them reads; None means nothing.
        sources: the CUDA source of each variant for GPUs, "" of any other; None where none is.

    Raises:
        InfoError: what a variant launches would be refused when the file is read.
    """
    for variant in info.variants:
        if variant.machine == CUDA:
            check_cuda(variant, info)
    arrays, data, placed = gathered(constants or [()] * len(libraries))
    members = tuple(
        library_of(variant, library, arrays, own)
        for variant, library, own in zip(info.variants, libraries, placed, strict=True)
    )
    texts = [
        (variant, source.encode())
        for variant, source in zip(info.variants, sources or [""] * len(libraries), strict=True)
        if variant.machine == CUDA
    ]
    contents = Contents(arrays, members, tuple(source_of(*one) for one in texts))
    body = {"info": to_json(info), **asdict(contents)}
    head = {"format": FORMAT, "version": VERSION, "sha256": _digest(body), **body}
    parts = [(_JSON, _json(head)), (CONSTANTS, data)]
    parts += [(m.name, library) for m, library in zip(members, libraries, strict=True)]
    parts += [(source_name(variant), text) for variant, text in texts]
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


def _read(archive: zipfile.ZipFile, where: str) -> tuple[ProgramInfo, Contents]:
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


def _body(head: dict[str, Any]) -> tuple[ProgramInfo, Contents]:
    body = {name: head[name] for name in ("info", *PARTS)}
    if head["sha256"] != _digest(body):
        raise InfoError("its SHA-256 differs")
    info = from_json(head["info"])
    return info, contents_from_json(head, info.variants)


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
