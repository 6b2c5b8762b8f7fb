"""From an inventory to ready channels: split, divide in shards, write, with the findings.

    output/
      labels.json  findings.json  findings.html
      train/       labels.json  train.lst  train.rec  train.idx
      validation/  …
      test/        only with a test ratio

A split is one folder because a channel of a training job is one. Large splits are several shards,
`train-00000-of-00003.rec`; which host writes which shard changes nothing in them.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from image_classification.errors import DataError, UsageError
from image_classification.files import PARTIAL_SUFFIX, write_text
from image_classification.images.decode import DEFAULT_MAX_PIXELS
from image_classification.images.restart_markers import Segmenter
from image_classification.inventory import SPLITS, Inventory
from image_classification.labels.label_map import LABELS_FILE
from image_classification.labels.lists import ListEntry, write_list
from image_classification.labels.split import stratified_group_split, stratified_split
from image_classification.prepare.encode import EncodedImage, Transcoding, encode
from image_classification.prepare.page import page
from image_classification.prepare.report import Findings, Tally, check_left_out
from image_classification.prepare.shards import FORMATS, Shard, check_format, divide, shard_count
from image_classification.samples import IntArray
from image_classification.work import in_order

DEFAULT_TRAIN_RATIO = 0.8


def split_inventory(
    inventory: Inventory, train_ratio: float | None, test_ratio: float | None, seed: int
) -> dict[str, list[ListEntry]]:
    """Split → its list, shuffled: readers without an index shuffle in a small window only.

    Args:
        inventory: its own splits are kept; its groups are not torn apart. Without an image there
            are no splits.
        train_ratio, test_ratio: shares, 0 to 1; validation gets the rest, which must not be empty.
            None: the inventory's own splits, or 0.8 and 0.
        seed: 0 or more.

    Raises:
        UsageError: ratios that leave a split empty, or ratios for an input with splits of its own.
        DataError: an input with splits of its own that lacks one.
    """
    if not inventory.entries:
        return {}
    if inventory.splits:
        if train_ratio is not None or test_ratio is not None or inventory.groups:
            raise UsageError(
                f"{inventory.name} says which image is in which split, so ratios and groups cannot "
                "be met: leave them out, or remove the splits from the input"
            )
        indices = _given_splits(inventory)
    else:
        train = DEFAULT_TRAIN_RATIO if train_ratio is None else train_ratio
        indices = _drawn_splits(inventory, train, test_ratio or 0.0, seed)
    lists = {}
    for name, members in indices.items():
        order = np.random.default_rng([seed, len(members)]).permutation(members)
        lists[name] = [inventory.entries[int(i)] for i in order]
    return lists


def _given_splits(inventory: Inventory) -> dict[str, IntArray]:
    splits = np.array(inventory.splits)
    indices = {name: np.flatnonzero(splits == name) for name in SPLITS}
    for name in ("train", "validation"):
        if not len(indices[name]):
            raise DataError(
                f"{inventory.name} has splits, but no image in {name}; add some, or remove the "
                "splits from the input to have them drawn"
            )
    return {name: members for name, members in indices.items() if len(members)}


def _drawn_splits(
    inventory: Inventory, train: float, test: float, seed: int
) -> dict[str, IntArray]:
    if not train + test < 1:
        raise UsageError(
            f"train ratio {train} and test ratio {test} leave nothing for validation: they must "
            "add up to less than 1"
        )
    ratios = (train, 1 - train - test, test)
    classes = inventory.class_indices
    if inventory.groups:
        parts = stratified_group_split(classes, inventory.groups, ratios, seed)
    else:
        parts = stratified_split(classes, ratios, seed)
    if not len(parts.validation):
        raise UsageError(
            f"{inventory.name}: {len(classes)} images are too few for a validation split; every "
            "class needs at least two"
        )
    return {name: members for name, members in zip(SPLITS, parts, strict=True) if len(members)}


FINDINGS_FILE = "findings.json"
FINDINGS_PAGE = "findings.html"

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ChannelPlan:
    """What to make of an inventory.

    Attributes:
        train_ratio, test_ratio: shares, 0 to 1; validation gets the rest, which must not be empty.
            None: the splits of the inventory if it has any, else 0.8 and 0.
        seed: of the split and of the order inside each split.
        format: a key of `FORMATS`.
        transcoding: how images are encoded again; None stores their bytes.
        shard_bytes: size of a shard, about; 0 makes one shard of a split, however large.
        max_bad: unusable images that may be left out: a count (int) or a share (float).
        workers: threads; None for one a core.
        host, hosts: which of how many hosts this is, from 0. Every hosts-th shard is written.
        host_name: goes into file names, where hosts have different images; "" where all have all.
        max_pixels: of an image that is stored as it is; `transcoding` has its own.
        segment: give JPEGs restart markers, so that a reader can decode parts of them.
    """

    train_ratio: float | None = None
    test_ratio: float | None = None
    seed: int = 0
    format: str = "recordio"
    transcoding: Transcoding | None = None
    shard_bytes: int = 0
    max_bad: int | float = 0
    workers: int | None = None
    host: int = 0
    hosts: int = 1
    host_name: str = ""
    max_pixels: int = DEFAULT_MAX_PIXELS
    segment: bool = False


def write_channels(
    inventory: Inventory,
    output: Path,
    plan: ChannelPlan,
    on_progress: Callable[[int, int], None],
) -> Findings:
    """Write the channels, or this host's shards of them, into `output`.

    Everything is written into a hidden folder and moved when it is complete: beside `output`, or
    inside it where it exists, because a container's output is a volume of its own.

    Args:
        inventory: the images.
        output: empty (empty folders of splits may be there) or absent.
        plan: how.
        on_progress: called with (images done, images of this host).

    Raises:
        UsageError: impossible ratios, a format that cannot be written, an output that is not empty.
        DataError: more unusable images than allowed, or a full disk; nothing is left behind.
    """
    _check_output(output)
    check_format(plan.format, inventory.labels)
    splits = split_inventory(inventory, plan.train_ratio, plan.test_ratio, plan.seed)
    shards = _shards(inventory, splits, plan)
    own = shards if plan.host_name else shards[plan.host :: plan.hosts]
    if not inventory.entries:
        _logger.warning("%s: this host has no image", inventory.name)
    elif not own:
        _logger.warning(
            "%d shards are too few for %d hosts: this one has nothing to write; make them smaller "
            "with --shard-size",
            len(shards),
            plan.hosts,
        )
    name = f".{output.name}.{os.getpid()}{PARTIAL_SUFFIX}"
    partial = output / name if output.exists() else output.with_name(name)
    try:
        partial.mkdir(parents=True)
        findings = _write_shards(inventory, own, partial, plan, splits, on_progress)
        inventory.labels.write(partial / LABELS_FILE)
        _write_findings(findings, partial, plan)
        _move_into(partial, output)
    except OSError as error:
        raise DataError(
            f"{output} cannot be written: {error.strerror}; nothing was left behind"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return findings


def _check_output(output: Path) -> None:
    """Empty folders of splits are accepted: a Processing job mounts one for each of its outputs."""
    if not output.exists():
        return
    if output.is_dir() and not any(
        path.name not in SPLITS or not path.is_dir() or any(path.iterdir())
        for path in output.iterdir()
    ):
        return
    raise UsageError(f"{output} is not empty: name a folder that is empty or does not exist")


def _shards(
    inventory: Inventory, splits: dict[str, list[ListEntry]], plan: ChannelPlan
) -> list[Shard]:
    shards = []
    for name, entries in splits.items():
        count = shard_count(
            entries,
            str(inventory.root),
            plan.transcoding,
            plan.shard_bytes,
            _workers(plan),
            plan.max_pixels,
        )
        shards += divide(name, entries, count, plan.host_name)
    return shards


def _workers(plan: ChannelPlan) -> int:
    return plan.workers or os.cpu_count() or 1


def _write_shards(
    inventory: Inventory,
    shards: Sequence[Shard],
    folder: Path,
    plan: ChannelPlan,
    splits: Iterable[str],
    on_progress: Callable[[int, int], None],
) -> Findings:
    tally = Tally(inventory, splits)
    root, total = str(inventory.root), sum(len(shard.entries) for shard in shards)
    done = 0
    segmenter = Segmenter() if plan.segment else None

    def process(entry: ListEntry) -> EncodedImage:
        return encode(entry, root, plan.transcoding, plan.max_pixels, segmenter)

    for shard in shards:
        channel = folder / shard.split
        channel.mkdir(exist_ok=True)
        inventory.labels.write(channel / LABELS_FILE)
        written: list[ListEntry] = []
        with FORMATS[plan.format](channel, shard.stem, inventory.labels) as write:
            for image in in_order(process, shard.entries, _workers(plan)):
                done += 1
                size = write(image) if image.reason is None else 0
                tally.add(shard.split, image, size)
                if image.reason is None:
                    written.append(image.entry)
                on_progress(done, total)
        write_list(channel / f"{shard.stem}.lst", written)
        tally.splits[shard.split].files.append(shard.stem)
    if segmenter is not None:
        segmenter.warn()
    check_left_out(tally.left_out(), total, plan.max_bad, inventory.root)
    settings = {
        "train_ratio": None
        if inventory.splits
        else DEFAULT_TRAIN_RATIO
        if plan.train_ratio is None
        else plan.train_ratio,
        "test_ratio": None if inventory.splits else plan.test_ratio or 0.0,
        "seed": plan.seed,
        "format": plan.format,
        "transcoding": asdict(plan.transcoding) if plan.transcoding else None,
        "segment": plan.segment,
    }
    return tally.findings(settings, plan.host, plan.hosts)


def _write_findings(findings: Findings, folder: Path, plan: ChannelPlan) -> None:
    """One pair of files a host: what each says is its own."""
    mark = f"-{plan.host_name or plan.host}" if plan.hosts > 1 else ""
    for name, content in (
        (FINDINGS_FILE, json.dumps(findings.to_json(), indent=1)),
        (FINDINGS_PAGE, page(findings)),
    ):
        path = folder / name
        write_text(path.with_stem(path.stem + mark), content)


def _move_into(partial: Path, output: Path) -> None:
    """Rename the folder, or move its content where the output folder exists."""
    if not output.exists():
        output.parent.mkdir(parents=True, exist_ok=True)
        partial.rename(output)
        return
    for path in sorted(partial.iterdir()):
        if (output / path.name).is_dir():  # perhaps a volume of its own
            _move_into(path, output / path.name)
        else:
            shutil.move(path, output / path.name)
