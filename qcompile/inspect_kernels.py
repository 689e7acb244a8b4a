"""The kernels of a program, or of a network that would be compiled, as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from rich import box
from rich.table import Table
from rich.text import Text

from qcompile.program_info import LayerInfo

COLUMNS = ("layer", "kernel", "method, tile", "function", "stored", "why")


class Kernel(Protocol):
    """What is said of a kernel, before it is compiled and after."""

    @property
    def name(self) -> str: ...
    @property
    def layer(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def method(self) -> str: ...
    @property
    def tuned(self) -> str: ...
    @property
    def macs(self) -> int: ...


def rows(
    kernels: Sequence[Kernel], layers: Sequence[LayerInfo], *, whys: bool = True
) -> list[tuple[str, ...]]:
    """One row a kernel, in the order of COLUMNS.

    Args:
        layers: those with weights, which stand in the row of their product.
        whys: whether what is known of the layers' choices holds for these kernels.
    """
    left = {layer.layer: layer for layer in layers}
    found: list[tuple[str, ...]] = []
    for kernel in kernels:
        layer = left.pop(kernel.layer, None) if kernel.macs else None
        stored = f"{layer.bytes_after:,}" if layer is not None else ""
        reasons = (layer.reason, layer.why if whys else "") if layer is not None else ()
        method = f"tuned: {kernel.tuned}" if kernel.tuned else kernel.method
        why = "; ".join(filter(None, reasons))
        found.append((kernel.layer, kernel.kind, method, kernel.name, stored, why))
    return found


def table(
    title: str, kernels: Sequence[Kernel], layers: Sequence[LayerInfo], *, whys: bool = True
) -> Table:
    """The same to print; columns in which nothing stands are left out."""
    cells = rows(kernels, layers, whys=whys)
    shown = [i for i in range(len(COLUMNS)) if any(row[i] for row in cells)]
    made = Table(title=Text(title), title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    folding: Mapping[str, bool] = {"layer": True, "why": True}
    for i in shown:
        name = COLUMNS[i]
        right = name == "stored"
        made.add_column(
            f"{name}, bytes" if right else name,
            justify="right" if right else "left",
            no_wrap=not folding.get(name),
            overflow="fold",
        )
    for row in cells:
        made.add_row(*(Text(row[i]) for i in shown))
    return made
