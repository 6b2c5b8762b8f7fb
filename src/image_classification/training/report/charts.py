"""Charts as inline SVG: readable without a script or a network."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

_WIDTH, _HEIGHT = 440, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 10, 34
_COLOURS = ("#1f6fb2", "#d1661b")
_DASHES = ("", "6 4")  # told apart without colour too


def line_chart(
    title: str, series: Mapping[str, Sequence[float]], ceiling: float = float("inf")
) -> str:
    """An SVG figure of up to two named series over the epochs 1, 2, …; all of one length ≥ 1.

    The scale ends at `ceiling`, the largest value that is possible.
    """
    values = [value for points in series.values() for value in points]
    low, high = _range(min(values), max(values))
    high = min(high, ceiling)
    length = len(next(iter(series.values())))

    def place(index: int, value: float) -> tuple[float, float]:
        x = _LEFT + (_WIDTH - _LEFT - _RIGHT) * (index / max(length - 1, 1))
        y = _TOP + (_HEIGHT - _TOP - _BOTTOM) * (high - value) / (high - low)
        return x, y

    parts, legend = [_grid(low, high, length)], []
    for number, (name, points) in enumerate(series.items()):
        style = f'stroke="{_COLOURS[number]}" stroke-dasharray="{_DASHES[number]}"'
        spots = [place(index, value) for index, value in enumerate(points)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
        parts.append(f'<polyline points="{path}" fill="none" stroke-width="2" {style}/>')
        parts += [
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{_COLOURS[number]}"/>'
            for x, y in spots
        ]
        legend.append(
            f'<svg width="26" height="8" aria-hidden="true"><line x1="0" x2="24" y1="4" y2="4" '
            f'stroke-width="2" {style}/></svg> {html.escape(name)}'
        )
    return (
        f"<figure><figcaption><b>{html.escape(title)}</b> {' '.join(legend)}</figcaption>"
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}" role="img" '
        f'aria-label="{html.escape(title)} by epoch" font-size="12" fill="#1d2733">'
        + "".join(parts)
        + "</svg></figure>"
    )


def _range(low: float, high: float) -> tuple[float, float]:
    """A little room above and below; never empty."""
    room = 0.08 * (high - low) or 0.05 * abs(high) or 0.05
    return low - room, high + room


def _grid(low: float, high: float, length: int) -> str:
    """Four horizontal lines with their values, and the first and last epoch."""
    lines = []
    for step in range(4):
        value = low + (high - low) * step / 3
        y = _TOP + (_HEIGHT - _TOP - _BOTTOM) * (high - value) / (high - low)
        lines.append(
            f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" '
            f'stroke="#e3e7eb"/>'
            f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:.3g}</text>'
        )
    lines.append(f'<text x="{_LEFT}" y="{_HEIGHT - 12}">epoch 1</text>')
    if length > 1:
        lines.append(
            f'<text x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 12}" text-anchor="end">{length}</text>'
        )
    return "".join(lines)
