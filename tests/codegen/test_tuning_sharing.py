"""Who searches for what: servers that do their work, wait, or are lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qcompile.codegen.schedules.tile import Choice, Tile
from qcompile.codegen.tuning import sharing
from qcompile.codegen.tuning.search import Budget, Found
from qcompile.codegen.tuning.sharing import search_here, search_there
from qcompile.codegen.tuning.trial import Bench
from qcompile.errors import QCompileError

FOUND = Found(Choice(None, Tile(16, 1, 1)), 1.0, 1.0, 1.0, 1)


class FakeBench:
    """A bench that nothing is loaded on; knows its number and whether it was given back."""

    device, threads = None, 1

    def __init__(self, number: int) -> None:
        self.number, self.closed = number, False

    def load(self, library: Path) -> Any:
        raise AssertionError(library)

    def close(self) -> None:
        self.closed = True


class FakeTask:
    """A task whose search is what the test says."""

    def __init__(self, name: str, act: Callable[[Any], Found | None] = lambda bench: FOUND) -> None:
        self.workload = type("Named", (), {"layers": (name,)})
        self.name, self._act = name, act

    def search(self, bench: Bench, budget: Budget, tick: Callable[[], None]) -> Found | None:
        budget.take()
        tick()
        return self._act(bench)


class Servers:
    """Hands out benches, each of another server."""

    def __init__(self) -> None:
        self.benches: list[FakeBench] = []
        self._lock = threading.Lock()

    def open(self) -> FakeBench:
        with self._lock:
            self.benches.append(FakeBench(len(self.benches)))
            return self.benches[-1]


def share(
    tasks: list[FakeTask],
    open_: Callable[[], Bench],
    servers: int = 2,
    budget: Budget | None = None,
    lost: list[Exception] | None = None,
) -> list[str]:
    """The names of the tasks that were done; errors of lost servers go to `lost`."""
    done: list[str] = []
    budget = budget or Budget()
    real: list[Any] = list(tasks)

    def finished(task: Any, found: Found) -> None:
        done.append(task.name)

    errors = search_there(real, servers, open_, budget, finished, lambda: None)
    if lost is not None:
        lost += errors
    return sorted(done)


def test_all_tasks_are_done_and_all_servers_given_back() -> None:
    servers = Servers()
    assert share([FakeTask(name) for name in "abcde"], servers.open) == list("abcde")
    deadline = time.monotonic() + 10
    while not all(bench.closed for bench in servers.benches):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_servers_work_at_the_same_time() -> None:
    together = threading.Barrier(2, timeout=20)

    def act(bench: Any) -> Found:
        together.wait()
        return FOUND

    assert share([FakeTask("a", act), FakeTask("b", act)], Servers().open) == ["a", "b"]


def test_a_task_of_a_lost_server_goes_to_another() -> None:
    attempts: list[int] = []

    def act(bench: Any) -> Found:
        attempts.append(bench.number)
        if len(attempts) == 1:
            raise RuntimeError("connection reset")
        return FOUND

    lost: list[Exception] = []
    assert share([FakeTask("a", act), FakeTask("b")], Servers().open, lost=lost) == ["a", "b"]
    assert [str(error) for error in lost] == ["connection reset"]
    assert len(attempts) == 2
    assert len(set(attempts)) == 2


def test_a_task_that_loses_two_servers_ends_the_search() -> None:
    def act(bench: Any) -> Found:
        raise RuntimeError("illegal instruction")

    with pytest.raises(QCompileError, match="a kernel of conv2 was lost with two servers: illegal"):
        share([FakeTask("conv2", act)], Servers().open, servers=3)


def test_all_servers_are_lost() -> None:
    def refused() -> Bench:
        raise RuntimeError("Cannot request")

    with pytest.raises(QCompileError, match="all servers were lost, with 2 kernels to go"):
        share([FakeTask("a"), FakeTask("b")], refused)


def test_a_server_that_does_not_do_what_it_should_ends_the_search() -> None:
    def refused() -> Bench:
        raise QCompileError("a server runs kernels on 1 thread(s), not on 4")

    with pytest.raises(QCompileError, match="not on 4"):
        share([FakeTask("a")], refused)


def test_a_server_that_others_have_keeps_no_task_waiting() -> None:
    servers, never = Servers(), threading.Event()
    first = threading.Lock()

    def open_() -> Bench:
        if first.acquire(blocking=False):
            never.wait(30)
        return servers.open()

    assert share([FakeTask("a"), FakeTask("b")], open_) == ["a", "b"]
    never.set()


def test_no_server_is_ever_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "PATIENCE", 0.05)
    never = threading.Event()

    def open_() -> Bench:
        never.wait(30)
        raise RuntimeError("too late")

    with pytest.raises(QCompileError, match="no server was free for 0 s"):
        share([FakeTask("a")], open_)
    never.set()


def test_a_budget_that_is_used_up_ends_the_search_without_another_server() -> None:
    servers = Servers()
    budget = Budget(trials=1)
    assert share([FakeTask(name) for name in "abc"], servers.open, 1, budget) == ["a"]
    assert len(servers.benches) == 1


def test_here_tasks_are_done_in_their_order_until_the_budget_ends() -> None:
    def act(bench: Any) -> Found | None:
        return FOUND if len(done) < 2 else None

    done: list[Any] = []
    tasks: list[Any] = [FakeTask(name, act) for name in "abcd"]
    search_here(tasks, Budget(), lambda task, found: done.append(task), lambda: None)
    assert done == tasks[:2]


def test_an_interruption_passes() -> None:
    def act(bench: Any) -> Found:
        raise KeyboardInterrupt

    done: list[Any] = []
    tasks: list[Any] = [FakeTask("a"), FakeTask("b", act)]
    with pytest.raises(KeyboardInterrupt):
        search_here(tasks, Budget(), lambda task, found: done.append(task), lambda: None)
    assert done == tasks[:1]
