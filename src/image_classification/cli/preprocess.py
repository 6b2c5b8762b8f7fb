"""`image-classification preprocess`: from images as downloaded to channels of a training job."""

import argparse
import shlex
from collections.abc import Iterator
from pathlib import Path

from image_classification.cli import command_line
from image_classification.contract import environment, paths
from image_classification.errors import UsageError, counted
from image_classification.inventory.folders import take_inventory
from image_classification.inventory.rows import Inventory
from image_classification.inventory.tags import read_class_names
from image_classification.labels.label_map import LABELS_FILE, LabelMap
from image_classification.labels.tree import LeftOut, find_images
from image_classification.logs import late_progress
from image_classification.prepare.channels import ChannelPlan, write_channels
from image_classification.prepare.encode import Transcoding
from image_classification.prepare.findings import Findings
from image_classification.prepare.formats import FORMATS

_DEFAULT_QUALITY = 95
_DEFAULT_SHARD_MEGABYTES = 512


def add_commands(commands: command_line.Commands) -> None:
    """Add `preprocess`."""
    command = command_line.add_command(
        commands,
        "preprocess",
        "make train, validation and test channels from images",
        """image-classification preprocess --input flowers --output channels --resize 256
  image-classification preprocess --input images --list labels.csv --group-by patient \\
      --output channels --resize 256 --format tfrecord --test-ratio 0.1
  image-classification preprocess
      as a SageMaker Processing job: /opt/ml/processing/input → /opt/ml/processing/output""",
        "Split images by class and write each split as a channel, with the class names and a\n"
        "report of what was found.",
    )
    _add_input(command)
    _add_split(command)
    _add_output(command)
    command.set_defaults(run=run)


def _add_input(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("input")
    add = group.add_argument
    add(
        "--input",
        type=Path,
        metavar="DIR",
        help="the folder of class folders, of split folders, or of images and their list "
        "(default: /opt/ml/processing/input)",
    )
    add("folders", nargs="*", type=Path, help=argparse.SUPPRESS)  # for an error with the cure
    add(
        "--list",
        type=Path,
        metavar="FILE",
        help="the class of each image: .csv, .tsv, .txt, .json, .jsonl, .lst or .manifest "
        "(default: the class folders, or the only list in DIR)",
    )
    add(
        "--label-attribute",
        metavar="NAME",
        help="with a manifest: the attribute that holds the class",
    )
    command_line.add_columns(group)
    add("--group-by", metavar="COLUMN", help="keep the images of a group in one split")
    add(
        "--labels",
        metavar="NAMES",
        help=f"class names in the order of their numbers: a,b,c, a JSON list or a {LABELS_FILE}",
    )
    add(
        "--base-dir",
        type=Path,
        default=environment.BASE_DIR.read(),
        metavar="DIR",
        help="folder to use instead of /opt/ml",
    )
    add(
        "--distribution",
        choices=("replicated", "sharded"),
        help="on several hosts: whether every host has all images or only its own (default: from "
        "the job's configuration, else replicated)",
    )


def _add_split(command: argparse.ArgumentParser) -> None:
    add = command.add_argument_group("split").add_argument
    add(
        "--train-ratio",
        type=float,
        metavar="R",
        help="share of the images for training; validation gets what training and test leave "
        "(default: 0.8)",
    )
    add("--test-ratio", type=float, metavar="R", help="share of the images for test (default: 0)")
    add(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="seed of the split and the order (default: 0)",
    )


def _add_output(command: argparse.ArgumentParser) -> None:
    output = command.add_argument_group("output")
    add = output.add_argument
    add(
        "--output",
        type=Path,
        metavar="DIR",
        help="new or empty folder for the channels (default: /opt/ml/processing/output)",
    )
    add("--format", choices=tuple(FORMATS), default="recordio", help="default: recordio")
    add(
        "--resize",
        type=int,
        metavar="N",
        help="resize the shorter side to N pixels (default: unchanged)",
    )
    add(
        "--quality",
        type=int,
        metavar="Q",
        help="quality of JPEGs that are encoded again (default: 95)",
    )
    command_line.add_segment(output)
    add(
        "--shard-size",
        type=float,
        default=_DEFAULT_SHARD_MEGABYTES,
        metavar="MB",
        help="approximate size of a file, in MB (10^6 bytes; default: 512); 0: one file per "
        "split, however large",
    )
    command_line.add_workers(output)
    command_line.add_max_bad(output)


def run(namespace: argparse.Namespace) -> int:
    """Write the channels and print what is in them."""
    if namespace.folders:
        given = shlex.quote(str(namespace.folders[0]))
        raise UsageError(
            f"expected the folder of images as --input, got {given} alone: image-classification "
            f"preprocess --input {given} --output channels"
        )
    _check_numbers(namespace)
    base = Path(namespace.base_dir)
    root = namespace.input or base / "processing" / "input"
    output = namespace.output or base / "processing" / "output"
    _check_apart(root, output)
    labels = _labels_of(namespace.labels, root)
    plan = _plan(namespace, base, root, labels)
    if plan.host_name and not (root.is_dir() and find_images(root, LeftOut())):
        # With fewer objects than hosts, some hosts get none.
        inventory = Inventory(str(root), root, (), labels or LabelMap(()))
    else:
        inventory = take_inventory(
            root,
            _listing_of(namespace.list, root),
            labels=labels,
            group_by=namespace.group_by,
            label_attribute=namespace.label_attribute,
            columns=command_line.columns_of(namespace),
        )
    with late_progress("preprocess", "images") as on_progress:
        findings = write_channels(inventory, output, plan, on_progress)
    command_line.say(*_summary(findings, output))
    return 0


def _check_apart(root: Path, output: Path) -> None:
    """Refuse an output below the input: the next run would read it as images."""
    if output.resolve().is_relative_to(root.resolve()):
        raise UsageError(f"--output {output} is inside the input {root}: name a folder outside it")


def _check_numbers(namespace: argparse.Namespace) -> None:
    if namespace.seed < 0:
        raise UsageError(f"--seed {namespace.seed}: expected 0 or more")
    if not 0 <= namespace.shard_size < float("inf"):
        raise UsageError(f"--shard-size {namespace.shard_size}: expected 0 or more megabytes")


def _listing_of(path: Path | None, root: Path) -> Path | None:
    """Find a relative name in the input too: a job does not choose its working directory."""
    if path is None or path.is_file():
        return path
    if (root / path).is_file():
        return root / path
    raise UsageError(f"--list {path}: no such file, here or in {root}")


def _labels_of(text: str | None, root: Path) -> LabelMap | None:
    """Return the given names, or those of a labels.json in the input."""
    if text is None:
        return LabelMap.beside(root / LABELS_FILE)
    if text.endswith(".json"):
        return read_class_names(Path(text))
    return LabelMap.parse(text)


def _plan(
    namespace: argparse.Namespace, base: Path, root: Path, labels: LabelMap | None
) -> ChannelPlan:
    transcoding = None
    max_pixels = environment.max_pixels()
    if namespace.resize is not None or namespace.quality is not None:
        transcoding = Transcoding(
            resize=namespace.resize or 0,
            quality=_DEFAULT_QUALITY if namespace.quality is None else namespace.quality,
        )
    cluster = paths.read_processing_cluster(paths.JobPaths(base))
    hosts = len(cluster.hosts)
    is_sharded = paths.is_sharded_input(paths.JobPaths(base), root)
    if namespace.distribution is not None:
        is_sharded = namespace.distribution == "sharded"
    if is_sharded and hosts > 1 and labels is None:
        raise UsageError(
            f"each of {hosts} hosts has only its own images, which may lack a class: give the "
            f"classes with --labels a,b,c, or put a {LABELS_FILE} in the input"
        )
    return ChannelPlan(
        train_ratio=namespace.train_ratio,
        test_ratio=namespace.test_ratio,
        seed=namespace.seed,
        format=namespace.format,
        transcoding=transcoding,
        shard_bytes=int(namespace.shard_size * 1e6),
        max_bad=namespace.max_bad,
        workers=command_line.workers_of(namespace.workers),
        host=cluster.hosts.index(cluster.current_host),
        hosts=hosts,
        host_name=cluster.current_host if is_sharded and hosts > 1 else "",
        max_pixels=max_pixels,
        segment=namespace.segment,
    )


def _summary(findings: Findings, output: Path) -> Iterator[str]:
    for name, split in findings.splits.items():
        left_out = f", {len(split.left_out)} left out" if split.left_out else ""
        shards = f" in {len(split.files)} shards" if len(split.files) != 1 else ""
        yield (
            f"{name}: {counted(split.images, 'images')}, {split.size_bytes / 1e6:.1f} MB"
            f"{shards}{left_out} → {output / name}"
        )
    yield from (f"note: {remark}" for remark in findings.remarks())
