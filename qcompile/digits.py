"""MNIST: handwritten digits, for the examples, the tests and the benchmarks.

`load` reads, in this order: the folder that the environment variable QCOMPILE_DATA names; the
sample that comes with qcompile (10,000 training and 2,000 test digits, balanced over the classes).
It never uses the network; `download` does, and only `qcompile digits` calls it.

Files are in MNIST's own IDX format, gzipped or not: two zero bytes, the dtype (8 = uint8), the
number of dimensions, each dimension as a big-endian uint32, the values.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import zlib
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from qcompile.errors import QCompileError

if TYPE_CHECKING:
    from torch import Tensor

Split = Literal["train", "test"]

SAMPLE = Path(__file__).with_name("data")
URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"
_STEM = {"train": "train", "test": "t10k"}
# Of the gzipped file as it is served, and of what is in it.
MD5 = {
    "train-images-idx3-ubyte": (
        "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "6bbc9ace898e44ae57da46a324031adb",
    ),
    "train-labels-idx1-ubyte": (
        "d53e105ee54ea40749a09fcbcd1e9432",
        "a25bea736e30d166cdddb491f175f624",
    ),
    "t10k-images-idx3-ubyte": (
        "9fb629c4189551a2d022fa330f9573f3",
        "2646ac647ad5339dbf082846283269ea",
    ),
    "t10k-labels-idx1-ubyte": (
        "ec29112dd5afa0611ce80d1b7f02629c",
        "27ae3e4e09519cfbb04c329615203637",
    ),
}


@dataclass(frozen=True)
class Digits:
    """Images uint8 [N, 28, 28] and labels uint8 [N] of one split."""

    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.labels)

    def tensors(self) -> tuple[Tensor, Tensor]:
        """Images float32 [N, 1, 28, 28], normalised by MNIST's mean and deviation; labels int64 [N]."""
        import torch

        images = torch.from_numpy(self.images.copy()).unsqueeze(1).float()
        return (images / 255 - 0.1307) / 0.3081, torch.from_numpy(self.labels.astype(np.int64))


def folder() -> Path:
    """Where `load` reads: the folder that QCOMPILE_DATA names, or the sample.

    Raises:
        QCompileError: QCOMPILE_DATA names no folder.
    """
    named = os.environ.get("QCOMPILE_DATA")
    if not named:
        return SAMPLE
    path = Path(named).expanduser()
    if not path.is_dir():
        raise QCompileError(
            f"QCOMPILE_DATA names {named!r}, which is not a folder",
            hint="unset it to use the sample that comes with qcompile, or get the whole set with "
            "`qcompile digits`",
        )
    return path


def load(split: Split, limit: int | None = None) -> Digits:
    """Read one split, or its first `limit` digits.

    Raises:
        QCompileError: a file is missing or is not what it should be.
    """
    home = folder()
    images = _read(home, f"{_STEM[split]}-images-idx3-ubyte", rank=3)
    labels = _read(home, f"{_STEM[split]}-labels-idx1-ubyte", rank=1)
    if len(images) != len(labels):
        raise QCompileError(
            f"{len(images)} images but {len(labels)} labels in the {split} split", where=str(home)
        )
    if images.shape[1:] != (28, 28):
        raise QCompileError(
            f"digits are 28 x 28, these are {' x '.join(map(str, images.shape[1:]))}",
            where=str(home),
        )
    return Digits(images[:limit], labels[:limit])


def _read(home: Path, name: str, rank: int) -> NDArray[np.uint8]:
    found = [path for path in (home / f"{name}.gz", home / name) if path.is_file()]
    if not found:
        raise QCompileError(
            f"neither {name}.gz nor {name} is there",
            where=str(home),
            hint="MNIST is four files in IDX format; `qcompile digits` gets them",
        )
    path = found[0]
    try:
        data = path.read_bytes()
        return _parse(gzip.decompress(data) if path.suffix == ".gz" else data, rank)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise QCompileError(
            f"not a readable IDX file: {error}",
            where=str(path),
            hint="it may be cut off: get it again with `qcompile digits`",
        ) from error


def _parse(data: bytes, rank: int) -> NDArray[np.uint8]:
    if data[:4] != bytes((0, 0, 8, rank)):
        raise ValueError(f"it begins with {data[:4].hex(' ') or 'nothing'}")
    start = 4 + 4 * rank
    shape = [int.from_bytes(data[i : i + 4], "big") for i in range(4, start, 4)]
    if len(data) - start != prod(shape):
        raise ValueError(f"{prod(shape)} values promised, {len(data) - start} found")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def download(to: Path | None = None, *, url: str = URL, progress: bool = False) -> Path:
    """Get the whole set, 60,000 and 10,000 digits, 11 MB; files that are there already stay.

    Args:
        to: folder for the four files; by default one in the user's cache.
        url: where the four gzipped files lie.

    Raises:
        QCompileError: the network, the disk, or a checksum fails.
    """
    import pooch

    home = to or Path(pooch.os_cache("qcompile")) / "mnist"
    for name, (packed, unpacked) in MD5.items():
        if _is_whole(home, name, unpacked):
            continue
        try:
            pooch.retrieve(
                f"{url}{name}.gz",
                known_hash=f"md5:{packed}",
                fname=f"{name}.gz",
                path=home,
                progressbar=progress,
            )
        except (OSError, ValueError) as error:  # requests' own errors are OSErrors
            raise QCompileError(
                f"cannot get {url}{name}.gz: {_root(error)}",
                hint="put MNIST's four files into a folder and name it in QCOMPILE_DATA, or do "
                "without: a sample of 12,000 digits comes with qcompile",
            ) from error
    return home


def _is_whole(home: Path, name: str, md5: str) -> bool:
    """Whether the folder holds these very digits, whoever packed them."""
    path = home / f"{name}.gz"
    if not path.is_file():
        return False
    try:
        data = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error):
        return False
    return hashlib.md5(data, usedforsecurity=False).hexdigest() == md5


def _root(error: BaseException) -> BaseException:
    """What began it: "Name or service not known", not what each layer above made of it."""
    while error.__context__ is not None:
        error = error.__context__
    return error
