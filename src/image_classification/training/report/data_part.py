"""The sections of the report about what went in: data and hyperparameters."""

from __future__ import annotations

import json

from image_classification.data.bar_chart import class_bars
from image_classification.data.web_page import table, text
from image_classification.training.report.facts import Facts

_IMBALANCED = 10  # times more images in the largest class than in the smallest
_MOST_NAMED = 10
_MOST_BAD = 200


def classes(facts: Facts) -> str:
    """Images of each class in each split, and what is odd about them."""
    rows = [
        [name, sum(counts), sum(count > 0 for count in counts), min(counts), max(counts)]
        for name, counts in facts.class_counts.items()
    ]
    total = "Labels" if facts.is_multi_label else "Images"
    header = ["Split", total, "Classes", "Smallest class", "Largest class"]
    remarks = "".join(f"<li>{text(remark)}</li>" for remark in _remarks(facts))
    return (
        "<h2>Data</h2>"
        + table(header, rows)
        + (f"<ul>{remarks}</ul>" if remarks else "")
        + class_bars(facts.labels.names, facts.class_counts)
    )


def _remarks(facts: Facts) -> list[str]:
    """One sentence each."""
    remarks = []
    for split, counts in facts.class_counts.items():
        absent = [n for n, count in zip(facts.labels.names, counts, strict=True) if not count]
        if absent:
            more = f" and {len(absent) - _MOST_NAMED} more" if len(absent) > _MOST_NAMED else ""
            remarks.append(f"{split} has no image of {', '.join(absent[:_MOST_NAMED])}{more}")
        present = [count for count in counts if count]
        if present and max(present) >= _IMBALANCED * min(present):
            remarks.append(
                f"{split}: the largest class has {max(present)} images, the smallest "
                f"{min(present)}: accuracy hides how the small classes fare"
            )
    return remarks


def unusable(facts: Facts) -> str:
    """The images that were skipped."""
    if not facts.bad_samples:
        return "<h3>Unusable images</h3><p>None.</p>"
    shown = facts.bad_samples[:_MOST_BAD]
    count = len(facts.bad_samples)
    more = f"; the first {_MOST_BAD} of them" if count > _MOST_BAD else ""
    skipped = "1 image was skipped" if count == 1 else f"{count} images were skipped"
    return f"<h3>Unusable images</h3><p>{skipped}{more}:</p>" + table(["Image", "Reason"], shown)


def hyperparameters(facts: Facts) -> str:
    """What the job or its preset gave, what was left to its default, and what both came to."""
    settings = json.dumps(facts.description["hyperparameters"], indent=1, ensure_ascii=False)
    given = [
        (_named(name, origin), value)
        for name, value, origin in facts.hyperparameters
        if origin != "default"
    ]
    rest = [row[:2] for row in facts.hyperparameters if row[2] == "default"]
    content = "<h2>Hyperparameters</h2>"
    content += table(["Given", "Value"], given) if given else "<p>None was given.</p>"
    return (
        f"{content}<details><summary>{len(rest)} defaults</summary>"
        f"{table(['Default', 'Value'], rest)}</details>"
        "<details><summary>What they came to</summary>"
        f"<pre>{text(settings)}</pre></details>"
    )


def _named(name: str, origin: str) -> str:
    """A hyperparameter with the spelling or the preset that it came by."""
    if origin.startswith("preset "):
        return f"{name} ({origin})"
    return name if name == origin else f"{name} (given as {origin})"
