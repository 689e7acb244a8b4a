"""The digits that come with qcompile, a folder of the user's, and the download."""

from __future__ import annotations

import gzip
import hashlib
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from qcompile import digits


@pytest.fixture(autouse=True)
def _no_folder_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QCOMPILE_DATA", raising=False)


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The sample behind a web server of this machine, with the sample's checksums expected."""
    home = tmp_path / "served"
    shutil.copytree(digits.SAMPLE, home)
    sums = {}
    for name in digits.MD5:
        packed = (home / f"{name}.gz").read_bytes()
        sums[name] = tuple(hashlib.md5(x).hexdigest() for x in (packed, gzip.decompress(packed)))
    monkeypatch.setattr(digits, "MD5", sums)
    monkeypatch.setenv("NO_PROXY", "*")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(home))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(("split", "each"), [("train", 1000), ("test", 200)])
def test_sample_is_balanced(split: digits.Split, each: int) -> None:
    sample = digits.load(split)
    assert sample.images.shape == (10 * each, 28, 28)
    assert sample.images.dtype == sample.labels.dtype == np.uint8
    assert np.bincount(sample.labels).tolist() == [each] * 10


def test_sample_is_mnists_beginning() -> None:
    assert digits.load("train").labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert digits.load("test").labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]


def test_sample_is_small() -> None:
    assert sum(path.stat().st_size for path in digits.SAMPLE.iterdir()) < 3_000_000


def test_limit() -> None:
    assert len(digits.load("test", limit=7)) == 7


def test_tensors_are_normalised() -> None:
    images, labels = digits.load("train").tensors()
    assert images.shape == (10_000, 1, 28, 28)
    assert labels.tolist()[:3] == [5, 0, 4]
    assert abs(images.mean().item()) < 0.02  # the constants are those of the whole set
    assert abs(images.std().item() - 1) < 0.02


@pytest.mark.parametrize("suffix", [".gz", ""])
def test_folder_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    for name in digits.MD5:
        data = gzip.decompress((digits.SAMPLE / f"{name}.gz").read_bytes())
        packed = gzip.compress(data) if suffix else data
        (tmp_path / f"{name}{suffix}").write_bytes(packed)
    labels = tmp_path / f"t10k-labels-idx1-ubyte{suffix}"
    changed = bytearray(gzip.decompress(labels.read_bytes()) if suffix else labels.read_bytes())
    changed[8] = 3
    labels.write_bytes(gzip.compress(changed) if suffix else changed)
    monkeypatch.setenv("QCOMPILE_DATA", str(tmp_path))
    assert digits.load("test").labels[0] == 3


def test_loading_needs_no_torch() -> None:
    code = (
        "import sys; sys.modules['torch'] = None; from qcompile import digits; digits.load('test')"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_download(served: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = digits.download(tmp_path / "got", url=served)
    assert sorted(path.name for path in home.iterdir()) == sorted(f"{n}.gz" for n in digits.MD5)
    monkeypatch.setenv("QCOMPILE_DATA", str(home))
    assert len(digits.load("train")) == 10_000


def test_download_keeps_what_is_there(served: str, tmp_path: Path) -> None:
    home = digits.download(tmp_path / "got", url=served)
    damaged = home / "t10k-labels-idx1-ubyte.gz"
    damaged.write_bytes(damaged.read_bytes()[:100])
    before = {path.name: path.stat().st_mtime_ns for path in home.iterdir()}
    digits.download(home, url=served)
    after = {path.name: path.stat().st_mtime_ns for path in home.iterdir()}
    assert [name for name in before if before[name] != after[name]] == [damaged.name]
