"""What a person reviews after a check: the list of `check --csv` and the page of `check --html`.

In: the subsets of a check and its verdict. Out: a CSV with every image, its problems and what to do
about it, which `preprocess --list` reads; and an HTML page with samples, histograms and the
problems as pictures. Pictures are bounded in number and read again one by one.
"""

import csv
import heapq
import json
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from image_classification.errors import DataError, UsageError
from image_classification.files import check_target, written_beside
from image_classification.images.encode import thumbnail
from image_classification.inventory.rows import SPLITS
from image_classification.inventory.tables import (
    DROP,
    RELABEL,
    REVIEW_COLUMNS,
    is_review,
    shown_label,
    shown_path,
)
from image_classification.pages import render
from image_classification.pages.charts import class_bars, histogram
from image_classification.prepare.check import Subset, sentence, shortened
from image_classification.prepare.check.duplicates import Located, contradicts, crosses, is_mirrored
from image_classification.prepare.check.measure import BLURRED, distributions, image_kinds
from image_classification.prepare.check.problems import Verdict, labels_out_of_range
from image_classification.samples import IntArray

_WRONG = 0.5  # the score of a label that is more probably wrong than right
_PROBLEMS = {
    "tiny": "tiny",
    "odd-aspect": "much longer than wide",
    "plain": "almost one color",
    "blurred": "blurred",
}


@dataclass
class _Finding:
    problems: list[str] = field(default_factory=list)
    action: str = ""
    label: str = ""  # the class that is probably right


@dataclass(frozen=True)
class Review:
    """What the list says.

    Attributes:
        images: lines.
        dropped: lines with the action drop.
        relabeled: lines with the action relabel.
        root: the folder that the paths are below; "" if they are those of images before packing.
        has_records: whether some lines stand for records, which are not files.
    """

    images: int
    dropped: int
    relabeled: int
    root: str
    has_records: bool


def check_output(path: Path, sources: Sequence[Path]) -> None:
    """Refuse to replace a file that is read, or any file but an older list or page of a check."""
    for source in sources:
        check_target(path, source)
    if path.exists():
        with path.open("rb") as existing:
            first = existing.readline(4096).decode("utf-8", "replace").strip()
        if first and first != "<!doctype html>" and not is_review(first.split(",")):
            raise UsageError(f"{path} exists and is not of an earlier check: name another file")


def write_review(path: Path, subsets: Sequence[Subset], verdict: Verdict) -> Review:
    """Write the list, line by line."""
    root = _common_folder(subsets)
    findings = _findings(subsets, verdict)
    are_split = len({s.split for s in subsets}) > 1 and all(s.split for s in subsets)
    is_multi_label = any(subset.multi_hot is not None for subset in subsets)
    label_column = "labels" if is_multi_label else "label"
    actions: defaultdict[str, int] = defaultdict(int)
    with (
        written_beside(path) as partial,
        partial.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        splits = ["split"] if are_split else []
        writer.writerow(["path", label_column, *splits, *REVIEW_COLUMNS])
        for number, subset in enumerate(subsets):
            for index in range(len(subset.keys)):
                finding = findings.get((number, index)) or _Finding()
                actions[finding.action] += 1
                given = shown_label(_label(subset, index, is_multi_label))
                is_new = finding.action == RELABEL and bool(finding.label)
                label = shown_label(finding.label) if is_new else given
                cells = [label, *([subset.split] if are_split else [])]
                problem = "; ".join(finding.problems).encode("utf-8", "backslashreplace").decode()
                cells += [problem, finding.action, given if finding.action == RELABEL else ""]
                writer.writerow([shown_path(_path(subset, index, root)), *cells])
    has_records = any(len(s.keys) > len(s.paths or s.origins) for s in subsets)
    root = "" if any(s.origins for s in subsets) else root
    return Review(sum(actions.values()), actions[DROP], actions[RELABEL], root, has_records)


def _common_folder(subsets: Sequence[Subset]) -> str:
    folders = list(dict.fromkeys(subset.folder for subset in subsets))
    if len(folders) == 1:
        return folders[0]
    return os.path.commonpath([os.path.abspath(folder) for folder in folders]) if folders else "."


def _path(subset: Subset, index: int, root: str) -> str:
    """Return the path below `root`; of a record that of the packed image, else its file and id."""
    if not (subset.origins or subset.paths):
        return os.path.relpath(os.path.join(subset.folder, subset.keys[index]), root)
    if subset.origins or subset.folder == root:
        return (subset.origins or subset.paths)[index]
    return os.path.relpath(os.path.join(subset.folder, subset.paths[index]), root)


def _label(subset: Subset, index: int, is_multi_label: bool) -> str:
    if not is_multi_label:
        return subset.class_of(index)
    names = [subset.class_of(index)]
    if subset.multi_hot is not None:
        names = [subset.name_of(i) for i in np.flatnonzero(subset.multi_hot[index]).tolist()]
    return json.dumps(names, ensure_ascii=False)


def _findings(subsets: Sequence[Subset], verdict: Verdict) -> dict[tuple[int, int], _Finding]:
    """Return subset, index → what was found, for the images with a problem."""
    found: defaultdict[tuple[int, int], _Finding] = defaultdict(_Finding)
    for number, (subset, measured) in enumerate(zip(subsets, verdict.measured, strict=True)):
        for index, reason in sorted(measured.reasons.items()):
            _add(found[number, index], f"unreadable: {reason}", DROP)
        for index in labels_out_of_range(subset):
            _add(found[number, index], "the label is not the number of a class", RELABEL)
        for kind in image_kinds(measured):
            for index in kind.indices if kind.kind in _PROBLEMS else ():
                action = DROP if kind.kind == "plain" else ""
                _add(found[number, index], _PROBLEMS[kind.kind], action)
    numbers = {id(subset): number for number, subset in enumerate(subsets)}
    for group in verdict.duplicates.equal:
        for one, problem, action in _equal_findings(group):
            _add(found[numbers[id(one[0])], one[1]], problem, action)
    for group in verdict.duplicates.near:
        kept = [one for one in group if found[numbers[id(one[0])], one[1]].action != DROP]
        for one, problem, action in _near_findings(kept):
            _add(found[numbers[id(one[0])], one[1]], problem, action)
    for issue in verdict.labels.issues if verdict.labels else ():
        finding, is_wrong = found[issue.place], issue.score >= _WRONG
        if is_wrong and not finding.action:
            finding.label = issue.suggested
        problem = f"perhaps {issue.suggested} ({issue.score:.2f})"
        _add(finding, problem, RELABEL if is_wrong else "")
    for place, _ in verdict.labels.outliers if verdict.labels else ():
        _add(found[place], "unlike all others", "")
    return found


def _add(finding: _Finding, problem: str, action: str) -> None:
    """Add a problem; to drop an image is stronger than to relabel it."""
    finding.problems.append(problem)
    if action and finding.action != DROP:
        finding.action = action


def _equal_findings(group: Sequence[Located]) -> Iterator[tuple[Located, str, str]]:
    """Yield what to do about equal images: keep one, in test or validation if one is there; a
    person has to decide its class if the others have another one."""
    kept = max(group, key=_rank)
    is_contradiction = contradicts(group)
    for image, other in _compared(group, kept):
        action = DROP if image is not kept else RELABEL if is_contradiction else ""
        yield image, f"identical to {_described(other, image)}", action


def _near_findings(group: Sequence[Located]) -> Iterator[tuple[Located, str, str]]:
    """Yield what to do about similar images: those of different classes are to relabel; of those in
    several subsets, only the ones in the last split stay. Within a subset, they stay."""
    if len(group) < 2:
        return
    kept = max(group, key=_rank)
    is_contradiction, is_crossing = contradicts(group), crosses(group)
    for image, other in _compared(group, kept):
        is_dropped = is_crossing and image[0] is not kept[0]
        action = RELABEL if is_contradiction else DROP if is_dropped else ""
        yield image, f"similar to {_described(other, image)}", action


def _compared(group: Sequence[Located], kept: Located) -> Iterator[tuple[Located, Located]]:
    """Yield every image with another one of its group: of another class, else the one to keep."""
    of_class: dict[str, Located] = {}
    for image in group:
        of_class.setdefault(image[0].class_of(image[1]), image)
    examples = list(of_class.items())[:2]
    second = group[1] if group[0] is kept else group[0]
    for image in group:
        own = image[0].class_of(image[1])
        different = [one for name, one in examples if name != own]
        yield image, different[0] if different else second if image is kept else kept


def _rank(image: Located) -> int:
    """Return the place of the image's split: training images are dropped first."""
    subset = image[0]
    return SPLITS.index(subset.split) if subset.split in SPLITS else -1


def _described(image: Located, seen_from: Located) -> str:
    subset, index = image
    text = subset.image_name(index)
    if contradicts((image, seen_from)):
        text += f", which is {subset.class_of(index)}"
    return text


_MOST_CLASSES, _MOST_SUBSETS = 40, 50
_SAMPLES, _PICTURED = 6, 12  # pictures of a class, of a problem; about 4 KB each
_JUDGED = 48  # pictures of labels that are perhaps wrong
_GROUPS, _GROUPED = 10, 4


def page(subsets: Sequence[Subset], verdict: Verdict) -> str:
    """Return the check as HTML."""
    classes = _images_of_classes(subsets)
    counts = {name: sum(len(found) for _, found in places) for name, places in classes.items()}
    names = sorted(counts, key=lambda name: -counts[name])
    if len(names) > _MOST_CLASSES:
        names = names[: _MOST_CLASSES // 2] + names[-_MOST_CLASSES // 2 :]
    images = sum(map(len, verdict.measured))
    unusable = sum(len(measured.reasons) for measured in verdict.measured)
    return render(
        "check.html",
        names=", ".join(subset.name for subset in subsets[:3]) + (", …" if subsets[3:] else ""),
        images=images,
        classes=len(counts),
        unusable=unusable,
        verdict=sentence(verdict.problems),
        problems=[
            (p.severity, p.kind, shortened(p.message, subsets), len(p.images) or "")
            for p in verdict.problems
        ],
        subsets=[
            (
                shortened(subset.name, subsets),
                subset.images,
                subset.unusable,
                len(subset.class_counts),
            )
            for subset in verdict.subsets[:_MOST_SUBSETS]
        ],
        more_subsets=max(0, len(subsets) - _MOST_SUBSETS),
        chart=class_bars(list(counts), {"images": list(counts.values())}) if counts else "",
        shown_classes=[
            (name, counts[name], [_shown(image) for image in _spread(classes[name])])
            for name in names
        ],
        histograms=[histogram(*bars) for bars in distributions(verdict.measured)]
        if images > unusable
        else [],
        blurred=f"{BLURRED:g}",
        softest=_softest(subsets, verdict),
        pictured=_pictured(subsets, verdict),
        duplicates=_pictured_duplicates(subsets, verdict),
        left_out=[reason for subset in subsets for reason in subset.left_out],
    )


def _images_of_classes(subsets: Sequence[Subset]) -> dict[str, list[tuple[Subset, IntArray]]]:
    """Return class name → the indices of its images in each subset."""
    classes: dict[str, list[tuple[Subset, IntArray]]] = {}
    for subset in subsets:
        if subset.multi_hot is not None:
            bits = enumerate(subset.multi_hot.T)
            found = [(subset.name_of(number), np.flatnonzero(column)) for number, column in bits]
        elif len(subset.keys):
            order = np.argsort(subset.labels, kind="stable")
            starts = np.flatnonzero(np.diff(subset.labels[order])) + 1
            found = [(subset.class_of(int(i[0])), i) for i in np.split(order, starts)]
        else:
            found = []
        for name, indices in found:
            classes.setdefault(name, []).append((subset, indices))
    return classes


def _spread(places: Sequence[tuple[Subset, IntArray]]) -> Iterator[Located]:
    """Yield a few images at equal distances."""
    total = sum(len(indices) for _, indices in places)
    for place in np.unique(np.linspace(0, total - 1, min(total, _SAMPLES)).astype(int)).tolist():
        for subset, indices in places:
            if place < len(indices):
                yield subset, int(indices[place])
                break
            place -= len(indices)


def _shown(image: Located, note: str = "") -> dict[str, str | None]:
    """Return an image for the page: a picture, its name, class and a note."""
    subset, index = image
    try:
        uri = thumbnail(subset.read(index))
    except (OSError, DataError, ValueError):
        uri = None
    key = subset.keys[index]
    name = os.path.join(os.path.basename(subset.name), key) if subset.paths else key
    return {"uri": uri, "name": name, "label": subset.class_of(index), "note": note}


def _softest(subsets: Sequence[Subset], verdict: Verdict) -> list[dict[str, str | None]]:
    usable = (
        (measured.sharpness[index], number, index)
        for number, measured in enumerate(verdict.measured)
        for index in np.flatnonzero(measured.is_usable & ~measured.is_plain).tolist()
    )
    return [
        _shown((subsets[number], index), f"sharpness {sharpness:.0f}")
        for sharpness, number, index in heapq.nsmallest(_PICTURED, usable)
    ]


def _pictured(
    subsets: Sequence[Subset], verdict: Verdict
) -> list[tuple[str, int, list[dict[str, str | None]]]]:
    """Return title, number and some pictures of each kind of problem."""
    found: defaultdict[str, list[tuple[Located, str]]] = defaultdict(list)
    for subset, measured in zip(subsets, verdict.measured, strict=True):
        for index, reason in sorted(measured.reasons.items()):
            found["images cannot be used"].append(((subset, index), reason))
        for index in labels_out_of_range(subset):
            found["labels are not the number of a class"].append(((subset, index), ""))
        for kind in image_kinds(measured):
            title = kind.message.partition(":")[0]
            for index in kind.indices:
                height, width = measured.sizes[index].tolist()
                note = f"{width} × {height}"
                found[title].append(((subset, index), note))
    shown = [(title, images, _PICTURED) for title, images in found.items()]
    if verdict.labels is not None:
        issues = [
            (
                (subsets[issue.place[0]], issue.place[1]),
                f"perhaps {issue.suggested} ({issue.score:.2f})",
            )
            for issue in verdict.labels.issues
        ]
        unlike = [((subsets[s], i), "") for (s, i), _ in verdict.labels.outliers]
        shown = [
            ("labels are perhaps wrong", issues, _JUDGED),
            ("images are unlike all others", unlike, _PICTURED),
            *shown,
        ]
    return [
        (title.capitalize(), len(images), [_shown(image, note) for image, note in images[:most]])
        for title, images, most in shown
        if images
    ]


def _pictured_duplicates(
    subsets: Sequence[Subset], verdict: Verdict
) -> list[tuple[str, int, list[tuple[list[dict[str, str | None]], int]]]]:
    """Return title, number and some groups of each kind of duplicate."""
    numbers = {id(subset): number for number, subset in enumerate(subsets)}
    found: defaultdict[str, list[Sequence[Located]]] = defaultdict(list)
    for alike, groups in (
        ("Identical images", verdict.duplicates.equal),
        ("Similar images", verdict.duplicates.near),
    ):
        for where, holds in (
            (" of different classes", contradicts),
            (" in several subsets", crosses),
            ("", lambda _: True),
        ):
            matching = [group for group in groups if holds(group)]
            groups = [group for group in groups if not holds(group)]
            if matching:
                found[alike + where] += matching

    def shown(group: Sequence[Located]) -> list[dict[str, str | None]]:
        first, *others = (verdict.measured[numbers[id(s)]].hashes[i] for s, i in group[:_GROUPED])
        notes = ["", *("mirrored" if is_mirrored(first, other) else "" for other in others)]
        return [_shown(image, note) for image, note in zip(group, notes, strict=False)]

    return [
        (title, len(groups), [(shown(g), max(0, len(g) - _GROUPED)) for g in groups[:_GROUPS]])
        for title, groups in found.items()
    ]
