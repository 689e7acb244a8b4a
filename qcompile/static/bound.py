"""The least time that a launch of a kernel can take on a GPU, from its machine code alone.

No time is known of how instructions wait for one another, so this is no prediction: it says what
cannot be exceeded, were every pipe busy in every cycle.

    blocks of the fullest SM   R = ceil(blocks / SMs)
    a pipe of a partition      cycles of a warp on it * ceil(R * warps / 4)
    a pipe of an SM            cycles of a block's warps on it * R
    L2                         bytes / (bytes in a clock)
    memory                     (bytes - size of L2) / (bytes in a second)

The least time is the largest of them. Counts of instructions are those of threads of the block in
the middle of the grid, see `walk`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from qcompile.static.gpus import Gpu
from qcompile.static.occupancy import PARTITIONS, WARP, Occupancy, occupancy
from qcompile.static.pipes import OF_SM, cycles, loaded_bytes, macs
from qcompile.static.sass import Function, Instruction, Loop
from qcompile.static.tools import Resources
from qcompile.static.walk import Place, Walk, Walker

_WALKS = 4  # warps of a block that are walked as, at most
_WORK = ("BMMA", "IMMA", "POPC", "IDP", "FFMA", "IMAD", "FADD")  # the first that occurs is the work
_LOCAL = ("LDL", "STL")
_PAST_L1 = ("STG", "RED", "ATOMG", "REDG")


@dataclass(frozen=True)
class Job:
    """A launch.

    Attributes:
        grid: blocks in x, y, z.
        threads: of a block.
        parameters: bytes of the kernel's pointers; the number of samples comes after them.
        samples: of the batch.
        macs: multiply-accumulates that are asked for, of all samples.
        bytes: that it has to read and write, each once.
    """

    grid: tuple[int, int, int]
    threads: int
    parameters: int
    samples: int
    macs: int = 0
    bytes: int = 0

    @property
    def blocks(self) -> int:
        return self.grid[0] * self.grid[1] * self.grid[2]

    @property
    def warps(self) -> int:
        return -(-self.threads // WARP)


@dataclass(frozen=True)
class Bound:
    """What can be said of a launch.

    Attributes:
        resources: what the kernel takes.
        occupancy: how full an SM can be of it.
        spills: instructions that load and store local memory.
        calls: in its hot loop.
        hot: the opcodes of its hot loop, or of all of it if it has none, and how often they occur.
        trips: how often a thread goes through the hot loop; 1 if there is none.
        exact: whether all conditions of loops were known.
        waves: blocks over those that the GPU holds at once.
        times: seconds by what limits it: pipes, "L2", "memory".
        kind: of the tensor cores' products: "b1", "s8", "s4"; "" if it has none.
        peak: the share of their rate that the launch's products are at that time.
    """

    resources: Resources
    occupancy: Occupancy
    spills: int
    calls: int
    hot: Mapping[str, int]
    trips: int
    exact: bool
    waves: float
    times: Mapping[str, float]
    kind: str
    peak: float

    @property
    def limit(self) -> str:
        """What takes longest."""
        return max(self.times, key=self.times.__getitem__)

    @property
    def seconds(self) -> float:
        """The least time."""
        return self.times[self.limit]


def bound(function: Function, taken: Resources, job: Job, gpu: Gpu) -> Bound:
    """The bound of a launch.

    Raises:
        QCompileError: the GPU's architecture is not known.
    """
    walks = _walks(function, job, gpu.arch)
    full = occupancy(gpu.arch, job.threads, taken)
    code = function.instructions
    loop = hot_loop(function, walks[0].counts)
    body = function.body(loop) if loop else tuple(one for one in code if not one.never)
    kinds = Counter(kind for kind, _ in map(macs, body) if kind)
    kind = kinds.most_common(1)[0][0] if kinds else ""
    times = _times(code, walks, job, gpu)
    least = max(times.values())
    rate = gpu.rate(kind if kind in gpu.tensor else "s8")
    return Bound(
        resources=taken,
        occupancy=full,
        spills=sum(one.name in _LOCAL for one in code),
        calls=sum(one.calls for one in body),
        hot=dict(Counter(one.opcode for one in body)),
        trips=walks[0].counts.get(loop.last, 0) if loop else 1,
        exact=not any(walk.guessed or not walk.ended for walk in walks),
        waves=job.blocks / max(full.blocks * gpu.multiprocessors, 1),
        times=times,
        kind=kind,
        peak=job.macs / (rate * least) if kind else 0.0,
    )


def hot_loop(function: Function, counts: Mapping[int, int]) -> Loop | None:
    """The innermost loop that does most of the work, given how often instructions are executed."""
    code = function.instructions
    work = next((w for w in _WORK if any(code[i].name == w for i in counts)), None)
    if work is None or not function.innermost:
        return None

    def done(loop: Loop) -> int:
        inside = range(loop.first, loop.last + 1)
        return sum(counts.get(i, 0) for i in inside if code[i].name == work)

    best = max(function.innermost, key=done)
    return best if done(best) else None


def _walks(function: Function, job: Job, arch: int) -> list[Walk]:
    """Walks as the first threads of some of the warps of the block in the middle of the grid."""
    walker = Walker(function, arch)
    step = max(1, job.warps // _WALKS)
    middle = (job.grid[0] // 2, job.grid[1] // 2, job.grid[2] // 2)
    return [
        walker.walk(Place(middle, warp * WARP, job.threads, job.grid, job.parameters, job.samples))
        for warp in range(0, job.warps, step)
    ]


def _times(
    code: tuple[Instruction, ...], walks: list[Walk], job: Job, gpu: Gpu
) -> dict[str, float]:
    busy: defaultdict[str, float] = defaultdict(float)  # cycles of a warp, on average
    past = 0.0  # bytes of a block that pass by the first cache
    for walk in walks:
        for number, count in walk.counts.items():
            one = code[number]
            if one.never:
                continue
            for pipe, took in cycles(one, gpu).items():
                busy[pipe] += took * count / len(walks)
            if one.name in _PAST_L1 or "BYPASS" in one.modifiers:
                past += loaded_bytes(one) * count * job.threads / len(walks)
    blocks = -(-job.blocks // gpu.multiprocessors)
    warps = -(-blocks * job.warps // PARTITIONS)
    clock = gpu.clock * 1e9
    times = {
        pipe: took * (blocks * job.warps if pipe in OF_SM else warps) / clock
        for pipe, took in busy.items()
    }
    times["L2"] = max(job.bytes, past * job.blocks) / gpu.l2_clock / clock
    times["memory"] = max(0, job.bytes - gpu.l2) / gpu.memory
    return times
