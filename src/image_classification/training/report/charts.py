"""Charts as inline SVG: readable without a script or a network."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

from image_classification.training.calibration import Reliability

_WIDTH, _HEIGHT = 440, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 10, 34
_COLORS = ("#1f6fb2", "#d1661b")
_DASHES = ("", "6 4")  # told apart without color too


def line_chart(
    title: str, series: Mapping[str, Sequence[float]], ceiling: float = float("inf")
) -> str:
    """An SVG figure of up to two named series over the epochs 1, 2, …; all of one length ≥ 1.

    No value is below 0; the scale ends at `ceiling`, the largest value that is possible.
    """
    values = [value for points in series.values() for value in points]
    low, high = _range(min(values), max(values))
    low, high = max(low, 0.0), min(high, ceiling)
    length = len(next(iter(series.values())))

    def place(index: int, value: float) -> tuple[float, float]:
        x = _LEFT + (_WIDTH - _LEFT - _RIGHT) * (index / max(length - 1, 1))
        y = _TOP + (_HEIGHT - _TOP - _BOTTOM) * (high - value) / (high - low)
        return x, y

    parts, legend = [_grid(low, high, length)], []
    for number, (name, points) in enumerate(series.items()):
        style = f'stroke="{_COLORS[number]}" stroke-dasharray="{_DASHES[number]}"'
        spots = [place(index, value) for index, value in enumerate(points)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
        parts.append(f'<polyline points="{path}" fill="none" stroke-width="2" {style}/>')
        parts += [
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{_COLORS[number]}"/>'
            for x, y in spots
        ]
        legend.append(_legend(name, style))
    return (
        f"<figure><figcaption><b>{html.escape(title)}</b> {' '.join(legend)}</figcaption>"
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}" role="img" '
        f'aria-label="{html.escape(title)} by epoch" font-size="12" fill="#1d2733">'
        + "".join(parts)
        + "</svg></figure>"
    )


def reliability_chart(series: Mapping[str, Reliability]) -> str:
    """An SVG figure of accuracy over confidence, for up to two models; both axes 0–1.

    The area of a point is the share of the samples in its bin.
    """
    side = _HEIGHT - _TOP - _BOTTOM
    width = _LEFT + side + _RIGHT

    def place(confidence: float, accuracy: float) -> tuple[float, float]:
        return _LEFT + side * confidence, _TOP + side * (1 - accuracy)

    parts, legend = [_unit_square(side)], []
    for number, (name, bins) in enumerate(series.items()):
        color, total = _COLORS[number], max(int(bins.samples.sum()), 1)
        columns = (bins.samples.tolist(), bins.confidence.tolist(), bins.accuracy.tolist())
        spots = [
            (*place(confidence, accuracy), count)
            for count, confidence, accuracy in zip(*columns, strict=True)
            if count
        ]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in spots)
        style = f'stroke="{color}" stroke-dasharray="{_DASHES[number]}"'
        parts.append(f'<polyline points="{path}" fill="none" stroke-width="1.5" {style}/>')
        parts += [
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{2 + 9 * (count / total) ** 0.5:.1f}" '
            f'fill="{color}" fill-opacity="0.55"><title>{count}</title></circle>'
            for x, y, count in spots
        ]
        legend.append(_legend(name, style))
    return (
        f"<figure><figcaption><b>Right, by confidence</b> {' '.join(legend)}</figcaption>"
        f'<svg viewBox="0 0 {width} {_HEIGHT}" width="{1.5 * width:.0f}" '
        f'height="{1.5 * _HEIGHT:.0f}" role="img" aria-label="Accuracy by confidence" '
        f'font-size="10" fill="#1d2733">{"".join(parts)}</svg></figure>'
    )


def _unit_square(side: int) -> str:
    """The frame of 0–1 by 0–1 with its diagonal and both axes' ends."""
    left, bottom = _LEFT, _TOP + side
    end = 'text-anchor="end"'
    return (
        f'<rect x="{left}" y="{_TOP}" width="{side}" height="{side}" fill="none" '
        f'stroke="#c9d0d7"/><line x1="{left}" y1="{bottom}" x2="{left + side}" y2="{_TOP}" '
        f'stroke="#9aa5b0" stroke-dasharray="3 3"/>'
        f'<text x="{left - 5}" y="{_TOP + 9}" {end}>100 %</text>'
        f'<text x="{left - 5}" y="{bottom}" {end}>0 %</text>'
        f'<text x="{left - 5}" y="{_TOP + side / 2:.0f}" {end}>right</text>'
        f'<text x="{left}" y="{bottom + 14}">0 %</text>'
        f'<text x="{left + side / 2:.0f}" y="{bottom + 14}" text-anchor="middle">confidence</text>'
        f'<text x="{left + side}" y="{bottom + 14}" {end}>100 %</text>'
    )


def _legend(name: str, style: str) -> str:
    return (
        '<svg width="26" height="8" aria-hidden="true"><line x1="0" x2="24" y1="4" y2="4" '
        f'stroke-width="2" {style}/></svg> {html.escape(name)}'
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
