"""The run of a laptop: data → the channel of a job, a folder for its model, and no model lost.

runs/flowers-1/        the artifact, history.json, validation-predictions.jsonl
    checkpoints/       while the job runs, and after an interruption: what --resume reads
    .channels/         while the job runs: the data as channels, if they are a table or records
"""

from __future__ import annotations

import csv
import fcntl
import io
import json
import logging
import os
import re
import shlex
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path

from image_classification.api.data_channel import channel_of
from image_classification.api.results import TRIALS_FILE
from image_classification.artifact import MANIFEST_FILE
from image_classification.contract.channels import WEIGHTS_CHANNEL
from image_classification.contract.failure import warned
from image_classification.contract.paths import JobPaths
from image_classification.errors import DataError, UsageError
from image_classification.files import PARTIAL_SUFFIX, check_writable_folder, write_bytes
from image_classification.inventory.tables import shown_path

RUNS = Path("runs")
"""The folder of the runs without an output of their own, below the working directory."""

RECIPE: Mapping[str, str] = {"preset": "transfer"}
"""The hyperparameters of a run without any: the recipe of README, help, demo and notebook."""

# The defaults of one interface alone.
_AS_THE_OTHER = {"validation_split_ratio": "0.2", "small_images": "enlarge"}
_CHECKPOINTS, _CHANNELS = "checkpoints", ".channels"
_LABEL_LISTS = ("label-review-train.csv", "label-review-validation.csv")
_MOST_NAME = 80  # characters of the data's name in that of a run
_FALSE = ("", "0", "false")
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """A training run.

    Attributes:
        paths: the files of its job.
        settings: hyperparameters that its data need and its recipe adds; the user's own win.
        folder: where its model is in the end; None: the job of a base directory, which has its
            own places.
        owns_checkpoints: whether its checkpoints are removed once the model is complete.
        origins: number of an image in its channel → its path in the data, if these are a table.
        command: what continues the run after an interruption; "" for `train` with `--resume`.
    """

    paths: JobPaths
    settings: Mapping[str, str] = field(default_factory=dict)
    folder: Path | None = None
    owns_checkpoints: bool = False
    origins: Mapping[str, str] = field(default_factory=dict)
    command: str = ""

    def finish(self, *, is_complete: bool) -> None:
        """Put the new model in its place, after the job has written it.

        Args:
            is_complete: False: the user stopped the job, whose checkpoints stay for `--resume`. So
                do those of a job that `max_minutes` has ended.
        """
        if self.folder is None:
            return
        limit = float(self.settings.get("max_minutes") or "inf")
        is_out_of_time = _running_seconds(self.folder) >= 60 * limit
        if self.paths.artifact not in (None, self.folder):
            _replace(self.paths.model, self.folder)
            _logger.info("The new model replaces the one in %s", self.folder)
        lists = (self.folder / name for name in _LABEL_LISTS if self.origins)
        for path in filter(Path.is_file, lists):
            with warned(f"{path} names copies of the images, which are removed now"):
                _name_origins(path, self.origins)
        if not self.owns_checkpoints:
            return
        if is_complete and not is_out_of_time:
            _remove_checkpoints(self.folder)
        elif _has_checkpoint(self.folder):
            _logger.warning(
                "%s holds the best epoch so far; %s%s continues the run",
                *(
                    self.folder,
                    self.command or f"the same command with --resume --output {self.folder}",
                ),
                " with more max_minutes" if is_out_of_time else "",
            )


@contextmanager
def run_of_data(
    data: Path,
    output: Path | None = None,
    settings: Mapping[str, str] | None = None,
    *,
    weights: Path | None = None,
    overwrites: bool = False,
    resumes: bool = False,
    can_resume: bool = True,
) -> Iterator[Run]:
    """Yield the run that trains on `data`; what it leaves without a model is removed at the end.

    Args:
        data: class folders, the folders of splits, records, tar shards, a folder with a table or
            a list, or one of these files.
        output: the folder of the model; None: the next free number of `runs/<data>-<n>`, or with
            `resumes` the newest of these that was interrupted.
        settings: the user's hyperparameters.
        weights: a public file of pretrained weights to start from.
        overwrites: whether the new model may replace one in `output`, at the end of the job.
        resumes: whether to continue from the checkpoint in `output`.
        can_resume: whether the caller's command can do that; `tune` cannot.

    Raises:
        UsageError: `output` holds a model or an interrupted run, or lies in the data; or there is
            nothing to resume.
        DataError: no such data.
    """
    if re.match(r"\w{2,10}:/", str(data)) and not data.exists():
        raise DataError(f"{data} is an address: download the images first, and name their folder")
    if not data.exists():
        raise DataError(f"{data}: no such file or folder; name the images to train on")
    given = dict(settings or {})
    if output is None:
        output = _newest_interrupted(data) if resumes else _next_run(data)
    root = (data if data.is_dir() else data.parent).resolve()
    if data.is_dir() and output.resolve().is_relative_to(root):
        raise UsageError(
            f"the output {output} is inside the data {data}, where the next run would read it as "
            "images: name an output outside it"
        )
    with run_into(
        output,
        overwrites=overwrites,
        resumes=resumes,
        can_resume=can_resume,
        owns_checkpoints=True,
    ) as run:
        channels, origins = output / _CHANNELS, dict[str, str]()
        try:
            is_several = is_true(given.get("multi_label"))
            folder, several = channel_of(data, channels, is_several, origins)
            # Only one interface knows images of several classes, and only the other holds out
            # validation images by itself, enlarges small images, and measures a test split.
            added = {**RECIPE, **(_AS_THE_OTHER | {"multi_label": "1"} if several else {})}
            folders = {"train" if several else "training": folder}
            if weights is not None:
                folders[WEIGHTS_CHANNEL.name] = weights
            if given.get("preset") in _FALSE:
                given.pop("preset")
                added.pop("preset")
            paths = JobPaths(output, folders, run.paths.artifact)
            yield Run(paths, added | given, output, True, origins)
        finally:
            shutil.rmtree(channels, ignore_errors=True)


@contextmanager
def run_into(
    output: Path,
    channels: Mapping[str, Path] | None = None,
    *,
    overwrites: bool = False,
    resumes: bool = False,
    can_resume: bool = True,
    owns_checkpoints: bool = False,
) -> Iterator[Run]:
    """Yield the run whose model is in `output` at its end; see `run_of_data`."""
    check_writable_folder(output)
    holds_model = (output / MANIFEST_FILE).exists()
    if resumes and not _has_checkpoint(output):
        raise UsageError(
            f"{output / _CHECKPOINTS} holds no checkpoint to resume from: leave out --resume "
            "(resume=True in Python), or name the output of an interrupted run"
        )
    if resumes and overwrites:
        raise UsageError("--resume continues a run and --overwrite begins a new one: keep one")
    if holds_model and not (resumes or overwrites):
        raise UsageError(
            f"{output} holds a model already ({MANIFEST_FILE}): name another output, or replace "
            "the model at the end of the job with --overwrite (overwrite=True in Python)"
        )
    if owns_checkpoints and not (resumes or overwrites) and _has_checkpoint(output):
        how = "--resume (resume=True in Python)"
        if not can_resume:
            how = "the command train … --resume that tune has logged"
        raise UsageError(
            f"{output} holds the checkpoint of an interrupted run: continue it with {how}, or "
            "begin again with --overwrite (overwrite=True in Python)"
        )
    existed = output.exists()
    artifact = output / f"new.{os.getpid()}{PARTIAL_SUFFIX}" if holds_model else output
    try:
        with _in_use(output) if owns_checkpoints else nullcontext():
            if owns_checkpoints and overwrites:
                _remove_checkpoints(output)
            for leftover in output.glob(f"new.*{PARTIAL_SUFFIX}") if owns_checkpoints else ():
                shutil.rmtree(leftover, ignore_errors=True)  # of a run that was killed
            yield Run(JobPaths(output, channels or {}, artifact), {}, output, owns_checkpoints)
    finally:
        if holds_model:
            shutil.rmtree(artifact, ignore_errors=True)
        with suppress(OSError):  # they hold something
            if not existed:
                output.rmdir()
                output.parent.rmdir() if output.parent == RUNS else None


@contextmanager
def _in_use(output: Path) -> Iterator[None]:
    """Keep other runs out of a folder, until the block or the process ends; UsageError if one runs.

    Two runs in one folder would remove each other's checkpoints.
    """
    folder = output / _CHECKPOINTS
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network disks have no locks
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UsageError(
                    f"{output} is the output of a run that is still going on: wait for its end, or "
                    "name another output"
                ) from None
        try:
            yield
        finally:
            with suppress(OSError):  # it holds something
                folder.rmdir()
    finally:
        os.close(lock)


def _replace(new: Path, old: Path) -> None:
    """Move the files of a new artifact over those of an old one, the manifest last.

    A process that is killed meanwhile leaves no manifest, which vouches for the other files. Files
    that the old artifact does not list are the user's, and stay.
    """
    from image_classification.artifact import read_artifact

    listed = _listed(old)
    names = {path.name for path in new.iterdir()}
    read_artifact(new)  # whole, before the old one goes
    (old / MANIFEST_FILE).unlink()
    for name in sorted(names, key=lambda name: name == MANIFEST_FILE):
        target = old / name
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)
        os.replace(new / name, target)
    for name in (listed | {TRIALS_FILE}) - names:
        (old / name).unlink(missing_ok=True)


def _name_origins(path: Path, origins: Mapping[str, str]) -> None:
    """Put the paths of the user's images in place of those of their copies in a list of labels."""
    lines = io.StringIO(newline="")
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        for name, *row in filter(None, csv.reader(file)):
            number = name.rpartition("/")[2].partition("-")[0]
            csv.writer(lines, lineterminator="\n").writerow(
                [shown_path(origins.get(number, name)), *row]
            )
    write_bytes(path, lines.getvalue().encode("utf-8", "surrogateescape"))


def _listed(folder: Path) -> set[str]:
    """Return the files that the manifest of a model lists; none if it is no manifest."""
    from image_classification.artifact import read_artifact
    from image_classification.errors import ArtifactError

    try:
        return set(read_artifact(folder).manifest["files"])
    except ArtifactError as error:
        _logger.warning("the old model cannot be read (%s): only equal names are replaced", error)
        return set()


def _remove_checkpoints(folder: Path) -> None:
    """Remove the checkpoints of a run, and nothing that another program wrote there."""
    for path in (folder / _CHECKPOINTS).glob("checkpoint-*"):
        if path.is_file():
            path.unlink(missing_ok=True)


def _has_checkpoint(folder: Path) -> bool:
    return any((folder / _CHECKPOINTS).glob("checkpoint-*.json"))


def _running_seconds(folder: Path) -> float:
    """Return the running time of a job over all its starts, as its newest checkpoint has it."""
    seconds = [0.0]
    for path in (folder / _CHECKPOINTS).glob("checkpoint-*.json"):
        with suppress(OSError, ValueError, LookupError, TypeError):  # not written by the product
            seconds.append(float(json.loads(path.read_text("utf-8"))["seconds"]))
    return max(seconds)


def resume_command(data: Path, output: Path, settings: Mapping[str, str]) -> str:
    """Return the command that continues the run on `data` with these hyperparameters."""
    words = ["image-classification", "train", str(data), "--resume", "--output", str(output)]
    return shlex.join(
        [*words, *(word for pair in settings.items() for word in ("--set", "=".join(pair)))]
    )


def is_true(value: str | None) -> bool:
    """Return whether a hyperparameter is switched on."""
    return (value or "").lower() not in _FALSE


def _name_of(data: Path) -> str:
    """Return the name of a run's data: letters, digits, `_`, `.` and `-`."""
    path = data.resolve()
    name = path.name if path.is_dir() else path.stem
    return re.sub(r"[^\w.-]+", "-", name)[:_MOST_NAME].strip(".-") or "data"


def _numbered(data: Path) -> dict[int, Path]:
    """Return the runs on `data` by their number."""
    pattern = re.compile(re.escape(_name_of(data)) + r"-(\d{1,9})")
    found = {}
    for path in RUNS.iterdir() if RUNS.is_dir() else ():
        if match := pattern.fullmatch(path.name):
            found[int(match[1])] = path
    return found


def _next_run(data: Path) -> Path:
    return RUNS / f"{_name_of(data)}-{max(_numbered(data), default=0) + 1}"


def _newest_interrupted(data: Path) -> Path:
    for _, path in sorted(_numbered(data).items(), reverse=True):
        if _has_checkpoint(path):
            return path
    raise UsageError(
        f"no run of {RUNS / _name_of(data)}-… was interrupted: leave out --resume (resume=True in "
        "Python), or name the output of an interrupted run"
    )
