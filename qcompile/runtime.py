"""A compiled library in this process: TVM's runtime alone, neither torch nor the compiler."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import tempfile
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from qcompile.constants import ALIGNMENT, Bytes, aligned
from qcompile.errors import QCompileError

_SHARE_ALL_CORES = -3  # affinity mode of runtime.config_threadpool


@cache
def ffi() -> Any:
    """The module `tvm_ffi`, with TVM's runtime library loaded.

    Raises:
        QCompileError: either is not installed, or does not load.
    """
    try:
        import tvm_ffi
    except ImportError as error:
        raise _not_installed(f"tvm_ffi cannot be imported ({error})") from error
    try:
        # Its symbols must be global: a compiled library finds them in the process, by name.
        ctypes.CDLL(str(_runtime_library()), mode=ctypes.RTLD_GLOBAL)
    except OSError as error:
        raise _not_installed(f"TVM's runtime does not load ({error})") from error
    return tvm_ffi


def _runtime_library() -> Path:
    """`libtvm_runtime.so`, found without importing tvm, which would load the compiler."""
    spec = importlib.util.find_spec("tvm")
    folders = [] if spec is None else list(spec.submodule_search_locations or [])
    for folder in folders:
        path = Path(folder, "lib", "libtvm_runtime.so")
        if path.is_file():
            return path
    raise _not_installed("libtvm_runtime.so is not there")


def _not_installed(what: str) -> QCompileError:
    return QCompileError(
        what,
        hint="a program runs on numpy, apache-tvm-ffi and apache-tvm's libtvm_runtime.so: "
        "pip install numpy 'apache-tvm-ffi>=0.1.14.post1,<0.1.15' 'apache-tvm>=0.27.0.post1,<0.28'",
    )


# --- threads -------------------------------------------------------------------------------------


class _Pool(threading.local):
    """TVM keeps a pool of workers for each thread that calls it; this is how many it was told."""

    threads = 0
    orphaned = False  # whether a fork left the pool behind without its workers


_pool = _Pool()


def _after_fork() -> None:
    # The pool would wait for its workers for ever; told to use one thread, it asks none of them.
    _pool.orphaned = _pool.orphaned or _pool.threads > 0
    _pool.threads = 0


os.register_at_fork(after_in_child=_after_fork)


def cores() -> int:
    """How many processors this thread may run on."""
    return len(os.sched_getaffinity(0))


def default_threads() -> int:
    """TVM_NUM_THREADS or OMP_NUM_THREADS where the user set one, else all cores."""
    text = os.environ.get("TVM_NUM_THREADS") or os.environ.get("OMP_NUM_THREADS") or ""
    wanted = text.partition(",")[0].strip()
    return max(1, min(int(wanted), cores())) if wanted.isdecimal() else cores()


def use_threads(count: int) -> None:
    """Let the calls that this thread makes from now on run on so many threads.

    In a forked process, the thread that forked runs on one if it had called a program before.
    """
    if _pool.threads == count:
        return
    # Left alone, TVM takes half of the cores and pins the calling thread to the first of them.
    # Told the cores the thread may use anyway, it makes a worker for each and pins nothing.
    own = sorted(os.sched_getaffinity(0))
    configure = ffi().get_global_func("runtime.config_threadpool")
    usable = 1 if _pool.orphaned else count
    configure(_SHARE_ALL_CORES, usable, [str(core) for core in own])
    _pool.threads = count


# --- the library ---------------------------------------------------------------------------------


class Library:
    """A loaded library.

    Attributes:
        run: its function, `run(*inputs, *outputs, workspace, threads, only)`; any number of threads
            may call it at once, each with a workspace of its own.
    """

    def __init__(self, code: bytes, workspace: int, constants: Bytes) -> None:
        """Load a library.

        Args:
            workspace: bytes that each thread of a call needs.
            constants: what it reads, see `qcompile.constants.expanded`.

        Raises:
            QCompileError: TVM's runtime is missing, or the library cannot be loaded.
        """
        self._module = _load(code)
        self.run: Callable[..., None] = self._module["run"]
        self._size = workspace
        self._own = _Workspace()
        self._constants = constants  # they live as long as the code
        if constants.size:
            self._module["constants"](constants.ctypes.data)

    def function(self, name: str) -> Callable[..., None]:
        """Another function that it exports."""
        return self._module[name]

    def workspace(self, threads: int) -> int:
        """The address of so many workspaces, for this thread's calls alone."""
        own = self._own
        if own.threads < threads:
            own.memory = self.memory(threads)
            own.address, own.threads = own.memory.ctypes.data, threads
        return own.address

    def memory(self, threads: int = 1) -> Bytes:
        """So many workspaces that nothing else uses."""
        return aligned(max(threads * self._size, ALIGNMENT))


class _Workspace(threading.local):
    """Memory of one thread; it goes when the thread or the library goes."""

    memory: Any = None
    address = 0
    threads = 0  # how many workspaces there is room for


def _load(code: bytes) -> Any:
    runtime = ffi()
    try:
        # A name that no other library had: the dynamic loader takes equal names for one library.
        with tempfile.TemporaryDirectory(prefix="qcompile-") as folder:
            path = Path(folder, "library.so")
            path.write_bytes(code)
            return runtime.load_module(path, keep_module_alive=False)
    except (OSError, RuntimeError, ValueError, AttributeError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise QCompileError(
            f"the program's library cannot be loaded: {first}",
            hint="it goes through the folder for temporary files, which must have room and must "
            "allow code to run from it; TMPDIR names another",
        ) from error
