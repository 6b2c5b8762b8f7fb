"""The list of `check --csv`: every image, its problems and what to do about it.

In: the subsets of a check and its verdict. Out: a CSV that a person reviews and `preprocess --list`
reads: it leaves out the images to drop, and those to relabel as long as their label is the old one.
"""

import csv
import json
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from image_classification.errors import UsageError
from image_classification.files import check_target, written_beside
from image_classification.inventory.rows import SPLITS
from image_classification.inventory.tables import DROP, RELABEL, REVIEW_COLUMNS, is_review
from image_classification.prepare.check import Subset
from image_classification.prepare.check.duplicates import Located, contradicts, crosses
from image_classification.prepare.check.measure import image_kinds
from image_classification.prepare.check.problems import Verdict, labels_out_of_range

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


@dataclass(frozen=True)
class Review:
    """What the list says.

    Attributes:
        images: lines.
        dropped: lines with the action drop.
        relabeled: lines with the action relabel.
        root: the folder that the paths are below.
        has_records: whether some lines stand for records, which are not files.
    """

    images: int
    dropped: int
    relabeled: int
    root: str
    has_records: bool


def check_review(path: Path, sources: Sequence[Path]) -> None:
    """Refuse to replace a file that is read, or any file but an older list of this kind."""
    for source in (path, *sources):
        if source is not path or path.is_dir():
            check_target(path, source)
    if path.exists():
        with path.open("rb") as existing:
            first = existing.readline(4096).decode("utf-8", "replace").strip()
        if first and not is_review(first.split(",")):
            raise UsageError(f"{path} exists and is not a list of check: name another file")


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
                label = _label(subset, index, is_multi_label)
                problem = "; ".join(finding.problems).encode("utf-8", "backslashreplace").decode()
                writer.writerow(
                    [
                        _path(subset, index, root),
                        label,
                        *([subset.split] if are_split else []),
                        problem,
                        finding.action,
                        label if finding.action == RELABEL else "",
                    ]
                )
    has_records = any(len(subset.keys) > len(subset.paths) for subset in subsets)
    return Review(sum(actions.values()), actions[DROP], actions[RELABEL], root, has_records)


def _common_folder(subsets: Sequence[Subset]) -> str:
    folders = list(dict.fromkeys(subset.folder for subset in subsets))
    if len(folders) == 1:
        return folders[0]
    return os.path.commonpath([os.path.abspath(folder) for folder in folders]) if folders else "."


def _path(subset: Subset, index: int, root: str) -> str:
    """Return the path below `root`; of a record the name of its file and its id."""
    if not subset.paths:
        return os.path.relpath(os.path.join(subset.folder, subset.keys[index]), root)
    if subset.folder == root:
        return subset.paths[index]
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
        for index, image in enumerate(measured):
            if image.reason is not None:
                _add(found[number, index], f"unreadable: {image.reason}", DROP)
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
