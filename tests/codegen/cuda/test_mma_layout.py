"""How matrices lie for tensor cores, how they are divided, and which contractions are left to others."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from compiling import Case
from layers import GEOMETRIES, int_conv, integers, xnor_conv
from torch import Tensor

from qcompile.codegen.cuda import matrices
from qcompile.codegen.cuda.build import generate
from qcompile.codegen.cuda.gpu import gpu_of
from qcompile.codegen.cuda.matrices import NOWHERE, STEP, Matrix, matrix_of
from qcompile.codegen.cuda.panels import CHUNKS, word_of
from qcompile.codegen.cuda.tiles import SHARED, TILES, divisions
from qcompile.codegen.cuda.writer import CudaWriter
from qcompile.codegen.expr import const
from qcompile.codegen.fusion import form
from qcompile.codegen.groups import CONTRACTIONS
from qcompile.codegen.schedules.cpu import NODE_RULES
from qcompile.ir.target import Target

_SAME, _POINT = GEOMETRIES[0], GEOMETRIES[1]
q = torch.ops.qcompile


def matrix(case: Case) -> Matrix | None:
    gm = case.graph()
    (group,) = (g for g in form(gm, pools=False) if g.anchor.target in CONTRACTIONS)
    return matrix_of(CudaWriter(gm, group, gpu_of(Target("cuda")), NODE_RULES))


def found(case: Case) -> Matrix:
    one = matrix(case)
    assert one is not None
    return one


def methods(case: Case) -> list[str]:
    return [k.method for k in generate(case.graph(), Target("cuda")).kernels if k.method]


def test_eight_rows_of_a_chunk_lie_in_different_banks() -> None:
    for first in range(0, 64, 8):
        for chunk in range(CHUNKS):
            places = [
                int(word_of(const(first + i, "int32"), const(chunk, "int32"))) for i in range(8)
            ]
            assert len({place // 4 % 8 for place in places}) == 8
            assert all(place // STEP == first + i for i, place in enumerate(places))


def test_weights_lie_by_step_and_column() -> None:
    m = found(int_conv(64, 6, *_SAME, groups=2, seed=1))
    columns = 16
    words = m.weights(columns).value().reshape(2, m.steps, columns, STEP)
    rows = m.c.weight.reshape(2, 3, -1)
    for group in range(2):
        for column in range(columns):
            own = words[group, :, column].reshape(-1).view(np.int8)
            expected = np.zeros_like(own)
            if column < 3:
                expected[: rows.shape[2]] = rows[group, column].numpy()
            np.testing.assert_array_equal(own, expected)


def test_the_table_tells_where_taps_lie_and_which_are_missing() -> None:
    m = found(xnor_conv(64, 32, *_SAME, size=(5, 7)))
    table = m.table().numpy()
    assert m.piece == 2
    assert len(table) == (m.steps + 1) * STEP // 2
    taps = [(y, x) for y in range(3) for x in range(3)]
    assert table[: len(taps)].tolist() == [
        [(y * 7 + x) * 2, 1 << y | 1 << (3 + x)] for y, x in taps
    ]
    assert (table[len(taps) :] == [0, NOWHERE]).all()


@pytest.mark.parametrize(
    ("channels", "piece", "packed", "run"),
    [
        (64, 4, False, 64),
        (24, 2, False, 24),
        (20, 1, False, 20),
        (3, 1, True, 4),
        (7, 2, True, 8),
        (50, 4, True, 64),
    ],
)
def test_words_are_copied_as_their_channels_allow(
    channels: int, piece: int, packed: bool, run: int
) -> None:
    m = found(int_conv(channels, 8, *_SAME))
    assert (m.piece, m.packed, m.run) == (piece, packed, run)


def test_signs_beyond_the_border_are_those_of_channels_alone() -> None:
    m = found(xnor_conv(40, 8, *_SAME, pad_value=-1))
    pieces, numbers = m.fills
    assert m.piece == 2
    assert pieces[numbers[0]] == (-1, 0xFF)
    assert pieces[numbers[9]] == (0, 0)  # after nine taps: words that fill the step


def test_sums_of_signs_fit_into_an_int(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where products of bytes count them, all are 128-fold."""
    words = matrices._COUNTED
    assert 128 * 32 * words < 2**31 <= 128 * 32 * (words + 1)
    case = xnor_conv(256, 8, *_SAME)
    monkeypatch.setattr(matrices, "_COUNTED", found(case).words)
    assert matrix(case) is not None
    monkeypatch.setattr(matrices, "_COUNTED", found(case).words - 1)
    assert matrix(case) is None


def test_ones_are_counted_by_part() -> None:
    m = found(xnor_conv(256, 8, *_SAME))
    counts = m.ones(3).reshape(3, 8)
    assert m.steps == 5
    words = m.c.weight.reshape(8, -1).numpy().view(np.uint32)
    for i, part in enumerate(np.split(words, [2 * STEP, 4 * STEP], axis=1)):
        assert [int(n) for n in counts[i]] == [sum(map(int.bit_count, map(int, r))) for r in part]


@pytest.mark.parametrize("channels", [1920, 2560, 2816])
def test_every_part_of_a_product_has_steps(channels: int) -> None:
    m = found(int_conv(channels, 64, *_POINT, size=(1, 1)))
    small, large, most = divisions(m, packs=False)
    each = -(-m.steps // small.splits)
    assert most > 0
    assert small.splits > large.splits
    assert (small.splits - 1) * each < m.steps <= small.splits * each


def test_tiles_fit_into_a_block() -> None:
    for tile in TILES:
        assert tile.stages >= 2
        assert tile.stages * tile.stage * 4 <= SHARED
        assert tile.threads == 128  # whose registers hold all sums
        assert tile.m * 16 * tile.down == tile.rows
        assert tile.n * 8 * tile.across == tile.columns


def test_large_batches_have_large_tiles_and_small_ones_more_blocks() -> None:
    m = found(xnor_conv(256, 256, *_SAME, size=(14, 14)))
    small, large, most = divisions(m, packs=True)
    assert (large.tile.rows, large.tile.columns, large.splits) == (128, 128, 1)
    assert small.tile.rows * small.tile.columns < 128 * 128
    assert 1 <= most < 64


def test_deep_products_of_few_rows_are_split() -> None:
    m = found(int_conv(512, 64, *_SAME, size=(4, 4)))
    small, large, most = divisions(m, packs=False)
    assert small.splits > 1
    assert large.splits == 1
    assert most >= 8


def test_words_of_signs_lie_in_the_columns_of_one_block() -> None:
    for outputs in (8, 16, 17, 40, 100):
        m = found(xnor_conv(32, outputs, *_POINT, size=(3, 3)))
        for division in divisions(m, packs=True)[:2]:
            assert division.tile.columns % 32 == 0 or outputs <= division.tile.columns


def test_the_method_says_tile_and_stages() -> None:
    (method,) = methods(int_conv(64, 64, *_SAME, size=(3, 3)))
    assert method.startswith("u8 mma ")
    assert method.endswith(" stages")
    assert "packed first" in methods(int_conv(3, 64, *_SAME, size=(3, 3)))[0]


@pytest.mark.parametrize(
    "case",
    [
        int_conv(8, 8, *_SAME, dtype=torch.int16),
        int_conv(8, 8, *_SAME, zero_point=255, pad_value=1),
        int_conv(8, 8, *_SAME, source="int8", pad_value=-129),
    ],
    ids=["weights of 16 bits", "more than a byte beyond the border", "less than one"],
)
def test_what_bytes_do_not_hold_is_left_to_others(case: Case) -> None:
    assert matrix(case) is None
    assert not any(" mma " in method for method in methods(case))


def test_kernels_with_more_taps_than_a_mask_has_bits_are_left_to_others() -> None:
    weight = integers(-127, 128, 8, 8, 33, dtype=torch.int8, seed=1)

    def conv(x: Tensor, weight: Tensor) -> Any:
        levels = q.quantize.default(x, 0.02, 3, 0, 255)
        return q.conv.default(levels, weight, [1], [1, 0], [1], 1, 3, 0)

    assert matrix(Case(conv, [(8, 40)], {"weight": weight})) is None


def test_groups_of_few_channels_are_left_to_others() -> None:
    assert not any(" mma " in m for m in methods(int_conv(24, 24, *_SAME, groups=12)))
