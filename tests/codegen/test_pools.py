"""Pooling, means, maxima, softmax, and ops that only move values."""

from __future__ import annotations

import pool_cases
from compiling import check


def test_max_pools() -> None:
    built = check(pool_cases.max_pools())
    assert built.kernels[-1].nodes[0].startswith("max_pool2d")
    assert len(built.kernels[-1].nodes) == 4


def test_max_pool_keeps_nan() -> None:
    check([pool_cases.nan_in_maxima()])


def test_a_nan_anywhere_in_a_window_is_kept() -> None:
    check([pool_cases.nan_at_each_tap()], batches=(1,))


def test_pools_of_what_cannot_be_nan_and_of_what_overflows_to_it() -> None:
    check(pool_cases.pools_of_products())


def test_average_pools() -> None:
    check(pool_cases.average_pools())


def test_bit_maxpool() -> None:
    check(pool_cases.bit_maxpools())


def test_means_and_maxima() -> None:
    check(pool_cases.means_and_maxima())


def test_softmaxes() -> None:
    check(pool_cases.softmaxes())


def test_pads() -> None:
    check(pool_cases.pads())


def test_pads_that_move_channels_and_leave_their_number() -> None:
    check(pool_cases.pads_that_move_channels())


def test_cat_and_flatten() -> None:
    check(pool_cases.joined_and_flattened())
