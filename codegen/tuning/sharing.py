"""Who searches for which workload: this process, one after another, or servers at the same time."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field

from torch.fx import GraphModule

from qcompile.codegen.machine import Machine
from qcompile.codegen.tuning.search import Budget, Found, tune
from qcompile.codegen.tuning.space import Workload
from qcompile.codegen.tuning.trial import Bench, LocalBench
from qcompile.errors import QCompileError

PATIENCE = 120.0  # seconds without a free server, after which the user is told
_LOOK = 0.2  # seconds between looks at what the servers did


@dataclass(frozen=True, eq=False)
class Task:
    """One search.

    Attributes:
        gm: the lowered graph.
        batch: samples that its kernel is given.
    """

    gm: GraphModule
    workload: Workload
    machine: Machine
    batch: int

    def search(self, bench: Bench, budget: Budget, tick: Callable[[], None]) -> Found | None:
        """Do it on a bench; None if the budget is used up."""
        return tune(self.gm, self.workload, self.machine, bench, self.batch, budget, tick)


Done = Callable[[Task, Found], None]


def search_here(
    tasks: Sequence[Task], budget: Budget, done: Done, tick: Callable[[], None]
) -> None:
    """Search in this process, on the threads that kernels called from this thread use.

    Args:
        done: called with what was found, task by task.
        tick: called after each candidate.

    Raises:
        QCompileError: there is no linker, or it fails.
    """
    for task in tasks:
        found = task.search(LocalBench(), budget, tick)
        if found is None:
            return
        done(task, found)


_Result = tuple[Task | None, Found | Exception | None]


@dataclass
class _Shared:
    """What the threads of one search have in common; each serves one server."""

    open: Callable[[], Bench]
    budget: Budget
    tick: Callable[[], None]
    tasks: queue.SimpleQueue[tuple[Task, int]] = field(default_factory=queue.SimpleQueue)
    results: queue.SimpleQueue[_Result] = field(default_factory=queue.SimpleQueue)

    finished: threading.Event = field(default_factory=threading.Event)
    lost: list[Exception] = field(default_factory=list)

    def serve(self) -> None:
        """Take tasks until all is finished, or a server is lost."""
        while not self.finished.is_set():
            try:
                if self.budget.left() and not self.tasks.empty():
                    with closing(self.open()) as bench:  # may wait: others take the tasks meanwhile
                        self._take(bench)
                elif not self._drop():
                    self.finished.wait(_LOOK)  # another server may yet be lost: its task comes back
            except (RuntimeError, OSError) as error:
                self.lost.append(error)
                return
            except (QCompileError, AttributeError, TypeError, ValueError) as error:
                self.results.put((None, error))
                return

    def _take(self, bench: Bench) -> None:
        """Search for one task, if there is one.

        Raises:
            RuntimeError, OSError: the server is lost; another one may do.
        """
        try:
            task, attempt = self.tasks.get_nowait()
        except queue.Empty:
            return
        try:
            self.results.put((task, task.search(bench, self.budget, self.tick)))
        except (RuntimeError, OSError) as error:
            if attempt == 0:
                self.tasks.put((task, 1))
            else:
                self.results.put((task, error))
            raise

    def _drop(self) -> bool:
        """Give up a task, now that the budget is used up; False where there is none."""
        try:
            task, _ = self.tasks.get_nowait()
        except queue.Empty:
            return False
        self.results.put((task, None))
        return True


def search_there(
    tasks: Sequence[Task],
    servers: int,
    open_: Callable[[], Bench],
    budget: Budget,
    done: Done,
    tick: Callable[[], None],
) -> list[Exception]:
    """Search on so many servers at once, each at another task.

    Args:
        open_: gives a session with a free server.
        done: called in this thread with what was found, task by task.
        tick: called after each candidate, in any thread.

    Returns:
        Why servers were lost whose work others did.

    Raises:
        QCompileError: there is no linker; or a server does not do what it should; or all are lost.
    """
    shared = _Shared(open_, budget, tick)
    for task in tasks:
        shared.tasks.put((task, 0))
    # Daemons: one that waits for an answer that never comes must not keep the process alive.
    threads = [threading.Thread(target=shared.serve, daemon=True) for _ in range(servers)]
    for thread in threads:
        thread.start()
    try:
        _collect(shared, threads, len(tasks), done)
    finally:
        budget.stop()
        shared.finished.set()
    return list(shared.lost)


def _collect(shared: _Shared, threads: Sequence[threading.Thread], tasks: int, done: Done) -> None:
    left, start = tasks, time.monotonic()
    while left:
        alive = any(thread.is_alive() for thread in threads)
        waited = 0 if shared.budget.trials else time.monotonic() - start
        try:
            task, found = shared.results.get(timeout=_LOOK)
        except queue.Empty:
            _check_servers(alive, waited, left)
            continue
        left -= 1
        if isinstance(found, Exception) and (task is None or isinstance(found, QCompileError)):
            raise found
        assert task is not None
        if isinstance(found, Exception):
            raise QCompileError(
                f"a kernel of {task.workload.layers[0]} was lost with two servers: {found}",
                hint="what was found so far is kept; the servers' logs say more",
            ) from found
        if found is not None:
            done(task, found)


def _check_servers(alive: bool, waited: float, left: int) -> None:
    """Give up where nothing is to be expected any more.

    Raises:
        QCompileError: no server is left, or none was to be had from the beginning.
    """
    if not alive:
        what = f"all servers were lost, with {left} kernels to go"
        raise QCompileError(what, hint="what they found so far is kept; their logs say more")
    if waited > PATIENCE:
        hint = "python -m tvm.exec.query_rpc_tracker shows who has them"
        raise QCompileError(f"no server was free for {PATIENCE:.0f} s", hint=hint)
