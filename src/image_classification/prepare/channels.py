"""From an inventory to channels: split, divided into shards, written, with the findings.

    output/
      labels.json  findings.json  findings.html
      train/       labels.json  train.lst  train.rec  train.idx
      validation/  …
      test/        only with a test ratio

Each split is a folder, because a channel of a training job is one. Large splits have several
shards, `train-00000-of-00003.rec`; their content does not depend on which host writes them.
"""

import json
import logging
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from image_classification.errors import DataError, UsageError, counted
from image_classification.files import PARTIAL_SUFFIX, write_text
from image_classification.images.decode import DEFAULT_MAX_PIXELS
from image_classification.images.restart_markers import Segmenter
from image_classification.inventory.rows import SPLITS, Inventory
from image_classification.labels.label_map import LABELS_FILE
from image_classification.labels.lists import ListEntry, write_list
from image_classification.labels.split import (
    stratified_group_split,
    stratified_multi_label_split,
    stratified_split,
)
from image_classification.labels.tree import class_name
from image_classification.loading.sources import LOST
from image_classification.prepare.encode import EncodingRun, ImageEncoder, Transcoding
from image_classification.prepare.findings import Findings
from image_classification.prepare.formats import FORMATS, check_format, shard_stem
from image_classification.samples import IntArray
from image_classification.work import in_order

_TRAIN_RATIO = 0.8
_NAMED = 10  # classes in a message
_SAMPLED = 64  # images that are encoded to estimate the size of all
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ChannelPlan:
    """How to make channels of an inventory.

    Attributes:
        train_ratio, test_ratio: shares, 0 to 1; validation gets the rest, which must not be empty.
            None: the splits of the inventory if it has any, else 0.8 and 0. If only its validation
            split is missing, a train ratio draws that from its training images.
        seed: of the split and of the order inside each split.
        format: a key of `FORMATS`.
        transcoding: how images are encoded again; None stores their bytes.
        shard_bytes: approximate size of a shard; 0 makes one shard of a split, however large.
        max_bad: unusable images that may be left out: a count (int) or a share (float).
        workers: threads; None for one per core.
        host, hosts: which of how many hosts this is, from 0. Every hosts-th shard is written.
        host_name: part of the file names where hosts have different images; "" where all have all.
        max_pixels: height times width of the largest image that is decoded.
        segment: give JPEGs restart markers, so that a reader can decode regions of them.
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

    def settings(self, inventory: Inventory) -> dict[str, Any]:
        """Return the plan as the findings report it, as JSON values."""
        is_given = inventory.splits and not self.draws_validation(inventory)
        train, test = (None, None) if is_given else _ratios(self)
        transcoding = asdict(self.transcoding) if self.transcoding else None
        return {
            "train_ratio": train,
            "test_ratio": test,
            "seed": self.seed,
            "format": self.format,
            "transcoding": transcoding and {**transcoding, "max_pixels": self.max_pixels},
            "segment": self.segment,
        }

    def draws_validation(self, inventory: Inventory) -> bool:
        """Return whether validation is drawn from the training images of an input with splits."""
        lacks = bool(inventory.splits) and "validation" not in inventory.splits
        return lacks and self.train_ratio is not None and not self.test_ratio

    def encoder(self, inventory: Inventory) -> ImageEncoder:
        """Return the encoder of the inventory's images."""
        return ImageEncoder(
            str(inventory.root),
            self.transcoding,
            self.max_pixels,
            Segmenter() if self.segment else None,
            inspects=True,
            read=inventory.read,
        )


def _split(inventory: Inventory, plan: ChannelPlan) -> dict[str, list[ListEntry]]:
    """Return split → its list, shuffled: readers without an index only shuffle in a small window.

    The inventory's own splits are kept, and each group stays in one split.

    Raises:
        UsageError: ratios that leave a split empty, or ratios for an input with its own splits.
        DataError: an input whose own splits lack train.
    """
    if not inventory.entries:
        return {}
    indices = _given_splits(inventory, plan) if inventory.splits else _drawn(inventory, plan)
    lists = {}
    for name, members in indices.items():
        if len(members):
            order = np.random.default_rng([plan.seed, len(members)]).permutation(members)
            lists[name] = [inventory.entries[int(i)] for i in order]
    return lists


def _given_splits(inventory: Inventory, plan: ChannelPlan) -> dict[str, IntArray]:
    splits = np.array(inventory.splits)
    indices = {name: np.flatnonzero(splits == name) for name in SPLITS}
    draws = plan.draws_validation(inventory)
    has_ratio = plan.train_ratio is not None or plan.test_ratio is not None
    if not draws and (has_ratio or inventory.groups):
        raise UsageError(
            f"{inventory.name} has splits of its own: leave out ratios and groups, or remove the "
            "splits from the input"
        )
    if not len(train := indices["train"]):
        raise DataError(
            f"{inventory.name} has splits, but no image in train; add some, or remove the splits "
            "from the input to have them drawn at random"
        )
    if draws:
        groups = [inventory.groups[i] for i in train] if inventory.groups else ()
        entries = [inventory.entries[i] for i in train]
        drawn = _drawn(replace(inventory, entries=entries, splits=(), groups=groups), plan)
        indices |= {name: train[drawn[name]] for name in ("train", "validation")}
    return indices


def _drawn(inventory: Inventory, plan: ChannelPlan) -> dict[str, IntArray]:
    train, test = _ratios(plan)
    if not train + test < 1:
        raise UsageError(
            f"train ratio {train} and test ratio {test} leave nothing for validation: they must "
            "add up to less than 1"
        )
    ratios, classes = (train, 1 - train - test, test), inventory.class_indices
    try:
        if inventory.multi_hot is not None:
            drawn = stratified_multi_label_split(
                inventory.multi_hot, inventory.groups, ratios, plan.seed
            )
        elif inventory.groups:
            drawn = stratified_group_split(classes, inventory.groups, ratios, plan.seed)
        else:
            drawn = stratified_split(classes, ratios, plan.seed)
    except UsageError as error:
        raise UsageError(f"{inventory.name}: {error}") from error
    if not len(drawn.validation):
        raise UsageError(
            f"{inventory.name}: {counted(len(classes), 'images are')} too few for a validation "
            "split; every class needs at least two"
        )
    if test and not len(drawn.test):
        _log.warning(
            "%s: expected a test split of %g, but no class has the three images that it needs: "
            "no test split is written",
            *(inventory.name, test),
        )
    return dict(zip(SPLITS, drawn, strict=True))


def _ratios(plan: ChannelPlan) -> tuple[float, float]:
    train = _TRAIN_RATIO if plan.train_ratio is None else plan.train_ratio
    return train, plan.test_ratio or 0.0


@dataclass(frozen=True)
class Shard:
    """A stretch of a split's list, written as a file of its own by one of the hosts.

    Shards are a function of the list: hosts, their number and the order of the work change nothing.

    Attributes:
        split: "train", "validation" or "test".
        stem: file name without extension: `train`, or `train-00000-of-00003` of several.
        entries: in the order they are written.
    """

    split: str
    stem: str
    entries: Sequence[ListEntry]


def _divide(split: str, entries: Sequence[ListEntry], count: int, host: str = "") -> list[Shard]:
    """Cut `entries` into `count` shards whose sizes differ by one image at most."""
    name = f"{split}-{host}" if host else split
    if count == 1:
        return [Shard(split, name, entries)]
    bounds = [len(entries) * k // count for k in range(count + 1)]
    return [
        Shard(split, shard_stem(name, k, count), entries[bounds[k] : bounds[k + 1]])
        for k in range(count)
    ]


def _shard_count(entries: Sequence[ListEntry], inventory: Inventory, plan: ChannelPlan) -> int:
    """Return how many shards of about the wanted size hold `entries`; 1 to len(entries).

    Up to 64 images, evenly spaced, are encoded as a sample: all hosts that see the same files get
    the same number.
    """
    if not plan.shard_bytes or not entries:
        return 1
    sampled = entries[:: -(-len(entries) // _SAMPLED)]
    encode = replace(plan, segment=False).encoder(inventory).encode
    images = in_order(encode, sampled, plan.workers or os.cpu_count() or 1)
    sizes = [len(image.content) for image in images if image.reason is None]
    if not sizes:
        return 1
    total = sum(sizes) / len(sizes) * len(entries)
    return min(max(1, -int(-total // plan.shard_bytes)), len(entries))


def write_channels(
    inventory: Inventory,
    output: Path,
    plan: ChannelPlan,
    on_progress: Callable[[int, int], None],
) -> Findings:
    """Write the channels, or this host's shards of them, into `output`.

    Everything is written into a hidden folder and moved when it is complete. The hidden folder is
    next to `output`, or inside it if it exists: a container's output is a volume of its own.

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
    check_format(plan.format, inventory.labels, inventory.is_multi_label)
    _refuse_lost_classes(inventory)
    shards = _plan_shards(inventory, plan)
    own = shards if plan.host_name else shards[plan.host :: plan.hosts]
    if not inventory.entries:
        _log.warning("%s: this host has no images", inventory.name)
    elif not own:
        _log.warning(
            "%d shards are too few for %d hosts: this one has nothing to write; make them smaller "
            "with --shard-size",
            len(shards),
            plan.hosts,
        )
    findings = _new_findings(inventory, shards, plan)
    name = f".{output.name}.{os.getpid()}{PARTIAL_SUFFIX}"
    partial = output / name if output.exists() else output.with_name(name)
    try:
        partial.mkdir(parents=True)
        _write_shards(inventory, own, partial, plan, findings, on_progress)
        if emptied := findings.emptied_class():
            name, image = emptied
            raise DataError(
                f"{inventory.name}: no image of class {name} is usable, for example {image.path} "
                f"({image.reason}); replace its images, or leave the class out"
            )
        lost = findings.lost_classes()
        if lost:
            _log.warning(
                "the split is drawn again without the %d unusable images: it left a split without "
                "usable images of %s",
                len(findings.left_out),
                ", ".join(lost[:_NAMED]) + (", …" if len(lost) > _NAMED else ""),
            )
            shutil.rmtree(partial)
            partial.mkdir()
            shards = _plan_shards(_usable(inventory, findings), plan)
            earlier, findings = findings, _new_findings(inventory, shards, plan)
            _write_shards(inventory, shards, partial, plan, findings, on_progress)
            findings.keep_left_out(earlier)
        inventory.labels.write(partial / LABELS_FILE)
        mark = f"-{plan.host_name or plan.host}" if plan.hosts > 1 else ""
        write_text(partial / f"findings{mark}.json", json.dumps(findings.to_json(), indent=1))
        write_text(partial / f"findings{mark}.html", findings.page())
        _move_into(partial, output)
    except OSError as error:
        raise DataError(
            f"{output} cannot be written: {error.strerror}; nothing was left behind"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return findings


def _plan_shards(inventory: Inventory, plan: ChannelPlan) -> list[Shard]:
    return [
        shard
        for name, entries in _split(inventory, plan).items()
        for shard in _divide(name, entries, _shard_count(entries, inventory, plan), plan.host_name)
    ]


def _new_findings(inventory: Inventory, shards: Sequence[Shard], plan: ChannelPlan) -> Findings:
    splits = list(dict.fromkeys(shard.split for shard in shards))
    return Findings(inventory, splits, plan.settings(inventory), plan.host, plan.hosts)


def _usable(inventory: Inventory, findings: Findings) -> Inventory:
    """Return the inventory without its unusable images."""
    unusable = {image.path for image in findings.left_out}
    kept = [i for i, entry in enumerate(inventory.entries) if entry.path not in unusable]
    return replace(
        inventory,
        entries=[inventory.entries[i] for i in kept],
        groups=[inventory.groups[i] for i in kept] if inventory.groups else (),
    )


def _refuse_lost_classes(inventory: Inventory) -> None:
    for what, count, example in inventory.left_out:
        if what == LOST:
            raise DataError(
                f"{inventory.name}: {counted(count, what)}, for example {class_name(example)}; the "
                "log says what the files are: convert them, for example to JPEG or PNG, or move "
                "the folders away if they are not classes"
            )


def _check_output(output: Path) -> None:
    """Accept empty folders of splits: a Processing job mounts one for each of its outputs."""
    if not output.exists():
        return
    if output.is_dir() and not any(
        path.name not in SPLITS or not path.is_dir() or any(path.iterdir())
        for path in output.iterdir()
    ):
        return
    raise UsageError(f"{output} is not empty: name a folder that is empty or does not exist")


def _write_shards(
    inventory: Inventory,
    shards: Sequence[Shard],
    folder: Path,
    plan: ChannelPlan,
    findings: Findings,
    on_progress: Callable[[int, int], None],
) -> None:
    total = sum(len(shard.entries) for shard in shards)
    run = EncodingRun(plan.encoder(inventory), total, plan.workers, on_progress)
    for shard in shards:
        channel = folder / shard.split
        channel.mkdir(exist_ok=True)
        inventory.labels.write(channel / LABELS_FILE)
        written: list[ListEntry] = []
        with FORMATS[plan.format](channel, shard.stem, inventory.labels) as write:
            for image in run.images(shard.entries):
                is_usable = image.reason is None
                findings.add(shard.split, image, write(image) if is_usable else 0)
                written += [image.entry] if is_usable else []
        write_list(channel / f"{shard.stem}.lst", written)
        findings.add_shard(shard.split, shard.stem)
    run.finish(plan.max_bad)


def _move_into(partial: Path, output: Path) -> None:
    """Rename the folder, or move its content if the output folder exists."""
    if not output.exists():
        output.parent.mkdir(parents=True, exist_ok=True)
        partial.rename(output)
        return
    for path in sorted(partial.iterdir()):
        if (output / path.name).is_dir():  # it may be a volume of its own
            _move_into(path, output / path.name)
        else:
            shutil.move(path, output / path.name)
