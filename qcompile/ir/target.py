"""What a program is compiled for."""

from __future__ import annotations

import difflib
import platform
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from qcompile.errors import QCompileError
from qcompile.nvidia import ARCHITECTURES

KINDS = ("cpu", "cuda")
PORTABLE = "portable"
_OTHER_NAMES = {"gpu": "cuda", "gpus": "cuda", "nvidia": "cuda"}
_GPU = re.compile(r"sm_\d+[af]?")
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
        kind: "cpu", or "cuda" for GPUs of NVIDIA.
        arch: of a CPU LLVM's name of the processor ("haswell", "sapphirerapids"); None for the host's;
            or "portable" for several, of which a program picks one where it is loaded. Of a GPU the
            architecture ("sm_86"); None for all of them.
    """

    kind: str = "cpu"
    arch: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise QCompileError(
                f"unknown target {self.kind!r}",
                hint=f"{_meant(self.kind, self.arch)}targets: {', '.join(KINDS)}, cpu:{PORTABLE}, a "
                "processor, as in cpu:haswell, or a GPU's architecture, as in cuda:sm_86",
            )
        if self.kind == "cpu" and self.arch is not None and _GPU.fullmatch(self.arch):
            raise QCompileError(
                f"{self.arch} is an architecture of GPUs, and the target is cpu",
                hint=f"did you mean cuda:{self.arch}?",
            )
        if self.kind == "cuda" and self.arch is not None:
            _check_architecture(self.arch)

    @property
    def is_gpu(self) -> bool:
        return self.kind == "cuda"

    @property
    def number(self) -> int:
        """Of a GPU's architecture, 86 for sm_86; 0 of anything else."""
        return int(self.arch.removeprefix("sm_")) if self.is_gpu and self.arch else 0

    @staticmethod
    def parse(text: str | Target) -> Target:
        """Read "cpu", "cpu:haswell", "cpu:portable", "cuda" or "cuda:sm_86"; a Target passes through.

        Raises:
            QCompileError: the kind is not known, a processor is missing, or this is no text.
        """
        if isinstance(text, Target):
            return text
        if not isinstance(text, str):
            raise QCompileError(
                f"target is {text!r}",
                hint='pass "cpu", "cpu:haswell", "cuda", "cuda,cpu" or a Target',
            )
        kind, colon, arch = (part.strip() for part in text.partition(":"))
        if colon and not arch:
            alone = "all GPUs" if kind == "cuda" else "this machine's"
            what = "architecture" if kind == "cuda" else "processor"
            raise QCompileError(
                f"no {what} after the colon of {text!r}", hint=f"{kind} alone means {alone}"
            )
        return Target(kind, arch or None)

    @staticmethod
    def parse_all(given: str | Target | Sequence[str | Target]) -> tuple[Target, ...]:
        """Read one target or several: "cuda,cpu", or a list; a program holds code for all of them.

        Raises:
            QCompileError: as in `parse`; there is none, or one is named twice.
        """
        texts: Sequence[str | Target]
        if isinstance(given, str):
            texts = given.split(",") if given.strip() else ()
            if not all(map(str.strip, texts)):
                raise QCompileError(
                    f"a target is missing beside a comma of {given!r}", hint="as in cuda,cpu"
                )
        elif isinstance(given, Sequence):
            texts = given
        else:
            texts = (given,)
        found = tuple(Target.parse(one) for one in texts)
        if not found:
            raise QCompileError("there is no target", hint='as in target="cuda,cpu"')
        for target in found:
            if found.count(target) > 1:
                raise QCompileError(f"target {target} is named {found.count(target)} times")
        return found

    def variants(self) -> tuple[Target, ...]:
        """The targets to generate code for, the best first: one, unless this is the portable one.

        Raises:
            QCompileError: nobody chose processors for this machine's family.
        """
        if self.is_gpu or self.arch != PORTABLE:
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


Targets = str | Target | Sequence[str | Target]  # what `parse_all` reads


def described(targets: Sequence[Target]) -> str:
    """Targets as `parse_all` reads them: "cuda,cpu"."""
    return ",".join(map(str, targets))


def processors(targets: Sequence[Target]) -> tuple[Target, ...]:
    """The variants among all of the targets' that are for CPUs.

    Raises:
        QCompileError: as in `Target.variants`.
    """
    return tuple(one for target in targets for one in target.variants() if not one.is_gpu)


def _check_architecture(arch: str) -> None:
    """Raises: QCompileError: it is no architecture, or one that no code can be made for."""
    if arch in (f"sm_{number}" for number in ARCHITECTURES):
        return
    digits = "".join(filter(str.isdigit, arch))
    known = f"there are {', '.join(f'sm_{number}' for number in ARCHITECTURES)}"
    if digits.isdecimal() and 10 <= int(digits) < min(ARCHITECTURES) and arch[-1:].isdigit():
        raise QCompileError(
            f"GPUs of architecture {arch} are too old: code is made for sm_{min(ARCHITECTURES)} "
            "and newer",
            hint=known,
        )
    meant = f"did you mean sm_{digits}? " if digits in map(str, ARCHITECTURES) else ""
    raise QCompileError(
        f"unknown GPU architecture {arch!r}", hint=f"{meant}{known}; none means all of them"
    )


def _meant(kind: str, arch: str | None) -> str:
    """The beginning of a hint: which target it may be, "" if that is open."""
    name = kind.casefold()
    if arch is None and (name == PORTABLE or any(name in names for names in VARIANTS.values())):
        return f"did you mean cpu:{name}? "
    if arch is None and _GPU.fullmatch(name):
        return f"did you mean cuda:{name}? "
    close = difflib.get_close_matches(name, KINDS, n=1, cutoff=0.7)  # no cpu for a tpu
    found = _OTHER_NAMES.get(name) or next(iter(close), None)
    return f"did you mean {found}{f':{arch}' if arch else ''}? " if found else ""
