"""What a program is compiled for."""

from __future__ import annotations

import platform
from dataclasses import dataclass, replace

from qcompile.errors import QCompileError

KINDS = ("cpu",)
PORTABLE = "portable"
# The processors whose code a portable program holds, the best first: each has instructions that the
# kernels use and those below it lack. By family, as `platform.machine()` spells it.
VARIANTS = {
    "x86_64": (
        "icelake-server",  # VPOPCNTDQ
        "cascadelake",  # AVX-512 VNNI
        "skylake-avx512",  # AVX-512
        "alderlake",  # AVX-VNNI
        "haswell",  # AVX2
        "x86-64-v2",  # SSE4.2
    ),
    "aarch64": (
        "ampere1",  # I8MM
        "neoverse-n1",  # DotProd
        "generic",  # NEON
    ),
}


@dataclass(frozen=True)
class Target:
    """A machine to compile for; a device, in contrast, is where a tensor lies.

    Attributes:
        kind: "cpu".
        arch: LLVM's name of the processor ("haswell", "sapphirerapids"); None for the host's; or
            "portable" for several, of which a program picks one where it is loaded.
    """

    kind: str = "cpu"
    arch: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise QCompileError(
                f"unknown target {self.kind!r}",
                hint=f"targets: {', '.join(KINDS)}, cpu:{PORTABLE}, or a processor, as in cpu:haswell",
            )

    @staticmethod
    def parse(text: str | Target) -> Target:
        """Read "cpu", "cpu:haswell" or "cpu:portable"; a Target passes through.

        Raises:
            QCompileError: the kind is not known, a processor is missing, or this is no text.
        """
        if isinstance(text, Target):
            return text
        if not isinstance(text, str):
            raise QCompileError(f"target is {text!r}", hint='pass "cpu", "cpu:haswell" or a Target')
        kind, colon, arch = (part.strip() for part in text.partition(":"))
        if colon and not arch:
            raise QCompileError(
                f"no processor after the colon of {text!r}", hint="cpu alone means this machine's"
            )
        return Target(kind, arch or None)

    def variants(self) -> tuple[Target, ...]:
        """The targets to generate code for, the best first: one, unless this is the portable one.

        Raises:
            QCompileError: nobody chose processors for this machine's family.
        """
        if self.arch != PORTABLE:
            return (self,)
        family = platform.machine()
        if family not in VARIANTS:
            raise QCompileError(
                f"there is no {self} on {family}",
                hint=f"it is for {' and '.join(sorted(VARIANTS))}; name a processor, as in cpu:haswell",
            )
        return tuple(replace(self, arch=arch) for arch in VARIANTS[family])

    def __str__(self) -> str:
        return f"{self.kind}:{self.arch}" if self.arch else self.kind
