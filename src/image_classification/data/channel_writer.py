"""From class folders to ready channels: split, list, pack, with the label map and the findings.

    output/
      labels.json  findings.json
      train/       train.lst  train.rec  train.idx  labels.json
      validation/  validation.lst …
      test/        only with a test ratio

A split is one folder because a channel of a training job is one.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from image_classification.data.files import PARTIAL_SUFFIX, write_text
from image_classification.data.labels import LABELS_FILE, LabelMap
from image_classification.data.listing import ListEntry, write_list
from image_classification.data.packing import PackReport, pack
from image_classification.data.samples import IntArray
from image_classification.data.sources.folder import FolderSource
from image_classification.data.splitting import stratified_split
from image_classification.data.transcoding import Transcoding
from image_classification.errors import UsageError

FINDINGS_FILE = "findings.json"

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ChannelPlan:
    """What to make of a folder of class folders.

    Attributes:
        train_ratio, test_ratio: shares, 0 to 1; validation gets the rest, which must not be empty.
        seed: of the split and of the order inside each record file.
        transcoding: how images are encoded again; None stores their bytes.
        max_bad: unusable images that may be left out of a split: a count (int) or a share (float).
        workers: threads; None for one a core.
    """

    train_ratio: float = 0.8
    test_ratio: float = 0.0
    seed: int = 0
    transcoding: Transcoding | None = None
    max_bad: int | float = 0
    workers: int | None = None


def write_channels(
    root: Path,
    output: Path,
    plan: ChannelPlan,
    on_progress: Callable[[int, int], None],
) -> dict[str, PackReport]:
    """Write the channels of `root` into `output`, which must be empty or absent.

    Everything is written into a hidden folder and moved when it is complete: beside `output`, or
    inside it where it exists, because a container's output is a volume of its own.

    Args:
        root: class folders, one level deep.
        output: one folder per split will be in it.
        plan: how.
        on_progress: called with (images done, images in all).

    Returns:
        Split name → what was packed.

    Raises:
        UsageError: impossible ratios, or an output that is not empty.
        DataError: no class folders, or more unusable images than allowed; nothing is left behind.
    """
    _check(output, plan)
    source = FolderSource(root)
    splits = _split(source, plan)
    _logger.info("%s: %d images of %d classes", root, len(source), len(source.labels))
    name = f".{output.name}.{os.getpid()}{PARTIAL_SUFFIX}"
    partial = output / name if output.exists() else output.with_name(name)
    try:
        reports: dict[str, PackReport] = {}
        for name, indices in splits.items():
            packed = sum(report.packed + len(report.skipped) for report in reports.values())
            reports[name] = _write_channel(
                partial / name,
                root,
                _entries(source, indices, plan.seed),
                source.labels,
                plan,
                _progress_of_part(on_progress, packed, len(source)),
            )
        source.labels.write(partial / LABELS_FILE)
        findings = _findings(root, source.labels, plan, reports)
        write_text(partial / FINDINGS_FILE, json.dumps(findings, indent=1, ensure_ascii=False))
        _move_into(partial, output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return reports


def _progress_of_part(
    on_progress: Callable[[int, int], None], before: int, total: int
) -> Callable[[int, int], None]:
    return lambda done, _: on_progress(before + done, total)


def _check(output: Path, plan: ChannelPlan) -> None:
    if not plan.train_ratio + plan.test_ratio < 1:
        raise UsageError(
            f"train ratio {plan.train_ratio} and test ratio {plan.test_ratio} leave nothing for "
            "validation: they must add up to less than 1"
        )
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UsageError(f"{output} is not empty: name a folder that is empty or does not exist")


def _split(source: FolderSource, plan: ChannelPlan) -> dict[str, IntArray]:
    validation_ratio = 1 - plan.train_ratio - plan.test_ratio
    ratios = (plan.train_ratio, validation_ratio, plan.test_ratio)
    parts = stratified_split(source.class_indices, ratios, plan.seed)
    splits = {"train": parts.train, "validation": parts.validation, "test": parts.test}
    if not len(parts.validation):
        raise UsageError(
            f"{source.name}: {len(source)} images are too few for a validation split; every class "
            "needs at least two"
        )
    return {name: indices for name, indices in splits.items() if len(indices)}


def _entries(source: FolderSource, indices: IntArray, seed: int) -> list[ListEntry]:
    """The list of a split, shuffled: readers without an index shuffle in a small window only."""
    order = np.random.default_rng([seed, len(indices)]).permutation(indices)
    labels = source.class_indices
    return [ListEntry(int(i), (float(labels[i]),), source.key(int(i))) for i in order]


def _write_channel(
    directory: Path,
    root: Path,
    entries: list[ListEntry],
    labels: LabelMap,
    plan: ChannelPlan,
    on_progress: Callable[[int, int], None],
) -> PackReport:
    directory.mkdir(parents=True)
    list_path = directory / f"{directory.name}.lst"
    labels.write(directory / LABELS_FILE)
    write_list(list_path, entries)
    return pack(
        list_path,
        root,
        list_path.with_suffix(".rec"),
        transcoding=plan.transcoding,
        workers=plan.workers,
        max_bad=plan.max_bad,
        on_progress=on_progress,
    )


def _findings(
    root: Path, labels: LabelMap, plan: ChannelPlan, reports: dict[str, PackReport]
) -> dict[str, Any]:
    """What was found and done: counts of each class in each split, and every image left out."""
    return {
        "input": str(root),
        "seed": plan.seed,
        "splits": {
            name: {
                "images": report.packed,
                "bytes": report.size_bytes,
                "images_per_class": {
                    labels.names[int(label)]: count for label, count in report.class_counts.items()
                },
                "left_out": [
                    {"path": image.path, "reason": image.reason} for image in report.skipped
                ],
            }
            for name, report in reports.items()
        },
    }


def _move_into(partial: Path, output: Path) -> None:
    """Rename the folder, or move its content where the output folder exists."""
    if not output.exists():
        output.parent.mkdir(parents=True, exist_ok=True)
        partial.rename(output)
        return
    for path in sorted(partial.iterdir()):
        path.rename(output / path.name)
