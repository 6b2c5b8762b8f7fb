"""findings.html: counts of each class in each split, and every problem with its picture."""

from __future__ import annotations

from collections.abc import Sequence

from image_classification.charts import class_bars
from image_classification.html import document, table, text
from image_classification.images.thumbnail import thumbnail
from image_classification.prepare.report import Findings, ListedImage

_MOST_PICTURES = 24  # of a section; about 4 KB each


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
    chart = class_bars(names, {name: split.class_counts for name, split in splits.items()})
    return f"<h2>Images of each class</h2>{chart}" + table(header, rows)


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
