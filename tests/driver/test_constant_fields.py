"""The step of constants that packs the lowest bits of numbers."""

from __future__ import annotations

import numpy as np
import pytest

from qcompile.constants import Constant, ConstantError


@pytest.mark.parametrize("width", [1, 2, 4, 8])
@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_each_number_has_its_bits_the_first_lowest(width: int, dtype: str) -> None:
    numbers = np.random.default_rng(0).integers(-128, 128, (3, 16)).astype(np.int8).view(dtype)
    constant = Constant(numbers.reshape(-1)).reshape(3, 16).fields(width)
    assert constant.shape == (3, 2 * width)
    assert constant.dtype == "uint8"
    for row, packed in zip(numbers, constant.value(), strict=True):
        whole = int.from_bytes(packed.tobytes(), "little")
        for i, number in enumerate(row):
            assert whole >> (i * width) & ((1 << width) - 1) == int(number) % (1 << width)


def test_it_is_done_to_what_the_steps_before_give() -> None:
    constant = Constant(np.arange(6, dtype=np.int8)).reshape(2, 3).pad(0, 1).permute(1, 0)
    assert constant.fields(4).value().tolist() == [[0x30], [0x41], [0x52], [0x00]]


@pytest.mark.parametrize(
    ("values", "width"),
    [
        (np.zeros(8, np.int8), 3),
        (np.zeros(8, np.int8), 16),
        (np.zeros(7, np.int8), 4),
        (np.zeros(8, np.int16), 4),
        (np.zeros(8, np.float32), 4),
    ],
    ids=["three bits", "sixteen bits", "half a byte", "wide numbers", "floats"],
)
def test_what_cannot_be_packed(values: np.ndarray, width: int) -> None:
    with pytest.raises(ConstantError, match="fields of"):
        _ = Constant(values).fields(width).form
