"""Trials: heads on features that are computed once, judged on images that they did not see."""

from __future__ import annotations

import io
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from image_classification.backends.base import World
from image_classification.contract.interface import INTERFACES
from image_classification.errors import DataError
from image_classification.labels.label_map import LabelMap
from image_classification.loading.bad_samples import BadSamples
from image_classification.loading.sources import Source, SubsetSource
from image_classification.samples import FloatArray, Sample
from image_classification.training import trials
from image_classification.training.checkpoint import Checkpoints
from image_classification.training.engine import start_engine
from image_classification.training.feature_cache import feature_cache
from image_classification.training.group import ProcessGroup
from image_classification.training.inputs import Inputs
from image_classification.training.journal import Journal
from image_classification.training.loaders import loader_of
from image_classification.training.loop import Loop
from image_classification.training.settings import Settings, settings_of
from image_classification.training.trials import Candidate, Trial, best_of, run_trials

GIVEN = {
    "num_layers": "20",
    "image_shape": "3,8,8",
    "backend": "torch",
    "epochs": "6",
    "mini_batch_size": "8",
    "train_only_top_layer": "1",
    "feature_copies": "1",
    "learning_rate": "0.1",
    "keep_last_weights": "1",
}


class Noise(Source):
    """Images of noise; a class says nothing about them, unless they are `tinted` by their class."""

    def __init__(self, count: int, *, tinted: bool = False, damaged: int = -1) -> None:
        self.name, self.class_indices = "noise", np.arange(count) % 2
        self._is_tinted, self._damaged = tinted, damaged

    def __len__(self) -> int:
        return len(self.class_indices)

    def key(self, index: int) -> str:
        return f"sample{index}"

    def read(self, index: int) -> Sample:
        pixels = np.random.default_rng(index).integers(0, 128, (8, 8, 3))
        pixels[..., index % 2] += 100 * self._is_tinted
        body = io.BytesIO()
        Image.fromarray(pixels.astype(np.uint8)).save(body, "PNG")
        content = b"no image" if index == self._damaged else body.getvalue()
        return Sample(self.key(index), int(self.class_indices[index]), content)


def settings(**given: str) -> Settings:
    return settings_of(INTERFACES["mxnet"].parse(GIVEN | given))


def candidates(rates: tuple[float, ...] = (0.1,), **given: str) -> list[Candidate]:
    usual = settings(**given)
    return [
        Candidate(
            "resnet20",
            "transfer",
            {"learning_rate": f"{rate:g}"},
            replace(usual, schedule=replace(usual.schedule, learning_rate=rate)),
            usual.epochs,
        )
        for rate in rates
    ]


def inputs_of(source: Source) -> Inputs:
    return Inputs(source, source, None, LabelMap(("one", "two")))


@dataclass
class Counter:
    """Counts the images whose features the engine of a trial computes, and keeps its logits."""

    images: int = 0
    logits: list[FloatArray] = field(default_factory=list)


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch) -> Counter:
    pytest.importorskip("torch", reason="PyTorch is not installed")
    monkeypatch.setenv("IMAGE_CLASSIFICATION_CPU_COUNT", "1")  # threads that wait cost more
    counted = Counter()

    def watched(*given: Any) -> Any:
        engine, origin = start_engine(*given)
        features_step = engine.features_step

        def counting(images: Any) -> Any:
            counted.images += len(images)
            return features_step(images)

        predict_step = engine.predict_step

        def keeping(images: Any) -> Any:
            counted.logits.append(predict_step(images))
            return counted.logits[-1]

        monkeypatch.setattr(engine, "features_step", counting)
        monkeypatch.setattr(engine, "predict_step", keeping)
        return engine, origin

    monkeypatch.setattr(trials, "start_engine", watched)
    return counted


def tried(
    source: Source, own: list[Candidate], limit: int = 10**9, bad: int = 0
) -> tuple[list[Trial], trials.BackboneTrials]:
    asked = iter(range(10**9))
    found = run_trials(own, inputs_of(source), None, BadSamples(bad), lambda: next(asked) >= limit)
    return found.trials, found


def test_the_features_of_an_image_are_computed_once_however_many_settings_are_tried(
    counter: Counter,
) -> None:
    decays = [
        replace(one, settings=replace(one.settings, optimizer=replace(spec, weight_decay=decay)))
        for one in candidates((0.1, 0.03))
        for spec, decay in ((one.settings.optimizer, 0.01), (one.settings.optimizer, 0.1))
    ]
    found, cost = tried(Noise(40), decays)
    assert counter.images == cost.images == 40
    assert [trial.folds for trial in found].count(5) == 3  # successive halving: 4, 3, 3, 3, 3
    assert found[0].folds == 5  # the usual settings, with which the others are compared
    assert cost.is_complete and sum(trial.folds for trial in found) == 16


def test_every_image_is_judged_by_a_head_that_did_not_see_it(counter: Counter) -> None:
    (trial,), _ = tried(Noise(60), candidates(epochs="60"))
    assert trial.is_judged.all() and trial.images == 60
    # A head that has seen these 48 images of noise is right about nearly all of them.
    assert 0.25 < trial.accuracy < 0.75
    (tinted,), _ = tried(Noise(60, tinted=True), candidates())
    assert tinted.accuracy > 0.9
    low, high = tinted.interval
    assert low < tinted.accuracy <= high


def test_a_trial_judges_a_fold_as_the_job_with_its_settings_does(counter: Counter) -> None:
    source = Noise(40)
    own = candidates((0.03,), label_smoothing="0.1", lr_scheduler_step="3")
    (trial,), found = tried(source, own)
    folds = found.folds
    assert folds is not None
    learned, held_out = np.flatnonzero(folds != 1), np.flatnonzero(folds == 1)
    inputs = replace(
        inputs_of(source),
        training=SubsetSource(source, learned, "learned"),
        validation=SubsetSource(source, held_out, "held out"),
    )
    job = own[0].settings
    engine: Any = start_engine(job, inputs, None, None, World(threads=1))[0]
    group = ProcessGroup(engine, World())
    cache = feature_cache(job, inputs, group)
    training, validation = (
        loader_of(name, inputs.splits[name], job, BadSamples(), World(), on_cpu=True, cache=cache)
        for name in ("train", "validation")
    )
    journal = Journal(INTERFACES["mxnet"].lines, job.epochs, training.steps)
    loop = Loop(engine, job, 2, training, validation, journal, Checkpoints(None, {}))
    with training, validation:
        loop.run()
        assert loop.last_weights is not None
        engine.load_state(loop.last_weights.weights)
        outcomes = loop.outcomes_of(validation)
    assert outcomes is not None
    logits = counter.logits[1]  # of the second fold, which is one batch
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    assert np.allclose(odds / odds.sum(axis=1, keepdims=True), outcomes.probabilities, atol=1e-5)
    right = outcomes.probabilities.argmax(axis=1) == outcomes.targets
    assert trial.is_right[held_out].tolist() == right.tolist()


def test_a_damaged_image_is_left_out_of_every_fold_or_ends_the_search(counter: Counter) -> None:
    (trial,), cost = tried(Noise(40, damaged=7), candidates(), bad=1)
    assert cost.images == trial.images == 39 and not trial.is_judged[7]
    with pytest.raises(DataError, match="expected at most 0 bad samples"):
        tried(Noise(40, damaged=7), candidates())


def test_a_search_on_images_none_of_which_can_be_used_is_refused(counter: Counter) -> None:
    class Broken(Noise):
        def read(self, index: int) -> Sample:
            return replace(super().read(index), data=b"no image")

    with pytest.raises(DataError, match="no training image can be used"):
        tried(Broken(40), candidates(), bad=40)


def test_a_search_that_must_end_keeps_what_it_has_found(counter: Counter) -> None:
    found, cost = tried(Noise(40), candidates((0.1, 0.03)), limit=2)
    assert not cost.is_complete and 0 < cost.images < 40
    assert best_of(found) is None
    found, cost = tried(Noise(40), candidates((0.1, 0.03), epochs="1"), limit=22)
    assert not cost.is_complete and cost.images == 40
    assert 0 < sum(trial.folds for trial in found) < 10
    assert best_of(found) in found


def test_settings_whose_numbers_overflow_are_not_chosen(counter: Counter) -> None:
    found, _ = tried(Noise(40, tinted=True), candidates((1e30, 0.1), epochs="12"))
    assert [trial.has_diverged for trial in found] == [True, False]
    assert best_of(found) is found[1]


def test_the_usual_settings_are_tried_on_every_fold_even_if_others_are_better(
    counter: Counter,
) -> None:
    found, _ = tried(Noise(40, tinted=True), candidates((1e-6, 0.1, 0.09, 0.08, 0.07), epochs="12"))
    assert found[0].folds == 5 and found[0].accuracy < found[1].accuracy
    assert sorted(trial.folds for trial in found) == [1, 1, 5, 5, 5]


def made(right: str, folds: int = 5) -> Trial:
    """Return a trial: 1 is right, 0 wrong, - not judged."""
    judged = np.array([mark != "-" for mark in right])
    return Trial(candidates()[0], judged, np.array([mark == "1" for mark in right]), folds)


@pytest.mark.parametrize(
    ("cheaper", "dearer", "chosen"),
    [
        ("1111100000", "1111111000", 0),  # two more of ten: within two standard errors
        ("1111100000", "1111111110", 1),  # four more and none less
        ("0111111111", "1011111111", 0),  # equally many
        ("1111100000", "1111111111", 1),
    ],
)
def test_the_cheaper_trial_is_chosen_unless_the_other_is_clearly_better(
    cheaper: str, dearer: str, chosen: int
) -> None:
    found = [made(cheaper), made(dearer)]
    assert best_of(found) is found[chosen]


def test_a_trial_that_was_given_up_is_not_chosen_however_lucky_it_was() -> None:
    lucky, whole = made("11--------", folds=1), made("1111111000")
    assert best_of([lucky, whole]) is whole
    assert best_of([lucky]) is lucky
    assert best_of([]) is None
