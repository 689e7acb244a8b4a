"""What `program.json` says of the other members of a program's file."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qcompile.cuda.launches import constants_read
from qcompile.program_constants import Arrays, Placed
from qcompile.program_info import CUDA, InfoError, Variant, dataclass_from_json

CONSTANTS = "constants"  # the member's name
PARTS = ("constants", "libraries", "sources")  # the fields of Contents


@dataclass(frozen=True)
class Library:
    """A library in the archive.

    Attributes:
        memory: bytes of its constants, as it reads them.
    """

    name: str
    size: int
    sha256: str
    memory: int
    constants: tuple[Placed, ...]


@dataclass(frozen=True)
class Source:
    """CUDA C in the archive, UTF-8."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Contents:
    """The other members, in their order.

    Attributes:
        sources: of the variants that are for GPUs.
    """

    constants: Arrays
    libraries: tuple[Library, ...]
    sources: tuple[Source, ...]

    @property
    def members(self) -> list[tuple[str, int, str]]:
        """Names, sizes, SHA-256 of what they hold."""
        found = [(CONSTANTS, self.constants.size, self.constants.sha256)]
        found += [(one.name, one.size, one.sha256) for one in self.libraries]
        return found + [(one.name, one.size, one.sha256) for one in self.sources]


def library_name(variant: Variant) -> str:
    """The member that holds a variant's machine code."""
    return f"{variant.arch}.{'fatbin' if variant.machine == CUDA else 'so'}"


def source_name(variant: Variant) -> str:
    """The member that holds a variant's CUDA source, if it is for GPUs."""
    return f"{variant.arch}.cu"


def library_of(
    variant: Variant, code: bytes, arrays: Arrays, constants: tuple[Placed, ...]
) -> Library:
    """What is said of a variant's machine code."""
    memory = arrays.memory(constants)
    return Library(library_name(variant), len(code), _sha256(code), memory, constants)


def source_of(variant: Variant, text: bytes) -> Source:
    """What is said of a variant's CUDA source."""
    return Source(source_name(variant), len(text), _sha256(text))


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def contents_from_json(value: Mapping[str, Any], variants: Sequence[Variant]) -> Contents:
    """The contents of a file that holds these variants.

    Raises:
        InfoError: a field is missing or of another type, or they are not those of the variants.
        ConstantError: there are no such constants.
    """
    parts = {name: value[name] for name in PARTS}
    contents = dataclass_from_json(Contents, parts, "file")
    if [library.name for library in contents.libraries] != [library_name(v) for v in variants]:
        raise InfoError("its libraries are not those of its variants")
    on_gpus = [source_name(v) for v in variants if v.machine == CUDA]
    if [source.name for source in contents.sources] != on_gpus:
        raise InfoError("its sources are not those of its variants")
    contents.constants.check()
    for library, variant in zip(contents.libraries, variants, strict=True):
        size = contents.constants.memory(library.constants)
        if size != library.memory:
            raise InfoError(f"{library.name} has {size} bytes of constants, not {library.memory}")
        if (needed := constants_read(variant.launches)) > size:
            raise InfoError(f"{library.name} reads {needed} bytes of constants, of {size}")
    return contents
