"""What a benchmark found: plain data, kept as JSON whose schema follows from the types here.

All times are seconds, sizes bytes, shares numbers from 0 to 1. What could not be had is None, or empty, beside a
sentence that says why; nothing is left out in silence.
"""

from __future__ import annotations

from dataclasses import dataclass

FORMAT, VERSION = "qcompile benchmark", 1
OURS = "qcompile"  # key of the program that the report is about
AGAIN = "qcompile-again"  # the same program once more, which tells the noise
# `Subject.training`, where the model file was not asked to train, and where it cannot.
NOT_TRAINED, AS_GIVEN = "not trained", "as the model file has them"


@dataclass(frozen=True)
class Spread:
    """A number that was measured many times: the median, and what lies around it.

    Attributes:
        low, high: the quartiles, of times; the 95 % interval of the median, of ratios.
    """

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Accuracy:
    """Share of right answers by the model file's `evaluate`, or None where it has none."""

    float32: float | None = None
    compiled: float | None = None


@dataclass(frozen=True)
class Subject:
    """What the report is about.

    Attributes:
        name: of the model.
        source: the model file or the program, as the user named it.
        sha256: of the program's file.
        inputs: name and shape of each, "x float32[N, 1, 28, 28]".
        parameters: of the float network; None where only a program was given.
        macs: multiply-accumulates of a sample.
        bits: of weights and activations: of the recipe, or those that most weights of a program have;
            None where it has none.
        mode, method: of the recipe, the method that most layers have; of a program alone only a mode
            that its layers tell, "dynamic" or "weight-only", else "".
        target: as the user wrote it.
        arch: the variant that ran.
        training: what the weights are: "not trained", "trained, 8 epochs", "from net.safetensors", "as the
            model file has them".
        size_before: of the float network's parameters and buffers; None where it is not known.
        size: of the program's file.
    """

    name: str
    source: str
    sha256: str
    inputs: tuple[str, ...]
    size: int
    macs: int
    target: str
    arch: str
    parameters: int | None = None
    bits: tuple[int, int] | None = None
    mode: str = ""
    method: str = ""
    training: str = ""
    size_before: int | None = None
    accuracy: Accuracy = Accuracy()


@dataclass(frozen=True)
class Machine:
    """On what it was measured.

    Attributes:
        processor: its name.
        arch: LLVM's name of it, "emeraldrapids".
        processors: how many this process may use.
        instructions: of those that matter here, as Linux spells them.
        caches: "L1d 48 KiB", of one core.
        memory: bytes.
        system: kernel and distribution.
        hypervisor: "KVM", or "" where there is none.
        governor: of the clock's frequency, or "".
        load: of the last minute, before and after.
    """

    processor: str
    arch: str
    processors: int
    instructions: tuple[str, ...] = ()
    caches: tuple[str, ...] = ()
    memory: int | None = None
    system: str = ""
    hypervisor: str = ""
    governor: str = ""
    load: tuple[float, float] | None = None


@dataclass(frozen=True)
class Settings:
    """How it was measured.

    Attributes:
        seconds: for each engine of a run, about.
        processes: how many fresh processes measured each run, one after another.
        rounds: at most, in each.
        clock: "wall", or "cpu", the processor time of the process.
        seed: of the inputs and of what is random in the model.
    """

    seconds: float
    processes: int
    rounds: int
    clock: str = "wall"
    seed: int = 0


@dataclass(frozen=True)
class Engine:
    """One way to run the network.

    Attributes:
        key: as `--against` spells it.
        name: for people.
        version: of its package.
        precision: "float32", "int8", "1-bit weights, 1-bit activations".
        how: it was made, in a sentence: by which of its tools, with which settings.
        instructions: what it says that it runs on, or "" where it does not say.
        size: of what it runs, in bytes.
        sqnr_db: its first output beside the float network's, on the inputs of the largest batch:
            10 log10(signal power / power of the difference); None where it is exact or not known.
        accuracy: by the model file's `evaluate`.
        reason: why it cannot be had, or "".
        hint: what to do about that.
    """

    key: str
    name: str
    version: str = ""
    precision: str = ""
    how: str = ""
    instructions: str = ""
    size: int | None = None
    sqnr_db: float | None = None
    accuracy: float | None = None
    reason: str = ""
    hint: str = ""


@dataclass(frozen=True)
class Time:
    """What a call of an engine took, in one run.

    Attributes:
        engine: its key.
        samples: seconds of a call, in the order of the rounds, for each process.
        seconds: of all of them; None where there are none.
        speedup: how many times as fast as this engine the program of the report is: the median over
            rounds of the ratio of their times, with its 95 % interval.
        reason: why there is no time, or "".
    """

    engine: str
    samples: tuple[tuple[float, ...], ...] = ()
    seconds: Spread | None = None
    speedup: Spread | None = None
    reason: str = ""


@dataclass(frozen=True)
class Noise:
    """What the program beside itself shows: the ratio should be 1.

    Attributes:
        ratio: of its times, with its 95 % interval.
        share: smaller differences than this say nothing: the larger of the interval's ends and of
            the spread between processes, as a share.
    """

    ratio: Spread
    share: float


@dataclass(frozen=True)
class Run:
    """All engines taking turns, with so many samples a call and so many threads."""

    batch: int
    threads: int
    times: tuple[Time, ...]
    noise: Noise | None = None


@dataclass(frozen=True)
class Parts:
    """Seconds of a layer, by what they go to.

    Attributes:
        pack: bringing the input into the form that the product reads: quantize, signs to words,
            gathering patches.
        matmul: the products and their sums.
        epilogue: what makes of the sums what the next layer reads: scale, threshold, activation,
            pooling, storing.
        other: what belongs to none of these.
    """

    pack: float = 0.0
    matmul: float = 0.0
    epilogue: float = 0.0
    other: float = 0.0

    @property
    def total(self) -> float:
        """Of all parts."""
        return self.pack + self.matmul + self.epilogue + self.other


@dataclass(frozen=True)
class Range:
    """Values that reach a layer, over the calibration data.

    Attributes:
        low, high: the least and the greatest.
        middle: between these, 99 of 100 values lie.
        quantized: what the layer's quantizer can represent; None where it has none, or none fixed.
    """

    low: float
    high: float
    middle: tuple[float, float]
    quantized: tuple[float, float] | None = None


@dataclass(frozen=True)
class Layer:
    """A layer of the user's, in the order in which they run.

    Attributes:
        path: of the module, or the name of an operation.
        kind: "Conv2d", or "" of operations.
        where: the user's source line, or "".
        bits: of weights and activations; 32 is float. None if it has no weights.
        method: how its product is computed, or "".
        macs: multiply-accumulates of a sample.
        moved: bytes that its kernels read and write in a call, weights included.
        weights_before, weights_after: bytes.
        before: of the float network in PyTorch, a call of `batch` samples on one thread.
        after: of the program, likewise.
        batch: samples of that call.
        activations: what reaches it.
        sqnr_db: of its output alone, quantized beside float, given the same input; None where that is
            not known.
        note: why it is as it is.
    """

    path: str
    kind: str = ""
    where: str = ""
    bits: tuple[int, int] | None = None
    method: str = ""
    macs: int = 0
    moved: int = 0
    weights_before: int = 0
    weights_after: int = 0
    before: Parts | None = None
    after: Parts | None = None
    batch: int = 1
    activations: Range | None = None
    sqnr_db: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Roof:
    """What one core of the machine can do at most, measured.

    Attributes:
        name: "1-bit products", "int8 products", "float32 products"; or "L1", "L2", "memory".
        kind: "macs" or "bytes".
        rate: of those in a second.
        methods: of kernels that this bounds, as `Layer.method` begins; of "macs" only.
    """

    name: str
    kind: str
    rate: float
    methods: tuple[str, ...] = ()


@dataclass(frozen=True)
class Width:
    """The network at one width, or in another engine: a point that accuracy, time and size span.

    Attributes:
        name: "1 bit", "2 bits", "PyTorch int8 fbgemm".
        engine: key of an engine, OURS for widths of ours.
        bits: of weights and activations; 32 is float.
        seconds: of a call of one sample on one thread.
        sqnr_db: as of an Engine, on the same inputs.
        trained: whether its weights were trained at that width.
    """

    name: str
    engine: str
    bits: tuple[int, int]
    seconds: float | None = None
    size: int | None = None
    accuracy: float | None = None
    sqnr_db: float | None = None
    trained: bool = False
    reason: str = ""


@dataclass(frozen=True)
class Node:
    """One operation of a graph.

    Attributes:
        id: unique in the graph.
        label: what stands in its box, short: "conv2d".
        layer: path of the user's module that it belongs to, or "".
        category: "input", "output", "float", "int8", "low-bit" or "move": what colours it.
        facts: names and values, for whoever points at it.
        also: paths of other layers and names of operations that are computed in it.
        share: of the time of all layers, that of its own; None where that is not known.
    """

    id: str
    label: str
    layer: str = ""
    category: str = "float"
    facts: tuple[tuple[str, str], ...] = ()
    also: tuple[str, ...] = ()
    share: float | None = None


@dataclass(frozen=True)
class Edge:
    """A value that goes from one node to another; `label` is its dtype and shape."""

    source: str
    target: str
    label: str = ""


@dataclass(frozen=True)
class Graph:
    """A network as operations, in an order in which they can run.

    Attributes:
        note: what to know of it, a sentence, or "".
    """

    title: str
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    note: str = ""


@dataclass(frozen=True)
class Report:
    """Everything that one benchmark found.

    Attributes:
        command: with which it was made.
        date: when it began, ISO 8601, with the zone.
        duration: seconds that all of it took.
        versions: of packages, by name.
        absent: by the name of a part ("layers", "roofs", "widths", "graphs"): why it is empty.
        graphs: before (as the user wrote it) and after (as it is compiled).
    """

    subject: Subject
    machine: Machine
    settings: Settings
    engines: tuple[Engine, ...]
    runs: tuple[Run, ...]
    command: str
    date: str
    duration: float
    versions: dict[str, str]
    layers: tuple[Layer, ...] = ()
    roofs: tuple[Roof, ...] = ()
    widths: tuple[Width, ...] = ()
    graphs: tuple[Graph, ...] = ()
    notes: tuple[str, ...] = ()
    absent: dict[str, str] | None = None
    format: str = FORMAT
    version: int = VERSION

    def engine(self, key: str) -> Engine:
        """The engine of this key."""
        return next(engine for engine in self.engines if engine.key == key)
