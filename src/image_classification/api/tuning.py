"""The search for the settings of a run: try them on kept features, then train with the best.

In: data as for `run_of_data`, and a `Plan`. Out: a run as `train DATA` writes it, and the trials in
its `trials.json`. The settings are chosen on folds of the training images: the validation and test
images of the run have no part in the choice.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from image_classification import events
from image_classification.api.results import TRIALS_FILE
from image_classification.api.runs import Run, run_of_data
from image_classification.errors import (
    ArtifactError,
    BackendError,
    DataError,
    UsageError,
    UserError,
)
from image_classification.files import write_text
from image_classification.training.stopping import Interruption, StopRequest, stop_on_signals

if TYPE_CHECKING:
    from image_classification.loading.bad_samples import BadSamples
    from image_classification.samples import IntArray
    from image_classification.training.inputs import Inputs
    from image_classification.training.request import JobRequest
    from image_classification.training.trials import BackboneTrials, Candidate, Trial

PRESET = "transfer"
"""The recipe whose features can be kept."""

_FROM_PRESET = f"preset {PRESET}"  # the origin of its values
_RATES = (1.0, 3.0, 1 / 3)  # times the learning rate of the recipe
_DECAYS = (1.0, 1 / 4, 4.0)  # times its weight decay
_MOST = 1.0  # of both, as hyperparameters
_NOT_SET = {  # hyperparameters that the search sets itself → how to say it
    "preset": "name it with --presets (presets= in Python)",
    "num_layers": "name backbones with --backbones (backbones= in Python)",
    "model_id": "name backbones with --backbones (backbones= in Python)",
}
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """What a search tries, and how long.

    Attributes:
        backbones: names; empty: all whose weights are on this machine.
        trials: the most combinations of backbone, learning rate and weight decay; None: all.
        minutes: after these the search ends; None: no limit. The run is trained after it.

    Raises:
        UsageError: a number is out of its range.
    """

    backbones: Sequence[str] = ()
    trials: int | None = None
    minutes: float | None = None

    def __post_init__(self) -> None:
        if self.trials is not None and self.trials < 1:
            raise UsageError(f"--trials {self.trials}: expected 1 or more")
        if self.minutes is not None and not 0 < self.minutes < float("inf"):
            raise UsageError(f"--minutes {self.minutes:g}: expected a number above 0")


@dataclass
class Search:
    """What a search has found so far.

    Attributes:
        usual: what the run has if not one trial was finished.
        backbones: what was tried, the cheaper backbone first.
        skipped: name of a backbone or preset → why it was not tried.
        chosen: the trial whose settings the run has, or None.
        ended_early: why not all trials were finished, or "".
        cpu_seconds, seconds: of the search.
    """

    usual: Candidate | None = None
    backbones: list[BackboneTrials] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    chosen: Trial | None = None
    ended_early: str = ""
    cpu_seconds: float = 0.0
    seconds: float = 0.0

    @property
    def trials(self) -> list[Trial]:
        """All trials: the cheaper backbone and the more usual settings first."""
        return [trial for one in self.backbones for trial in one.trials]

    def to_json(self) -> dict[str, Any]:
        """Return the content of `trials.json`."""
        rows = [self._row(trial) for trial in self.trials]
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

    def _row(self, trial: Trial) -> dict[str, Any]:
        candidate, settings = trial.candidate, trial.candidate.settings
        measured = trial.images > 0 and not trial.has_diverged
        return {
            "backbone": candidate.backbone,
            "preset": candidate.preset,
            "learning_rate": settings.schedule.learning_rate,
            "weight_decay": settings.optimizer.weight_decay,
            "accuracy": round(trial.accuracy, 6) if measured else None,
            "interval": [round(end, 6) for end in trial.interval] if measured else None,
            "images": trial.images,
            "folds": trial.folds,
            "diverged": trial.has_diverged,
            "cpu_seconds": round(trial.cpu_seconds, 2),
            "seconds": round(trial.seconds, 2),
            "chosen": trial is self.chosen,
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
    given = dict(settings)
    plan = _checked(given, plan)
    interruption = Interruption()
    with run_of_data(data, output, given, overwrites=overwrites) as run:
        if run.settings.get("multi_label"):
            raise DataError(
                f"{data} has images of several classes each, but tune compares the accuracy of one "
                "class per image: train it with image-classification train"
            )
        with interruption.listening():
            search = _search(run, plan, interruption)
        chosen = search.chosen.candidate if search.chosen else search.usual
        if chosen is None or (search.chosen is None and interruption.is_set()):
            raise KeyboardInterrupt
        own = {**run.settings, "preset": chosen.preset, "backbone": chosen.backbone}
        _train(replace(run, settings=own | dict(chosen.values)), search, interruption)
    assert run.folder is not None, "a run on data has a folder"
    return run.folder, search


def _checked(given: dict[str, str], plan: Plan) -> Plan:
    """Return the plan with the backbone of the settings, which leaves them."""
    for name, how in _NOT_SET.items():
        if name in given:
            raise UsageError(f"{name}={given[name]}: {how}")
    if "backbone" not in given:
        return plan
    if plan.backbones:
        raise UsageError(
            f"backbone={given['backbone']} and --backbones {','.join(plan.backbones)} both name "
            "what to try: keep one of them"
        )
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
    from image_classification.training.request import requests_of_backbones
    from image_classification.training.trials import best_of, run_trials

    spent, began = time.process_time(), time.monotonic()
    search = Search()
    own = {**run.settings, "preset": PRESET}
    requests, search.skipped = requests_of_backbones(run.paths, own, plan.backbones)
    for request in requests.values():
        _check_settings(request)
    first = next(iter(requests.values()))
    with closing(_inputs(first)) as inputs:
        candidates = _planned(
            {name: _candidates(request, inputs) for name, request in requests.items()}, plan.trials
        )
        for name in requests.keys() - candidates.keys():
            search.skipped[name] = f"--trials {plan.trials} leaves none for it"
        search.usual = next(iter(candidates.values()))[0]
        folds: IntArray | None = None
        bad_samples = _bad_samples(first, inputs)
        limit = None if plan.minutes is None else began + 60 * plan.minutes
        should_stop = _stop_of(interruption, limit)
        _logger.info(
            "Tuning on %d training images: %d trials with %s; the %d validation images have no "
            "part in the choice",
            *(len(inputs.training), sum(map(len, candidates.values())), ", ".join(candidates)),
            len(inputs.validation),
            extra=events.Note().extra,
        )
        failed: UserError | None = None
        for name, tried in candidates.items():
            if should_stop():
                search.skipped[name] = "the search ended before it"
                search.ended_early = _reason(interruption, plan)
                continue
            try:
                found = run_trials(tried, inputs, folds, bad_samples, should_stop)
            except (ArtifactError, BackendError) as error:
                failed, search.skipped[name] = error, str(error)
                _logger.warning("%s is skipped: %s", name, error)
                continue
            search.backbones.append(found)
            folds = found.folds
            search.ended_early = "" if found.is_complete else _reason(interruption, plan)
            _log_best(name, best_of(found.trials))
        if failed is not None and not search.backbones:
            raise failed
    search.chosen = best_of(search.trials)
    search.cpu_seconds, search.seconds = time.process_time() - spent, time.monotonic() - began
    _log_choice(search)
    return search


def _check_settings(request: JobRequest) -> None:
    """Refuse hyperparameters with which no features can be kept."""
    settings = request.settings
    if not settings.train_only_head:
        wrong = "train_only_top_layer=0 trains all layers"
    elif settings.recipe.mixes:
        wrong = "mixup_alpha and cutmix_alpha mix images"
    else:
        return
    raise UsageError(
        f"tune computes the features of each image once, but {wrong}: leave it out, or use train"
    )


def _inputs(request: JobRequest) -> Inputs:
    from image_classification.training.inputs import open_inputs
    from image_classification.training.trials import LEAST_IMAGES

    channel = request.interface.training_channel
    inputs = open_inputs(request.channels, request.settings, channel)
    count = len(inputs.training)
    if count < LEAST_IMAGES:
        inputs.close()
        raise DataError(
            f"{inputs.training.name}: expected at least {LEAST_IMAGES} training images to choose "
            f"settings on, found {count}: add images, or use train"
        )
    return inputs


def _candidates(request: JobRequest, inputs: Inputs) -> list[Candidate]:
    """Return what to try with a backbone: the usual settings, then those that change the least."""
    from image_classification.training.final_settings import final_settings
    from image_classification.training.trials import Candidate

    kept = {
        name for name, _, origin in request.origins() if origin not in ("default", _FROM_PRESET)
    }
    usual = final_settings(request.settings, inputs)
    rate, decay = usual.schedule.learning_rate, usual.optimizer.weight_decay
    rates = _around("learning_rate", rate, _RATES, kept)
    decays = _around("weight_decay", decay, _DECAYS, kept)
    found = []
    pairs = [(i, j) for i in range(len(rates)) for j in range(len(decays))]
    for i, j in sorted(pairs, key=lambda pair: ((pair[0] > 0) + (pair[1] > 0), pair)):
        schedule = replace(usual.schedule, learning_rate=rates[i])
        optimizer = replace(usual.optimizer, weight_decay=decays[j])
        settings = replace(usual, schedule=schedule, optimizer=optimizer)
        values = {"learning_rate": f"{rates[i]:g}"}
        values |= {"weight_decay": f"{decays[j]:g}"} if decay else {}
        values = {name: value for name, value in values.items() if name not in kept}
        found.append(
            Candidate(usual.backbone.name, PRESET, values, settings, request.settings.epochs)
        )
    return found


def _around(name: str, usual: float, factors: Sequence[float], kept: set[str]) -> list[float]:
    """Return the values of a hyperparameter to try; only the usual one if the user has set it."""
    if name in kept:
        return [usual]
    return list(dict.fromkeys(min(_MOST, float(f"{usual * factor:.3g}")) for factor in factors))


def _planned(
    candidates: Mapping[str, list[Candidate]], most: int | None
) -> dict[str, list[Candidate]]:
    """Return at most so many candidates: those that change the least, of every backbone."""
    if most is None:
        return dict(candidates)
    taken: dict[str, list[Candidate]] = {name: [] for name in candidates}
    left = {name: list(own) for name, own in candidates.items()}
    while most and any(left.values()):
        for name in left:
            if most and left[name]:
                taken[name].append(left[name].pop(0))
                most -= 1
    return {name: own for name, own in taken.items() if own}


def _bad_samples(request: JobRequest, inputs: Inputs) -> BadSamples:
    from image_classification.loading.bad_samples import BadSamples, parse_limit

    count = sum(map(len, inputs.splits.values()))
    return BadSamples(
        parse_limit(request.settings.max_bad_samples, count),
        "repair or remove them, or allow more with max_bad_samples (a count, or 1%)",
    )


def _stop_of(interruption: Interruption, limit: float | None) -> Callable[[], bool]:
    return lambda: interruption.is_set() or (limit is not None and time.monotonic() >= limit)


def _reason(interruption: Interruption, plan: Plan) -> str:
    return "interrupted" if interruption.is_set() else f"--minutes {plan.minutes:g} have passed"


def _log_best(name: str, trial: Trial | None) -> None:
    if trial is None:
        _logger.info("%s: no trial was finished", name)
        return
    low, high = trial.interval
    _logger.info(
        "%s: best so far %s with %.1f %% of %d training images right (95 %% interval %.1f to %.1f)",
        *(name, described(trial.candidate.values) or "the usual settings"),
        *(100 * trial.accuracy, trial.images, 100 * low, 100 * high),
        extra=events.Note().extra,
    )


def _log_choice(search: Search) -> None:
    if search.ended_early:
        _logger.warning("The search ended early: %s", search.ended_early)
    if search.chosen is None:
        _logger.warning("No trial was finished: the run has the usual settings of %s", PRESET)
        return
    candidate = search.chosen.candidate
    _logger.info(
        "Chosen: %s on %s; now the run trains with it on all training images",
        *(described(candidate.values) or "the usual settings", candidate.backbone),
        extra=events.Note().extra,
    )


def described(values: Mapping[str, str]) -> str:
    """Return hyperparameters as text: `name=value, name=value`."""
    return ", ".join(f"{name}={value}" for name, value in values.items())
