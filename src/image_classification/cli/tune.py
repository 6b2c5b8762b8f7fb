"""`image-classification tune`: try backbones and learning rates, and train with the best."""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from image_classification.api.tuning import MOST_IMAGES, PRESET, WHOLE, Plan, tune_data
from image_classification.cli import command_line
from image_classification.errors import UsageError

_HEADS = ("", "backbone", "preset", "rate", "decay", "accuracy", "95% interval", "images", "CPU s")
_TEXTS = ("", "backbone", "preset")


def add_commands(subparsers: command_line.Commands) -> None:
    """Add the command."""
    command = command_line.add_command(
        subparsers,
        "tune",
        "try backbones and learning rates, and train with the best",
        "image-classification tune flowers\n"
        "  image-classification tune flowers --backbones efficientnet_lite0 --trials 6\n"
        "  image-classification tune flowers --minutes 5 --set label_smoothing=0 --output model",
        "Compute the features of the training images once per backbone, try learning rates and\n"
        "weight decays on them, print a table, and train with the best as train DATA does. The\n"
        "choice uses only folds of the training images, no validation or test images. Ctrl-C ends\n"
        "the search, and the command trains with the best so far; a second Ctrl-C ends it at once.",
    )
    add = command.add_argument
    add("data", type=Path, metavar="DATA", help="images to train on, as for train")
    add(
        "--backbones",
        type=_names,
        default=(),
        metavar="A,B",
        help="networks to try (default: all whose pretrained weights are on this machine)",
    )
    add(
        "--presets",
        type=_names,
        default=(PRESET,),
        metavar="A,B",
        help=f"{PRESET}, or {PRESET},{WHOLE} to also try training all layers, on one fold "
        f"(default: {PRESET})",
    )
    add(
        "--images",
        type=int,
        default=MOST_IMAGES,
        metavar="N",
        help=f"try on about N training images, if there are more (default: {MOST_IMAGES})",
    )
    add("--trials", type=int, metavar="N", help="try at most N combinations (default: all)")
    add(
        "--minutes",
        type=float,
        metavar="M",
        help="end the search after M minutes; training with the best settings so far follows",
    )
    add(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a hyperparameter of all trials and of the run; repeat for more",
    )
    add(
        "--output",
        type=Path,
        metavar="DIR",
        help="folder of the artifact (default: runs/<data>-<n>, the next free number)",
    )
    add(
        "--overwrite",
        action="store_true",
        help="replace the model in --output, at the end of the job",
    )
    add("--json", action="store_true", help="print the trials and the accuracy as JSON")
    command_line.add_log(command)
    command.set_defaults(run=run)


def run(namespace: argparse.Namespace) -> int:
    """Search, train, and print the table; return 0."""
    if namespace.overwrite and not namespace.output:
        raise UsageError("--overwrite needs --output DIR: without it, each run has a new folder")
    settings = command_line.pairs(namespace.set, "--set")
    plan = Plan(
        namespace.backbones,
        namespace.presets,
        namespace.images,
        namespace.trials,
        namespace.minutes,
    )
    with command_line.drawn_job(namespace):
        folder, search = tune_data(
            namespace.data, namespace.output, settings, plan, overwrites=namespace.overwrite
        )
    found = search.to_json() | {"model": str(folder)} | _measured(folder)
    if namespace.json:
        command_line.say(json.dumps(found, ensure_ascii=False, indent=1))
    else:
        command_line.say(*table(found))
    return 0


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    if not all(names):
        raise argparse.ArgumentTypeError(f"expected names separated by commas, got {text!r}")
    return names


def _measured(folder: Path) -> dict[str, Any]:
    """Return the accuracy of the run by split, with its 95% interval and number of images."""
    from image_classification.artifact import read_artifact
    from image_classification.curation import wilson_interval

    metrics = read_artifact(folder).manifest["metrics"]
    found: dict[str, Any] = {}
    for split in ("validation", "test"):
        if split in metrics:
            accuracy, images = metrics[split]["accuracy"], metrics[f"{split}_samples"]
            interval = [round(end, 6) for end in wilson_interval(accuracy, images)]
            found[split] = {"accuracy": accuracy, "interval": interval, "images": images}
    return found


def table(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of the table and what follows it; `found` is the content of `--json`."""
    columns = list(zip(_HEADS, *map(_cells, found["trials"]), strict=True))
    if len({row["preset"] for row in found["trials"]}) <= 1:
        columns.pop(_HEADS.index("preset"))
    yield from _aligned(columns)
    yield "rate, decay: learning_rate and weight_decay"
    yield "accuracy: on training images, each predicted by a head that was not fitted on it"
    yield "*: chosen, as the first row that is not clearly worse than the most accurate one"
    yield from _better(found)
    for cost in found["backbones"]:
        yield (
            f"{cost['backbone']}: features of {cost['images']} images, computed once in "
            f"{cost['cpu_seconds']:.1f} CPU s, {cost['seconds']:.1f} s"
        )
    for skipped in found["skipped"]:
        yield f"not tried: {skipped['name']}: {skipped['reason']}"
    if found["ended_early"]:
        yield f"the search ended early: {found['ended_early']}"
    notes = {
        "validation": "were not used to choose settings; the job chose its best epoch on them",
        "test": "were not used for any choice",
    }
    for split, note in notes.items():
        if split in found:
            one = found[split]
            yield (
                f"{split} accuracy of the run: {_percent(one['accuracy'])}% "
                f"({_interval(one['interval'])}) of {one['images']} images, which {note}"
            )
    folder = shlex.quote(found["model"])
    yield f"model:  {found['model']}"
    yield f"report: {found['model']}/report.html"
    yield f"next:   image-classification predict --model {folder} IMAGE"


def _better(found: Mapping[str, Any]) -> Iterator[str]:
    """Name the most accurate row, if it is not the chosen one."""
    chosen, level = found["chosen"], [row for row in found["trials"] if row["accuracy"] is not None]
    if chosen is None:
        return
    level = [row for row in level if row["folds"] == chosen["folds"]]
    top = max(level, key=lambda row: float(row["accuracy"]))
    if top["accuracy"] > chosen["accuracy"]:
        yield (
            f"{top['backbone']} with learning rate {top['learning_rate']:g} and weight decay "
            f"{top['weight_decay']:g} is the most accurate, but not clearly better than *"
        )


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    shown = ("diverged" if row["diverged"] else "not tried", "")
    if row["accuracy"] is not None:
        shown = (f"{_percent(row['accuracy'])}%", _interval(row["interval"]))
    return (
        "*" if row["chosen"] else "",
        row["backbone"],
        row["preset"],
        f"{row['learning_rate']:g}",
        f"{row['weight_decay']:g}",
        *shown,
        str(row["images"]),
        f"{row['cpu_seconds']:.1f}",
    )


def _aligned(columns: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of a table; the first cell of a column is its name."""
    shown = []
    for column in columns:
        width = max(map(len, column))
        is_text = column[0] in _TEXTS
        shown.append([cell.ljust(width) if is_text else cell.rjust(width) for cell in column])
    for row in zip(*shown, strict=True):
        yield "  ".join(row).rstrip()


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _interval(ends: Sequence[float]) -> str:
    return f"{_percent(ends[0])} to {_percent(ends[1])}"
