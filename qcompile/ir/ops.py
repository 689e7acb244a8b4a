"""The dialect: what passes emit and what codegen compiles, each op with its meaning in plain torch.

Every op here is a `torch.library` custom op, so that a trace keeps it as one node, and its body is
its reference: slow, obvious, exact. A kernel is right when it equals the body bit for bit.

Layouts. Feature maps are `[N, C, *spatial]` as in torch; how they lie in memory is the compiler's
affair. Packed bits are `[N, *spatial, W]` int32 words (two's complement of the unsigned word): bit
`c % 32` of word `c // 32` is channel `c`. Bit 0 means +1, bit 1 means -1 (or level 0 of {0, 1}).
Bits past the last channel are 0 on both sides of every XOR, so that they never differ.

Padding is `[before, after]` for each spatial dimension, first dimension first.

The words "converted" and "lowered" name the stage (see stages.py) in which an op may appear.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

WORD = 32
INT32_MIN, INT32_MAX = -(2**31), 2**31 - 1


def words(channels: int) -> int:
    """How many 32-bit words hold the signs of that many channels."""
    return -(-channels // WORD)


def per_channel(vector: Tensor, like: Tensor) -> Tensor:
    """Reshape `[C]` so that it broadcasts over dimension 1 of `like`; a one-element vector fits all."""
    return vector.reshape(1, -1, *[1] * (like.dim() - 2))


def output_size(
    size: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> list[int]:
    """Spatial sizes that a sliding window leaves, rounded down."""
    return [
        (n + padding[2 * d] + padding[2 * d + 1] - dilation[d] * (kernel[d] - 1) - 1) // stride[d]
        + 1
        for d, n in enumerate(size)
    ]


def torch_padding(padding: Sequence[int]) -> list[int]:
    """The dialect's padding in the order of torch's `pad`: the last dimension first."""
    pairs = [padding[i : i + 2] for i in range(0, len(padding), 2)]
    return [side for pair in reversed(pairs) for side in pair]


def pad_spatial(x: Tensor, padding: Sequence[int], value: float) -> Tensor:
    """Pad the trailing dimensions of `[N, C, *spatial]`; `padding` is the dialect's, not torch's."""
    return F.pad(x, torch_padding(padding), value=value)


# --- converted: floats to integer levels -------------------------------------------------------


@torch.library.custom_op("qcompile::sign", mutates_args=())
def sign(x: Tensor) -> Tensor:
    """+1 where x >= 0 (so for both zeros), else -1 (so for NaN): float32 to int8, any shape."""
    return torch.where(x >= 0, 1, -1).to(torch.int8)


@sign.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x, dtype=torch.int8)


def affine_levels(x: Tensor, scale: float, zero_point: int, qmin: int, qmax: int) -> Tensor:
    """`clamp(round(x / scale) + zero_point, qmin, qmax)` in float32, half to even, as torch rounds."""
    return torch.clamp(torch.round(x / scale) + zero_point, qmin, qmax)


def level_dtype(qmin: int, qmax: int) -> torch.dtype:
    """The smallest dtype of the dialect that holds every level."""
    if qmin >= 0 and qmax <= 255:
        return torch.uint8
    return torch.int8 if qmin >= -128 and qmax <= 127 else torch.int16


@torch.library.custom_op("qcompile::quantize", mutates_args=())
def quantize(x: Tensor, scale: float, zero_point: int, qmin: int, qmax: int) -> Tensor:
    """Affine levels of x: float32 to uint8 (qmin >= 0) or int8, any shape.

    `scale` is the exact value of a float32.
    """
    return affine_levels(x, scale, zero_point, qmin, qmax).to(level_dtype(qmin, qmax))


@quantize.register_fake
def _(x: Tensor, scale: float, zero_point: int, qmin: int, qmax: int) -> Tensor:
    return torch.empty_like(x, dtype=level_dtype(qmin, qmax))


def unit_levels(x: Tensor, bits: int) -> Tensor:
    """`round((2^bits - 1) * clip(x, 0, 1))` in float32: DoReFa-Net's activation levels."""
    return torch.round(torch.clamp(x, 0, 1) * float(2**bits - 1))


@torch.library.custom_op("qcompile::quantize_unit", mutates_args=())
def quantize_unit(x: Tensor, bits: int) -> Tensor:
    """DoReFa-Net's activation levels 0 .. 2^bits - 1: float32 to uint8, any shape."""
    return unit_levels(x, bits).to(torch.uint8)


@quantize_unit.register_fake
def _(x: Tensor, bits: int) -> Tensor:
    return torch.empty_like(x, dtype=torch.uint8)


# --- converted: integer arithmetic, and back to floats -----------------------------------------


FLOAT32_EXACT = 2**24  # up to here float32 holds every integer


def exact_floats(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Integers as floats in which no partial sum of `x * weight` is rounded, in any order.

    float32 where no sum can reach 2^24, else float64: sums stay far below its 2^53.
    """
    largest = x.abs().amax() if x.numel() else x.new_zeros(())
    bound = largest.double() * weight.flatten(1).double().abs().sum(1).amax()
    dtype = torch.float32 if bound < FLOAT32_EXACT else torch.float64
    return x.to(dtype), weight.to(dtype)


@torch.library.custom_op("qcompile::conv", mutates_args=())
def conv(
    x: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    zero_point: int,
    pad_value: int,
) -> Tensor:
    """Integer convolution of 1 to 3 spatial dimensions: `sum((x - zero_point) * weight)`, int32.

    Args:
        x: levels `[N, C, *spatial]`, uint8 or int8.
        weight: levels `[O, C / groups, *kernel]`, int8 or int16.
        pad_value: what stands beyond the border, in units of `x - zero_point`: 0 for a convolution
            over zeros, +1 or -1 where a binary network pads with a sign.
    """
    centred = pad_spatial(x.to(torch.float32) - zero_point, padding, pad_value)
    centred, taps = exact_floats(centred, weight)
    function = (F.conv1d, F.conv2d, F.conv3d)[weight.dim() - 3]
    return function(centred, taps, None, list(stride), 0, list(dilation), groups).to(torch.int32)


@conv.register_fake
def _(
    x: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    zero_point: int,
    pad_value: int,
) -> Tensor:
    size = output_size(x.shape[2:], weight.shape[2:], stride, padding, dilation)
    return x.new_empty([x.shape[0], weight.shape[0], *size], dtype=torch.int32)


@torch.library.custom_op("qcompile::linear", mutates_args=())
def linear(x: Tensor, weight: Tensor, zero_point: int) -> Tensor:
    """Integer matrix product `(x - zero_point) @ weight.T`: levels `[N, K]`, `[O, K]` to int32 `[N, O]`."""
    centred, taps = exact_floats(x.to(torch.float32) - zero_point, weight)
    return (centred @ taps.T).to(torch.int32)


@linear.register_fake
def _(x: Tensor, weight: Tensor, zero_point: int) -> Tensor:
    return x.new_empty([*x.shape[:-1], weight.shape[0]], dtype=torch.int32)


def scaled_shifted(x: Tensor, scale: Tensor, shift: Tensor | None) -> Tensor:
    """`x * scale + shift` for each channel: two float32 roundings, never a fused multiply-add."""
    y = x.to(torch.float32) * per_channel(scale, x)
    return y if shift is None else y + per_channel(shift, x)


@torch.library.custom_op("qcompile::scale_shift", mutates_args=())
def scale_shift(x: Tensor, scale: Tensor, shift: Tensor | None) -> Tensor:
    """`float32(x) * scale + shift` per channel (dimension 1), rounded after each of the two steps.

    The one float expression of every quantized layer's epilogue and of BatchNorm at inference. A
    fused multiply-add would round once and give other bits.

    Args:
        x: int32 or float32, `[N, C, ...]`.
        scale, shift: float32 `[C]` (or `[1]`).
    """
    return scaled_shifted(x, scale, shift)


@scale_shift.register_fake
def _(x: Tensor, scale: Tensor, shift: Tensor | None) -> Tensor:
    return torch.empty_like(x, dtype=torch.float32)


# --- lowered: one bit a channel ----------------------------------------------------------------


@torch.library.custom_op("qcompile::threshold", mutates_args=())
def threshold(acc: Tensor, tau: Tensor, direction: Tensor, low: int) -> Tensor:
    """1 where `direction * acc >= tau`, else `low`: a one-bit quantizer, per channel (dimension 1).

    Args:
        acc: int32 `[N, C, ...]`, above INT32_MIN.
        tau: int32 `[C]`; INT32_MIN makes a channel always 1, INT32_MAX always `low`.
        direction: int32 `[C]`, +1 or -1.
        low: -1 gives int8, as `sign` does; 0 gives uint8, as `quantize_unit` of one bit does.
    """
    hot = acc * per_channel(direction, acc) >= per_channel(tau, acc)
    return torch.where(hot, 1, low).to(level_dtype(low, 1))


@threshold.register_fake
def _(acc: Tensor, tau: Tensor, direction: Tensor, low: int) -> Tensor:
    return torch.empty_like(acc, dtype=level_dtype(low, 1))


def pack_words(high: Tensor) -> Tensor:
    """Pack a bool `[..., C]` into int32 words `[..., words(C)]`; a True is bit 0, a False bit 1."""
    channels = high.shape[-1]
    bits = F.pad((~high).to(torch.int32), [0, words(channels) * WORD - channels])
    bits = bits.reshape(*high.shape[:-1], words(channels), WORD)
    # No two bits meet in the sum, and the last one is the sign: nothing overflows.
    return (bits << torch.arange(WORD, dtype=torch.int32)).sum(-1, dtype=torch.int32)


@torch.library.custom_op("qcompile::bitpack", mutates_args=())
def bitpack(levels: Tensor) -> Tensor:
    """Pack two-level tensors, ±1 (int8) or {0, 1} (uint8): `[N, C, *spatial]` to words `[N, *spatial, W]`.

    The bit is 0 where the level is above 0, else 1: +1 and 1 give 0, -1 and 0 give 1.
    """
    return pack_words(levels.movedim(1, -1) > 0)


@bitpack.register_fake
def _(levels: Tensor) -> Tensor:
    shape = [levels.shape[0], *levels.shape[2:], words(levels.shape[1])]
    return levels.new_empty(shape, dtype=torch.int32)


def full_word_mask(channels: int) -> Tensor:
    """int32 `[words(channels)]`: ones at the bits that belong to a channel."""
    return pack_words(torch.zeros(channels, dtype=torch.bool))


def windows(
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    fill: Tensor,
) -> Tensor:
    """Sliding windows of packed words: `[N, *spatial, W]` to `[N, *out, taps, W]`; `fill` `[W]` pads."""
    rank = len(kernel)
    size = output_size(x.shape[1 : 1 + rank], kernel, stride, padding, dilation)
    shape = [
        x.shape[0],
        *(n + padding[2 * d] + padding[2 * d + 1] for d, n in enumerate(x.shape[1:-1])),
    ]
    padded = fill.to(x.dtype).expand(*shape, x.shape[-1]).clone()
    inner = (
        slice(None),
        *(slice(padding[2 * d], padding[2 * d] + n) for d, n in enumerate(x.shape[1:-1])),
    )
    padded[inner] = x
    taps = []
    for tap in itertools.product(*(range(k) for k in kernel)):
        start = [tap[d] * dilation[d] for d in range(rank)]
        at = tuple(
            slice(start[d], start[d] + (size[d] - 1) * stride[d] + 1, stride[d])
            for d in range(rank)
        )
        taps.append(padded[(slice(None), *at)])
    return torch.stack(taps, dim=-2)


@torch.library.custom_op("qcompile::im2col", mutates_args=())
def im2col(
    bits: Tensor,
    channels: int,
    groups: int,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    pad_value: int,
) -> Tensor:
    """Patches of packed bits: `[N, *spatial, W]` to `[N, *out, groups * taps * (W / groups)]`, int32 words.

    A patch runs over groups, then taps (row-major), then the words of the group. `pad_value` is +1
    or -1; `channels` says which bits of a padded word belong to a channel.
    """
    fill = full_word_mask(channels)
    fill = fill if pad_value < 0 else torch.zeros_like(fill)
    patches = windows(bits, kernel, stride, padding, dilation, fill)
    patches = patches.unflatten(-1, (groups, -1)).transpose(-2, -3)
    return patches.flatten(-3).contiguous()


@im2col.register_fake
def _(
    bits: Tensor,
    channels: int,
    groups: int,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    pad_value: int,
) -> Tensor:
    size = output_size(bits.shape[1:-1], kernel, stride, padding, dilation)
    return bits.new_empty([bits.shape[0], *size, math.prod(kernel) * bits.shape[-1]])


def unpack_signs(packed: Tensor) -> Tensor:
    """The sign of every bit of int32 words, those past the last channel too: `[..., W]` to float32 ±1."""
    bits = (packed.unsqueeze(-1) >> torch.arange(WORD)) & 1
    return (1 - 2 * bits).flatten(-2).to(torch.float32)


@torch.library.custom_op("qcompile::xnor_matmul", mutates_args=())
def xnor_matmul(bits: Tensor, weight: Tensor, k: int, groups: int) -> Tensor:
    """Dot products of ±1 vectors from their packed signs: `k - 2 * popcount(bits ^ weight)`.

    Two vectors of length k that differ in p places have the dot product (k - p) - p.

    Args:
        bits: int32 words `[N, *spatial, groups * V]`.
        weight: int32 words `[O, V]`; output channel o belongs to group `o // (O / groups)`.
        k: how many of the V words' bits are real.

    Returns:
        int32 `[N, O, *spatial]`.
    """
    tail = weight.shape[-1] * WORD - k  # bits that agree, as they are 0 on both sides
    # float32 holds these sums exactly: far fewer than 2^24 bits make one.
    dots = [
        unpack_signs(x) @ unpack_signs(w).T - tail
        for x, w in zip(bits.chunk(groups, -1), weight.chunk(groups, 0), strict=True)
    ]
    return torch.cat(dots, dim=-1).movedim(-1, 1).to(torch.int32).contiguous()


@xnor_matmul.register_fake
def _(bits: Tensor, weight: Tensor, k: int, groups: int) -> Tensor:
    return bits.new_empty([bits.shape[0], weight.shape[0], *bits.shape[1:-1]])


@torch.library.custom_op("qcompile::zero_one", mutates_args=())
def zero_one(acc: Tensor, weight_sum: Tensor) -> Tensor:
    """Turn a dot product of ±1 activations into that of {0, 1}: `(acc + weight_sum) / 2`, int32.

    With a = (s + 1) / 2, sum(a * w) = (sum(s * w) + sum(w)) / 2; the sum in brackets is always even.
    `acc` is int32 `[N, O, ...]`, `weight_sum` int32 `[O]`.
    """
    return (acc + per_channel(weight_sum, acc)) >> 1


@zero_one.register_fake
def _(acc: Tensor, weight_sum: Tensor) -> Tensor:
    return torch.empty_like(acc)


@torch.library.custom_op("qcompile::border_correction", mutates_args=())
def border_correction(acc: Tensor, table: Tensor, classes: Sequence[Tensor]) -> Tensor:
    """Take back what taps beyond the border added: `acc - table[o, classes[0][y], classes[1][x]]`.

    Zero is no sign, so a patch is packed with +1 beyond the border, and each such tap adds its
    weight. How much that is depends on the output channel and, in each dimension, on which taps of
    the kernel lie inside: the position's class.

    Args:
        acc: int32 `[N, O, *spatial]`.
        table: int32 `[O, *how many classes in each dimension]`.
        classes: for each dimension int64 `[size]`, the class of each output position.
    """
    at = torch.meshgrid(*classes, indexing="ij")
    return acc - table[(slice(None), *at)]  # type: ignore[index]


@border_correction.register_fake
def _(acc: Tensor, table: Tensor, classes: Sequence[Tensor]) -> Tensor:
    return torch.empty_like(acc)


@torch.library.custom_op("qcompile::bit_maxpool", mutates_args=())
def bit_maxpool(
    bits: Tensor,
    any_mask: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
) -> Tensor:
    """Max pooling of packed signs `[N, *spatial, W]`, one bit a channel.

    The largest sign is +1 (bit 0) where any is: AND of the bits. Where a BatchNorm of negative
    gamma stood between the pooling and the sign, the smallest is wanted: OR of the bits, at the
    channels whose bit is 1 in `any_mask` (int32 `[W]`). Padding decides nothing, so that it is the
    caller's duty to see that no window lies wholly in it.
    """
    # ceil_mode lets the last window start inside the input or its left padding, and hang over.
    size = pooled_size(bits.shape[1:-1], kernel, stride, padding, dilation, ceil_mode)
    padding = hanging_padding(bits.shape[1:-1], size, kernel, stride, padding, dilation)
    patches = windows(bits ^ any_mask, kernel, stride, padding, dilation, torch.full((1,), -1))
    out = patches[..., 0, :]
    for tap in range(1, patches.shape[-2]):
        out = out & patches[..., tap, :]
    return out ^ any_mask


@bit_maxpool.register_fake
def _(
    bits: Tensor,
    any_mask: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
) -> Tensor:
    size = pooled_size(bits.shape[1:-1], kernel, stride, padding, dilation, ceil_mode)
    return bits.new_empty([bits.shape[0], *size, bits.shape[-1]])


def pooled_size(
    size: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
) -> list[int]:
    """Spatial sizes of a pooling, by torch's rule for `ceil_mode`."""
    if not ceil_mode:
        return output_size(size, kernel, stride, padding, dilation)
    out = []
    for d, n in enumerate(size):
        left, right = padding[2 * d : 2 * d + 2]
        span = dilation[d] * (kernel[d] - 1) + 1
        count = -(-(n + left + right - span) // stride[d]) + 1
        out.append(count - 1 if (count - 1) * stride[d] >= n + left else count)
    return out


def hanging_padding(
    size: Sequence[int],
    out: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> list[int]:
    """The padding with which plain windows give `out` positions: `ceil_mode`'s overhang added."""
    result = []
    for d, n in enumerate(size):
        span = (out[d] - 1) * stride[d] + dilation[d] * (kernel[d] - 1) + 1
        left = padding[2 * d]
        result += [left, max(padding[2 * d + 1], span - n - left)]
    return result
