"""Processes that measure, made up: what they tell is kept, and what becomes of those that die."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from qcompile.bench import process
from qcompile.bench.measuring import Plan, measure, order
from qcompile.bench.messages import At, Message
from qcompile.bench.results import AGAIN, OURS, Engine, Run, Settings

# A process without torch: every engine takes a time of its own, and does what its name says.
PROCESS = """
import json, os, pathlib, signal, sys
folder = pathlib.Path(sys.argv[1])
task = json.loads(sys.stdin.readline())
(folder / "task.json").write_text(json.dumps(task))
with (folder / "count").open("a") as count:  # two may come at a time
    count.write("x")
number = (folder / "count").stat().st_size - 1

def tell(kind, **fields):
    print(json.dumps({"type": kind, **fields}), flush=True)

def engine(key, **more):
    return {"key": key, "name": key.upper(), **more}

tell("at", doing="load the network")
for batch in task["batches"]:
    samples = {}
    sys.stdin.readline()
    for i, key in enumerate(task["engines"]):
        tell("at", doing="prepare", batch=batch, engine=key)
        if key == "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        if key == "raises":
            print("Traceback: much text", "ValueError: odd", sep=chr(10), file=sys.stderr)
            sys.exit(1)
        if key == "second" and number >= 2:
            os.kill(os.getpid(), signal.SIGKILL)
        refused = key == "refuses" or (key == "small" and batch > 1)
        more = {"reason": "cannot", "hint": "do"} if refused else {"size": 7, "sqnr_db": 1.0 * batch}
        tell("prepared", batch=batch, engine=engine(key, **more))
        if not refused:
            samples[key] = [1e-3 * (i + 1)] * 3
    tell("waits", batch=batch)
    sys.stdin.readline()
    tell("at", doing="measure", batch=batch)
    if "turns" in task["engines"]:
        (folder / "turn").write_text("turns".ljust(40))
        print("half a line", end="", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    if "nobody" in task["engines"]:
        sys.exit(3)
    tell("measured", batch=batch, samples=samples)
"""


NOTED = """def tell(kind, **fields):
    doing = fields["doing"].split()[0] if kind == "at" else kind
    with (folder / "noted").open("a") as notes:
        notes.write(f"{os.getpid()}-{doing} ")"""


class Watch:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.processes: list[tuple[int, int, int]] = []
        self.messages: list[Message] = []
        self.losses: list[tuple[str, str]] = []

    def process(self, number: int, of: int, threads: int) -> None:
        self.processes.append((number, of, threads))

    def message(self, message: Message, threads: int) -> None:
        self.messages.append(message)

    def lost(self, engine: str, reason: str) -> None:
        self.losses.append((engine, reason))


def measured(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    *engines: str,
    batches: tuple[int, ...] = (1,),
    threads: tuple[int, ...] = (1,),
    processes: int = 2,
) -> tuple[dict[str, Engine], tuple[Run, ...], Watch]:
    monkeypatch.setattr(process, "COMMAND", (sys.executable, "-S", "-c", PROCESS))
    watch = Watch()
    plan = Plan(engines, batches, threads, Settings(1.0, processes, 3))
    found, runs = measure(plan, folder, watch)
    return {engine.key: engine for engine in found}, runs, watch


def seconds(run: Run) -> dict[str, float | None]:
    return {t.engine: t.seconds.median if t.seconds else None for t in run.times}


def test_the_program_is_there_twice() -> None:
    assert order(("a", "b", "c")) == (OURS, "a", "b", AGAIN, "c")
    assert order(()) == (OURS, AGAIN)


def test_every_run_and_repetition(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engines, runs, watch = measured(tmp_path, monkeypatch, "a", batches=(1, 8), threads=(1, 2))
    assert watch.processes == [(1, 4, 1), (2, 4, 2), (3, 4, 1), (4, 4, 2)]
    assert [(run.batch, run.threads) for run in runs] == [(1, 1), (1, 2), (8, 1), (8, 2)]
    assert list(engines) == [OURS, AGAIN, "a"]
    assert engines["a"] == Engine("a", "A", size=7, sqnr_db=8.0)  # of the largest batch
    for run in runs:
        ours, again, other = run.times
        assert ours.samples == ((1e-3,) * 3,) * 2
        assert ours.speedup is not None
        assert ours.speedup.median == 1
        assert other.speedup is not None
        assert other.speedup.median == pytest.approx(2)
        assert again.speedup is not None
        assert again.speedup.median == pytest.approx(3)
        assert run.noise is not None
        # Beside itself, this program takes three times as long; two processes leave some doubt.
        assert 2 < run.noise.share < 2.2


def test_what_a_task_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured(tmp_path, monkeypatch, "a", threads=(2,))
    task: dict[str, Any] = json.loads((tmp_path / "task.json").read_text())
    assert task["engines"] == [OURS, "a", AGAIN]
    assert task["threads"] == 2
    assert task["seconds"] == 0.5  # of each of two processes


def test_an_engine_that_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engines, runs, _ = measured(tmp_path, monkeypatch, "refuses", "small", batches=(1, 4))
    assert (engines["refuses"].reason, engines["refuses"].hint) == ("cannot", "do")
    assert (engines["small"].reason, engines["small"].sqnr_db) == ("", 1.0)
    assert seconds(runs[0])["refuses"] is None
    assert seconds(runs[0])["small"] is not None
    [small] = [time for time in runs[1].times if time.engine == "small"]
    assert (small.samples, small.seconds, small.reason) == ((), None, "cannot")


def test_an_engine_that_refuses_is_not_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, runs, watch = measured(
        tmp_path, monkeypatch, "refuses", "small", batches=(1, 4), threads=(1, 2, 3)
    )
    asked = [m.engine for m in watch.messages if isinstance(m, At) and m.engine]
    assert asked.count("refuses") == 2 * 2  # batches, of two processes that were there at a time
    assert asked.count("small") == 2 * 6
    for run in runs:
        [time] = [time for time in run.times if time.engine == "refuses"]
        assert (time.samples, time.reason) == ((), "cannot")


def test_while_one_measures_all_others_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between "at measure" and "measured" nobody may do a thing, which files say beyond doubt."""
    noted = PROCESS.replace("def tell(kind, **fields):", NOTED)
    monkeypatch.setattr(process, "COMMAND", (sys.executable, "-S", "-c", noted))
    measure(Plan(("a",), (1, 8), (1, 2), Settings(1.0, 2, 3)), tmp_path, Watch())
    lines = (tmp_path / "noted").read_text().split()
    begins = [i for i, line in enumerate(lines) if line.endswith("measure")]
    assert len(begins) == 2 * 2 * 2
    for i in begins:
        assert lines[i + 1] == lines[i].replace("measure", "measured")


@pytest.mark.parametrize(
    ("engine", "reason"),
    [
        ("segfault", "killed by SIGSEGV"),
        ("raises", "ValueError: odd"),
        ("turns", "killed by SIGKILL, as Linux does where memory is short"),
    ],
)
def test_an_engine_that_takes_its_process_with_it(
    engine: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engines, runs, watch = measured(tmp_path, monkeypatch, "a", engine, "b", batches=(1, 2))
    assert watch.losses == [(engine, reason)]
    assert engines[engine].reason == f"it took its process with it: {reason}"
    assert engines[engine].hint == f"leave {engine} out of --against"
    for run in runs:
        taken = seconds(run)
        assert taken.pop(engine) is None
        assert None not in taken.values()
        assert all(len(t.samples) == 2 for t in run.times if t.seconds)


def test_an_engine_that_dies_later_has_no_time_where_samples_are_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engines, runs, _ = measured(
        tmp_path, monkeypatch, "a", "second", batches=(1,), threads=(1, 2), processes=2
    )
    first, second = runs
    assert seconds(first)["second"] is None  # it has one process's samples, the others two
    assert seconds(second)["second"] is None
    assert engines["second"].reason.startswith("it took its process with it: killed by SIGKILL")
    assert seconds(first)["a"] is not None


def test_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    found = process._environment(2)
    assert found["OMP_NUM_THREADS"] == found["TVM_NUM_THREADS"] == "2"
    home, elsewhere = found["PYTHONPATH"].split(os.pathsep)
    assert Path(home, "qcompile", "bench", "worker.py").is_file()
    assert elsewhere == "/elsewhere"


def test_an_interrupted_measurement_leaves_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupts(Watch):
        def message(self, message: Message, threads: int) -> None:
            raise KeyboardInterrupt

    script = f"import os\nopen({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\n" + PROCESS
    monkeypatch.setattr(process, "COMMAND", (sys.executable, "-S", "-c", script))
    plan = Plan((), (1,), (1,), Settings(1.0, 1, 3))
    with pytest.raises(KeyboardInterrupt):
        measure(plan, tmp_path, Interrupts())
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
