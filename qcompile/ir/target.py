"""What a program is compiled for."""

from __future__ import annotations

from dataclasses import dataclass

from qcompile.errors import QCompileError

KINDS = ("cpu",)


@dataclass(frozen=True)
class Target:
    """A machine to compile for; a device, in contrast, is where a tensor lies.

    Attributes:
        kind: "cpu".
        arch: LLVM's name of the processor ("haswell", "sapphirerapids"), or None for the host's.
    """

    kind: str = "cpu"
    arch: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise QCompileError(
                f"unknown target {self.kind!r}",
                hint=f"targets: {', '.join(KINDS)}, or with a processor, as in cpu:haswell",
            )

    @staticmethod
    def parse(text: str | Target) -> Target:
        """Read "cpu" or "cpu:haswell"; a Target passes through.

        Raises:
            QCompileError: the kind is not known, or this is no text.
        """
        if isinstance(text, Target):
            return text
        if not isinstance(text, str):
            raise QCompileError(f"target is {text!r}", hint='pass "cpu", "cpu:haswell" or a Target')
        kind, _, arch = text.partition(":")
        return Target(kind, arch or None)

    def __str__(self) -> str:
        return f"{self.kind}:{self.arch}" if self.arch else self.kind
