"""Charts as inline SVG: how many images each class has in each split."""

from __future__ import annotations

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


def _joined(pieces: Iterable[Markup]) -> Markup:
    return Markup("").join(pieces)
