"""Tuning: everything that is refused, and what is said."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qcompile import QCompileError, Tuning, cli
from qcompile.codegen.machine import host_family
from qcompile.codegen.tuning import remote
from qcompile.codegen.tuning.remote import Tracker
from qcompile.ir.target import Target
from qcompile.runtime import cores
from qcompile.tuning import budget
from qcompile.tuning_cache import Entry, TuningCache
from qcompile.tuning_search import check


def refused(call: Any, *arguments: Any, **more: Any) -> QCompileError:
    with pytest.raises(QCompileError) as error:
        call(*arguments, **more)
    assert error.value.hint
    return error.value


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("trials", -1),
        ("trials", 2.5),
        ("trials", True),
        ("batch", 0),
        ("batch", None),
        ("threads", 0),
        ("seconds", 0),
        ("seconds", float("nan")),
        ("seconds", float("inf")),
        ("seconds", "10"),
    ],
)
def test_numbers(field: str, value: object) -> None:
    assert f"{field} is {value!r}" in str(refused(Tuning, **{field: value}))


@pytest.mark.parametrize(
    "given", [{"rpc": "host:9190"}, {"key": "rpi5"}, {"rpc": "a:1", "key": ""}]
)
def test_a_tracker_and_a_key_go_together(given: dict[str, str]) -> None:
    assert "needs a tracker and a key" in str(refused(Tuning, **given))


@pytest.mark.parametrize("text", ["net.py", "-1", "0s", "10 m", "1d", "", "s", "1e3"])
def test_budgets(text: str) -> None:
    assert f"--tune {text!r} is no budget" in str(refused(budget, text))


# --- the file ------------------------------------------------------------------------------------

FILES = {
    "empty": (b"", "the file is damaged"),
    "cut off": (b'{"format": "qcompile tuning", "version": 1, "ent', "the file is damaged"),
    "binary": (bytes(range(256)), "the file is damaged"),
    "deep": (b"[" * 100_000, "the file is damaged"),
    "a list": (b"[]", "no file of what tuning found"),
    "another file": (b'{"name": "my settings"}', "no file of what tuning found"),
    "no entries": (b'{"format": "qcompile tuning", "version": 1}', "the file is damaged"),
    "no version": (b'{"format": "qcompile tuning", "entries": []}', "the file is damaged"),
    "newer": (b'{"format": "qcompile tuning", "version": 9, "entries": []}', "version 9"),
}


@pytest.mark.parametrize(("content", "said"), FILES.values(), ids=FILES)
def test_a_file_that_is_none_is_not_overwritten(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "c.json"
    path.write_bytes(content)
    error = refused(check, Target(), Tuning(cache=path))
    assert said in error.what
    assert error.where == str(path)
    assert path.read_bytes() == content


def test_a_file_that_changed_in_the_meantime_is_not_overwritten(tmp_path: Path) -> None:
    cache = TuningCache(tmp_path / "c")
    (tmp_path / "c").write_text("mine")
    entry = Entry(("x",), "cpu", 1, 1, {}, "", 16, 1, 1, 1, 1, 1.0, 1.0, 1.0)
    assert "damaged" in refused(cache.add, entry).what
    assert (tmp_path / "c").read_text() == "mine"


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    error = refused(check, Target(), Tuning(trials=0, cache=tmp_path / "c"))
    assert (error.what, error.where) == ("there is no such file", str(tmp_path / "c"))


def test_a_folder_that_takes_no_files(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "c", tmp_path / "file" / "deeper" / "c"):
        assert "takes no files" in refused(check, Target(), Tuning(cache=path)).what


def test_the_file_is_a_folder(tmp_path: Path) -> None:
    with pytest.raises(QCompileError, match="cannot read the file"):
        check(Target(), Tuning(cache=tmp_path))


# --- machines ------------------------------------------------------------------------------------


def test_code_that_does_not_run_here_cannot_be_measured_here(tmp_path: Path) -> None:
    foreign = "haswell" if host_family() == "aarch64" else "cortex-a76"
    error = refused(check, Target("cpu", foreign), Tuning(cache=tmp_path / "c"))
    assert f"the code for {foreign} is not tuned" in error.what
    assert "--tune-rpc" in str(error.hint)


def test_more_threads_than_cores(tmp_path: Path) -> None:
    tuning = Tuning(cache=tmp_path / "c", threads=cores() + 1)
    with pytest.raises(QCompileError, match=f"there are {cores()} cores"):
        check(Target(), tuning)


@pytest.mark.parametrize(
    "address", ["host", ":9190", "host:", "host:x", "host:0", "host:70000", ""]
)
def test_addresses(address: str) -> None:
    assert f"{address!r} is not HOST:PORT" in refused(Tracker, address, "key").what


def test_nobody_listens() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, and not listening
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        error = refused(Tracker, address, "key")
    assert f"no tracker answers at {address}" in error.what
    assert "rpc_tracker" in str(error.hint)


@pytest.fixture
def answering() -> Iterator[Any]:
    """`answering(text)` gives the address of a server that says that and no more."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        started: list[threading.Thread] = []

        def start(text: bytes) -> str:
            def serve() -> None:
                connection, _ = listening.accept()
                with connection:
                    connection.recv(4)
                    if text:
                        connection.sendall(text)

            started.append(threading.Thread(target=serve))
            started[0].start()
            return f"127.0.0.1:{listening.getsockname()[1]}"

        yield start
        for thread in started:
            thread.join()


def test_what_listens_is_no_tracker(answering: Any) -> None:
    assert "is no tracker of TVM" in refused(Tracker, answering(b"HTTP/1.1 400\r\n"), "key").what


def test_what_listens_hangs_up(answering: Any) -> None:
    assert "no tracker answers" in refused(Tracker, answering(b""), "key").what


def test_what_listens_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_ANSWER", 0.05)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        assert "no tracker answers" in refused(Tracker, address, "key").what


# --- the command line ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["net.py", "--tune", "soon"], "--tune 'soon' is no budget"),
        (["net.py", "--tune-batch", "4"], "--tune-batch is for --tune"),
        (["net.py", "--tune-rpc", "a:1"], "--tune-rpc is for --tune"),
        (["net.py", "--tune-key", "a"], "--tune-key is for --tune"),
        (["net.py", "--tune", "--tune-batch", "0"], "batch is 0"),
        (["net.py", "--tune", "--tune-key", "a"], "needs a tracker and a key"),
        (["net.py", "--tune-cache", "nowhere.json"], "nowhere.json: there is no such file"),
    ],
)
def test_the_command(
    words: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(
        "import torch\nmodel = torch.nn.Linear(4, 4)\nexample_inputs = torch.zeros(1, 4)\n"
        "def train(model):\n    raise AssertionError('found too late')\n"
    )
    assert cli.main(words) == cli.REFUSED
    assert said in " ".join(capsys.readouterr().err.split())
    assert not list(tmp_path.glob("*.qcp"))


def test_tune_takes_no_model() -> None:
    with pytest.raises(SystemExit):
        cli.main(["--tune", "net.py"])


def test_the_cache_is_plain_json(tmp_path: Path) -> None:
    cache = TuningCache(tmp_path / "c")
    cache.add(Entry(("x",), "cpu", 1, 1, {}, "", 16, 1, 1, 1, 1, 1.0, 1.0, 1.0))
    assert json.loads((tmp_path / "c").read_text())["format"] == "qcompile tuning"
