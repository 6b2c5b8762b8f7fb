"""The frame of a chart as inline SVG: round ticks, grid lines, and where a value is drawn.

Colors are classes of `layout.css`, so that a chart follows the color scheme of its page.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup  # Jinja2's: what it wraps is HTML; `format` escapes its values

WIDTH, HEIGHT = 440, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 20, 28, 44
_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
_MOST_DIGITS = 6

_FIGURE = Markup(
    '<figure class="chart"><figcaption><b>{title}</b>{legend}</figcaption>'
    '<svg viewBox="0 0 {width} {height}" role="img" aria-label="{label}">{content}</svg></figure>'
)
_SERIES = Markup(
    '<span class="key"><svg viewBox="0 0 24 8" width="24" height="8" aria-hidden="true">'
    '<path class="line {style}" d="M0 4H24"/></svg>{name}</span>'
)
_LINE = Markup('<path class="{style}" d="{path}"/>')
_TEXT = Markup('<text x="{x:.1f}" y="{y:.1f}" class="{style}">{text}</text>')


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Return at most `most` + 1 round numbers, the first ≤ low and the last ≥ high.

    Their distance is 1, 2, 2.5 or 5 times a power of ten. Source: P. Heckbert, Nice numbers for
    graph labels, Graphics Gems (1990).

    Args:
        low, high: finite, low ≤ high.
        most: intervals, ≥ 2.
    """
    span = (high - low) or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(span / most))
    for step in (power * scale * factor for scale in (1, 10) for factor in _STEPS):
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        if last - first <= most:
            break
    last = max(last, first + 1)
    return [round(number * step, 12) for number in range(first, last + 1)]


def whole_ticks(high: int, most: int = 5) -> list[int]:
    """Return round whole numbers from 0 on, at most `most` + 1; the last is ≥ high, high ≥ 1."""
    found = ticks(0, high, most)
    if found[1] % 1:  # the next larger step is whole
        step = 1 if found[1] < 1 else 5
        found = [float(value) for value in range(0, high + step, step)]
    return [round(value) for value in found]


def percent_text(share: float) -> str:
    """Return a share as a short percentage: 0.5 is "50%", 0.925 is "92.5%"."""
    return f"{round(100 * share, 2):g}%"


def number_text(value: float) -> str:
    """Return a number without an exponent unless it is tiny: 0.0001, 2.5, 1,000."""
    if value and abs(value) < 1e-5:
        return f"{value:.0e}".replace("e-0", "e-")
    return f"{round(value, _MOST_DIGITS):,.{_MOST_DIGITS}f}".rstrip("0").rstrip(".")


@dataclass(frozen=True)
class Frame:
    """The area of a chart between two axes.

    Attributes:
        xs, ys: first and last value of each axis.
        top: units above the area, for the name of the vertical axis.
        bottom: units below the area, for the text of the horizontal axis.
    """

    xs: tuple[float, float]
    ys: tuple[float, float]
    top: int = _TOP
    bottom: int = _BOTTOM

    @property
    def left(self) -> float:
        return _LEFT

    @property
    def right(self) -> float:
        return WIDTH - _RIGHT

    @property
    def base(self) -> float:
        """The height of the horizontal axis."""
        return HEIGHT - self.bottom

    def x(self, value: float) -> float:
        low, high = self.xs
        return self.left + (self.right - self.left) * (value - low) / (high - low)

    def y(self, value: float) -> float:
        low, high = self.ys
        return self.base - (self.base - self.top) * (value - low) / (high - low)

    def path(self, points: Iterable[tuple[float, float]]) -> str:
        """Return the `d` of the line through (x, y) values."""
        places = (f"{self.x(x):.1f} {self.y(y):.1f}" for x, y in points)
        return "M" + "L".join(places)

    def line(self, points: Iterable[tuple[float, float]], style: str) -> Markup:
        return _LINE.format(path=self.path(points), style=f"line {style}")

    def axes(
        self,
        x_ticks: Mapping[float, str],
        y_ticks: Mapping[float, str],
        x_title: str,
        y_title: str = "",
    ) -> Markup:
        """Return grid lines with their values, the horizontal axis, and the names of both axes."""
        return joined(self._axes(x_ticks, y_ticks, x_title, y_title))

    def _axes(
        self, x_ticks: Mapping[float, str], y_ticks: Mapping[float, str], x_title: str, y_title: str
    ) -> Iterator[Markup]:
        for value, text in y_ticks.items():
            y = self.y(value)
            style = "axis" if value == self.ys[0] else "grid"
            yield _LINE.format(path=f"M{self.left} {y:.1f}H{self.right}", style=style)
            yield text_at(self.left - 7, y + 4, text, "end")
        for value, text in x_ticks.items():
            yield text_at(self.x(value), self.base + 17, text, "middle")
        middle = (self.left + self.right) / 2
        yield text_at(middle, HEIGHT - 8, x_title, "middle")
        if y_title:
            yield text_at(0, self.top - 14, y_title)


def figure(title: str, content: Markup, label: str, legend: Markup | str = "") -> Markup:
    """Return a chart of the usual size with its caption; `label` says what it shows."""
    return _FIGURE.format(
        title=title, legend=legend, width=WIDTH, height=HEIGHT, label=label, content=content
    )


def legend(series: Iterable[tuple[str, str]]) -> Markup:
    """Return the keys of series: (name, CSS classes of its line)."""
    return joined(_SERIES.format(name=name, style=style) for name, style in series)


def text_at(x: float, y: float, text: object, style: str = "") -> Markup:
    """Return text at a place; `style` holds the CSS classes, "middle" and "end" among them."""
    return _TEXT.format(x=x, y=y, text=text, style=style)


def thinned(points: Sequence[tuple[float, float]], most: int) -> Sequence[tuple[float, float]]:
    """Return at most `most` of the points, the first and the last among them."""
    if len(points) <= most:
        return points
    return [points[round(i * (len(points) - 1) / (most - 1))] for i in range(most)]


def joined(pieces: Iterable[Markup]) -> Markup:
    return Markup("").join(pieces)
