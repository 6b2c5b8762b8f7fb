"""Charts of how good answers are: precision and recall, ROC, coverage, reliability."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from image_classification.pages.axes import (
    Frame,
    figure,
    joined,
    legend,
    percent_text,
    text_at,
    thinned,
    ticks,
)
from image_classification.pages.charts import bar

Points = Sequence[tuple[float, float]]

_SHARES = {share / 5: f"{20 * share}%" for share in range(6)}
_MOST_POINTS = 120  # of a curve: about 1.5 KB
_FEW = 10  # images: a share of fewer says little
_STYLES = ("s1", "s2 dashed", "s3 dotted", "s4")
_SMALL = 110

_WHISKER = Markup('<path class="whisker" d="M{x:.1f} {low:.1f}V{high:.1f}"/>')
_EXPECTED = Markup('<path class="expected" d="M{left:.1f} {y:.1f}H{right:.1f}"/>')
_SMALL_CHART = Markup(
    '<svg viewBox="0 0 {size} {size}" role="img" aria-label="{label}"><rect class="frame" x="1" '
    'y="1" width="{side}" height="{side}"/>{content}</svg>'
)
_PATH = Markup('<path class="{style}" d="{path}"/>')


def curve_chart(
    title: str,
    axes: tuple[str, str],
    named: Sequence[tuple[str, Points]],
    others: Sequence[Points],
    *,
    has_diagonal: bool = False,
) -> Markup:
    """Return a figure of curves in the unit square.

    Args:
        title: of the figure.
        axes: what the horizontal and the vertical axis show.
        named: at most four curves to tell apart.
        others: curves in gray, behind them.
        has_diagonal: whether to draw the line of chance.
    """
    frame = Frame((0, 1), (0, 1))
    content = [frame.axes(_SHARES, _SHARES, *axes)]
    if has_diagonal:
        content.append(frame.line([(0, 0), (1, 1)], "chance"))
    content += [frame.line(thinned(points, _MOST_POINTS), "other") for points in others]
    content += [
        frame.line(thinned(points, _MOST_POINTS), style)
        for (_, points), style in zip(named, _STYLES, strict=False)
    ]
    keys = [(name, style) for (name, _), style in zip(named, _STYLES, strict=False)]
    keys += [("other classes", "other")] if others else []
    names = ", ".join(name for name, _ in named)
    return figure(title, joined(content), f"{title} of {names}", legend(keys))


def small_curve(label: str, points: Points, *, has_diagonal: bool = False) -> Markup:
    """Return a curve in the unit square without any text, to be shown next to others."""
    side = _SMALL - 2
    places = [(1 + x * side, 1 + (1 - y) * side) for x, y in thinned(points, _MOST_POINTS)]
    path = "M" + "L".join(f"{x:.0f} {y:.0f}" for x, y in places)
    chance = _PATH.format(style="line chance", path=f"M1 {side + 1}L{side + 1} 1")
    content = joined([chance] * has_diagonal + [_PATH.format(style="line s1", path=path)])
    return _SMALL_CHART.format(size=_SMALL, side=side, label=label, content=content)


def coverage_chart(points: Points, things: str) -> Markup:
    """Return a figure of accuracy by coverage.

    Args:
        points: (coverage, accuracy), both 0–1, by increasing coverage.
        things: what is covered, as a plural noun.
    """
    y_ticks = [value for value in ticks(min(y for _, y in points), 1.0) if value <= 1.0]
    y_ticks = y_ticks if len(y_ticks) > 1 else [0.9, 1.0]
    frame = Frame((0, 1), (y_ticks[0], y_ticks[-1]))
    content = [
        frame.axes(
            _SHARES,
            {value: percent_text(value) for value in y_ticks},
            f"share of {things} that are answered",
            "accuracy of these",
        ),
        frame.line(thinned(points, 3 * _MOST_POINTS), "s1"),
    ]
    label = f"Accuracy by coverage: {percent_text(round(points[-1][1], 3))} of all {things}"
    return figure("Accuracy by coverage", joined(content), label)


@dataclass(frozen=True)
class ReliabilityBar:
    """The answers whose confidence lies in one interval.

    Attributes:
        sides: of the interval, 0–1.
        count: how many they are.
        confidence, accuracy: their means, 0–1.
        interval: 95% interval of the accuracy.
    """

    sides: tuple[float, float]
    count: int
    confidence: float
    accuracy: float
    interval: tuple[float, float]


def reliability_chart(title: str, bars: Sequence[ReliabilityBar], things: str) -> Markup:
    """Return a figure of accuracy by confidence, with the number of answers below each bar.

    Bars of fewer than 10 answers are pale. The line across a bar is its mean confidence: a bar that
    ends there is calibrated.
    """
    frame = Frame((0, 1), (0, 1), bottom=62)
    content = [frame.axes({}, _SHARES, f"confidence, with the number of {things}", "correct")]
    content += [text_at(frame.x(x), frame.base + 33, text, "middle") for x, text in _SHARES.items()]
    for one in bars:
        if not one.count:
            continue
        left, right = frame.x(one.sides[0]), frame.x(one.sides[1])
        middle = (left + right) / 2
        counted = f"{one.count:,} {things}, {one.accuracy:.1%} correct"
        style = "s1 pale" if one.count < _FEW else "s1 soft"
        content += [
            bar(frame, one.sides, one.accuracy, counted, style),
            _WHISKER.format(x=middle, low=frame.y(one.interval[0]), high=frame.y(one.interval[1])),
            _EXPECTED.format(left=left + 1, right=right - 1, y=frame.y(one.confidence)),
            text_at(middle, frame.base + 15, _short(one.count), "middle count"),
        ]
    return figure(title, joined(content), f"{title}: accuracy by confidence")


def _short(count: int) -> str:
    return f"{count}" if count < 10_000 else f"{count / 1000:.0f}k"
