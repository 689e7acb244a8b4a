"""What a program consists of, as a table: plain text, or rich where rich prints it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qcompile.program_info import LayerInfo, ProgramInfo

if TYPE_CHECKING:
    from rich.console import RenderableType

    from qcompile.program_file import Sizes

COLUMNS = ("layer", "kind", "bits w/a", "kernel", "weights", "before", "after", "note")
FLOAT_BITS = 32  # as in qcompile.ir.plan, which loading a program does without
_RIGHT = {"bits w/a", "weights", "before", "after"}


@dataclass(frozen=True)
class Summary:
    """A program's layers, sizes and notes; `str` of it is a table.

    Attributes:
        info: of the program.
        sizes: of its file.
    """

    info: ProgramInfo
    sizes: Sizes

    def rows(self) -> list[tuple[str, ...]]:
        """One row a layer, in the order of COLUMNS."""
        return [_row(layer) for layer in self.info.layers]

    def total(self) -> tuple[str, ...]:
        """The last row: sums over the layers."""
        layers = self.info.layers
        weights = sum(layer.weights for layer in layers)
        before = sum(layer.bytes_before for layer in layers)
        after = sum(layer.bytes_after for layer in layers)
        sums = (f"{weights:,}", readable(before), readable(after), _ratio(before, after))
        return ("total", "", "", "", *sums)

    def title(self) -> str:
        """The first line: which model, for what, and how large the file is."""
        return f"{self.info.model} for {self.info.target}: {self.sizes.total:,} bytes"

    def parts(self) -> dict[str, int]:
        """What the file consists of, in bytes; together they are its size."""
        sizes = self.sizes
        weights = sum(layer.bytes_after for layer in self.info.layers)
        variants = zip(self.info.variants, sizes.code, strict=True)
        return {
            "weights": weights,
            # Arrays that are equal are there once.
            "other constants" if sizes.arrays >= weights else "shared": sizes.arrays - weights,
            "packing": sizes.constants - sizes.arrays,
            **{f"code for {variant.arch}": size for variant, size in variants},
            "metadata": sizes.rest,
        }

    def held(self) -> str:
        """The same as a line."""
        texts = [
            f"{'-' if n < 0 else '+'} {abs(n):,} {what}" for what, n in self.parts().items() if n
        ]
        return f"{self.sizes.total:,} bytes = {' '.join(texts).removeprefix('+ ')}"

    def __str__(self) -> str:
        table = [COLUMNS, *self.rows(), self.total()]
        widths = [max(len(row[i]) for row in table) for i in range(len(COLUMNS))]
        lines = [_line(row, widths) for row in table]
        rule = "-" * max(map(len, lines))
        lines = [self.title(), lines[0], rule, *lines[1:-1], rule, lines[-1], self.held()]
        return "\n".join([*lines, *self.info.notes])

    def __rich__(self) -> RenderableType:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        table = Table(title=Text(self.title()), title_justify="left", show_footer=True)
        for name, footer in zip(COLUMNS, self.total(), strict=True):
            justify = "right" if name in _RIGHT else "left"
            table.add_column(name, Text(footer), justify=justify)  # type: ignore[arg-type]
        for row in self.rows():
            table.add_row(*map(Text, row))  # a layer's name may look like rich's markup
        return Group(table, *map(Text, (self.held(), *self.info.notes)))


def _row(layer: LayerInfo) -> tuple[str, ...]:
    return (
        layer.layer,
        layer.kind,
        bits(layer),
        layer.kernel,
        f"{layer.weights:,}",
        readable(layer.bytes_before),
        readable(layer.bytes_after),
        "; ".join(filter(None, (layer.reason, layer.why))),
    )


def bits(layer: LayerInfo) -> str:
    """Bits of weights and activations: "1/1", "8/dynamic 8", "4/float", or "float" for both."""
    if layer.weight_bits == layer.activation_bits == FLOAT_BITS:
        return "float"
    how = "dynamic " if layer.dynamic else ""
    activations = "float" if layer.activation_bits == FLOAT_BITS else layer.activation_bits
    return f"{layer.weight_bits}/{how}{activations}"


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = [
        text.rjust(width) if name in _RIGHT else text.ljust(width)
        for name, text, width in zip(COLUMNS, row, widths, strict=True)
    ]
    return "  ".join(cells).rstrip()


def readable(size: int) -> str:
    """A number of bytes in the unit that suits it: "612 B", "35.2 KiB", "1.3 MiB"."""
    value = float(size)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{size} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"


def _ratio(before: int, after: int) -> str:
    return f"1/{before / after:.1f}" if after else ""
