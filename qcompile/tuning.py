"""Tuning: measure the ways to compute each kernel, remember the fastest, compile with it.

    program = qcompile.compile(model, example_inputs, bits=1, tune=True)

Here is what is asked for; `tuning_search` does it.
"""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass
from pathlib import Path

from qcompile.errors import QCompileError
from qcompile.files import PathLike

_UNITS = {"s": 1, "m": 60, "h": 3600}


@dataclass(frozen=True)
class Tuning:
    """How kernels are tuned.

    Attributes:
        trials: how many candidates are measured at most, over all kernels; None: all there are;
            0: nothing is measured, what the cache knows is used.
        seconds: how long that may take; None: as long as it takes.
        cache: the file that remembers; None: `tuning.json` in the user's cache folder.
        batch: samples that kernels are given.
        threads: that kernels run on; None: as many as programs use.
        rpc: "HOST:PORT" of a TVM RPC tracker, on whose servers is measured; None: here.
        key: of those servers.
    """

    trials: int | None = None
    seconds: float | None = None
    cache: PathLike | None = None
    batch: int = 1
    threads: int | None = None
    rpc: str | None = None
    key: str | None = None

    def __post_init__(self) -> None:
        for name, least in (("trials", 0), ("batch", 1), ("threads", 1)):
            value = getattr(self, name)
            if value is None and name != "batch":
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise QCompileError(f"{name} is {value!r}", hint=f"a whole number, {least} or more")
        if self.cache is not None and not isinstance(self.cache, (str, os.PathLike)):
            raise QCompileError(f"cache is {self.cache!r}", hint="the path of a file")
        if self.seconds is not None and not _is_time(self.seconds):
            raise QCompileError(f"seconds is {self.seconds!r}", hint="a number, more than 0")
        if bool(self.rpc) != bool(self.key):
            raise QCompileError(
                "tuning on other machines needs a tracker and a key",
                hint='as in rpc="192.168.0.7:9190", key="rpi5"',
            )

    @property
    def measures(self) -> bool:
        """Whether anything is measured at all."""
        return self.trials != 0

    @property
    def path(self) -> Path:
        """Of the cache."""
        return default_cache() if self.cache is None else Path(self.cache)


def _is_time(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf


def default_cache() -> Path:
    """The file that remembers what tuning found, in the user's cache folder (XDG_CACHE_HOME)."""
    import pooch

    return Path(pooch.os_cache("qcompile")) / "tuning.json"


def budget(text: str) -> tuple[int | None, float | None]:
    """Trials and seconds of a budget in words: "all", "200", "90s", "10m", "1h".

    Raises:
        QCompileError: it is none of these.
    """
    if text == "all":
        return None, None
    if text.isdecimal():
        return int(text), None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text)
    if found is None or not float(found[1]):
        raise QCompileError(
            f"--tune {text!r} is no budget",
            hint="a number of trials or a time, as in --tune 200, --tune 90s or --tune 10m; MODEL "
            "goes before it",
        )
    return None, float(found[1]) * _UNITS[found[2]]
