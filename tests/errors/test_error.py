"""The one exception prints what, where, and what to do."""

from __future__ import annotations

import pytest

from qcompile import QCompileError


@pytest.mark.parametrize(
    ("error", "printed"),
    [
        (QCompileError("it broke"), "it broke"),
        (
            QCompileError("it broke", where="layer1.conv (net.py:3)"),
            "layer1.conv (net.py:3): it broke",
        ),
        (QCompileError("it broke", hint="mend it"), "it broke\n  mend it"),
        (QCompileError("it broke", where="a.b", hint="mend it"), "a.b: it broke\n  mend it"),
    ],
)
def test_it_prints_what_where_and_what_to_do(error: QCompileError, printed: str) -> None:
    assert str(error) == printed
    assert error.what == "it broke"
