"""Where a library's functions lie, those that were inlined too: DWARF 4, as LLVM writes it, in 64-bit ELF.

Kernels have no symbols, and small ones are part of the functions that call them: what remains of their
names is in the debug information.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from qcompile.errors import QCompileError

Ranges = tuple[tuple[int, int], ...]

_VERSION = 4
_COMPRESSED, _ZLIB = 0x800, 1  # a flag of sections; a way to compress them
_MOST = 1 << 28  # bytes of such a section
_INLINED, _SUBPROGRAM, _UNIT = 0x1D, 0x2E, 0x11  # tags
_NAME, _LOW, _HIGH, _ORIGIN, _RANGES = 0x03, 0x11, 0x12, 0x31, 0x55  # attributes
_ADDRESS, _STRING, _INDIRECT_STRING = 0x01, 0x08, 0x0E  # forms
_FIXED = {
    0x01: 8,
    0x05: 2,
    0x06: 4,
    0x07: 8,
    0x0B: 1,
    0x0C: 1,
    0x0E: 4,
    0x10: 4,
    0x11: 1,
    0x12: 2,
    0x13: 4,
    0x14: 8,
    0x17: 4,
    0x19: 0,
    0x20: 8,
}
_BLOCKS = {0x0A: 1, 0x03: 2, 0x04: 4}  # bytes of the length before them
_LEB, _LEB_BLOCKS = (0x0D, 0x0F, 0x15), (0x09, 0x18)
_LAST = (1 << 64) - 1  # of a list of ranges: what follows is a base


class _Unreadable(ValueError):
    """What is wrong with the debug information."""


@dataclass(frozen=True)
class Place:
    """Where the machine code of a function is.

    Attributes:
        ranges: addresses, first and behind the last, in order.
        within: the function that it was inlined into, or "" where it is one by itself.
    """

    ranges: Ranges
    within: str = ""

    @property
    def size(self) -> int:
        """Bytes of code."""
        return sum(stop - start for start, stop in self.ranges)

    def better(self, other: Place) -> bool:
        """Whether it shows more of the function than another of its copies."""
        return (not self.within, self.size) > (not other.within, other.size)


def places(library: bytes) -> dict[str, Place]:
    """The functions of a shared object, by name: by itself where there is such a copy, else the largest.

    Raises:
        QCompileError: it holds no debug information, or such as LLVM does not write for us.
    """
    try:
        found: dict[str, Place] = {}
        for name, place in _Reader(_sections(library)).functions():
            known = found.get(name)
            if place.size and (known is None or place.better(known)):
                found[name] = place
    except (struct.error, zlib.error, IndexError, KeyError, ValueError) as error:
        raise QCompileError(
            f"the library does not say where its kernels are ({error})",
            hint="its debug information is missing or of another kind: compile the model again, with a "
            "linker that keeps it",
        ) from error
    return found


def _sections(library: bytes) -> dict[str, bytes]:
    if library[:6] != b"\x7fELF\x02\x01":
        raise _Unreadable("it is no 64-bit ELF file")
    (table,) = struct.unpack_from("<Q", library, 0x28)
    size, count, names = struct.unpack_from("<3H", library, 0x3A)
    headers = [struct.unpack_from("<IIQQQQ", library, table + i * size) for i in range(count)]
    text = library[headers[names][4] :]
    found = {_text(text, h[0]): _body(library[h[4] : h[4] + h[5]], h[2]) for h in headers}
    if not {".debug_info", ".debug_abbrev"} <= found.keys():
        raise _Unreadable("there is none")
    return found


def _body(data: bytes, flags: int) -> bytes:
    """What a section holds, where its linker compressed it too."""
    if not flags & _COMPRESSED:
        return data
    kind, _, size = struct.unpack_from("<IIQ", data)
    if kind != _ZLIB or size > _MOST:
        raise _Unreadable("it is compressed in another way")
    return zlib.decompressobj().decompress(data[24:], size)


def _text(data: bytes, at: int) -> str:
    stop = data.find(b"\0", at)
    return data[at:stop].decode() if stop >= 0 else ""


@dataclass
class _Entry:
    """A debugging information entry: what it is, and its attributes with their forms."""

    at: int
    tag: int
    values: dict[int, tuple[int, int]]  # attribute: form, number

    def number(self, attribute: int) -> int | None:
        return self.values[attribute][1] if attribute in self.values else None


class _Reader:
    """Reads entries one after another."""

    def __init__(self, sections: dict[str, bytes]) -> None:
        self._info = sections[".debug_info"]
        self._abbreviations = sections[".debug_abbrev"]
        self._strings = sections.get(".debug_str", b"")
        self._lists = sections.get(".debug_ranges", b"")
        self._at = 0

    def functions(self) -> Iterator[tuple[str, Place]]:
        """Each copy of each function: its name, and where it is."""
        while self._at < len(self._info):
            yield from self._unit()

    def _unit(self) -> Iterator[tuple[str, Place]]:
        start = self._at
        length, version, table, _ = struct.unpack_from("<IHIB", self._info, start)
        if version != _VERSION:
            raise _Unreadable(f"DWARF {version} instead of {_VERSION}")
        self._at += 11
        entries = list(self._entries(start + 4 + length, self._table(table)))
        names = {e.at: self._name(e) for e in entries if e.tag == _SUBPROGRAM}
        base = next((e.number(_LOW) or 0 for e in entries if e.tag == _UNIT), 0)
        outer = ""
        for entry in entries:
            if entry.tag not in (_SUBPROGRAM, _INLINED):
                continue
            origin = entry.number(_ORIGIN)
            name = names.get(entry.at, "") if origin is None else names.get(start + origin, "")
            if entry.tag == _SUBPROGRAM:
                outer = name
            ranges = self._ranges(entry, base)
            yield name, Place(ranges, outer if entry.tag == _INLINED else "")

    def _table(self, at: int) -> dict[int, tuple[int, list[tuple[int, int]]]]:
        """Tags, and attributes with their forms, by code."""
        data = self._abbreviations
        found: dict[int, tuple[int, list[tuple[int, int]]]] = {}
        code, at = _leb(data, at)
        while code:
            tag, at = _leb(data, at)
            at += 1  # whether it has children
            attributes: list[tuple[int, int]] = []
            while True:
                attribute, at = _leb(data, at)
                form, at = _leb(data, at)
                if not attribute:
                    break
                attributes.append((attribute, form))
            found[code] = (tag, attributes)
            code, at = _leb(data, at)
        return found

    def _entries(
        self, end: int, table: dict[int, tuple[int, list[tuple[int, int]]]]
    ) -> Iterator[_Entry]:
        while self._at < end:
            at = self._at
            code, self._at = _leb(self._info, at)
            if code:  # else the last of some children
                tag, attributes = table[code]
                values = {attribute: (form, self._value(form)) for attribute, form in attributes}
                yield _Entry(at, tag, values)
        self._at = end

    def _value(self, form: int) -> int:
        """A number, or where a string begins; what is longer is passed over."""
        data, at = self._info, self._at
        if form in _FIXED:
            self._at += _FIXED[form]
            return int.from_bytes(data[at : self._at], "little")
        if form == _STRING:
            self._at = data.index(b"\0", at) + 1
            return at
        if form in _LEB:
            value, self._at = _leb(data, at)
            return value
        if form in _BLOCKS:
            start = at + _BLOCKS[form]
            self._at = start + int.from_bytes(data[at:start], "little")
            return 0
        if form in _LEB_BLOCKS:
            length, start = _leb(data, at)
            self._at = start + length
            return 0
        raise _Unreadable(f"form {form:#x}")

    def _name(self, entry: _Entry) -> str:
        form, at = entry.values.get(_NAME, (0, 0))
        if form == _INDIRECT_STRING:
            return _text(self._strings, at)
        return _text(self._info, at) if form == _STRING else ""

    def _ranges(self, entry: _Entry, base: int) -> Ranges:
        at, low = entry.number(_RANGES), entry.number(_LOW)
        if at is not None:
            return tuple(sorted(self._list(at, base)))
        if low is None:
            return ()
        form, high = entry.values[_HIGH]
        return ((low, high if form == _ADDRESS else low + high),)

    def _list(self, at: int, base: int) -> Iterator[tuple[int, int]]:
        while True:
            start, stop = struct.unpack_from("<2Q", self._lists, at)
            at += 16
            if start == stop == 0:
                return
            if start == _LAST:
                base = stop
            else:
                yield base + start, base + stop


def _leb(data: bytes, at: int) -> tuple[int, int]:
    """A number of any length, unsigned, and where the next byte is."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if not byte & 0x80:
            return value, at
