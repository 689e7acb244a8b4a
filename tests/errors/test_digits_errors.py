"""What is said when the digits cannot be had."""

from __future__ import annotations

import gzip
import shutil
import socket
from pathlib import Path

import pytest

from qcompile import QCompileError, digits

IMAGES = "t10k-images-idx3-ubyte.gz"
LABELS = "t10k-labels-idx1-ubyte.gz"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the sample, to be damaged."""
    copy = tmp_path / "mnist"
    shutil.copytree(digits.SAMPLE, copy)
    monkeypatch.setenv("QCOMPILE_DATA", str(copy))
    return copy


def test_no_such_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QCOMPILE_DATA", "/nowhere")
    with pytest.raises(QCompileError, match="names '/nowhere', which is not a folder"):
        digits.load("test")


def test_file_missing(home: Path) -> None:
    (home / LABELS).unlink()
    with pytest.raises(QCompileError, match=r"neither t10k-labels-idx1-ubyte.gz nor .* is there"):
        digits.load("test")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it begins with nothing"),
        (b"not a gzip file", "Not a gzipped file"),
        (gzip.compress(b"<html>not found</html>", mtime=0), "it begins with 3c 68 74 6d"),
        (gzip.compress(bytes((0, 0, 8, 1, 0, 0, 0, 9, 1)), mtime=0), "9 values promised, 1 found"),
        (gzip.compress(bytes(1000), mtime=0)[:-12], "end-of-stream"),
        (gzip.compress(bytes(1000), mtime=0)[:-8] + bytes(8), "CRC check failed"),
    ],
)
def test_file_damaged(home: Path, content: bytes, message: str) -> None:
    (home / LABELS).write_bytes(content)
    with pytest.raises(QCompileError, match=f"not a readable IDX file: .*{message}") as info:
        digits.load("test")
    assert info.value.where == str(home / LABELS)
    assert "qcompile digits" in str(info.value.hint)


def test_images_and_labels_of_different_splits(home: Path) -> None:
    shutil.copy(home / "train-labels-idx1-ubyte.gz", home / LABELS)
    with pytest.raises(QCompileError, match="2000 images but 10000 labels in the test split"):
        digits.load("test")


def test_images_of_another_size(home: Path) -> None:
    header = bytes((0, 0, 8, 3)) + b"".join(n.to_bytes(4, "big") for n in (2000, 2, 3))
    (home / IMAGES).write_bytes(gzip.compress(header + bytes(12_000)))
    with pytest.raises(QCompileError, match="digits are 28 x 28, these are 2 x 3"):
        digits.load("test")


def test_download_without_network(tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/"
        with pytest.raises(QCompileError, match=rf"cannot get {url}train-images.*refused") as info:
            digits.download(tmp_path, url=url)
    assert "a sample of 12,000 digits comes with qcompile" in str(info.value.hint)
    assert not list(tmp_path.iterdir())


def test_download_with_a_wrong_checksum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What arrives is not what was promised: nothing is left behind."""
    import pooch

    def arrives(url: str, output_file: str, pooch: object) -> None:
        Path(output_file).write_bytes(b"something else")

    monkeypatch.setattr(pooch.core, "choose_downloader", lambda url, progressbar: arrives)
    with pytest.raises(QCompileError, match=r"cannot get .*does not match the known hash"):
        digits.download(tmp_path)
    assert not list(tmp_path.iterdir())
