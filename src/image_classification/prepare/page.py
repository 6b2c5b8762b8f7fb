"""findings.html: images per class and split, and every problem with a picture."""

from __future__ import annotations

from image_classification.images.thumbnail import thumbnail
from image_classification.pages import render
from image_classification.pages.charts import class_bars
from image_classification.prepare.report import Findings

_MOST_PICTURES = 24  # in a section; about 4 KB each


def page(findings: Findings) -> str:
    """Return the findings as HTML text."""
    splits, totals = findings.splits, findings.class_totals()
    left_out = [pair for split in splits.values() for pair in split.left_out]
    suspect = [g for g in findings.duplicates if g in findings.crossing + findings.contradicting]
    rest = [group for group in findings.duplicates if group not in suspect]
    return render(
        "findings.html",
        findings=findings,
        splits=[
            [name, split.images, len(split.left_out), f"{split.size_bytes / 1e6:.1f} MB",
             len(split.files)]
            for name, split in splits.items()
        ],
        classes=[
            [name, *(split.class_counts[i] for split in splits.values()), totals[i]]
            for i, name in enumerate(findings.labels.names)
        ],
        chart=class_bars(
            findings.labels.names, {name: split.class_counts for name, split in splits.items()}
        ),
        left_out=[
            (image, reason, thumbnail(findings.root / image.path))
            for image, reason in left_out[:_MOST_PICTURES]
        ],
        more_left_out=[[image.path, reason] for image, reason in left_out[_MOST_PICTURES:]],
        pictured_duplicates=[
            (group, thumbnail(findings.root / group[0].path))
            for group in suspect[: _MOST_PICTURES // 2]
        ],
        more_duplicates=[
            [", ".join(image.path for image in group), group[0].split]
            for group in [*suspect[_MOST_PICTURES // 2 :], *rest]
        ],
        settings=[
            [name.replace("_", " "), "as in the input" if value is None else str(value)]
            for name, value in findings.settings.items()
        ],
    )  # fmt: skip
