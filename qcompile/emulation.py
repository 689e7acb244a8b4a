"""Programs for GPUs on the CPU's emulator, to check them where there is no GPU."""

from __future__ import annotations

from dataclasses import dataclass

from qcompile.cuda.driver import Context, driver
from qcompile.errors import QCompileError
from qcompile.nvidia import ARCHITECTURES


@dataclass(frozen=True)
class Emulated:
    """A GPU that the CPU emulates, by `qcompile.emulator`.

    Attributes:
        arch: compute capability, 80 for 8.0; `of` reads names too.
        order: in which blocks, warps and copies take their turns.
    """

    arch: int = 80
    order: int = 0
    emulated = True

    def __post_init__(self) -> None:
        if self.arch not in ARCHITECTURES or type(self.arch) is not int:
            raise _unknown(self.arch)
        from qcompile import emulator

        if type(self.order) is not int or not 0 <= self.order < emulator.ORDERS:
            hint = f"a number from 0 to {emulator.ORDERS - 1}"
            raise QCompileError(f"order is {self.order!r}", hint=hint)

    @staticmethod
    def of(arch: int | str, order: int = 0) -> Emulated:
        """The GPU of an architecture: 80 or "sm_80".

        Raises:
            QCompileError: there is no such architecture or order.
        """
        if not isinstance(arch, str):
            return Emulated(arch, order)
        digits = arch.strip().removeprefix("sm_")
        if digits not in map(str, ARCHITECTURES):
            raise _unknown(arch)
        return Emulated(int(digits), order)

    def image(self, source: str) -> bytes:
        """The source, compiled for this CPU.

        Raises:
            QCompileError: there is no emulator here, or it does not compile the source.
        """
        from qcompile import emulator

        if why := emulator.obstacle():
            raise QCompileError(f"no GPU can be emulated here: {why}")
        return emulator.image(source, self.arch)

    def context(self, device: int) -> Context:
        """Of the emulated GPU."""
        from qcompile import emulator

        return Context(driver(str(emulator.driver())), device)

    def prepare(self) -> None:
        """Let kernels run in this order, as on this GPU: the process has one emulator."""
        from qcompile import emulator

        driver(str(emulator.driver())).library.qc_emulator_set(self.order, 0, self.arch)


def _unknown(arch: object) -> QCompileError:
    name = f"sm_{arch}" if type(arch) is int else repr(arch)
    known = ", ".join(f"sm_{number}" for number in ARCHITECTURES)
    return QCompileError(f"there is no GPU {name} to emulate", hint=f"there are {known}")
