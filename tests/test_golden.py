"""The golden fixture fails when it should."""

from __future__ import annotations

from pathlib import Path

import pytest
from golden_text import compare_golden


def test_the_same_text_passes(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    compare_golden("one\ntwo", tmp_path / "a.txt", update=False)


def test_another_text_fails(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n")
    with pytest.raises(AssertionError, match="--update-golden and read the diff"):
        compare_golden("two", tmp_path / "a.txt", update=False)


def test_a_missing_file_fails_and_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(pytest.fail.Exception, match="is missing: run pytest --update-golden"):
        compare_golden("one", tmp_path / "a.txt", update=False)


def test_updating_writes(tmp_path: Path) -> None:
    compare_golden("one", tmp_path / "deep" / "a.txt", update=True)
    compare_golden("one", tmp_path / "deep" / "a.txt", update=False)
