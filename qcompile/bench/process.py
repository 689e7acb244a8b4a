"""One process that measures: started, told to go on, listened to; and how it ended."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import msgspec

import qcompile
from qcompile.bench.messages import TURN, At, Message, Refused, Task
from qcompile.errors import QCompileError

COMMAND = (sys.executable, "-m", "qcompile.bench.worker")
_MESSAGES = msgspec.json.Decoder(Message)
_TAIL = 4096  # bytes of what a process wrote to stderr that are looked at


class Process(ExitStack):
    """A process that measures; it lasts as long as the `with` block at most.

    Attributes:
        reason: why it died, "" while it did not.
        engine: at which, or "".
        doing: what, in words.
    """

    def __init__(self, task: Task, folder: Path) -> None:
        """Start it: it loads the network, and waits."""
        super().__init__()
        self.reason, self.engine, self.doing = "", "", "start"
        self._folder = folder
        with ExitStack() as stack:
            self._errors = stack.enter_context(tempfile.TemporaryFile(dir=folder))
            process = subprocess.Popen(
                [*COMMAND, str(folder)],
                env=_environment(task.threads),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
            )
            self._process = stack.enter_context(process)
            stack.callback(process.kill)
            self.enter_context(stack.pop_all())
        self._say(msgspec.json.encode(task))

    def prepare(self) -> None:
        """Let it make all engines ready for its next batch."""
        self._say(b"")

    def measure(self) -> None:
        """Let it measure what is ready; no other process should work at that time."""
        (self._folder / TURN).unlink(missing_ok=True)
        self._say(b"")

    def until(self, kind: type[Message]) -> Iterator[Message]:
        """What it tells, as it tells it, up to such a message; or until it died, which `reason` says.

        Raises:
            QCompileError: it says that something the user gave does not work.
        """
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if not line.endswith(b"\n"):  # it died at that
                break
            message = self._heard(_MESSAGES.decode(line))
            yield message
            if isinstance(message, kind):
                return
        self._died(self._process.wait())

    def _say(self, line: bytes) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # of one that died, which is found out next
            os.write(self._process.stdin.fileno(), line + b"\n")

    def _heard(self, message: Message) -> Message:
        if isinstance(message, Refused):
            raise QCompileError(message.what, where=message.where, hint=message.hint)
        if isinstance(message, At):
            self.engine, self.doing = message.engine, message.doing
        return message

    def _died(self, code: int) -> None:
        if self.doing == "measure" and (self._folder / TURN).exists():
            self.engine = (self._folder / TURN).read_text().strip()
        lines = _tail(self._errors.fileno()).strip().splitlines()
        if code >= 0:
            self.reason = lines[-1] if lines else f"exit code {code}"
            return
        name = signal.Signals(-code).name
        memory = ", as Linux does where memory is short" if -code == signal.SIGKILL else ""
        self.reason = f"killed by {name}{memory}"


def _environment(threads: int) -> dict[str, str]:
    """The parent's; how many threads libraries start, which they read when they are loaded; that this
    package is found, and a file beside the user's shadows no module."""
    names = ("OMP", "MKL", "OPENBLAS", "VECLIB_MAXIMUM", "NUMEXPR", "TVM")
    numbers = {f"{name}_NUM_THREADS": str(threads) for name in names}
    home = str(Path(qcompile.__file__).resolve().parents[1])
    path = os.pathsep.join(filter(None, (home, os.environ.get("PYTHONPATH"))))
    own = {"ORT_DISABLE_TELEMETRY": "1", "PYTHONPATH": path, "PYTHONSAFEPATH": "1"}
    return {**os.environ, **numbers, **own}


def _tail(handle: int) -> str:
    size = os.fstat(handle).st_size
    data = os.pread(handle, _TAIL, max(0, size - _TAIL))
    return data.decode(errors="replace")
