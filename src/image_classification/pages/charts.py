"""Charts as inline SVG: images per class, metrics by epoch, accuracy by confidence."""

from collections.abc import Iterable, Mapping, Sequence

from markupsafe import Markup  # Jinja2's: what it wraps is HTML; `format` escapes its values

_MOST_BARS = 60
_COLORS = ("#1f6fb2", "#d1661b", "#6b9a3c")
_BAR_WIDTH, _ROW_HEIGHT, _LABEL_WIDTH = 440, 22, 200

_CHART = Markup(
    '<p>{legend}{note}</p><div class="scroll"><svg viewBox="0 0 {width} {height}" width="{width}" '
    'height="{height}" role="img" aria-label="Images per class" font-size="13" fill="#1d2733">'
    "{bars}</svg></div>"
)
_LEGEND = Markup(
    '<svg width="14" height="12" aria-hidden="true"><rect width="12" height="12" fill="{color}"/>'
    "</svg> {name} "
)
_LABEL = Markup('<text x="{x}" y="{y}" text-anchor="end">{name}</text>')
_PIECE = Markup(
    '<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{height}" fill="{color}">'
    "<title>{split}: {count}</title></rect>"
)
_TOTAL = Markup('<text x="{x:.1f}" y="{y}">{total}</text>')


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
        note = f"· the {half} largest and smallest of {len(names)} classes"
    scale = _BAR_WIDTH / max(*totals, 1)
    return _CHART.format(
        legend=_joined(
            _LEGEND.format(color=color, name=name)
            for name, color in zip(splits, _COLORS, strict=False)
        ),
        note=note,
        width=_LABEL_WIDTH + _BAR_WIDTH + 60,
        height=len(order) * _ROW_HEIGHT,
        bars=_joined(
            _bar(row * _ROW_HEIGHT, names[i], {name: s[i] for name, s in splits.items()}, scale)
            for row, i in enumerate(order)
        ),
    )


def _bar(y: int, name: str, counts: Mapping[str, int], scale: float) -> Markup:
    label = name if len(name) <= 28 else name[:27] + "…"
    x = float(_LABEL_WIDTH)
    pieces = [_LABEL.format(x=_LABEL_WIDTH - 8, y=y + 15, name=label)]
    for (split, count), color in zip(counts.items(), _COLORS, strict=False):
        width, height = count * scale, _ROW_HEIGHT - 6
        pieces.append(
            _PIECE.format(
                x=x, y=y + 3, width=width, height=height, color=color, split=split, count=count
            )
        )
        x += width
    pieces.append(_TOTAL.format(x=x + 6, y=y + 15, total=sum(counts.values())))
    return _joined(pieces)


_WIDTH, _HEIGHT = 440, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 10, 34
_SIDE = _HEIGHT - _TOP - _BOTTOM
_DASHES = ("", "6 4")  # series differ without color too

_FIGURE = Markup(
    "<figure><figcaption><b>{title}</b> {legend}</figcaption>"
    '<svg viewBox="0 0 {width} {height}" width="{shown_width}" height="{shown_height}" role="img" '
    'aria-label="{label}" font-size="{font_size}" fill="#1d2733">{content}</svg></figure>'
)
_SERIES = Markup(
    '<svg width="26" height="8" aria-hidden="true"><line x1="0" x2="24" y1="4" y2="4" '
    'stroke-width="2" stroke="{color}" stroke-dasharray="{dashes}"/></svg> {name} '
)
_PATH = Markup(
    '<polyline points="{points}" fill="none" stroke-width="{width}" stroke="{color}" '
    'stroke-dasharray="{dashes}"/>'
)
_POINT = Markup('<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{color}"/>')
_WEIGHTED_POINT = Markup(
    '<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" fill="{color}" fill-opacity="0.55">'
    "<title>{count}</title></circle>"
)
_GRID_LINE = Markup(
    '<line x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" stroke="#e3e7eb"/>'
    '<text x="{text_x}" y="{text_y:.1f}" text-anchor="end">{value}</text>'
)
_TEXT = Markup('<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}">{text}</text>')
_UNIT_SQUARE = Markup(
    '<rect x="{x}" y="{y}" width="{side}" height="{side}" fill="none" stroke="#c9d0d7"/>'
    '<line x1="{x}" y1="{bottom}" x2="{right}" y2="{y}" stroke="#9aa5b0" stroke-dasharray="3 3"/>'
)


def line_chart(
    title: str, series: Mapping[str, Sequence[float]], ceiling: float = float("inf")
) -> Markup:
    """Return a figure of values over the epochs 1, 2, …

    Args:
        title: of the figure.
        series: one or two: name → values, at least one and the same number for both; none below 0.
        ceiling: the largest possible value; the scale ends there at the latest.
    """
    values = [value for points in series.values() for value in points]
    low, high = min(values), max(values)
    room = 0.08 * (high - low) or 0.05 * abs(high) or 0.05
    low, high = max(low - room, 0.0), min(high + room, ceiling)
    epochs = len(next(iter(series.values())))

    def x_of(index: int) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * index / max(epochs - 1, 1)

    def y_of(value: float) -> float:
        return _TOP + _SIDE * (high - value) / (high - low)

    content = []
    for value in (low + (high - low) * line / 3 for line in range(4)):
        y, right = y_of(value), _WIDTH - _RIGHT
        content.append(
            _GRID_LINE.format(
                left=_LEFT, right=right, y=y, text_x=_LEFT - 6, text_y=y + 4, value=f"{value:.3g}"
            )
        )
    content.append(_text(_LEFT, _HEIGHT - 12, "epoch 1", "start"))
    if epochs > 1:
        content.append(_text(_WIDTH - _RIGHT, _HEIGHT - 12, epochs, "end"))
    for points, color, dashes in zip(series.values(), _COLORS, _DASHES, strict=False):
        places = [(x_of(index), y_of(value)) for index, value in enumerate(points)]
        content.append(_PATH.format(points=_points(places), width=2, color=color, dashes=dashes))
        content += [_POINT.format(x=x, y=y, color=color) for x, y in places]
    return _FIGURE.format(
        title=title,
        legend=_series_legend(series),
        width=_WIDTH,
        height=_HEIGHT,
        shown_width=_WIDTH,
        shown_height=_HEIGHT,
        label=f"{title} by epoch",
        font_size=12,
        content=_joined(content),
    )


def reliability_chart(series: Mapping[str, Sequence[tuple[int, float, float]]]) -> Markup:
    """Return a figure of accuracy by confidence, both 0–1; the area of a point shows its samples.

    Args:
        series: one or two: name → (number of samples, mean confidence, accuracy) of each bin.
    """
    right, bottom = _LEFT + _SIDE, _TOP + _SIDE
    content = [_UNIT_SQUARE.format(x=_LEFT, y=_TOP, side=_SIDE, bottom=bottom, right=right)]
    content += [
        _text(_LEFT - 5, _TOP + 9, "100%", "end"),
        _text(_LEFT - 5, bottom, "0%", "end"),
        _text(_LEFT - 5, _TOP + _SIDE / 2, "correct", "end"),
        _text(_LEFT, bottom + 14, "0%", "start"),
        _text(_LEFT + _SIDE / 2, bottom + 14, "confidence", "middle"),
        _text(right, bottom + 14, "100%", "end"),
    ]
    for bins, color, dashes in zip(series.values(), _COLORS, _DASHES, strict=False):
        total = max(sum(count for count, _, _ in bins), 1)
        points = [
            (count, _LEFT + _SIDE * confidence, _TOP + _SIDE * (1 - accuracy))
            for count, confidence, accuracy in bins
            if count
        ]
        places = [(x, y) for _, x, y in points]
        content.append(_PATH.format(points=_points(places), width=1.5, color=color, dashes=dashes))
        content += [
            _WEIGHTED_POINT.format(
                x=x, y=y, radius=2 + 9 * (count / total) ** 0.5, color=color, count=count
            )
            for count, x, y in points
        ]
    width = right + _RIGHT
    return _FIGURE.format(
        title="Accuracy by confidence",
        legend=_series_legend(series),
        width=width,
        height=_HEIGHT,
        shown_width=round(1.5 * width),
        shown_height=round(1.5 * _HEIGHT),
        label="Accuracy by confidence",
        font_size=10,
        content=_joined(content),
    )


_BAR = Markup(
    '<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{color}">'
    "<title>{count}</title></rect>"
)


def histogram(title: str, counts: Sequence[int], ticks: Sequence[str]) -> Markup:
    """Return a figure with a bar for each count.

    Args:
        title: of the figure.
        counts: one or more.
        ticks: the text below the left edge of each bar, and below the right edge of the last one.
    """
    step = (_WIDTH - _LEFT - _RIGHT) / len(counts)
    most = max(*counts, 1)
    content = []
    for share in (0.0, 0.5, 1.0):
        y, right = _TOP + _SIDE * (1 - share), _WIDTH - _RIGHT
        value = f"{most * share:,g}" if share != 0.5 or most > 1 else ""
        content.append(
            _GRID_LINE.format(
                left=_LEFT, right=right, y=y, text_x=_LEFT - 6, text_y=y + 4, value=value
            )
        )
    for number, count in enumerate(counts):
        height = _SIDE * count / most
        content.append(
            _BAR.format(
                x=_LEFT + number * step + 1,
                y=_TOP + _SIDE - height,
                width=step - 2,
                height=height,
                color=_COLORS[0],
                count=count,
            )
        )
    content += [
        _text(_LEFT + number * step, _HEIGHT - 18, tick, "middle")
        for number, tick in enumerate(ticks)
    ]
    return _FIGURE.format(
        title=title,
        legend="",
        width=_WIDTH,
        height=_HEIGHT,
        shown_width=_WIDTH,
        shown_height=_HEIGHT,
        label=title,
        font_size=11,
        content=_joined(content),
    )


def _points(places: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in places)


def _text(x: float, y: float, text: object, anchor: str) -> Markup:
    return _TEXT.format(x=x, y=y, text=text, anchor=anchor)


def _series_legend(series: Iterable[str]) -> Markup:
    return _joined(
        _SERIES.format(name=name, color=color, dashes=dashes)
        for name, color, dashes in zip(series, _COLORS, _DASHES, strict=False)
    )


def _joined(pieces: Iterable[Markup]) -> Markup:
    return Markup("").join(pieces)
