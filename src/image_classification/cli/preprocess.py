"""`image-classification preprocess`: a download → channels of a training job."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from image_classification.cli.command_line import add_segment, max_bad_of, say, workers_of
from image_classification.contract.environment import BASE_DIR, MAX_PIXELS
from image_classification.contract.paths import JobPaths, is_sharded_input, read_processing_cluster
from image_classification.errors import UsageError
from image_classification.inventory import Inventory
from image_classification.inventory.folders import take_inventory
from image_classification.labels.label_map import LABELS_FILE, LabelMap
from image_classification.labels.tree import LeftOut, find_images
from image_classification.logs import late_progress
from image_classification.prepare.channels import ChannelPlan, write_channels
from image_classification.prepare.encode import Transcoding
from image_classification.prepare.findings import Findings
from image_classification.prepare.formats import FORMATS

if TYPE_CHECKING:
    from argparse import _SubParsersAction


_DEFAULT_QUALITY = 95
_EXIT_TERMINATED = 128 + signal.SIGTERM
_DEFAULT_SHARD_MEGABYTES = 512

_EPILOG = """\
examples:
  image-classification preprocess --input flowers --output channels --resize 256
  image-classification preprocess --input images --list labels.csv --group-by patient \\
      --output channels --resize 256 --format tfrecord --test-ratio 0.1
  image-classification preprocess
      as a SageMaker Processing job: /opt/ml/processing/input → /opt/ml/processing/output
"""


def add_commands(subparsers: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `preprocess`."""
    command = subparsers.add_parser(
        "preprocess",
        help="make train, validation and test channels of images",
        description="Split images by class and write each split as a channel, with the class names "
        "and a report of what was found.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_input(command)
    _add_split(command)
    _add_output(command)
    command.set_defaults(run=run)


def _add_input(command: argparse.ArgumentParser) -> None:
    add = command.add_argument_group("input").add_argument
    add("--input", type=Path, metavar="DIR", help="default: <base>/processing/input")
    add(
        "--list",
        type=Path,
        metavar="FILE",
        help="which image has which class: .csv, .lst, .manifest or .jsonl (default: the class "
        "folders, or the one list in DIR)",
    )
    add("--label-attribute", metavar="NAME", help="of a manifest: the attribute with the class")
    add("--group-by", metavar="COLUMN", help="images of one group stay in one split")
    add(
        "--labels",
        metavar="NAMES",
        help=f"class names in the order of their numbers: a,b,c, a JSON list or a {LABELS_FILE}",
    )
    add(
        "--base-dir",
        type=Path,
        default=BASE_DIR.read(),
        metavar="DIR",
        help="folder that stands for /opt/ml",
    )
    add(
        "--distribution",
        choices=("replicated", "sharded"),
        help="several hosts: every host has all images, or each its own (default: as the job's "
        "configuration says, else replicated)",
    )


def _add_split(command: argparse.ArgumentParser) -> None:
    add = command.add_argument_group("split").add_argument
    add("--train-ratio", type=float, metavar="R", help="default 0.8")
    add("--test-ratio", type=float, metavar="R", help="default 0")
    add("--seed", type=int, default=0, metavar="N", help="of split and order")


def _add_output(command: argparse.ArgumentParser) -> None:
    output = command.add_argument_group("output")
    add = output.add_argument
    add("--output", type=Path, metavar="DIR", help="default: <base>/processing/output")
    add("--format", choices=tuple(FORMATS), default="recordio", help="default recordio")
    add("--resize", type=int, metavar="N", help="shorter side in pixels (default: as it is)")
    add("--quality", type=int, metavar="Q", help="of JPEGs that are encoded again (default: 95)")
    add_segment(output)
    add(
        "--shard-size",
        type=float,
        default=_DEFAULT_SHARD_MEGABYTES,
        metavar="MB",
        help="files of about this size (default: 512); 0: one file a split, however large",
    )
    add("--workers", type=int, metavar="N", help="threads (default: the cores)")
    add(
        "--max-bad",
        type=max_bad_of,
        default=0,
        metavar="N|P%",
        help="unusable images that may be left out (default: 0)",
    )


def run(namespace: argparse.Namespace) -> int:
    """Write the channels and say what is in them."""
    _check_numbers(namespace)
    base = Path(namespace.base_dir)
    root = namespace.input or base / "processing" / "input"
    output = namespace.output or base / "processing" / "output"
    _check_apart(root, output)
    labels = _labels_of(namespace.labels, root)
    plan = _plan(namespace, base, root, labels)
    if plan.host_name and not (root.is_dir() and find_images(root, LeftOut())):
        # With fewer objects than hosts some hosts get none.
        inventory = Inventory(str(root), root, (), labels or LabelMap(()))
    else:
        inventory = take_inventory(
            root,
            _listing_of(namespace.list, root),
            labels=labels,
            group_by=namespace.group_by,
            label_attribute=namespace.label_attribute,
        )
    # As an exception, so that what is half-written is taken away when the platform stops the job.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(_EXIT_TERMINATED))
    with late_progress("preprocess", "images") as on_progress:
        findings = write_channels(inventory, output, plan, on_progress)
    say(*_summary(findings, output))
    return 0


def _check_apart(root: Path, output: Path) -> None:
    """What is written below the input would be read as images of it the next time."""
    if output.resolve().is_relative_to(root.resolve()):
        raise UsageError(f"--output {output} lies in the input {root}: name a folder outside it")


def _check_numbers(namespace: argparse.Namespace) -> None:
    if namespace.seed < 0:
        raise UsageError(f"--seed {namespace.seed}: expected 0 or more")
    if not 0 <= namespace.shard_size < float("inf"):
        raise UsageError(f"--shard-size {namespace.shard_size}: expected 0 or more megabytes")


def _listing_of(path: Path | None, root: Path) -> Path | None:
    """A relative name may also be meant from the input: a job does not choose where it runs."""
    if path is None or path.is_file():
        return path
    if (root / path).is_file():
        return root / path
    raise UsageError(f"--list {path}: no such file, here or in {root}")


def _labels_of(text: str | None, root: Path) -> LabelMap | None:
    """The names that are given, or those of a labels.json in the input."""
    if text is None:
        beside = root / LABELS_FILE
        return LabelMap.read(beside) if beside.is_file() else None
    if text.endswith(".json"):
        return LabelMap.read(Path(text))
    return LabelMap.parse(text)


def _plan(
    namespace: argparse.Namespace, base: Path, root: Path, labels: LabelMap | None
) -> ChannelPlan:
    transcoding = None
    max_pixels = MAX_PIXELS.read_integer(1)
    if namespace.resize is not None or namespace.quality is not None:
        transcoding = Transcoding(
            resize=namespace.resize or 0,
            quality=_DEFAULT_QUALITY if namespace.quality is None else namespace.quality,
        )
    cluster = read_processing_cluster(JobPaths(base))
    hosts = len(cluster.hosts)
    is_sharded = is_sharded_input(JobPaths(base), root)
    if namespace.distribution is not None:
        is_sharded = namespace.distribution == "sharded"
    if is_sharded and hosts > 1 and labels is None:
        raise UsageError(
            f"each of {hosts} hosts has its own part of the images and may lack a class, so the "
            f"classes must be given: --labels a,b,c, or a {LABELS_FILE} in the input"
        )
    return ChannelPlan(
        train_ratio=namespace.train_ratio,
        test_ratio=namespace.test_ratio,
        seed=namespace.seed,
        format=namespace.format,
        transcoding=transcoding,
        shard_bytes=int(namespace.shard_size * 1e6),
        max_bad=namespace.max_bad,
        workers=workers_of(namespace.workers),
        host=cluster.hosts.index(cluster.current_host),
        hosts=hosts,
        host_name=cluster.current_host if is_sharded and hosts > 1 else "",
        max_pixels=max_pixels,
        segment=namespace.segment,
    )


def _summary(findings: Findings, output: Path) -> list[str]:
    lines = []
    for name, split in findings.splits.items():
        left_out = f", {len(split.left_out)} left out" if split.left_out else ""
        shards = f" in {len(split.files)} shards" if len(split.files) != 1 else ""
        lines.append(
            f"{name}: {split.images} images, {split.size_bytes / 1e6:.1f} MB{shards}{left_out} → "
            f"{output / name}"
        )
    return lines + [f"note: {remark}" for remark in findings.remarks()]
