"""What tuning found, on disk: one JSON file, an entry for each kernel on each processor.

An entry counts for exactly the kernel, processor, threads, batch and versions that it was measured
with. Whether its choice fits the kernel is looked at again when it is used.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from qcompile.errors import QCompileError
from qcompile.files import read, write
from qcompile.program_info import InfoError, dataclass_from_json

FORMAT = "qcompile tuning"
VERSION = 1
_HINT = "name another file with --tune-cache, or delete this one"


class Identity(NamedTuple):
    """What an entry is about.

    Attributes:
        kernel: what it computes, a line each.
        processor: LLVM's name and the instructions that the code may use.
        threads, batch: that it was measured with.
        versions: of qcompile and TVM.
    """

    kernel: tuple[str, ...]
    processor: str
    threads: int
    batch: int
    versions: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Entry:
    """What was found for one kernel.

    Attributes:
        kernel, processor, threads, batch, versions: as in `Identity`.
        method: how signs are counted, or "" where there is only one way.
        lanes, vectors, pixels: of the tile.
        tried: how many candidates were measured beside the default.
        candidates: of how many.
        seconds, default_seconds: for one call, medians.
        ratio: median of the ratios of the two in the same round.
    """

    kernel: tuple[str, ...]
    processor: str
    threads: int
    batch: int
    versions: Mapping[str, str]
    method: str
    lanes: int
    vectors: int
    pixels: int
    tried: int
    candidates: int
    seconds: float
    default_seconds: float
    ratio: float

    @property
    def identity(self) -> Identity:
        versions = tuple(sorted(self.versions.items()))
        return Identity(self.kernel, self.processor, self.threads, self.batch, versions)

    @property
    def complete(self) -> bool:
        """Whether every candidate was measured."""
        return self.tried >= self.candidates


class TuningCache:
    """The entries of a file, and those added since.

    Attributes:
        path: of the file.
        damaged: how many entries of the file could not be read; they are left out when it is saved.
    """

    def __init__(self, path: Path) -> None:
        """Read the file, if it is there.

        Raises:
            QCompileError: it cannot be read, or is no file of this kind; or of a newer version.
        """
        self.path = path
        self._entries, self.damaged = _read(path)
        self._added: dict[Identity, Entry] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, identity: Identity) -> Entry | None:
        """The entry of exactly this kernel, if there is one."""
        return self._entries.get(identity)

    def processors(self) -> set[str]:
        """The names of the processors that it knows something about."""
        return {entry.processor.partition(" ")[0] for entry in self._entries.values()}

    def add(self, entry: Entry) -> None:
        """Put an entry in, in place of the one that there was, and save the file.

        What other processes wrote to the file in the meantime stays.

        Raises:
            QCompileError: the file cannot be written.
        """
        self._added[entry.identity] = entry
        there, _ = _read(self.path)
        self._entries = {**self._entries, **there, **self._added}
        entries = [dataclasses.asdict(entry) for entry in self._entries.values()]
        value = {"format": FORMAT, "version": VERSION, "entries": entries}
        text = json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False)
        write(self.path, text.encode(), what="what tuning found")

    def check_writable(self) -> None:
        """Make the folder, and see that files can be written to it.

        Raises:
            QCompileError: they cannot.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=self.path.parent).close()
        except OSError as error:
            what = f"the folder {self.path.parent} takes no files ({error.strerror})"
            raise QCompileError(what, hint="name another file with --tune-cache") from error


def _read(path: Path) -> tuple[dict[Identity, Entry], int]:
    """The entries of a file, and how many others are damaged."""
    if not path.exists():
        return {}, 0
    try:
        value = json.loads(read(path))
    except (ValueError, RecursionError) as error:
        what = f"the file is damaged ({error})"
        raise QCompileError(what, where=str(path), hint=_HINT) from error
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        what = "this is no file of what tuning found"
        raise QCompileError(what, where=str(path), hint=_HINT)
    version = value.get("version")
    if type(version) is not int or version < 1 or not isinstance(value.get("entries"), list):
        raise QCompileError("the file is damaged", where=str(path), hint=_HINT)
    if version > VERSION:
        what = f"the file has format version {version}, this qcompile reads up to {VERSION}"
        raise QCompileError(what, where=str(path), hint=f"upgrade qcompile, or {_HINT}")
    entries = [entry for entry in map(_entry, value["entries"]) if entry is not None]
    return {entry.identity: entry for entry in entries}, len(value["entries"]) - len(entries)


def _entry(value: Any) -> Entry | None:
    try:
        entry = dataclass_from_json(Entry, value, "entry")
    except InfoError:
        return None
    numbers = (entry.lanes, entry.vectors, entry.pixels, entry.threads, entry.batch)
    return entry if min(numbers) > 0 else None
