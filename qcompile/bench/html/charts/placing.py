"""Points: labels that do not lie on one another, and the points that none beats."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from qcompile.bench.html.charts.sheet import Sheet, measure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Box = tuple[float, float, float, float]  # left, bottom, right, top, in ems
Pair = tuple[float, float]
_HEIGHT = 1.05
# Where a label may stand beside its point: its nearest corner, in ems, and which way it extends.
_PLACES = [
    (dx * far, dy * far + lift, align)
    for far in (1.0, 1.9, 3.0, 4.5)
    for dx, dy, lift, align in (
        (0.65, 0.0, 0.0, "left"),
        (-0.65, 0.0, 0.0, "right"),
        (0.0, 0.95, 0.0, "center"),
        (0.0, -0.95, 0.0, "center"),
        (0.45, 0.75, 0.0, "left"),
        (0.45, -0.75, 0.0, "left"),
        (-0.45, 0.75, 0.0, "right"),
        (-0.45, -0.75, 0.0, "right"),
    )
]


def rising(points: Iterable[Pair]) -> list[Pair]:
    """Those, from left to right, that are higher than all to the left of them."""
    found: list[Pair] = []
    for x, y in sorted(points, key=lambda point: (point[0], -point[1])):
        if not math.isnan(y) and (not found or y > found[-1][1]):
            found.append((x, y))
    return found


class Labels:
    """Texts beside points of some axes whose limits are set; each takes the first place that is free."""

    def __init__(self, sheet: Sheet, axes: Axes, points: Sequence[Pair]) -> None:
        self.sheet, self.axes = sheet, axes
        self.taken = [self._around(point) for point in points]
        box = axes.get_position()
        self.limits = (
            box.x0 * sheet.width,
            box.y0 * sheet.height,
            box.x1 * sheet.width,
            box.y1 * sheet.height,
        )

    def _ems(self, point: Pair) -> Pair:
        x, y = self.axes.transData.transform(point)
        dots = self.sheet.figure.dpi * self.sheet.style.form.points / 72
        return float(x) / dots, float(y) / dots

    def share(self, x: float) -> float:
        """How far to the right that is, from 0 to 1."""
        return (self._ems((x, 1.0))[0] - self.limits[0]) / (self.limits[2] - self.limits[0])

    def _around(self, point: Pair) -> Box:
        x, y = self._ems(point)
        return x - 0.4, y - 0.4, x + 0.4, y + 0.4

    def reserve(self, start: Pair, end: Pair, *, above: float = 0.1, below: float = 0.1) -> None:
        """Keep labels off a line, and off texts above it and below it."""
        (x, y), (right, top) = self._ems(start), self._ems(end)
        count = max(1, math.ceil(max(abs(right - x), abs(top - y)) / 0.5))
        dx, dy = (right - x) / count, (top - y) / count
        for step in range(count):
            left, low = x + step * dx, y + step * dy
            xs, ys = sorted((left, left + dx)), sorted((low, low + dy))
            self.taken.append((xs[0] - 0.1, ys[0] - below, xs[1] + 0.1, ys[1] + above))

    def add(self, point: Pair, text: str, *, colour: str = "ink") -> None:
        """Write a label where nothing is, or the least."""
        x, y = self._ems(point)
        width = 0.88 * measure(text)
        choices = [(place, self._box(x, y, width, place)) for place in _PLACES]
        inside = [choice for choice in choices if self._inside(choice[1])]
        (dx, dy, align), box = min(inside or choices, key=lambda choice: self._covered(choice[1]))
        self.taken.append(box)
        far = abs(dx) > 1 or abs(dy) > 1
        self.sheet.beside(
            self.axes,
            point,
            text,
            colour=colour,
            xytext=(dx, dy),
            ha=align,
            fontsize=self.sheet.points(0.88),
            arrowprops=self._leader() if far else None,
        )

    def _leader(self) -> dict[str, object]:
        colour = self.sheet.colour("muted")
        return {"arrowstyle": "-", "color": colour, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 2}

    @staticmethod
    def _box(x: float, y: float, width: float, place: tuple[float, float, str]) -> Box:
        dx, dy, align = place
        left = x + dx - {"left": 0.0, "center": width / 2, "right": width}[align]
        return left, y + dy - _HEIGHT / 2, left + width, y + dy + _HEIGHT / 2

    def _inside(self, box: Box) -> bool:
        left, bottom, right, top = self.limits
        return box[0] >= left and box[1] >= bottom and box[2] <= right + 0.4 and box[3] <= top

    def _covered(self, box: Box) -> float:
        """How much of what is there a label would lie on."""
        found = 0.0
        for other in self.taken:
            across = min(box[2], other[2]) - max(box[0], other[0])
            up = min(box[3], other[3]) - max(box[1], other[1])
            found += max(across, 0.0) * max(up, 0.0)
        return found
