"""What a CUDA program launches: plain data, saved in the program's file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

MAX_THREADS = 1024  # of a block
WARP = 32
PLACE = 256  # bytes; places in the workspace begin at multiples of it
MAX_BYTES = 1 << 48

_MAX_X, _MAX_Y = 2**31 - 1, 65535  # blocks of a grid; z as y
_MAX_ARGUMENTS = 256  # 4 KiB of parameters hold 511 pointers and n
_MAX_SAMPLES = 1 << 24
_KINDS = ("input", "output", "workspace", "constants")
_SYMBOL = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,199}")


@dataclass(frozen=True)
class Argument:
    """A pointer that a kernel gets.

    Attributes:
        kind: "input", "output", "workspace" or "constants".
        at: number of the input or output; bytes per sample that lie before it in the workspace, a
            multiple of 256, so it begins at `at * n`; its first byte in the constants.
    """

    kind: str
    at: int


@dataclass(frozen=True)
class Launch:
    """A launch of a `__global__` function, for n samples.

    The grid is (ceil(n * items / per_block), y, z), a block (threads, 1, 1), shared memory static.
    The parameters are the arguments, then n as int32. It runs if least <= n, and n <= most where
    that is not 0.

    Attributes:
        symbol: the function's name.
        kernel: the number of the variant's kernel that it belongs to.
        items: what is spread over blocks, per sample.
        macs: multiply-accumulates of a sample, 0 if it is no product.
    """

    symbol: str
    kernel: int
    arguments: tuple[Argument, ...]
    items: int
    per_block: int
    y: int = 1
    z: int = 1
    threads: int = 128
    least: int = 1
    most: int = 0
    macs: int = 0

    def runs(self, n: int) -> bool:
        """Whether it is launched for so many samples."""
        return self.least <= n and (self.most == 0 or n <= self.most)

    def grid(self, n: int) -> tuple[int, int, int]:
        """Blocks in x, y, z for so many samples."""
        return -(-n * self.items // self.per_block), self.y, self.z


@dataclass(frozen=True)
class Room:
    """What launches may refer to.

    Attributes:
        inputs, outputs, kernels: how many there are.
        workspace: bytes per sample.
        samples: the most that one pass takes.
    """

    inputs: int
    outputs: int
    kernels: int
    workspace: int
    samples: int


def fault(launches: Sequence[Launch], room: Room) -> str:
    """Why these cannot be launched, or ""; whether the constants suffice is `constants_read`'s."""
    return next(_faults(launches, room), "")


def constants_read(launches: Sequence[Launch]) -> int:
    """Bytes that the constants must have at least."""
    starts = [a.at for one in launches for a in one.arguments if a.kind == "constants"]
    return max(starts, default=-1) + 1


def _faults(launches: Sequence[Launch], room: Room) -> Iterator[str]:
    if not 1 <= room.samples <= _MAX_SAMPLES:
        yield f"{room.samples:,} samples at once"
    if room.workspace % PLACE or not 0 <= room.workspace * room.samples <= MAX_BYTES:
        yield f"a workspace of {room.workspace:,} bytes for each of {room.samples:,} samples"
    for number, launch in enumerate(launches):
        yield from (f"launch {number} {why}" for why in _faults_of(launch, room))
    kernels = [launch.kernel for launch in launches]
    if kernels != sorted(kernels):
        yield "the launches are not in the order of the kernels"
    for number in range(room.kernels):
        own = [launch for launch in launches if launch.kernel == number]
        if missing := _first_without(own, room.samples):
            yield f"nothing is launched for kernel {number} and batches of {missing}"


def _faults_of(launch: Launch, room: Room) -> Iterator[str]:
    if not _SYMBOL.fullmatch(launch.symbol):
        yield f"is of {launch.symbol!r}"
    if not 0 <= launch.kernel < room.kernels:
        yield f"is of kernel {launch.kernel}, of {room.kernels}"
    if not 1 <= launch.threads <= MAX_THREADS:
        yield f"has blocks of {launch.threads} threads"
    if launch.items < 1 or launch.per_block < 1 or launch.macs < 0:
        yield f"has {launch.items} items, {launch.per_block} of them in a block"
    elif not (1 <= launch.y <= _MAX_Y and 1 <= launch.z <= _MAX_Y):
        yield f"has a grid of {launch.y} and {launch.z} blocks in y and z"
    elif launch.grid(room.samples)[0] > _MAX_X:
        yield f"has a grid of {launch.grid(room.samples)[0]:,} blocks"
    if launch.least < 1 or launch.most < 0 or 0 < launch.most < launch.least:
        yield f"is for batches from {launch.least} to {launch.most}"
    if len(launch.arguments) > _MAX_ARGUMENTS:
        yield f"has {len(launch.arguments)} arguments"
    for argument in launch.arguments:
        if not _there(argument, room):
            yield f"has the argument {argument.kind!r} {argument.at}"


def _there(argument: Argument, room: Room) -> bool:
    limits = {
        "input": room.inputs,
        "output": room.outputs,
        "workspace": room.workspace,
        "constants": MAX_BYTES,
    }
    placed = argument.kind != "workspace" or argument.at % PLACE == 0
    return argument.kind in _KINDS and 0 <= argument.at < limits[argument.kind] and placed


def _first_without(launches: Sequence[Launch], samples: int) -> int:
    """The smallest batch for which none of these runs, or 0."""
    n = 1
    while running := [launch for launch in launches if launch.runs(n)]:
        if any(launch.most == 0 for launch in running):
            return 0
        n = max(launch.most for launch in running) + 1
        if n > samples:
            return 0
    return n
