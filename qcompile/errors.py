"""The one exception for everything that qcompile refuses."""

from __future__ import annotations


class QCompileError(Exception):
    """What happened, where in the user's model, and what to do about it.

    Attributes:
        what: what happened, one sentence.
        where: module path and source line in the user's code, or None.
        hint: what to do, or None.
    """

    def __init__(self, what: str, *, where: str | None = None, hint: str | None = None) -> None:
        self.what = what
        self.where = where
        self.hint = hint
        super().__init__(what)

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        return f"{text}\n  {self.hint}" if self.hint else text
