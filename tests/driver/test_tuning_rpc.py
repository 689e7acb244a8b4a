"""Tuning on other machines: a tracker and two servers of TVM's RPC, all of them on this one."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from networks import LENET_INPUT, LeNet
from torch.fx import GraphModule

import qcompile
from qcompile import QCompileError, Tuning
from qcompile.ir.target import Target
from qcompile.tuning_cache import TuningCache
from qcompile.tuning_search import tune

MISSING = [m for m in ("cloudpickle", "psutil", "tornado") if importlib.util.find_spec(m) is None]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"TVM's RPC needs {', '.join(MISSING)}"),
]
KEY = "loopback"
PATIENCE = 200.0  # seconds for three processes to import TVM on a busy machine
LIFE = 600.0  # seconds


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


@contextmanager
def process(log: Path, module: str, port: int, *options: str, **environment: str) -> Iterator[None]:
    """A process of its own with all its children, ended as a group, at the latest by `timeout`."""
    python = [
        "timeout",
        "--signal=KILL",
        f"{LIFE:.0f}",
        sys.executable,
    ]  # for where pytest is killed
    command = [*python, "-m", module, "--host", "127.0.0.1", "--port", str(port)]
    with log.open("wb") as output:
        running = subprocess.Popen(
            [*command, "--port-end", str(port + 1), *options],
            stdout=output,
            stderr=output,
            start_new_session=True,
            env={**os.environ, "TVM_NUM_THREADS": "1", **environment},
        )
    try:
        yield
    finally:
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()


@dataclass(frozen=True)
class Loopback:
    """A tracker with two servers.

    Attributes:
        logs: what the servers said.
    """

    address: str
    logs: tuple[Path, Path]

    def loads(self) -> list[int]:
        """How many kernels each server has loaded."""
        return [log.read_text(errors="replace").count("load_module") for log in self.logs]


@pytest.fixture(scope="module")
def loopback(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loopback]:
    from qcompile.codegen.tuning.remote import Tracker

    folder = tmp_path_factory.mktemp("rpc")
    port = free_port()
    address = f"127.0.0.1:{port}"
    logs = folder / "first.log", folder / "second.log"
    with ExitStack() as running:
        running.enter_context(process(folder / "tracker.log", "tvm.exec.rpc_tracker", port))
        # One server has the whole of TVM, the other one its runtime alone.
        for log, runtime in zip(logs, ("0", "1"), strict=True):
            options = ("--tracker", address, "--key", KEY)
            start = process(
                log, "tvm.exec.rpc_server", free_port(), *options, TVM_USE_RUNTIME_LIB=runtime
            )
            running.enter_context(start)
        end = time.monotonic() + PATIENCE
        while True:
            try:
                if Tracker(address, KEY).servers == 2:
                    break
            except QCompileError:
                assert time.monotonic() < end, [log.read_text() for log in logs]
            time.sleep(0.2)
        yield Loopback(address, logs)


@pytest.fixture(scope="module")
def converted() -> GraphModule:
    torch.manual_seed(0)
    prepared = qcompile.prepare(LeNet().eval(), torch.randn(2, *LENET_INPUT))
    prepared(torch.randn(4, *LENET_INPUT))
    return qcompile.convert(prepared)


def test_both_servers_search_and_the_cache_keeps_what_they_found(
    loopback: Loopback, converted: GraphModule, tmp_path: Path
) -> None:
    tuning = Tuning(
        trials=8, cache=tmp_path / "cache.json", threads=1, rpc=loopback.address, key=KEY
    )
    seen: list[tuple[int, int]] = []

    @contextmanager
    def step(title: str) -> Iterator[object]:
        yield lambda done, total: seen.append((done, total))

    before = loopback.loads()
    tuned = tune(converted, Target(), tuning, step)
    assert all(now > then for now, then in zip(loopback.loads(), before, strict=True))
    measured = [kernel.entry for kernel in tuned.kernels if kernel.entry is not None]
    assert sum(entry.tried for entry in measured) == 8
    assert max(done for done, _ in seen) == 8
    cache = TuningCache(tmp_path / "cache.json")
    assert len(cache) == len(measured) >= 2
    assert all(cache.get(entry.identity) == entry for entry in measured)
    assert all(entry.seconds > 0 and entry.threads == 1 for entry in measured)


def test_a_program_tuned_elsewhere_computes_the_same_bits(
    loopback: Loopback, converted: GraphModule, tmp_path: Path
) -> None:
    tuning = Tuning(trials=4, cache=tmp_path / "c", threads=1, rpc=loopback.address, key=KEY)
    x = torch.randn(5, *LENET_INPUT)
    plain, tuned = qcompile.compile(converted), qcompile.compile(converted, tune=tuning)
    torch.testing.assert_close(tuned(x), plain(x), rtol=0, atol=0)


def test_a_key_that_nobody_has(loopback: Loopback, tmp_path: Path, converted: GraphModule) -> None:
    tuning = Tuning(cache=tmp_path / "c", rpc=loopback.address, key="rpi5")
    with pytest.raises(QCompileError, match="no server with the key 'rpi5'") as error:
        tune(converted, Target(), tuning)
    assert KEY in str(error.value.hint)


def test_servers_with_too_few_threads(
    loopback: Loopback, tmp_path: Path, converted: GraphModule
) -> None:
    tuning = Tuning(cache=tmp_path / "c", threads=2, rpc=loopback.address, key=KEY)
    with pytest.raises(QCompileError, match=r"kernels on 1 thread\(s\), not on 2") as error:
        tune(converted, Target(), tuning)
    assert "TVM_NUM_THREADS=2" in str(error.value.hint)
    assert not (tmp_path / "c").exists()
