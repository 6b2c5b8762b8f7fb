"""The search for the settings of a run: try them on kept features, then train with the best.

In: data as for `run_of_data`, and a `Plan`. Out: a run as `train DATA` writes it, and the trials in
its `trials.json`. Only folds of the training images choose the settings.
"""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from image_classification import events
from image_classification.api.results import TRIALS_FILE, trial_row
from image_classification.api.runs import Run, is_true, resume_command, run_of_data
from image_classification.errors import (
    ArtifactError,
    BackendError,
    DataError,
    UsageError,
    UserError,
    counted,
)
from image_classification.files import write_text
from image_classification.training.stopping import Interruption, StopRequest, stop_on_signals

if TYPE_CHECKING:
    from image_classification.samples import IntArray
    from image_classification.training.inputs import Inputs
    from image_classification.training.request import JobRequest
    from image_classification.training.trials import BackboneTrials, Candidate, Trial

PRESET, WHOLE = "transfer", "fine-tune"
"""The recipe whose features can be kept, and the one that trains all layers."""

MOST_IMAGES = 10_000
"""Training images that a search takes, if the user does not say how many."""

LEAST_IMAGES = 10
"""Training images that a search needs: two in each fold."""

_INTERRUPTED = "interrupted"
_NOT_GIVEN = ("default", f"preset {PRESET}")  # origins of values
_NOT_SET = {  # hyperparameters that the search sets itself → how to say it
    "preset": "name presets with --presets (presets= in Python)",
    "num_layers": "name backbones with --backbones (backbones= in Python)",
    "model_id": "name backbones with --backbones (backbones= in Python)",
}
_UNUSABLE = (ArtifactError, BackendError, MemoryError, OSError)
"""Why a backbone or preset is left out, and the search goes on."""
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """What a search tries, and how long.

    Attributes:
        backbones: names; empty: all whose weights are on this machine.
        presets: PRESET, and WHOLE if it is tried too.
        images: how many training images to try on, if there are more; the same share of each class.
        trials: the most combinations of backbone, learning rate and weight decay; None: all.
        minutes: the time limit of the search, after which the run is trained; None: no limit.

    Raises:
        UsageError: a number is out of its range.
    """

    backbones: Sequence[str] = ()
    presets: Sequence[str] = (PRESET,)
    images: int = MOST_IMAGES
    trials: int | None = None
    minutes: float | None = None

    def __post_init__(self) -> None:
        if PRESET not in self.presets or not {PRESET, WHOLE}.issuperset(self.presets):
            raise UsageError(
                f"--presets {','.join(self.presets)}: expected {PRESET}, or {PRESET},{WHOLE}; best "
                f"compares the two in each job, and scratch has no pretrained features"
            )
        if self.images < LEAST_IMAGES:
            raise UsageError(f"--images {self.images}: expected {LEAST_IMAGES} or more")
        if self.trials is not None and self.trials < 1:
            raise UsageError(f"--trials {self.trials}: expected 1 or more")
        if self.minutes is not None and not 0 < self.minutes < float("inf"):
            raise UsageError(f"--minutes {self.minutes:g}: expected a number above 0")


@dataclass
class Search:
    """What a search has found so far.

    Attributes:
        usual: the settings of the run if no trial was finished.
        whole: the trial of WHOLE, if there is one.
        backbones: what was tried, the cheaper backbone first.
        skipped: name of a backbone or preset → why it was not tried.
        chosen: the trial whose settings the run has, or None.
        ended_early: why not all trials were finished, or "".
        cpu_seconds, seconds: of the search.
    """

    usual: Candidate | None = None
    whole: Trial | None = None
    backbones: list[BackboneTrials] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    chosen: Trial | None = None
    ended_early: str = ""
    cpu_seconds: float = 0.0
    seconds: float = 0.0

    @property
    def trials(self) -> list[Trial]:
        """All trials: the cheaper backbone and the more usual settings first."""
        found = [trial for one in self.backbones for trial in one.trials]
        return found if self.whole is None else [*found, self.whole]

    def skip(self, name: str, error: Exception) -> None:
        """Note that an error keeps the search from trying a backbone or preset."""
        self.skipped[name] = str(error) or "out of memory"
        _logger.warning("%s is skipped: %s", name, self.skipped[name])

    def to_json(self) -> dict[str, Any]:
        """Return the content of `trials.json`."""
        rows = [trial_row(trial, is_chosen=trial is self.chosen) for trial in self.trials]
        return {
            "chosen": next((row for row in rows if row["chosen"]), None),
            "trials": rows,
            "backbones": [
                {
                    "backbone": one.backbone,
                    "images": one.images,
                    "cpu_seconds": round(one.cpu_seconds, 2),
                    "seconds": round(one.seconds, 2),
                }
                for one in self.backbones
            ],
            "skipped": [{"name": name, "reason": why} for name, why in self.skipped.items()],
            "ended_early": self.ended_early,
            "cpu_seconds": round(self.cpu_seconds, 2),
            "seconds": round(self.seconds, 2),
        }


def tune_data(
    data: Path,
    output: Path | None,
    settings: Mapping[str, str],
    plan: Plan,
    *,
    overwrites: bool = False,
) -> tuple[Path, Search]:
    """Search, train with the best settings, and write the run; return its folder and the search.

    Args:
        data, output, overwrites: of `run_of_data`.
        settings: hyperparameters of all trials and of the run; a learning rate, a weight decay or a
            backbone among them is not varied.
        plan: what to try.

    Raises:
        UsageError: settings and plan contradict each other, or those of `run_of_data`.
        HyperparameterError, ChannelError, DataError, BackendError: as in `train`.
        KeyboardInterrupt: two interruptions, or one before there is anything to choose from.
    """
    given, interruption = dict(settings), Interruption()
    plan = _checked(given, plan)
    with run_of_data(data, output, given, overwrites=overwrites, can_resume=False) as run:
        if is_true(run.settings.get("multi_label")):
            raise DataError(f"{data} has images of several classes each: use train, not tune")
        with interruption.listening():
            search = _search(run, plan, interruption)
        _log_choice(search)
        chosen = search.chosen.candidate if search.chosen else search.usual
        if chosen is None or (search.chosen is None and interruption.is_set()):
            _logger.warning("No trial was finished before the interruption: nothing was written")
            raise KeyboardInterrupt
        found = {"preset": chosen.preset, "backbone": chosen.backbone, **chosen.values}
        command = resume_command(data, run.folder or run.paths.base, given | found)
        line = "If its training is interrupted, continue the run with: %s"
        _logger.info(line, command, extra=events.Note().extra)
        run = replace(run, settings={**run.settings, **found}, command=command)
        _train(run, search, interruption)
    return run.folder or run.paths.model, search


def _checked(given: dict[str, str], plan: Plan) -> Plan:
    """Return the plan with the backbone of the settings, which leaves them."""
    for name, how in _NOT_SET.items():
        if name in given:
            raise UsageError(f"{name}={given[name]}: {how}")
    if "backbone" not in given:
        return plan
    if plan.backbones:
        names = ",".join(plan.backbones)
        raise UsageError(f"backbone={given['backbone']} and --backbones {names}: keep one of them")
    return replace(plan, backbones=(given.pop("backbone"),))


def _train(run: Run, search: Search, interruption: Interruption) -> None:
    """Run the job with the chosen settings and put its model in its place."""
    from image_classification.training.job import run_job

    is_first = not interruption.is_set()  # else the next Ctrl-C is the second one
    with stop_on_signals() if is_first else nullcontext(StopRequest()) as stop:
        run_job(run.paths, run.settings, stop)
        write_text(run.paths.output_data / TRIALS_FILE, json.dumps(search.to_json(), indent=1))
        run.finish(is_complete=not stop.is_set())


def _search(run: Run, plan: Plan, interruption: Interruption) -> Search:
    """Try the candidates of every backbone, the cheapest first."""
    from image_classification.training.loaders import bad_samples_of
    from image_classification.training.request import requests_of_backbones
    from image_classification.training.trials import best_of, run_trials

    spent, began = time.process_time(), time.monotonic()
    search = Search()
    given = {**run.settings, "preset": PRESET}
    requests, search.skipped = requests_of_backbones(run.paths, given, plan.backbones)
    first = next(iter(requests.values()))
    with closing(_inputs(first, plan.images)) as inputs:
        candidates = _planned(
            {name: _candidates(request, inputs) for name, request in requests.items()}, plan.trials
        )
        for name in requests.keys() - candidates.keys():
            search.skipped[name] = f"--trials {plan.trials} leaves no trial for it"
        search.usual = next(iter(candidates.values()))[0]
        folds: IntArray | None = None
        bad_samples = bad_samples_of(first.settings, inputs)
        limit = began + 60 * (plan.minutes or float("inf"))

        def should_stop() -> bool:
            return interruption.is_set() or time.monotonic() >= limit

        _logger.info(
            "Tuning on %d training images: %d trials with %s; %d validation images are not used",
            *(len(inputs.training), sum(map(len, candidates.values())), ", ".join(candidates)),
            len(inputs.validation),
            extra=events.Note().extra,
        )
        failed: Exception | None = None
        for name, tried in candidates.items():
            if should_stop():
                search.skipped[name] = "the search ended before it"
                search.ended_early = _reason(interruption, plan)
                continue
            try:
                found = run_trials(tried, inputs, folds, bad_samples, should_stop)
            except _UNUSABLE as error:
                failed = error
                search.skip(name, error)
                continue
            search.backbones.append(found)
            folds = found.folds
            search.ended_early = "" if found.is_complete else _reason(interruption, plan)
            if best := best_of(found.trials):
                _log_best(name, best)
            _log_left(candidates, name, time.monotonic() - began)
        if failed and not search.backbones:
            raise failed
        search.chosen = best_of(search.trials)
        if WHOLE not in plan.presets:
            search.skipped[f"preset={WHOLE}"] = (
                f"it trains all layers, which takes as long as a job: --presets {PRESET},{WHOLE}"
            )
        elif search.chosen is None or folds is None or should_stop():
            search.skipped[f"preset={WHOLE}"] = "the search ended before it"
        else:
            _try_whole(run, search, search.chosen, inputs, folds, should_stop)
            if search.whole is not None and not search.whole.folds:
                search.ended_early = _reason(interruption, plan)
    search.cpu_seconds, search.seconds = time.process_time() - spent, time.monotonic() - began
    return search


def _try_whole(
    run: Run,
    search: Search,
    chosen: Trial,
    inputs: Inputs,
    folds: IntArray,
    should_stop: Callable[[], bool],
) -> None:
    """Try to train all layers of the chosen backbone; choose that if it is clearly better."""
    from image_classification.training.final_settings import final_settings
    from image_classification.training.request import read_request
    from image_classification.training.trials import Candidate, is_worse, judge_whole

    backbone = chosen.candidate.backbone
    request = read_request(run.paths, {**run.settings, "preset": WHOLE, "backbone": backbone})
    settings = final_settings(request.settings, inputs)
    candidate = Candidate(backbone, WHOLE, {}, settings, request.settings.epochs)
    _logger.info("%s: trying preset=%s on the first fold", backbone, WHOLE)
    try:
        search.whole = judge_whole(candidate, inputs, folds, should_stop)
    except _UNUSABLE as error:
        search.skip(f"preset={WHOLE}", error)
        return
    if search.whole.folds and not search.whole.has_diverged and is_worse(chosen, search.whole):
        search.chosen = search.whole


def _inputs(request: JobRequest, most: int) -> Inputs:
    """Open the data; of more than so many training images, take an even share of each class."""
    from image_classification.labels.split import stratified_split
    from image_classification.loading.sources import SubsetSource
    from image_classification.training.inputs import open_inputs

    inputs = open_inputs(request.channels, request.settings, request.interface.training_channel)
    source, count = inputs.training, len(inputs.training)
    if count > most:
        share, seed = most / count, request.settings.seed
        kept = stratified_split(source.class_indices, (share, 1 - share, 0), seed)[0]
        inputs = replace(inputs, training=SubsetSource(source, kept, source.name))
        _logger.info("Trying on %d of %d training images (--images %d)", len(kept), count, most)
    if count < LEAST_IMAGES:
        inputs.close()
        raise DataError(
            f"{inputs.training.name}: expected at least {LEAST_IMAGES} training images to choose "
            f"settings on, found {count}: add images, or use train"
        )
    return inputs


def _candidates(request: JobRequest, inputs: Inputs) -> list[Candidate]:
    """Return what to try with a backbone: the usual settings, then those that change the least."""
    from image_classification.training.feature_cache import obstacle
    from image_classification.training.final_settings import final_settings, variations
    from image_classification.training.trials import Candidate

    kept = {name for name, _, origin in request.origins() if origin not in _NOT_GIVEN}
    usual = final_settings(request.settings, inputs)
    if reason := obstacle(replace(usual, feature_copies=1), inputs):
        raise UsageError(f"tune keeps the features of images, but {reason}: use train")
    return [
        Candidate(usual.backbone.name, PRESET, values, settings, request.settings.epochs)
        for values, settings in variations(usual, kept)
    ]


def _planned(
    candidates: Mapping[str, list[Candidate]], most: int | None
) -> dict[str, list[Candidate]]:
    """Return at most so many candidates: those that change the least, of every backbone."""
    places = [(number, name) for name, own in candidates.items() for number in range(len(own))]
    counts = Counter(name for _, name in sorted(places, key=lambda place: place[0])[:most])
    return {name: own[: counts[name]] for name, own in candidates.items() if counts[name]}


def _reason(interruption: Interruption, plan: Plan) -> str:
    return _INTERRUPTED if interruption.is_set() else f"--minutes {plan.minutes:g} have passed"


def _log_best(name: str, trial: Trial) -> None:
    low, high = trial.interval
    _logger.info(
        "%s: best so far: %s, %.1f%% of %d training images correct (95%% interval %.1f to %.1f)",
        *(name, trial.candidate.text),
        *(100 * trial.accuracy, trial.images, 100 * low, 100 * high),
        extra=events.Note().extra,
    )


def _log_left(names: Iterable[str], done: str, seconds: float) -> None:
    """Log how long the backbones after `done` will take, by what their layers compute."""
    from image_classification.training.request import cost_of

    order = list(names)
    number = order.index(done) + 1
    before, after = sum(map(cost_of, order[:number])), sum(map(cost_of, order[number:]))
    if after and after < float("inf"):
        tried = counted(number, "backbones")
        _logger.info("%s tried, about %.0f s left", tried, seconds * after / before)


def _log_choice(search: Search) -> None:
    if search.ended_early:
        _logger.warning("The search ended early: %s", search.ended_early)
    if search.chosen is None:
        if any(trial.has_diverged for trial in search.trials):
            raise UserError("training diverged in every trial: set a lower learning_rate")
        if search.ended_early != _INTERRUPTED:  # else the command ends here
            _logger.warning("No trial was finished: the run has the usual settings of %s", PRESET)
        return
    one = search.chosen.candidate
    text = f"Chosen: preset={one.preset}, {one.backbone}, {one.text}"
    _logger.info("%s", text, extra=events.Note().extra)
