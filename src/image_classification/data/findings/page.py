"""findings.html: counts of each class in each split, and every problem with its picture."""

from __future__ import annotations

from collections.abc import Sequence

from image_classification.data.findings import Findings, ListedImage
from image_classification.data.findings.thumbnails import thumbnail
from image_classification.data.web_page import document, table, text

_MOST_PICTURES = 24  # of a section; about 4 KB each
_MOST_BARS = 60
_COLOURS = {"train": "#1f6fb2", "validation": "#d1661b", "test": "#6b9a3c"}
_BAR_WIDTH, _ROW_HEIGHT, _LABEL_WIDTH = 440, 22, 200


def page(findings: Findings) -> str:
    """The findings as HTML text."""
    images = sum(split.images for split in findings.splits.values())
    host = f" · host {findings.host + 1} of {findings.hosts}" if findings.hosts > 1 else ""
    remarks = findings.remarks()
    listed = "".join(f"<li>{text(remark)}</li>" for remark in remarks) or "<li>Nothing.</li>"
    sections = [
        "<h1>What preprocessing found</h1>",
        f"<p>{text(findings.name)}{host}</p>",
        f'<p><span class="number">{images}</span> images of {len(findings.labels)} classes.</p>',
        f"<h2>To know before training</h2><ul>{listed}</ul>",
        _splits(findings),
        _classes(findings),
        _left_out(findings),
        _duplicates(findings),
        _not_taken(findings),
        "<h2>Settings</h2>" + table(["Setting", "Value"], _settings(findings)),
    ]
    return document("What preprocessing found", sections)


def _splits(findings: Findings) -> str:
    rows = [
        [name, split.images, len(split.left_out), f"{split.size_bytes / 1e6:.1f} MB",
         len(split.files)]
        for name, split in findings.splits.items()
    ]  # fmt: skip
    return "<h2>Splits</h2>" + table(["Split", "Images", "Left out", "Size", "Shards"], rows)


def _classes(findings: Findings) -> str:
    names, totals = findings.labels.names, findings.class_totals()
    splits = findings.splits
    rows = [
        [name, *(split.class_counts[i] for split in splits.values()), totals[i]]
        for i, name in enumerate(names)
    ]
    header = ["Class", *splits, "All"]
    return f"<h2>Images of each class</h2>{_chart(findings)}" + table(header, rows)


def _chart(findings: Findings) -> str:
    """A bar a class, in the parts of its splits; the largest and smallest of many classes."""
    names, totals = findings.labels.names, findings.class_totals()
    order = sorted(range(len(names)), key=lambda i: -totals[i])
    cut = len(order) > _MOST_BARS
    if cut:
        order = order[: _MOST_BARS // 2] + order[-_MOST_BARS // 2 :]
    scale = _BAR_WIDTH / max(*totals, 1)
    parts = []
    for row, i in enumerate(order):
        y, x = row * _ROW_HEIGHT, float(_LABEL_WIDTH)
        label = names[i] if len(names[i]) <= 28 else names[i][:27] + "…"
        parts.append(
            f'<text x="{_LABEL_WIDTH - 8}" y="{y + 15}" text-anchor="end">{text(label)}</text>'
        )
        for name, split in findings.splits.items():
            count = split.class_counts[i]
            width = count * scale
            parts.append(
                f'<rect x="{x:.1f}" y="{y + 3}" width="{width:.1f}" height="{_ROW_HEIGHT - 6}" '
                f'fill="{_COLOURS[name]}"><title>{text(name)}: {count}</title></rect>'
            )
            x += width
        parts.append(f'<text x="{x + 6:.1f}" y="{y + 15}">{totals[i]}</text>')
    legend = " ".join(
        f'<svg width="14" height="12" aria-hidden="true"><rect width="12" height="12" '
        f'fill="{_COLOURS[name]}"/></svg> {text(name)}'
        for name in findings.splits
    )
    note = f" · the {_MOST_BARS // 2} largest and smallest of {len(names)} classes" if cut else ""
    width, height = _LABEL_WIDTH + _BAR_WIDTH + 60, len(order) * _ROW_HEIGHT
    return (
        f'<p>{legend}{note}</p><div class="scroll"><svg viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" role="img" aria-label="Images of each class" '
        f'font-size="13" fill="#1d2733">{"".join(parts)}</svg></div>'
    )


def _left_out(findings: Findings) -> str:
    left_out = [pair for split in findings.splits.values() for pair in split.left_out]
    if not left_out:
        return ""
    figures = [_figure(findings, image, reason) for image, reason in left_out[:_MOST_PICTURES]]
    content = f'<h2>Left out</h2><div class="gallery">{"".join(figures)}</div>'
    rest = left_out[_MOST_PICTURES:]
    if rest:
        content += table(["Image", "Reason"], [[image.path, reason] for image, reason in rest])
    return content


def _duplicates(findings: Findings) -> str:
    if not findings.duplicates:
        return ""
    content = "<h2>Images with equal bytes</h2>"
    special = [g for g in findings.duplicates if g in findings.crossing + findings.contradicting]
    if special:
        figures = [_same(findings, group) for group in special[: _MOST_PICTURES // 2]]
        content += "<p>In several splits or classes:</p>"
        content += f'<div class="gallery">{"".join(figures)}</div>'
    rest = [group for group in findings.duplicates if group not in special]
    rest = [*special[_MOST_PICTURES // 2 :], *rest]
    return content + _groups(rest)


def _same(findings: Findings, group: Sequence[ListedImage]) -> str:
    lines = (f"{text(i.split)}: {text(i.path)} ({text(i.label)})" for i in group)
    return _with_picture(findings, group[0], "<br>".join(lines))


def _groups(groups: Sequence[Sequence[ListedImage]]) -> str:
    if not groups:
        return ""
    rows = [[", ".join(image.path for image in group), group[0].split] for group in groups]
    return table(["Images", "Split"], rows)


def _figure(findings: Findings, image: ListedImage, reason: str) -> str:
    caption = f"<b>{text(image.path)}</b> ({text(image.split)})<br>{text(reason)}"
    return _with_picture(findings, image, caption)


def _with_picture(findings: Findings, image: ListedImage, caption: str) -> str:
    uri = thumbnail(findings.root / image.path)
    picture = f'<img src="{uri}" alt="">' if uri else '<span class="nothing">nothing to see</span>'
    return f"<figure>{picture}<figcaption>{caption}</figcaption></figure>"


def _not_taken(findings: Findings) -> str:
    if not findings.not_taken:
        return ""
    header = ["What", "How many", "For example"]
    return "<h2>In the input, but no listed image</h2>" + table(header, findings.not_taken)


def _settings(findings: Findings) -> list[list[object]]:
    return [
        [name.replace("_", " "), "as in the input" if value is None else str(value)]
        for name, value in findings.settings.items()
    ]
