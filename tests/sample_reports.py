"""Reports made up from a seed: every part that there is, or few; nothing was measured."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np

from qcompile.bench.results import (
    AGAIN,
    OURS,
    Accuracy,
    Edge,
    Engine,
    Graph,
    Layer,
    Machine,
    Node,
    Noise,
    Parts,
    Range,
    Report,
    Roof,
    Run,
    Settings,
    Spread,
    Subject,
    Time,
    Width,
)

SECONDS = {OURS: 12e-6, AGAIN: 12e-6, "fp32": 490e-6, "fbgemm": 250e-6, "onnxruntime": 65e-6}
ENGINES = (
    Engine(
        OURS,
        "qcompile",
        "0.1.0",
        "1 bit",
        "compiled for emeraldrapids",
        "avx512_vpopcntdq",
        114780,
        9.1,
    ),
    Engine(AGAIN, "qcompile, once more", "0.1.0", "1 bit", "the same program", "", 114780, 9.1),
    Engine("fp32", "PyTorch float32", "2.13.0", "float32", "channels_last", "AVX512", 2335424),
    Engine(
        "fbgemm",
        "PyTorch int8 fbgemm",
        "2.13.0",
        "int8",
        "FX static quantization",
        "",
        583952,
        32.5,
    ),
    Engine(
        "onnxruntime",
        "ONNX Runtime int8",
        "1.31.1",
        "int8",
        "quantize_static: QDQ",
        "",
        597556,
        31.0,
    ),
    Engine(
        "openvino",
        "OpenVINO int8",
        reason="openvino is not installed",
        hint='pip install "qcompile[bench]"',
    ),
)


def sampled(
    seconds: float, noise: float, seed: int, processes: int = 3, rounds: int = 40
) -> tuple[tuple[float, ...], ...]:
    """Times around one: a level for each process, and a tail to the slow side, as machines have it."""
    random = np.random.default_rng(seed)
    levels = seconds * (1 + noise / 3 * random.standard_normal(processes))
    return tuple(
        tuple(float(level * (1 + noise * random.exponential())) for _ in range(rounds))
        for level in levels
    )


def disturbed(
    seconds: float,
    random: np.random.Generator,
    *,
    processes: int = 5,
    rounds: int = 60,
    level: float = 0.02,
    unlucky: float = 0.05,
    bursts: float = 0.2,
) -> tuple[tuple[float, ...], ...]:
    """Times of a shared machine: what another report of the same program would show differently.

    Args:
        level: by which processes differ, as a standard deviation of logarithms.
        unlucky: share of processes in which memory lies badly: a fifth more time on average.
        bursts: share of the rounds in which something else runs: up to four times the time.
    """
    levels = level * random.standard_normal(processes)
    levels += (random.random(processes) < unlucky) * random.exponential(0.2, processes)
    shape = (processes, rounds)
    logs = levels[:, None] + 0.02 * random.exponential(size=shape)
    # A burst lasts a few rounds.
    begins = random.random(shape) < bursts / 4
    busy = sum(np.roll(begins, i, axis=1) for i in range(4)) > 0
    logs += busy * random.uniform(0, np.log(4), shape)
    return tuple(tuple(row) for row in (seconds * np.exp(logs)).tolist())


@cache
def _whole() -> Report:
    return report()


def of_samples(
    *runs: dict[str, tuple[tuple[float, ...], ...]], batches: tuple[int, ...] = (1, 8, 64)
) -> Report:
    """A report of the engines' samples in each run, one thread; all else as of `report`."""
    whole = _whole()
    found = [
        Run(
            batch,
            1,
            tuple(Time(k, s, spread(np.concatenate(s)), Spread(1, 1, 1)) for k, s in run.items()),
        )
        for batch, run in zip(batches, runs, strict=False)
    ]
    return replace(whole, runs=tuple(found))


def spread(values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> Spread:
    """Median and quartiles."""
    low, middle, high = np.percentile(values, [25, 50, 75])
    return Spread(float(middle), float(low), float(high))


def run(
    batch: int, threads: int, seconds: dict[str, float], *, noise: float = 0.02, seed: int = 0
) -> Run:
    """All of some engines, and one that is missing."""
    samples = {
        key: sampled(value * batch / threads**0.7, noise, seed + i)
        for i, (key, value) in enumerate(seconds.items())
    }
    ours = np.concatenate(samples[OURS])
    times = [
        Time(key, taken, spread(np.concatenate(taken)), spread(np.concatenate(taken) / ours))
        for key, taken in samples.items()
    ]
    missing = Time("openvino", reason="openvino is not installed")
    return Run(
        batch, threads, (*times, missing), Noise(Spread(1.001, 0.995, 1.007), max(noise, 0.01))
    )


def report(*, noise: float = 0.02, seed: int = 0, slower: float = 1.0) -> Report:
    """One with every part; our own times are multiplied by `slower`."""
    seconds = {k: v * (slower if k in (OURS, AGAIN) else 1) for k, v in SECONDS.items()}
    runs = [
        run(batch, threads, seconds, noise=noise, seed=seed + 10 * batch + threads)
        for batch in (1, 8)
        for threads in (1, 2)
    ]
    return Report(
        subject=Subject(
            "lenet",
            "examples/mnist.py",
            "0" * 64,
            ("x float32[N, 1, 28, 28]",),
            114780,
            4_000_000,
            "cpu",
            "emeraldrapids",
            parameters=583_000,
            bits=(1, 1),
            mode="qat",
            method="bireal",
            training="trained, 8 epochs",
            size_before=2335424,
            accuracy=Accuracy(0.9944, 0.9940),
        ),
        machine=Machine(
            "Intel(R) Xeon(R) Processor",
            "emeraldrapids",
            2,
            ("avx2", "avx512f", "avx512_vnni", "avx512_vpopcntdq"),
            ("L1d 48 KiB", "L2 2 MiB", "L3 260 MiB"),
            24 << 30,
            "Linux 6.1",
            "KVM",
            load=(0.1, 1.0),
        ),
        settings=Settings(2.0, 3, 200),
        engines=ENGINES,
        runs=tuple(runs),
        command="qcompile bench examples/mnist.py --bits 1 --html report.html",
        date="2026-11-22T12:00:00+00:00",
        duration=93.0,
        versions={"Python": "3.11.2", "torch": "2.13.0"},
        layers=layers(),
        roofs=(
            Roof("1-bit products", "macs", 1.2e12, ("xnor-popcount",)),
            Roof("int8 products", "macs", 2.0e11, ("int8",)),
            Roof("float32 products", "macs", 6e10, ("float32",)),
            Roof("L1", "bytes", 3e11),
            Roof("L2", "bytes", 1e11),
            Roof("memory", "bytes", 1.2e10),
        ),
        widths=(
            Width("1 bit", OURS, (1, 1), 12e-6, 114780, 0.9940, 9.1, trained=True),
            Width("2 bits", OURS, (2, 2), 15e-6, 84194, 0.9934, 14.0, trained=True),
            Width("4 bits", OURS, (4, 4), 20e-6, 256715, 0.9951, 25.0, trained=True),
            Width("8 bits", OURS, (8, 8), 22e-6, 553210, 0.9949, 40.0, trained=True),
            Width("PyTorch int8 fbgemm", "fbgemm", (8, 8), 250e-6, 583952, 0.9947, 32.5),
            Width("PyTorch float32", "fp32", (32, 32), 490e-6, 2335424, 0.9944),
        ),
        graphs=graphs(),
        notes=("A note <with> marks & signs.",),
        absent={},
    )


def layers(count: int = 6) -> tuple[Layer, ...]:
    """Some, binary but the first and the last, with odd names."""
    random = np.random.default_rng(1)
    found = []
    for i in range(count):
        ends = i in (0, count - 1)
        scale = float(random.uniform(0.5, 2))
        found.append(
            Layer(
                f"features.{i}.conv<{i}>",
                "Conv2d",
                f"net.py:{10 + i}",
                (8, 8) if ends else (1, 1),
                "int8" if ends else "xnor-popcount",
                int(1e6 * scale),
                int(2e4 * scale),
                int(4e5 * scale),
                int(1e5 * scale) if ends else int(12500 * scale),
                Parts(0.0, 8e-5 * scale, 2e-5 * scale),
                Parts(4e-7 * scale, 2e-6 * scale, 7e-7 * scale, 1e-7),
                1,
                Range(
                    -2.0 * scale, 5.0 * scale, (-1.5, 3.0), (-1.0, 1.0) if not ends else (-2.0, 5.0)
                ),
                38.0 if ends else 7.5 + i,
                "first layer" if i == 0 else "",
            )
        )
    return (
        *found,
        Layer("pool", "MaxPool2d", moved=4000, before=Parts(other=1e-5), after=Parts(other=3e-7)),
    )


def graphs(blocks: int = 3) -> tuple[Graph, ...]:
    """Before and after: a chain with shortcuts."""
    nodes, edges, last = [Node("x", "x", category="input")], [], "x"
    for i in range(blocks):
        names = [f"{kind}_{i}" for kind in ("conv", "bn", "relu", "add")]
        nodes += [
            Node(
                n,
                n.split("_")[0],
                f"layer{i}",
                "low-bit" if "conv" in n else "float",
                (("macs", f"{10**6:,}"), ("bits", "1/1")),
            )
            for n in names
        ]
        edges += [
            Edge(a, b, "float32[N, 8, 28, 28]") for a, b in zip([last, *names], names, strict=False)
        ]
        edges.append(Edge(last, names[-1], "float32[N, 8, 28, 28]"))
        last = names[-1]
    nodes.append(Node("output", "output", category="output"))
    edges.append(Edge(last, "output", "float32[N, 10]"))
    return Graph("as it was written", tuple(nodes), tuple(edges)), Graph(
        "as it is compiled", tuple(nodes), tuple(edges)
    )


def small() -> Report:
    """Of a program alone, one sample, one engine: next to nothing is known."""
    whole = report()
    time = Time(OURS, ((12e-6,),), Spread(12e-6, 12e-6, 12e-6), Spread(1.0, 1.0, 1.0))
    return replace(
        whole,
        subject=replace(
            whole.subject,
            source="net.qcp",
            parameters=None,
            bits=None,
            mode="",
            method="",
            training="",
            size_before=None,
            accuracy=Accuracy(),
        ),
        engines=(ENGINES[0],),
        runs=(Run(1, 1, (time,)),),
        layers=(),
        roofs=(),
        widths=(),
        graphs=(),
        notes=(),
        absent=dict.fromkeys(
            ("layers", "roofs", "widths", "graphs"), "a program alone has no float network"
        ),
    )


def only_layers(*found: Layer) -> Report:
    """One that knows of these layers alone."""
    return replace(report(), layers=found, runs=(), widths=())


def timed(ours: float, *others: float, share: float = 0.02) -> Report:
    """One of a single run, with a sample of ours and of each other engine, and that much noise."""
    run = report().runs[0]
    engines = tuple(Engine(f"e{i}", f"Engine {i}") for i in range(len(others)))
    times = [Time(OURS, ((ours,),), Spread(ours, ours, ours), Spread(1, 1, 1))]
    for engine, other in zip(engines, others, strict=True):
        ratio = other / ours
        spread = Spread(ratio, ratio, ratio)
        times.append(Time(engine.key, ((other,),), Spread(other, other, other), spread))
    noise = Noise(Spread(1, 1, 1), share)
    return replace(
        report(),
        engines=(Engine(OURS, "qcompile"), *engines),
        runs=(replace(run, times=tuple(times), noise=noise),),
    )
