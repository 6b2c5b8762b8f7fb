"""The Python interface: `train`, `tune`, `load` and `compare`, for `image_classification`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from image_classification.errors import UsageError

if TYPE_CHECKING:
    from image_classification.api.comparison import Comparison
    from image_classification.api.model import Model


def train(
    data: str | os.PathLike[str],
    *,
    output: str | os.PathLike[str] | None = None,
    weights: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    resume: bool = False,
    log: str | None = None,
    **settings: object,
) -> Model:
    """Train a classifier on `data`, as `image-classification train DATA` does; return the model.

    The job runs in this process. An interruption (Ctrl-C, the stop button of a notebook) ends it
    after the current step, and the model is that of the best epoch so far; a second one raises
    KeyboardInterrupt, and no model is written.

    Args:
        data: class folders, a folder of splits (train, validation, test), a table or list of
            images, records (.rec, .lst), or a folder that holds one of these. Without a validation
            split, a fifth of the images is held out: stratified, with a fixed seed.
        output: the folder of the model; without it `runs/<data>-<n>`, with the next free number.
        weights: a public file of pretrained weights to start from. Unless `backbone` is set, the
            network is that of the file.
        overwrite: replace the model in `output`, at the end of the job.
        resume: continue the interrupted run in `output`, or the newest one on `data`.
        log: `terminal` (bars and tables), `plain` or `json`, on standard output. Without it the job
            is drawn on a terminal and, without moving bars, in a notebook. Elsewhere, or if the
            program has its own handler for the package's logger, nothing is written.
        **settings: hyperparameters by name, such as `preset="fine-tune"`, `epochs=20`,
            `backbone="efficientnet_lite1"`. The preset is `transfer` unless `preset` names another
            one; `preset=None` is none.

    Raises:
        UsageError: `output` already holds a model, is inside the data, or has nothing to resume;
            or `log` is another word.
        DataError, ChannelError: the data cannot be used.
        HyperparameterError: a setting is unknown, or its value is not allowed.
        BackendError, ArtifactError: the framework or the pretrained weights are not installed.
    """
    from image_classification.api.model import Model
    from image_classification.api.runs import run_of_data
    from image_classification.contract.process import disable_telemetry
    from image_classification.training.stopping import stop_on_signals

    disable_telemetry()
    given = _as_text(settings)
    start = None if weights is None else Path(weights)
    target = None if output is None else Path(output)
    with (
        stop_on_signals() as stop,
        _shown(log),
        run_of_data(
            Path(data), target, given, weights=start, overwrites=overwrite, resumes=resume
        ) as run,
    ):
        from image_classification.training.job import run_job

        run_job(run.paths, run.settings, stop)
        run.finish(is_complete=not stop.is_set())
        folder = run.folder or run.paths.model
    return Model(folder)


def tune(
    data: str | os.PathLike[str],
    *,
    backbones: Sequence[str] = (),
    presets: Sequence[str] = ("transfer",),
    images: int = 10_000,
    trials: int | None = None,
    minutes: float | None = None,
    output: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    log: str | None = None,
    **settings: object,
) -> Model:
    """Try backbones, learning rates and weight decays on `data`, and train with the best.

    `image-classification tune` does the same.

    The search computes the features of each training image once per backbone, and chooses on folds
    of the training images. Then `train` runs with the best settings. `Model.trials` lists the
    trials. After an interruption, the search ends, and `train` runs with the best settings so far;
    a second interruption raises KeyboardInterrupt, and no model is written.

    Args:
        data: as for `train`, with one class per image.
        backbones: names; without any, all whose pretrained weights are on this machine.
        presets: `("transfer", "fine-tune")` also tries training all layers, on one fold.
        images: how many training images to try on, if there are more, ≥ 10; the same share of
            each class.
        trials: the most combinations of backbone, learning rate and weight decay to try, ≥ 1.
        minutes: the time limit of the search, > 0; the training follows.
        output, overwrite, log: as for `train`.
        **settings: hyperparameters of all trials and of the run. `learning_rate`, `weight_decay`
            and `backbone` are not varied if they are given.

    Raises:
        UsageError: `output` already holds a model, or the arguments contradict each other.
        DataError, ChannelError: the data cannot be used.
        HyperparameterError: a setting is unknown, or its value is not allowed.
        BackendError: a backbone is unknown, or none has pretrained weights on this machine.
    """
    from image_classification.api.model import Model
    from image_classification.api.tuning import Plan, tune_data
    from image_classification.contract.process import disable_telemetry

    disable_telemetry()
    target = None if output is None else Path(output)
    plan = Plan(tuple(backbones), tuple(presets), images, trials, minutes)
    with _shown(log):
        folder, _ = tune_data(Path(data), target, _as_text(settings), plan, overwrites=overwrite)
    return Model(folder)


@contextmanager
def _shown(form: str | None) -> Iterator[None]:
    """Show the log of the block on standard output in this form; None: see `train`."""
    from image_classification import logs, terminal

    if form is not None and form not in logs.FORMS:
        raise UsageError(f"log={form!r}: expected one of {', '.join(logs.FORMS)}, or None")
    is_notebook = "ipykernel" in sys.modules
    stream = sys.stdout
    if form is None and stream is not None and not logs.is_handled():
        is_drawn = terminal.is_installed() and (is_notebook or stream.isatty())
        form = logs.TERMINAL if is_drawn else None
    if form is None:
        yield
    elif form == logs.TERMINAL and terminal.is_installed():
        with terminal.job_view(stream, is_live=not is_notebook):
            yield
    else:
        with logs.handled_by(logs.handler_of(stream, form)):
            yield


def load(path: str | os.PathLike[str]) -> Model:
    """Return the model in `path`: an artifact's folder, or its model.tar.gz.

    Every file is checked against the manifest. The graph is loaded with the first prediction.

    Raises:
        ArtifactError: no model, or one that is incomplete or was changed.
    """
    from image_classification.api.model import Model

    return Model(Path(path))


def compare(
    runs: Sequence[str | os.PathLike[str]],
    *,
    data: str | os.PathLike[str] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Comparison:
    """Compare runs, as `image-classification compare` does.

    Args:
        runs: 2 to 8 outputs of `train`, base folders of jobs, or artifacts. Each is compared with
            the first.
        data: labeled images to predict now, as `Model.evaluate` reads them. Without it, the
            predictions for the validation images are compared, if the runs have them.
        on_progress: called after each prediction with the number of predictions done and of all.

    Raises:
        UsageError: fewer or more runs, or one of them twice.
        ArtifactError: a run has no model.
        DataError: the data cannot be used.
    """
    from image_classification.api.comparison import compare_runs

    known = None if data is None else Path(data)
    return compare_runs([Path(run) for run in runs], known, on_progress)


def _as_text(settings: Mapping[str, object]) -> dict[str, str]:
    """Return hyperparameters as a job has them; None is "unset", and for `preset` "none"."""
    text = {name: str(value) for name, value in settings.items() if value is not None}
    return text | ({"preset": ""} if settings.get("preset", "") is None else {})
