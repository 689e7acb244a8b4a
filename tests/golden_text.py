"""Comparing a text with a file that a person has read and committed."""

from __future__ import annotations

from pathlib import Path

import pytest


def compare_golden(text: str, path: Path, *, update: bool) -> None:
    """Compare a text with a file, line ends at the end aside, or write the file."""
    text = text.rstrip("\n") + "\n"
    if update:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return
    if not path.exists():
        pytest.fail(f"{path} is missing: run pytest --update-golden, read it, and commit it")
    assert text == path.read_text(encoding="utf-8"), (
        f"{path} differs: if the change is meant, run pytest --update-golden and read the diff"
    )
