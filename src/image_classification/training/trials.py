"""Trials: heads on the features of a backbone, measured on training images that they did not see.

In: the opened data of a job, and candidates with the settings of a job each. Out: `Trial`s. The
backbone computes the features of each training image once, as the image is. A candidate then trains
heads on four fifths of them, as a job with `feature_copies=1` does, and each head predicts the
other fifth. The validation split is not read.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

import numpy as np

from image_classification import backends
from image_classification.backends.base import WEIGHT_PREFIX, Engine, OptimizerSpec, State, World
from image_classification.contract import process
from image_classification.curation import FOLDS, draw_folds, wilson_interval
from image_classification.errors import DataError
from image_classification.loading.bad_samples import BadSamples
from image_classification.loading.feature_loader import FeatureLoader, FeatureStore, Trunk
from image_classification.loading.sources import Source, SubsetSource
from image_classification.logs import Progress
from image_classification.samples import BoolArray, IntArray
from image_classification.training.engine import spec_of, start_engine
from image_classification.training.final_settings import epochs_of
from image_classification.training.inputs import Inputs
from image_classification.training.settings import Settings
from image_classification.training.stages import fit, fit_stages

_LEAST_KEPT = 3  # candidates that are tried on every fold
_CLEARLY = 2.0  # standard errors
_CHUNK = 4096  # images


@dataclass(frozen=True)
class Candidate:
    """Hyperparameters to try.

    Attributes:
        backbone, preset: names.
        values: the hyperparameters of the search, by name, as text; without these two.
        settings: of the job with these and the user's hyperparameters, on all training images.
        shortest: its epochs, if the number of images adds none.
    """

    backbone: str
    preset: str
    values: Mapping[str, str]
    settings: Settings
    shortest: int

    @property
    def text(self) -> str:
        """The hyperparameters in one line."""
        pairs = (f"{name}={value}" for name, value in self.values.items())
        return ", ".join(pairs) or "the usual settings"


@dataclass
class Trial:
    """What a candidate has shown so far.

    Attributes:
        candidate: what is tried.
        is_judged, is_right: bool (training images,): a head that was fitted without the image has
            predicted it; and correctly.
        folds: fifths of the images that are judged.
        has_diverged: the outputs of a head were not finite; it is not tried further.
        cpu_seconds, seconds: of its heads, without the features, which all trials of a backbone
            share.
    """

    candidate: Candidate
    is_judged: BoolArray
    is_right: BoolArray
    folds: int = 0
    has_diverged: bool = False
    cpu_seconds: float = 0.0
    seconds: float = 0.0

    @property
    def images(self) -> int:
        """The number of judged images."""
        return int(self.is_judged.sum())

    @property
    def accuracy(self) -> float:
        """The share of the judged images that is predicted correctly, 0 to 1; 0 without any."""
        return float(self.is_right[self.is_judged].mean()) if self.images else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """The 95% interval of the accuracy (Wilson), 0 to 1."""
        return wilson_interval(self.accuracy, self.images) if self.images else (0.0, 1.0)


@dataclass
class BackboneTrials:
    """The trials of a backbone, and what its features have cost.

    Attributes:
        backbone: its name.
        trials: in the order of the candidates.
        images: whose features were computed.
        cpu_seconds, seconds: for all of them.
        folds: int64 (training images,): the fold of each image, −1 without features; None if the
            search ended before it had them.
        is_complete: whether all trials were run.
    """

    backbone: str
    trials: list[Trial]
    images: int = 0
    cpu_seconds: float = 0.0
    seconds: float = 0.0
    folds: IntArray | None = None
    is_complete: bool = False


def run_trials(
    candidates: Sequence[Candidate],
    inputs: Inputs,
    folds: IntArray | None,
    bad_samples: BadSamples,
    should_stop: Callable[[], bool],
) -> BackboneTrials:
    """Try candidates of one backbone by successive halving, until the end or a stop.

    All of them are tried on the first fold, the better half on the second, and so on; at least
    three on every fold, among them the first.

    Args:
        candidates: they differ in the optimizer and the schedule only; the first is the usual one.
        inputs: of the job; only the training split is read.
        folds: of the backbone that was tried first; None for that one.
        bad_samples: those so far; training images that cannot be used are left out.
        should_stop: whether the search must end.

    Raises:
        BackendError, ArtifactError: the framework or the weights cannot be loaded.
        DataError: more bad samples than allowed, or no image that can be used.
    """
    count = len(inputs.training)
    found = BackboneTrials(
        candidates[0].backbone,
        [Trial(one, np.zeros(count, np.bool_), np.zeros(count, np.bool_)) for one in candidates],
        folds=folds,
    )
    with ExitStack() as stack:
        engines = _Engines(candidates[0].settings, inputs, stack)
        kept = _kept_features(engines, bad_samples, should_stop, found)
        if kept is None:
            return found
        usable = np.flatnonzero(kept.has[0])
        if not len(usable):
            raise DataError("no training image can be used: the log names each with the reason")
        if found.folds is None:
            labels, seed = inputs.training.class_indices[usable], engines.settings.seed
            found.folds = np.full(count, -1, np.int64)
            rows = kept.rows[0] if len(usable) == count else kept.rows[0][usable]
            found.folds[usable] = draw_folds(rows, labels, seed)
        tables = _Tables(kept, usable, found.folds, inputs.training, engines, should_stop)
        found.is_complete = _race(found.trials, tables, found.backbone, should_stop)
    return found


def judge_whole(
    candidate: Candidate, inputs: Inputs, folds: IntArray, should_stop: Callable[[], bool]
) -> Trial:
    """Return the trial of a recipe that trains all layers, on the first fold alone.

    A fold takes as long as a job.

    Args:
        candidate: to try.
        inputs: of the job; only the training split is read.
        folds: of the trials that it is compared with.
        should_stop: whether the search must end; the trial then has no fold.
    """
    count, source = len(inputs.training), inputs.training
    trial = Trial(candidate, np.zeros(count, np.bool_), np.zeros(count, np.bool_))
    spent, began = time.process_time(), time.monotonic()
    learned, held_out = np.flatnonzero(folds > 0), np.flatnonzero(folds == 0)
    own = replace(
        inputs,
        training=SubsetSource(source, learned, source.name),
        validation=SubsetSource(source, held_out, source.name),
        test=None,
    )
    found = fit_stages(candidate.settings, own, should_stop)
    if found is not None:
        indices, logits = held_out[found[0]], found[1]
        trial.has_diverged = not np.isfinite(logits).all()
        trial.is_right[indices] = logits.argmax(axis=1) == source.class_indices[indices]
        trial.is_judged[indices] = True
        trial.folds = 1
    trial.cpu_seconds, trial.seconds = time.process_time() - spent, time.monotonic() - began
    return trial


def best_of(trials: Sequence[Trial]) -> Trial | None:
    """Return the trial to choose: the first that is not clearly worse than the most accurate one.

    Candidates are those with the most judged folds. "Clearly" is by more than two standard errors
    of the difference, on the images that both have judged. That is more than the one of Breiman et
    al., "Classification and Regression Trees" (1984), because the best of up to 27 trials is the
    best partly by luck. The error is that of Agresti and Min, "Effects and non-effects of paired
    identical observations" (2005), who add half an image to each kind of pair.

    Args:
        trials: the cheaper and the more usual first.
    """
    most = max((trial.folds for trial in trials if not trial.has_diverged), default=0)
    if not most:
        return None
    level = [trial for trial in trials if trial.folds == most and not trial.has_diverged]
    top = max(level, key=lambda trial: trial.accuracy)
    return next(trial for trial in level if not is_worse(trial, top))


def is_worse(trial: Trial, top: Trial) -> bool:
    """Return whether a trial is clearly worse than another, on the images that both have judged."""
    both = trial.is_judged & top.is_judged
    differences = top.is_right[both].astype(np.int64) - trial.is_right[both]
    total, changed = int(differences.sum()), int(np.abs(differences).sum())
    return total > _CLEARLY * math.sqrt(changed + 1 - total * total / (len(differences) + 2))


def _race(
    trials: Sequence[Trial], tables: _Tables, name: str, should_stop: Callable[[], bool]
) -> bool:
    """Run the trials; return False if the search must end first."""
    alive, planned = list(trials), _planned(len(trials))
    with Progress(f"{name}: heads", sum(planned), "heads") as progress:
        for fold, kept in enumerate(planned):
            # The usual settings stay, because the choice compares the others with them.
            alive.sort(key=lambda trial: -2.0 if trial is trials[0] else -trial.accuracy)
            alive = [trial for trial in alive if not trial.has_diverged][:kept]
            for trial in sorted(alive, key=trials.index):
                if should_stop() or not tables.judge(trial, fold):
                    return False
                progress.advance()
    return True


def _planned(count: int) -> list[int]:
    """Return how many candidates are tried on each fold."""
    planned = [count]
    while len(planned) < FOLDS:
        planned.append(min(count, max(_LEAST_KEPT, -(-planned[-1] // 2))))
    return planned


class _Engines:
    """The engines of one backbone: one for each optimizer, with the same first weights."""

    def __init__(self, settings: Settings, inputs: Inputs, stack: ExitStack) -> None:
        self._inputs, self._stack = inputs, stack
        self._world = World(threads=process.framework_threads())
        self.settings = settings
        self.first = start_engine(settings, inputs, None, None, self._world)[0]
        stack.callback(self.first.release)
        self._fresh: State = {
            name: value
            for name, value in self.first.state().items()
            if name.startswith(WEIGHT_PREFIX)
        }
        self._by_optimizer: dict[OptimizerSpec, Engine] = {settings.optimizer: self.first}

    @property
    def inputs(self) -> Inputs:
        return self._inputs

    def fresh(self, settings: Settings) -> Engine:
        """Return an engine of these settings as at the start of a job."""
        optimizer = settings.optimizer
        if optimizer not in self._by_optimizer:
            backend = backends.load(settings.backend, self._world.threads)
            engine = backend.build(spec_of(settings, self._inputs, None), optimizer, self._world)
            self._stack.callback(engine.release)
            self._by_optimizer[optimizer] = engine
        engine = self._by_optimizer[optimizer]
        engine.load_state(self._fresh)
        return engine


def _kept_features(
    engines: _Engines,
    bad_samples: BadSamples,
    should_stop: Callable[[], bool],
    found: BackboneTrials,
) -> FeatureStore | None:
    """Compute the features of all training images; None if the search must end first."""
    settings, engine, source = engines.settings, engines.first, engines.inputs.training
    count = len(source)
    store = FeatureStore(1, count, engine.feature_width)
    cpus = process.cpu_count()
    loader = FeatureLoader(
        *(source, settings.preprocessing, settings.batch_size),
        threads=max(1, cpus // 4) if engine.device == "cpu" else cpus,
        bad_samples=bad_samples,
        key_prefix="train/",
        store=store,
        trunk=_trunk(engine),
        is_alone=True,
    )
    spent, began = time.process_time(), time.monotonic()
    with loader, Progress(f"{settings.backbone.name}: features", count, "images") as progress:
        for batch in loader.epoch(0):
            progress.advance(len(batch))
            found.images += len(batch)
            found.cpu_seconds = time.process_time() - spent
            found.seconds = time.monotonic() - began
            if should_stop():
                return None
    return store


def _trunk(engine: Engine) -> Trunk:
    return Trunk(engine.features_step, engine.all_reduce, bool)


@dataclass
class _Tables:
    """The features by fold: of the images to learn from, and of those to predict.

    Attributes:
        kept: the features of all training images.
        usable: int64, the indices of images that have features.
        folds: of `BackboneTrials`.
        training: the source of these images.
        engines: of the backbone.
        should_stop: whether the search must end.
    """

    kept: FeatureStore
    usable: IntArray
    folds: IntArray
    training: Source
    engines: _Engines
    should_stop: Callable[[], bool]
    _fold: int = -1
    _learned: IntArray = field(default_factory=lambda: np.empty(0, np.int64))
    _store: FeatureStore | None = None

    def judge(self, trial: Trial, fold: int) -> bool:
        """Fit a head without a fold, and judge the fold; return False if it must stop first."""
        spent, began = time.process_time(), time.monotonic()
        settings = trial.candidate.settings
        learned, store = self._features_without(fold)
        short = replace(settings, epochs=trial.candidate.shortest)
        epochs = epochs_of(short, len(learned))
        settings = replace(
            settings, epochs=epochs, schedule=replace(settings.schedule, epochs=epochs)
        )
        engine = self.engines.fresh(settings)
        source = SubsetSource(self.training, learned, self.training.name)
        loader = FeatureLoader(
            *(source, settings.preprocessing, settings.batch_size),
            shuffle=True,
            balanced=settings.recipe.balanced_sampling,
            seed=settings.seed,
            store=store,
            trunk=_trunk(engine),
            is_alone=True,
            is_computed=True,
        )
        classes = len(self.engines.inputs.labels)
        with loader:
            if not fit(engine, settings, classes, loader, self.should_stop):
                return False
        held_out = self.usable[self.folds[self.usable] == fold]
        for start in range(0, len(held_out), settings.batch_size):
            part = held_out[start : start + settings.batch_size]
            logits = engine.predict_step(np.asarray(self.kept.rows[0, part]))
            trial.has_diverged |= not np.isfinite(logits).all()
            trial.is_right[part] = logits.argmax(axis=1) == self.training.class_indices[part]
            trial.is_judged[part] = True
        trial.folds = fold + 1
        trial.cpu_seconds += time.process_time() - spent
        trial.seconds += time.monotonic() - began
        return True

    def _features_without(self, fold: int) -> tuple[IntArray, FeatureStore]:
        """Return the indices to learn from, and their features in this order; kept for a fold."""
        if self._store is None or fold != self._fold:
            self._store = None  # two of them may not fit into memory
            learned = self.usable[self.folds[self.usable] != fold]
            store = FeatureStore(1, len(learned), self.kept.rows.shape[2])
            for start in range(0, len(learned), _CHUNK):
                part = slice(start, start + _CHUNK)
                store.rows[0, part] = self.kept.rows[0, learned[part]]
            store.has[:] = True
            self._fold, self._learned, self._store = fold, learned, store
        return self._learned, self._store
