"""Charts of every page as inline SVG or HTML: images per class, values by epoch, histograms."""

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from image_classification.pages.axes import (
    Frame,
    figure,
    joined,
    legend,
    number_text,
    percent_text,
    thinned,
    ticks,
    whole_ticks,
)

_MOST_BARS = 60
_MOST_POINTS = 400  # of a line
_MOST_DOTS = 40
STYLES = ("s1", "s2 dashed", "s3 dotted")  # series differ without color too

_BARS = Markup(
    '<p class="keys">{keys}{note}</p><table class="bars"><thead class="unseen"><tr><th>Class</th>'
    "<th>Share of the largest</th><th>Images</th></tr></thead><tbody>{rows}</tbody></table>"
)
_KEY = Markup('<span class="key"><i class="swatch {style}"></i>{name}</span>')
_ROW = Markup('<tr><th scope="row">{name}</th><td><div>{pieces}</div></td><td>{total:,}</td></tr>')
_PIECE = Markup('<i class="{style}" style="width:{share:.2f}%" title="{split}: {count}"></i>')
_DOT = Markup('<circle class="{style}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>')
_MARK = Markup('<path class="mark" d="M{x:.1f} {top:.1f}V{base:.1f}"/>')
_BAR = Markup(
    '<rect class="{style}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}">'
    "<title>{title}</title></rect>"
)


def class_bars(names: Sequence[str], splits: Mapping[str, Sequence[int]]) -> Markup:
    """Return a bar for each class, stacked by split, the largest first.

    Of more than 60 classes only the 30 largest and the 30 smallest are drawn.

    Args:
        names: class names.
        splits: up to three: split name → number of images of each class.
    """
    totals = [sum(counts[i] for counts in splits.values()) for i in range(len(names))]
    order = sorted(range(len(names)), key=lambda i: -totals[i])
    note, half = "", _MOST_BARS // 2
    if len(order) > _MOST_BARS:
        order = order[:half] + order[-half:]
        note = f"the {half} largest and smallest of {len(names):,} classes"
    scale = 100 / max(*totals, 1)
    rows = []
    for i in order:
        counts = [(name, counts[i]) for name, counts in splits.items()]
        pieces = joined(
            _PIECE.format(style=f"s{number}", share=count * scale, split=split, count=count)
            for number, (split, count) in enumerate(counts, 1)
            if count
        )
        rows.append(_ROW.format(name=names[i], pieces=pieces, total=totals[i]))
    keys = (
        joined(_KEY.format(style=f"s{i}", name=name) for i, name in enumerate(splits, 1))
        if len(splits) > 1
        else ""
    )
    return _BARS.format(keys=keys, note=note, rows=joined(rows))


def line_chart(
    title: str,
    series: Mapping[str, Sequence[float]],
    *,
    is_share: bool = False,
    best: int | None = None,
) -> Markup:
    """Return a figure of values over the epochs 1, 2, …

    Args:
        title: of the figure.
        series: one or two: name → values, at least one and the same number for both; none below 0.
        is_share: whether the values are shares, 0 to 1, to be shown as percentages.
        best: the epoch to mark, from 1.
    """
    values = [value for points in series.values() for value in points]
    epochs = len(next(iter(series.values())))
    y_ticks = _share_ticks(values) if is_share else ticks(min(values), max(values))
    x_ticks = [1, *(n for n in whole_ticks(epochs, 6) if 1 < n <= epochs)]
    frame = Frame((1, epochs) if epochs > 1 else (0, 2), (y_ticks[0], y_ticks[-1]), top=10)
    text = percent_text if is_share else number_text
    content = [
        frame.axes(
            {float(n): str(n) for n in x_ticks}, {value: text(value) for value in y_ticks}, "epoch"
        )
    ]
    if best is not None and epochs > 1:
        content.append(_MARK.format(x=frame.x(best), top=frame.top, base=frame.base))
    for points, style in zip(series.values(), STYLES, strict=False):
        line = [(float(number), value) for number, value in enumerate(points, 1)]
        content.append(frame.line(thinned(line, _MOST_POINTS), style))
        if epochs <= _MOST_DOTS:
            dot = style.split()[0]
            content += [_DOT.format(x=frame.x(x), y=frame.y(y), style=dot) for x, y in line]
    keys = legend(zip(series, STYLES, strict=False)) if len(series) > 1 else ""
    ends = ", ".join(f"{name} {text(points[-1])}" for name, points in series.items())
    label = f"{title} by epoch, after {epochs}: {ends}"
    return figure(title, joined(content), label, keys)


_RUN_STYLES = ("s1", "s2 dashed", "s3 dotted", "s4", "s1 dashed", "s2", "s3 dashed", "s4 dotted")


def overlaid_chart(
    title: str, series: Mapping[str, Sequence[float]], *, is_share: bool = False
) -> Markup:
    """Return a figure of one value over the epochs of several runs, which can end at any epoch.

    Args:
        title: of the figure.
        series: up to eight: name of the run → values, at least one.
        is_share: whether the values are shares, 0 to 1, to be shown as percentages.
    """
    values = [value for points in series.values() for value in points]
    epochs = max(map(len, series.values()))
    y_ticks = _share_ticks(values) if is_share else ticks(min(values), max(values))
    text = percent_text if is_share else number_text
    frame = Frame((1, max(epochs, 2)), (y_ticks[0], y_ticks[-1]), top=10)
    x_ticks = [1, *(n for n in whole_ticks(epochs, 6) if 1 < n <= epochs)]
    content = [
        frame.axes(
            {float(n): str(n) for n in x_ticks}, {value: text(value) for value in y_ticks}, "epoch"
        )
    ]
    for points, style in zip(series.values(), _RUN_STYLES, strict=False):
        line = [(float(number), value) for number, value in enumerate(points, 1)]
        content.append(frame.line(thinned(line, _MOST_POINTS), style))
        x, y = line[-1]
        content.append(_DOT.format(x=frame.x(x), y=frame.y(y), style=style.split()[0]))
    ends = ", ".join(f"{name} {text(points[-1])}" for name, points in series.items())
    keys = legend(zip(series, _RUN_STYLES, strict=False))
    return figure(title, joined(content), f"{title} by epoch, at the end: {ends}", keys)


def _share_ticks(values: Sequence[float]) -> list[float]:
    found = [value for value in ticks(min(values), max(values)) if value <= 1.0]
    return found if len(found) > 1 else ticks(found[0] - 0.1, 1.0)


def histogram(title: str, counts: Sequence[int], edges: Sequence[str]) -> Markup:
    """Return a figure with a bar for each count.

    Args:
        title: of the figure.
        counts: one or more.
        edges: the text below the left edge of each bar, and below the right edge of the last one.
    """
    y_ticks = whole_ticks(max(*counts, 1))
    frame = Frame((0, len(counts)), (0, y_ticks[-1]), top=10)
    step = max(1, -(-len(edges) // 12))
    content = [
        frame.axes(
            {float(i): edge for i, edge in enumerate(edges) if i % step == 0},
            {float(value): f"{value:,}" for value in y_ticks},
            "",
        )
    ]
    content += [bar(frame, (i, i + 1), count, f"{count:,}") for i, count in enumerate(counts)]
    return figure(title, joined(content), title)


def bar(
    frame: Frame, sides: tuple[float, float], value: float, title: str, style: str = "s1"
) -> Markup:
    """Return a bar from 0 to `value` between two values of the horizontal axis."""
    x, right, y = frame.x(sides[0]) + 1, frame.x(sides[1]) - 1, frame.y(value)
    return _BAR.format(x=x, y=y, width=right - x, height=frame.base - y, title=title, style=style)
