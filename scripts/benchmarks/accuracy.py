"""Train on random splits of a folder of class folders, and measure on images unseen by the job.

Each split draws test, validation and training images of every class. A job chooses its best epoch
on the validation images, and its `test` channel is measured once. The row `tune` is the run of
`image-classification tune`, which chooses its settings on the training images. All classes have
equally many test images, so the accuracy is the balanced accuracy. Few images and rare classes are
drawn from the training images of the split.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

TUNE = "tune"
PRESETS = ("transfer", "fine-tune", "best", TUNE)
METHODS: Mapping[str, Mapping[str, str]] = {
    "nothing": {},
    "class_weights=balanced": {"class_weights": "balanced"},
    "class_weights=effective": {"class_weights": "effective"},
    "balanced_sampling=1": {"balanced_sampling": "1"},
    "class_weights=logit_adjust": {"class_weights": "logit_adjust"},
}
BEFORE = "transfer, epochs=12"
Files = Mapping[str, Sequence[Path]]


@dataclass(frozen=True)
class Split:
    """The images of a random split by class.

    Attributes:
        number: from 0; the seed of the split and of its jobs.
        train, validation, test: class → files.
    """

    number: int
    train: Files
    validation: Files
    test: Files


@dataclass(frozen=True)
class Run:
    """One job: its table, row and column, its training images and its hyperparameters."""

    table: str
    row: str
    train: Files
    given: Mapping[str, str]


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/benchmark accuracy", description=__doc__)
    add = parser.add_argument
    add("--data", type=Path, required=True, metavar="DIR", help="a folder of class folders")
    add("--splits", type=int, default=5, metavar="N", help="random splits (default: 5)")
    add("--test", type=int, default=30, metavar="N", help="test images per class (default: 30)")
    add("--validation", type=int, default=20, metavar="N",
        help="validation images per class (default: 20)")  # fmt: skip
    add("--tables", nargs="*", choices=("presets", "few", "imbalance"),
        default=["presets", "few", "imbalance"], help="what to measure (default: all)")  # fmt: skip
    add("--presets", nargs="*", choices=PRESETS, default=list(PRESETS), help="default: all")
    add("--few", nargs="*", type=int, default=[5, 10, 20, 50], metavar="N",
        help="training images per class (default: 5 10 20 50)")  # fmt: skip
    add("--set", action="append", default=[], metavar="NAME=VALUE",
        help="a hyperparameter of every job, such as feature_copies=1")  # fmt: skip
    add("--quick", action="store_true", help="2 splits, and few jobs: to try the benchmark out")
    add("--work", type=Path, metavar="DIR", help="folder for temporary files")
    add("--json", action="store_true", help="print JSON")
    args = parser.parse_args()
    if args.quick:
        args.splits, args.presets, args.few = 2, ["transfer"], [5]
    own = dict(text.split("=", 1) for text in args.set)
    classes = class_files(args.data)
    needed = args.test + args.validation + 10
    scarce = [name for name, files in classes.items() if len(files) < needed]
    if len(classes) < 2 or scarce:
        parser.error(
            f"--data {args.data}: expected at least 2 class folders with {needed} images each, "
            f"found {len(classes)}, fewer in: {', '.join(scarce) or 'none'}; lower --test and "
            "--validation"
        )
    results: dict[str, dict[str, list[dict[str, float]]]] = {}
    for number in range(args.splits):
        split = draw(classes, number, args.test, args.validation)
        for run in runs(split, args):
            found = train(split, run, own, args.work)
            results.setdefault(run.table, {}).setdefault(run.row, []).append(found)
            print(
                f"split {number + 1}/{args.splits}, {run.table}, {run.row}: "
                f"{found['accuracy']:.3f} in {found['cpu_seconds']:.0f} CPU-s",
                file=sys.stderr,
                flush=True,
            )
    summary = {
        table: {row: summarized(found) for row, found in rows.items()}
        for table, rows in results.items()
    }
    print(json.dumps(summary, indent=1) if args.json else markdown(summary))
    return 0


def class_files(folder: Path) -> dict[str, list[Path]]:
    """Return the files of each class folder, in the order of their names."""
    suffixes = {".jpg", ".jpeg", ".png"}
    found = {
        path.name: sorted(file for file in path.iterdir() if file.suffix.lower() in suffixes)
        for path in sorted(folder.iterdir())
        if path.is_dir()
    }
    return {name: files for name, files in found.items() if files}


def draw(classes: Files, number: int, test: int, validation: int) -> Split:
    """Return a random split; every class has `test` and `validation` images, training the rest."""
    parts: tuple[dict[str, Sequence[Path]], ...] = ({}, {}, {})
    for name, files in classes.items():
        generator = random.Random(f"{number} {name}")  # noqa: S311 - a split, not a secret
        mixed = generator.sample(list(files), len(files))
        ends = (len(mixed), test + validation, test)
        for part, end, start in zip(parts, ends, (*ends[1:], 0), strict=True):
            part[name] = mixed[start:end]
    return Split(number, *parts)


def runs(split: Split, args: argparse.Namespace) -> Iterable[Run]:
    """Yield the jobs of a split."""
    if "presets" in args.tables:
        for preset in args.presets:
            given = {} if preset == TUNE else {"preset": preset}
            yield Run("presets", preset, split.train, given)
    transfer = {"preset": "transfer"}
    if "few" in args.tables:
        for count in args.few:
            few = {name: files[:count] for name, files in split.train.items()}
            if min(len(files) for files in few.values()) < count:
                continue
            yield Run("few", f"{count} | {BEFORE}", few, transfer | {"epochs": "12"})
            yield Run("few", f"{count} | transfer", few, transfer)
    if "imbalance" in args.tables:
        generator = random.Random(split.number)  # noqa: S311 - a choice, not a secret
        names = generator.sample(sorted(split.train), len(split.train))
        rare = set(names[: len(names) // 2])
        uneven = {
            name: files[: max(1, len(files) // 10)] if name in rare else files
            for name, files in split.train.items()
        }
        for method, given in METHODS.items():
            if not args.quick or method in {"nothing", "class_weights=logit_adjust"}:
                yield Run("imbalance", method, uneven, transfer | given)


def train(split: Split, run: Run, own: Mapping[str, str], work: Path | None) -> dict[str, float]:
    """Train one job in a process of its own; return its test accuracy and its cost."""
    with tempfile.TemporaryDirectory(dir=work) as folder:
        root = Path(folder)
        command = [sys.executable, "-m", "image_classification"]
        command += [TUNE if run.row == TUNE else "train", str(root / "data")]
        for folder_name, files in (
            ("train", run.train),
            ("validation", split.validation),
            ("test", split.test),
        ):
            for name, paths in files.items():
                folder_of_class = root / "data" / folder_name / name
                folder_of_class.mkdir(parents=True)
                for path in paths:
                    shutil.copyfile(path, folder_of_class / path.name)
        seed = {"random_seed": str(split.number)}
        for name, value in (seed | dict(run.given) | dict(own)).items():
            command += ["--set", f"{name}={value}"]
        before, began = os.times(), time.monotonic()
        done = subprocess.run(
            [*command, "--output", str(root / "model")], capture_output=True, text=True
        )
        if done.returncode:
            sys.exit(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        after = os.times()
        manifest = json.loads((root / "model" / "manifest.json").read_text("utf-8"))
        if run.row == TUNE:
            found = json.loads((root / "model" / "trials.json").read_text("utf-8"))
            print(f"chosen: {found['chosen']}; search: {found['seconds']:.0f} s, "
                f"{found['cpu_seconds']:.0f} CPU-s", file=sys.stderr, flush=True)  # fmt: skip
    spent = after.children_user + after.children_system
    return {
        "accuracy": manifest["metrics"]["test"]["accuracy"],
        "cpu_seconds": spent - before.children_user - before.children_system,
        "seconds": time.monotonic() - began,
    }


def summarized(found: Sequence[Mapping[str, float]]) -> dict[str, float | list[float]]:
    """Return the mean and the standard deviation over the splits."""
    values = [one["accuracy"] for one in found]
    return {
        "splits": len(values),
        "mean": statistics.mean(values),
        "sd": statistics.stdev(values) if len(values) > 1 else 0.0,
        "cpu_seconds": statistics.mean(one["cpu_seconds"] for one in found),
        "accuracies": values,
    }


def markdown(summary: Mapping[str, Mapping[str, Mapping[str, object]]]) -> str:
    """Return the tables as Markdown."""
    heads = {
        "presets": "| preset | ",
        "few": "| training images per class | recipe | ",
        "imbalance": "| against the imbalance | ",
    }
    lines = []
    for table, rows in summary.items():
        head = heads[table] + "test accuracy, mean ± sd | CPU-s per job |"
        lines += [head, "|---" * (head.count("|") - 1) + "|"]
        for row, found in rows.items():
            mean, sd = 100 * float(str(found["mean"])), 100 * float(str(found["sd"]))
            cost = float(str(found["cpu_seconds"]))
            lines.append(f"| {row} | {mean:.1f} ± {sd:.1f}% | {cost:.0f} |")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
