"""Layers to compile, as cases: convolutions of signs and of integers, of all geometries."""

from __future__ import annotations

import random
from typing import Any

import torch
from compiling import Case
from torch import Tensor

from qcompile.ir.ops import pack_words

q, aten = torch.ops.qcompile, torch.ops.aten


def signs(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) >= 0


def integers(low: int, high: int, *shape: int, dtype: torch.dtype, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(low, high, shape, dtype=dtype, generator=generator)


def floats(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def packed_weight(outputs: int, channels: int, kernel: tuple[int, ...], seed: int) -> Tensor:
    """int32 `[O, taps * words]`, as the lowering writes it."""
    high = signs(outputs, channels, *kernel, seed=seed).movedim(1, -1)
    return pack_words(high).reshape(outputs, -1)


def xnor_conv(
    channels: int,
    outputs: int,
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int = 1,
    pad_value: int = 1,
    tail: str = "",
    size: tuple[int, ...] = (7, 9),
    seed: int = 0,
) -> Case:
    taps = 1
    for k in kernel:
        taps *= k
    weight = packed_weight(outputs, channels // groups, kernel, seed)
    constants = {"weight": weight}
    if tail:
        constants["tau"] = integers(-9, 9, outputs, dtype=torch.int32, seed=seed + 1)
        direction = signs(outputs, seed=seed + 2)
        constants["direction"] = torch.where(direction, 1, -1).to(torch.int32)
        constants["scale"], constants["shift"] = floats(outputs, seed=3), floats(outputs, seed=4)

    def function(x: Tensor, weight: Tensor, **c: Tensor) -> Any:
        bits = q.bitpack.default(q.sign.default(x))
        geometry = [list(v) for v in (kernel, stride, padding, dilation)]
        patches = q.im2col.default(bits, channels, groups, *geometry, pad_value)
        acc = q.xnor_matmul.default(patches, weight, channels // groups * taps, groups)
        if tail == "pack":
            return q.bitpack.default(q.threshold.default(acc, c["tau"], c["direction"], -1))
        if tail == "threshold":
            return q.threshold.default(acc, c["tau"], c["direction"], 0)
        if tail == "residual":
            y = aten.relu.default(q.scale_shift.default(acc, c["scale"], c["shift"]))
            return q.scale_shift.default(y, c["shift"], None)
        return acc

    name = f"xnor {channels}->{outputs} {kernel} {stride} {padding} {dilation} g{groups} {tail}"
    return Case(function, [(channels, *size)], constants, name=name)


GEOMETRIES = [
    ((3, 3), (1, 1), (1, 1, 1, 1), (1, 1)),
    ((1, 1), (1, 1), (0, 0, 0, 0), (1, 1)),
    ((3, 3), (2, 2), (1, 1, 1, 1), (1, 1)),
    ((3, 2), (1, 2), (0, 1, 2, 0), (2, 1)),
    ((2, 3), (1, 1), (0, 0, 3, 2), (1, 2)),
    ((5, 5), (2, 1), (2, 2, 2, 2), (1, 1)),
    ((1, 1), (2, 2), (0, 0, 0, 0), (1, 1)),
]
CHANNELS = [(1, 1), (31, 7), (32, 10), (33, 16), (70, 33), (64, 70), (3, 32)]


def xnor_cases() -> list[Case]:
    rng = random.Random(0)
    cases = []
    for i, (geometry, (channels, outputs)) in enumerate(zip(GEOMETRIES, CHANNELS, strict=True)):
        tail = ("", "pack", "residual", "threshold")[i % 4]
        pad_value = rng.choice([1, -1])
        cases.append(
            xnor_conv(channels, outputs, *geometry, pad_value=pad_value, tail=tail, seed=i)
        )
    cases.append(xnor_conv(64, 64, *GEOMETRIES[0], groups=2, tail="pack", seed=20))
    cases.append(xnor_conv(64, 6, *GEOMETRIES[2], groups=2, pad_value=-1, seed=21))
    cases.append(xnor_conv(33, 40, (3,), (1,), (1, 1), (1,), size=(13,), tail="pack", seed=22))
    ones = (1, 1, 1)
    cases.append(
        xnor_conv(5, 9, (2, 3, 2), ones, (1, 0, 1, 1, 0, 1), ones, size=(3, 5, 4), seed=23)
    )
    return cases


def int_conv(
    channels: int,
    outputs: int,
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int = 1,
    zero_point: int = 0,
    pad_value: int = 0,
    dtype: torch.dtype = torch.int8,
    source: str = "uint8",
    tail: str = "",
    size: tuple[int, ...] = (7, 9),
    seed: int = 0,
) -> Case:
    low, high = (-128, 128) if dtype is torch.int8 else (-32767, 32768)
    weight = integers(low, high, outputs, channels // groups, *kernel, dtype=dtype, seed=seed)
    constants = {"weight": weight}
    if tail:
        constants["scale"], constants["shift"] = floats(outputs, seed=3), floats(outputs, seed=4)

    def function(x: Tensor, weight: Tensor, **c: Tensor) -> Any:
        if source == "sign":
            levels = q.sign.default(x)
        elif source == "int8":
            levels = q.quantize.default(x, 0.013, 0, -127, 127)
        else:
            levels = q.quantize.default(x, 0.017, zero_point, 0, 255)
        geometry = [list(v) for v in (stride, padding, dilation)]
        acc = q.conv.default(levels, weight, *geometry, groups, zero_point, pad_value)
        if not tail:
            return acc
        y = q.scale_shift.default(acc, c["scale"], c["shift"])
        if tail == "quantize":
            return q.quantize.default(y, 250.0, 100, 0, 255)
        return q.bitpack.default(q.sign.default(y))

    name = (
        f"int {channels}->{outputs} {kernel} g{groups} z{zero_point} p{pad_value} {dtype} {source}"
    )
    return Case(function, [(channels, *size)], constants, name=f"{name} {tail}")


def int_cases() -> list[Case]:
    zero_points = [0, 3, 255, 128, 17, 0, 90]
    tails = ["", "quantize", "pack"]
    cases = [
        int_conv(channels, outputs, *geometry, zero_point=zero_points[i], tail=tails[i % 3], seed=i)
        for i, (geometry, (channels, outputs)) in enumerate(zip(GEOMETRIES, CHANNELS, strict=True))
    ]
    first, second = GEOMETRIES[0], GEOMETRIES[3]
    cases += [
        int_conv(3, 10, *first, source="int8", seed=30),
        int_conv(5, 16, *second, source="sign", pad_value=-1, seed=31),
        int_conv(5, 16, *first, source="sign", pad_value=1, tail="pack", seed=32),
        int_conv(4, 8, *first, dtype=torch.int16, zero_point=200, seed=33),
        int_conv(6, 9, *second, groups=3, zero_point=7, seed=34),
        int_conv(64, 64, *first, groups=2, zero_point=7, tail="pack", seed=35),
        int_conv(33, 33, *first, groups=33, zero_point=9, tail="quantize", seed=36),
        int_conv(7, 7, *second, groups=7, source="sign", pad_value=-1, seed=37),
        int_conv(4, 8, *first, groups=4, zero_point=1, seed=38),
        int_conv(3, 5, (4,), (2,), (2, 1), (1,), size=(11,), zero_point=4, seed=39),
        int_conv(2, 3, (2, 2, 2), (1, 1, 1), (1,) * 6, (1, 1, 1), size=(3, 4, 5), seed=40),
    ]
    return cases


def random_geometry(rng: random.Random) -> dict[str, Any]:
    """Kernel, stride, padding, dilation and size of a convolution over one to three dimensions."""
    rank = rng.choice([1, 2, 2, 2, 3])
    most = 5 if rank < 3 else 3
    kernel = tuple(rng.randint(1, most) for _ in range(rank))
    dilation = tuple(rng.randint(1, 2) for _ in range(rank))
    padding = tuple(rng.randint(0, 2) for _ in range(2 * rank))
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    least = [max(1, r - padding[2 * i] - padding[2 * i + 1]) for i, r in enumerate(reach)]
    return {
        "kernel": kernel,
        "stride": tuple(rng.randint(1, 3) for _ in range(rank)),
        "padding": padding,
        "dilation": dilation,
        "size": tuple(low + rng.randint(0, 9) for low in least),
    }


def random_xnor(seed: int) -> Case:
    """A convolution of signs: any number of words and outputs, groups, padding of either sign."""
    rng = random.Random(seed)
    groups = rng.choice([1, 1, 1, 2, 3])
    channels = rng.randint(1, 4) * 32 * groups if groups > 1 else rng.randint(1, 150)
    return xnor_conv(
        channels,
        groups * rng.randint(1, 40),
        **random_geometry(rng),
        groups=groups,
        pad_value=rng.choice([1, -1]),
        tail=rng.choice(["", "pack", "threshold", "residual"]),
        seed=seed,
    )


def random_int(seed: int) -> Case:
    """A convolution of integers of 8 bits, signed or not, with any zero point."""
    rng = random.Random(seed)
    groups = rng.choice([1, 1, 1, 2, 3])
    source = rng.choice(["uint8", "uint8", "int8", "sign"])
    return int_conv(
        groups * rng.randint(1, 30),
        groups * rng.randint(1, 40),
        **random_geometry(rng),
        groups=groups,
        zero_point=rng.randint(0, 255) if source == "uint8" else 0,
        pad_value=rng.choice([1, -1]) if source == "sign" else 0,
        source=source,
        tail=rng.choice(["", "quantize", "pack"]),
        seed=seed,
    )
