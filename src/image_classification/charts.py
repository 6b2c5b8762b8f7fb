"""Horizontal bars as inline SVG: how many images each class has in each split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from image_classification.html import text

_MOST_BARS = 60
_COLORS = ("#1f6fb2", "#d1661b", "#6b9a3c")
_BAR_WIDTH, _ROW_HEIGHT, _LABEL_WIDTH = 440, 22, 200


def class_bars(names: Sequence[str], splits: Mapping[str, Sequence[int]]) -> str:
    """A bar a class, in the parts of its splits; the largest and smallest of many classes.

    Args:
        names: of the classes.
        splits: up to three: split name → images of each class.
    """
    totals = [sum(counts[i] for counts in splits.values()) for i in range(len(names))]
    order = sorted(range(len(names)), key=lambda i: -totals[i])
    cut = len(order) > _MOST_BARS
    if cut:
        order = order[: _MOST_BARS // 2] + order[-_MOST_BARS // 2 :]
    scale = _BAR_WIDTH / max(*totals, 1)
    bars = [
        _bar(row * _ROW_HEIGHT, names[i], {name: s[i] for name, s in splits.items()}, scale)
        for row, i in enumerate(order)
    ]
    legend = " ".join(
        f'<svg width="14" height="12" aria-hidden="true"><rect width="12" height="12" '
        f'fill="{color}"/></svg> {text(name)}'
        for name, color in zip(splits, _COLORS, strict=False)
    )
    note = f" · the {_MOST_BARS // 2} largest and smallest of {len(names)} classes" if cut else ""
    width, height = _LABEL_WIDTH + _BAR_WIDTH + 60, len(order) * _ROW_HEIGHT
    return (
        f'<p>{legend}{note}</p><div class="scroll"><svg viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" role="img" aria-label="Images of each class" '
        f'font-size="13" fill="#1d2733">{"".join(bars)}</svg></div>'
    )


def _bar(y: int, name: str, counts: Mapping[str, int], scale: float) -> str:
    label = name if len(name) <= 28 else name[:27] + "…"
    x = float(_LABEL_WIDTH)
    parts = [f'<text x="{_LABEL_WIDTH - 8}" y="{y + 15}" text-anchor="end">{text(label)}</text>']
    for (split, count), color in zip(counts.items(), _COLORS, strict=False):
        parts.append(
            f'<rect x="{x:.1f}" y="{y + 3}" width="{count * scale:.1f}" '
            f'height="{_ROW_HEIGHT - 6}" fill="{color}"><title>{text(split)}: {count}</title>'
            "</rect>"
        )
        x += count * scale
    parts.append(f'<text x="{x + 6:.1f}" y="{y + 15}">{sum(counts.values())}</text>')
    return "".join(parts)
