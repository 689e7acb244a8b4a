"""Other machines to measure on, through the RPC of TVM: a tracker that hands out servers.

Whoever reaches a server can run any code on it: TVM's RPC knows neither passwords nor encryption.
"""

from __future__ import annotations

import itertools
import socket
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

from tvm import rpc
from tvm.rpc import base

from qcompile.errors import QCompileError

SESSION = 1800  # seconds after which a server ends a session: a kernel that hangs
_ANSWER = 10  # seconds that a tracker has to answer
_BIG_CORES = 1  # affinity mode of runtime.config_threadpool


class Tracker:
    """A tracker's servers of one key."""

    def __init__(self, address: str, key: str) -> None:
        """Find the tracker, and count its servers.

        Args:
            address: as in "192.168.0.7:9190".
            key: by which the servers called themselves.

        Raises:
            QCompileError: the address is none, no tracker answers there, or it has no such server.
        """
        self.key, self.address = key, address
        host, _, port = address.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
            raise QCompileError(f"{address!r} is not HOST:PORT", hint="as in 192.168.0.7:9190")
        self._place = (host.strip("[]"), int(port))
        self._check()
        self.servers = self._count()

    def _check(self) -> None:
        """Greet the tracker: TVM's own client would wait for one that is not there."""
        hint = "python -m tvm.exec.rpc_tracker starts one"
        try:
            with socket.create_connection(self._place, timeout=_ANSWER) as connection:
                greeting = struct.pack("<i", base.RPC_TRACKER_MAGIC)
                connection.sendall(greeting)
                answer = base.recvall(connection, len(greeting))
        except OSError as error:
            what = f"no tracker answers at {self.address} ({error})"
            raise QCompileError(what, hint=hint) from error
        if answer != greeting:
            raise QCompileError(f"what answers at {self.address} is no tracker of TVM", hint=hint)

    def _count(self) -> int:
        servers = rpc.connect_tracker(*self._place).summary()["server_info"]
        found = [server for server in servers if server["key"] == f"server:{self.key}"]
        if not found:
            keys = sorted({server["key"].removeprefix("server:") for server in servers})
            raise QCompileError(
                f"the tracker at {self.address} has no server with the key {self.key!r}",
                hint=f"its keys are {', '.join(keys)}"
                if keys
                else f"python -m tvm.exec.rpc_server --tracker {self.address} --key {self.key} "
                "starts one",
            )
        return len(found)

    def open(self, threads: int) -> RemoteBench:
        """A session with one of the servers, as soon as one is free.

        Raises:
            QCompileError: its kernels would run on fewer threads.
            RuntimeError: no server can be had.
        """
        session = rpc.connect_tracker(*self._place).request(self.key, session_timeout=SESSION)
        return RemoteBench(session, threads)


class RemoteBench:
    """A server, until it is closed."""

    def __init__(self, session: Any, threads: int) -> None:
        """Take a session, and let kernels use so many threads there.

        Raises:
            QCompileError: there are fewer.
        """
        self._session = session
        self._numbers = itertools.count()
        self.threads = threads
        self.device = session.cpu(0)
        session.get_function("runtime.config_threadpool")(_BIG_CORES, threads)
        there = int(session.get_function("runtime.NumThreads")())
        if there != threads:
            self.close()
            raise QCompileError(
                f"a server runs kernels on {there} thread(s), not on {threads}",
                hint=f"start it with TVM_NUM_THREADS={threads} in its environment, or tune for "
                f"{there} thread(s)",
            )

    @property
    def processor(self) -> str:
        """LLVM's name of the processor there, or "" where the server cannot tell."""
        try:
            return str(self._session.get_function("target.llvm_get_system_cpu")())
        except (AttributeError, RuntimeError):  # a server with the bare runtime
            return ""

    def load(self, library: Path) -> Any:
        """Send a library there, and load it."""
        name = f"kernel{next(self._numbers)}.so"
        self._session.upload(bytearray(library.read_bytes()), name)
        try:
            return self._session.load_module(name)
        finally:
            self._session.remove(name)

    def close(self) -> None:
        """Give the server back. References to what lies there do not keep it."""
        with suppress(RuntimeError):  # it is lost already
            self._session.get_function("CloseRPCConnection")()
