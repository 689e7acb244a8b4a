"""Constants: what their steps make of them, and in how few bits a file holds their values."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from qcompile.codegen.constants import words_from
from qcompile.constants import ALIGNMENT, DTYPES, Constant, ConstantError, Step, expanded, places
from qcompile.palettes import Stored, restore, store, stored
from qcompile.program_constants import gathered
from qcompile.quant.weights import DorefaWeight

SIZES = (1, 2, 7, 8, 9, 31, 4099)


def levels(bits: int, size: int, dtype: str = "int8") -> Any:
    """Each level of so many bits at least once, where there is room."""
    low, count = -(1 << bits - 1), 1 << bits
    random = np.random.default_rng(size).integers(low, low + count, size)
    random[:count] = np.arange(low, low + count)[:size]
    return random.astype(dtype)


def same(a: Any, b: Any) -> bool:
    """Bit for bit."""
    return bool(a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes())


# --- bits ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "float32"])
def test_levels_come_back(bits: int, size: int, dtype: str) -> None:
    values = levels(bits, size, dtype)
    how, data = store(values)
    assert len(data) == how.nbytes == stored(values).nbytes <= values.nbytes
    assert same(restore(how, data), values)


@pytest.mark.parametrize("bits", range(1, 9))
def test_levels_take_so_many_bits(bits: int) -> None:
    size = 10_000
    how, data = store(levels(bits, size))
    assert how.bits == bits
    palette = 0 if bits == 8 else 1 << bits
    assert len(data) <= size * bits / 8 + palette + 3  # each field ends with a byte
    assert how.colours == palette


def test_odd_levels_of_dorefa() -> None:
    """8 bits are odd numbers from -255 to 255: more than a byte holds, and no more bits."""
    weight = torch.linspace(-3, 3, 5000)
    for bits in range(2, 9):
        found, _ = DorefaWeight(bits)(weight)
        values = found.detach().to(torch.int16).numpy()
        assert values.max() == (1 << bits) - 1
        how, data = store(values)
        assert (how.bits, how.colours) == (bits, 1 << bits)
        assert same(restore(how, data), values)


def test_three_values_take_two_bits_and_one_takes_one() -> None:
    assert stored(np.array([-1, 0, 1] * 100, np.int8)) == Stored("int8", 300, 3)
    assert stored(np.array([-1, 0, 1] * 100, np.int8)).nbytes == 3 + 75
    assert stored(np.full(800, 7, np.int8)).nbytes == 1 + 100


@pytest.mark.parametrize("colours", range(1, 257))
def test_any_number_of_distinct_values(colours: int) -> None:
    values = np.resize(np.arange(colours, dtype=np.int16) - 9, 999)
    how, data = store(values)
    assert how.colours == colours
    assert same(restore(how, data), values)


def test_what_would_not_be_smaller_is_stored_as_it_is() -> None:
    for values in (
        np.arange(257, dtype=np.int16).repeat(9),
        np.random.default_rng(0).standard_normal(3000, np.float32),
        levels(8, 4000),
        np.array([1, 2], np.int8),
        np.array([5], np.float32),
        np.array([], np.int32),
    ):
        how, data = store(values)
        assert (how.colours, data) == (0, values.tobytes())
        assert same(restore(how, data), values)


def test_many_values_behind_few_are_noticed() -> None:
    values = np.concatenate([np.zeros(1 << 14, np.int32), np.arange(300, dtype=np.int32)])
    assert stored(values).colours == 0


def test_both_zeros_and_all_nans_stay_what_they_are() -> None:
    patterns = np.array([0, 1 << 31, 0x7FC00000, 0x7FC00001, 0xFFC00000], np.uint32)
    values = np.resize(patterns, 100).view(np.float32)
    how, data = store(values)
    assert how.colours == 5
    assert same(restore(how, data), values)


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(DTYPES).flatmap(lambda d: arrays.arrays(d, st.integers(0, 300), unique=False))
)
def test_anything_comes_back(values: Any) -> None:
    how, data = store(values)
    assert len(data) == how.nbytes <= values.nbytes
    assert same(restore(how, data), values)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(DTYPES), st.integers(0, 99), st.integers(0, 256), st.binary(max_size=300))
def test_any_bytes_are_an_array_or_refused(
    dtype: str, size: int, colours: int, data: bytes
) -> None:
    how = Stored(dtype, size, colours)
    how.check()
    for some in (data, data.ljust(how.nbytes, b"\xa5")[: how.nbytes]):
        if len(some) == how.nbytes and _in_palette(how, some):
            assert restore(how, some).shape == (size,)
        else:
            with pytest.raises(ConstantError, match="a constant of"):
                restore(how, some)


def _in_palette(how: Stored, data: bytes) -> bool:
    """Whether all numbers, read bit by bit, are below the number of values."""
    bits = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little").astype(int)
    at = 8 * how.colours * np.dtype(how.dtype).itemsize
    numbers = np.zeros(how.size, int)
    for width in (8, 4, 2, 1):
        if how.colours and how.bits & width:
            own = bits[at : at + how.size * width].reshape(how.size, width)
            numbers = numbers << width | own @ (1 << np.arange(width))
            at += 8 * -(-how.size * width // 8)
    return not how.colours or bool((numbers < how.colours).all())


# --- steps ---------------------------------------------------------------------------------------


def test_steps_do_what_numpy_does() -> None:
    x = levels(8, 60)
    c = Constant(x).reshape(3, 5, -1).pad(1, 0, 2).permute(2, 0, 1)
    wanted = np.pad(x.reshape(3, 5, 4), [(0, 1), (0, 0), (0, 2)]).transpose(2, 0, 1)
    assert same(c.value(), np.ascontiguousarray(wanted))
    assert (c.shape, c.dtype) == ((6, 4, 5), "int8")
    assert same(c.reshape(-1).view("int32").value(), c.value().reshape(-1).view(np.int32))
    assert same(c.cast("float32").value(), c.value().astype(np.float32))
    bits = c.bits()
    assert same(bits.value(), np.packbits(c.value() > 0, axis=-1, bitorder="little"))
    assert bits.shape == (6, 4, 1)
    assert Constant(x).pad(0).steps == Constant(x).cast("int8").steps == ()


@pytest.mark.parametrize("unit", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("dtype", ["int8", "int16", "float32"])
def test_memory_holds_the_values(unit: int, dtype: str) -> None:
    """Also where neighbours are moved together."""
    c = Constant(levels(8, 6 * 5 * 4 * unit, dtype)).reshape(6, 5, 4, unit).permute(1, 2, 0, 3)
    odd = Constant(levels(3, 7))
    memory = expanded([c, odd, c])
    first, second, third, end = places([c.form.nbytes, 7, c.form.nbytes])
    assert memory.ctypes.data % ALIGNMENT == 0
    assert memory.size == end
    assert not memory.flags.writeable
    for start in (first, third):
        assert memory[start : start + c.form.nbytes].tobytes() == c.value().tobytes()
    assert memory[second : second + 7].tobytes() == odd.values.tobytes()
    assert not memory[second + 7 : third].any()


def test_elements_are_taken_as_often_as_they_are_named() -> None:
    x = levels(4, 2 * 5 * 3).reshape(2, 5, 3)
    taken = Constant(x.reshape(-1)).reshape(2, 5, 3).take(2, 0, 0, 1)
    assert taken.shape == (2, 5, 4)
    assert np.array_equal(taken.value(), x[..., [2, 0, 0, 1]])
    assert expanded([taken])[: taken.form.nbytes].tobytes() == taken.value().tobytes()


def test_places_are_aligned_and_apart() -> None:
    sizes = [0, 1, 63, 64, 65, 1000]
    for size, (start, end) in zip(sizes, pairwise(places(sizes)), strict=True):
        assert start % ALIGNMENT == 0
        assert start + size <= end < start + size + ALIGNMENT


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (Step("reshape", (7,)), "reshape of int8"),
        (Step("pad", (1,)), "pad of int8"),
        (Step("permute", (1, 2)), "permute of int8"),
        (Step("cast", dtype="uint8"), "cast of int8"),
        (Step("view", dtype="int16"), "view of int8"),
        (Step("take", (0, 3)), "take of int8"),
        (Step("take"), "take of int8"),
        (Step("fly"), "there is no step 'fly'"),
        (Step("pad", (0, -1)), "pad to"),
    ],
)
def test_steps_that_cannot_be_done(step: Step, message: str) -> None:
    with pytest.raises(ConstantError, match=message):
        expanded([Constant(levels(2, 6), (Step("reshape", (2, 3)), step))])


@pytest.mark.parametrize("channels", [1, 6, 31, 32, 33, 64, 95])
def test_words_are_stored_without_what_fills_them(channels: int) -> None:
    generator = torch.Generator().manual_seed(channels)
    signs = torch.rand(5, 3, channels, generator=generator) > 0.5
    signs[0, 0] = True
    words = torch.ops.qcompile.bitpack.default(
        torch.where(signs, -1, 1).movedim(-1, 1).to(torch.int8)
    )
    packed = words_from(words)
    assert same(packed.value(), words.numpy().reshape(-1))
    assert stored(packed.values).nbytes <= -(-15 * channels // 8) + 2


def test_words_of_zeros() -> None:
    words = torch.zeros(4, 2, dtype=torch.int32)
    assert same(words_from(words).value(), words.numpy().reshape(-1))


# --- files ---------------------------------------------------------------------------------------


def test_equal_values_are_stored_once() -> None:
    x, y = levels(2, 640), levels(3, 640)
    one = [Constant(x).reshape(40, 16).permute(1, 0), Constant(y)]
    two = [Constant(y.copy()), Constant(x.copy()).reshape(10, 64).pad(6, 0), Constant(x)]
    arrays_, data, placed = gathered([one, two])
    assert [array.bits for array in arrays_.arrays] == [2, 3]
    assert len(data) == arrays_.size == 4 + 160 + 8 + 240
    for constants, own in zip((one, two), placed, strict=True):
        restored = arrays_.restored(data, own)
        assert expanded(restored).tobytes() == expanded(constants).tobytes()
        assert arrays_.memory(own) == expanded(constants).size
