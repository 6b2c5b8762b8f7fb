"""A job with a frozen backbone computes the features of its images once, and learns the same."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from image_classification.backends.base import State, World
from image_classification.contract.interface import INTERFACES
from image_classification.labels.label_map import LabelMap
from image_classification.loading import feature_loader
from image_classification.loading.bad_samples import BadSamples
from image_classification.loading.feature_loader import FeatureLoader
from image_classification.samples import FloatArray, UInt8Array
from image_classification.training.checkpoint import Checkpoints
from image_classification.training.engine import start_engine
from image_classification.training.feature_cache import feature_cache
from image_classification.training.group import ProcessGroup
from image_classification.training.inputs import Inputs
from image_classification.training.journal import Journal
from image_classification.training.loaders import loader_of
from image_classification.training.loop import Loop
from image_classification.training.settings import settings_of
from tests.unit.training.test_loop import Colors

AUGMENTED = {"augmentation_type": "crop_color_transform"}


class Killed(Exception):
    """The process ends here."""


@dataclass
class Job:
    """A job on ten small images; `computed` counts the images whose features were computed."""

    given: dict[str, str]
    folder: Path | None = None
    damaged: frozenset[int] = frozenset()
    kill_at: int = -1
    stop: Callable[[], bool] = bool
    computed: int = 0
    steps: list[tuple[float, FloatArray]] = field(default_factory=list)

    def run(self) -> Loop:
        pytest.importorskip("torch", reason="PyTorch is not installed")
        job = {"num_layers": "20", "image_shape": "3,8,8", "backend": "torch", "epochs": "7"}
        job |= {"mini_batch_size": "2", "train_only_top_layer": "1", "max_bad_samples": "4"}
        settings = replace(settings_of(INTERFACES["mxnet"].parse(job | self.given)), batch_size=3)
        source = Colors()
        source.damaged = set(self.damaged)
        inputs = Inputs(source, source, None, LabelMap(("dark", "bright")))
        engine: Any = start_engine(settings, inputs, None, None, World())[0]
        self._watch(engine)
        group = ProcessGroup(engine, World())
        cache = feature_cache(settings, inputs, group)
        bad_samples = BadSamples(4)
        training, validation = (
            loader_of(name, source, settings, bad_samples, World(), on_cpu=True, cache=cache)
            for name in ("train", "validation")
        )
        lines = INTERFACES["mxnet"].lines
        journal = Journal(lines, settings.epochs, training.steps, training.image_epochs)
        checkpoints = Checkpoints(self.folder, {})
        loop = Loop(engine, settings, 2, training, validation, journal, checkpoints)
        loop.should_stop = self.stop
        with training, validation:
            loop.resume()
            with suppress(Killed):
                loop.run()
        return loop

    def _watch(self, engine: Any) -> None:
        compute, train = engine.features_step, engine.train_step

        def features_step(images: UInt8Array) -> FloatArray:
            self.computed += len(images)
            return compute(images)  # type: ignore[no-any-return]

        def train_step(*arguments: Any) -> Any:
            if len(self.steps) == self.kill_at:
                raise Killed
            result = train(*arguments)
            self.steps.append(result.fetch())
            return result

        engine.features_step, engine.train_step = features_step, train_step


def state_of(loop: Loop) -> State:
    return loop.engine.state()


def assert_same(found: Loop, expected: Loop, tolerance: float = 0.0) -> None:
    theirs = state_of(expected)
    for name, value in state_of(found).items():
        np.testing.assert_allclose(value, theirs[name], atol=tolerance, rtol=0, err_msg=name)
    for mine, other in zip(found.history.epochs, expected.history.epochs, strict=True):
        assert mine.train == pytest.approx(other.train, rel=tolerance, abs=tolerance)
        assert mine.validation == pytest.approx(other.validation, rel=tolerance, abs=tolerance)


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"balanced_sampling": "True", "accumulate_batches": "2"},
        {"dropout_rate": "0.5", "ema_decay": "0.5", "class_weights": "effective"},
    ],
)
def test_without_augmentation_a_job_learns_the_same_from_features_computed_once(
    given: dict[str, str],
) -> None:
    cached, plain = Job(given), Job({"feature_copies": "0"} | given)
    assert_same(cached.run(), plain.run(), 1e-5)
    assert cached.computed == 20  # ten of training, ten of validation
    assert plain.computed == 0 and len(cached.steps) == len(plain.steps) == 28


def test_bad_samples_are_left_out_of_every_epoch_and_reported_once() -> None:
    damaged = frozenset({1, 4})
    cached, plain = Job({}, damaged=damaged), Job({"feature_copies": "0"}, damaged=damaged)
    found, expected = cached.run(), plain.run()
    assert_same(found, expected, 1e-5)
    assert found.training.bad_samples.reasons == expected.training.bad_samples.reasons
    assert cached.computed == 16


def test_augmented_copies_are_those_of_the_first_epochs_and_then_take_turns() -> None:
    cached, plain = Job(AUGMENTED), Job(AUGMENTED | {"feature_copies": "0"})
    cached.run(), plain.run()
    assert cached.computed == 3 * 10 + 10
    for mine, other in list(zip(cached.steps, plain.steps, strict=True))[:12]:
        np.testing.assert_allclose(mine[1], other[1], atol=1e-5)
    enough = Job(AUGMENTED | {"feature_copies": "7"})
    assert_same(enough.run(), plain.run(), 1e-5)


def test_a_single_copy_is_not_augmented() -> None:
    one = Job(AUGMENTED | {"feature_copies": "1"})
    assert_same(one.run(), Job({}).run())


def test_the_later_epochs_read_the_copies_in_turn_and_in_orders_of_their_own() -> None:
    loader = Job(AUGMENTED).run().training
    assert isinstance(loader, FeatureLoader)
    epochs = []
    for number in (3, 4, 6):
        batches = list(loader.epoch(number))
        rows = np.concatenate([batch.images for batch in batches])
        keys = [key for batch in batches for key in batch.keys]
        assert sorted(keys) == [f"sample{i}" for i in range(10)]
        targets = np.concatenate([batch.targets for batch in batches])
        assert targets.tolist() == [int(key[6:]) % 2 for key in keys]
        epochs.append((keys, dict(zip(keys, rows, strict=True))))
    (first_keys, first), (_, second), (third_keys, third) = epochs
    assert first_keys != third_keys
    assert all(np.array_equal(first[key], third[key]) for key in first)
    assert not all(np.array_equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize(
    ("kill_at", "given"),
    [(2, {}), (6, {}), (13, {}), (20, {}), (6, {"balanced_sampling": "True"})],
)
def test_a_job_killed_while_it_computes_features_or_trains_the_head_resumes_bit_for_bit(
    tmp_path: Path, kill_at: int, given: dict[str, str]
) -> None:
    given = AUGMENTED | {"checkpoint_steps": "1", "dropout_rate": "0.2"} | given
    whole = Job(given).run()
    Job(given, folder=tmp_path, kill_at=kill_at).run()
    resumed = Job(given, folder=tmp_path)
    loop = resumed.run()
    assert len(resumed.steps) == 28 - kill_at
    assert_same(loop, whole)


def test_a_stop_while_a_resumed_job_computes_features_again_leaves_its_checkpoint(
    tmp_path: Path,
) -> None:
    given = AUGMENTED | {"checkpoint_steps": "1"}
    whole = Job(given).run()
    Job(given, folder=tmp_path, kill_at=16).run()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    stopped = Job(given, folder=tmp_path, stop=lambda: True)
    stopped.run()
    assert stopped.steps == [] and stopped.computed == 3
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert_same(Job(given, folder=tmp_path).run(), whole)


def test_a_job_stopped_before_its_first_step_has_no_epoch_and_no_checkpoint(
    tmp_path: Path,
) -> None:
    given = AUGMENTED | {"balanced_sampling": "True", "keep_last_weights": "1"}
    stopped = Job(given, folder=tmp_path, stop=lambda: True)
    loop = stopped.run()
    assert stopped.computed == 3 and not stopped.steps
    assert not loop.history.epochs and not loop.best_weights and loop.last_weights is None
    assert not list(tmp_path.iterdir())


def test_a_resumed_job_whose_time_is_over_does_not_compute_its_features_again(
    tmp_path: Path,
) -> None:
    given = AUGMENTED | {"checkpoint_steps": "1"}
    Job(given, folder=tmp_path, kill_at=16).run()
    late = Job(given | {"max_minutes": "1e-9"}, folder=tmp_path)
    loop = late.run()
    assert late.computed == 3 and not late.steps  # one batch, then it is time
    assert len(loop.history.epochs) == 4


def test_many_features_lie_in_a_mapped_file(monkeypatch: pytest.MonkeyPatch) -> None:
    in_memory = Job(AUGMENTED).run()
    monkeypatch.setattr(feature_loader, "LARGEST_IN_MEMORY", 100)
    store = feature_loader.FeatureStore(2, 10, 64)
    assert isinstance(store.rows, np.memmap)
    assert_same(Job(AUGMENTED).run(), in_memory)


@pytest.mark.parametrize("is_nearly_full", [False, True])
def test_a_job_without_room_for_its_features_computes_them_in_every_epoch(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, is_nearly_full: bool
) -> None:
    def full(*_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(feature_loader, "LARGEST_IN_MEMORY", 100)
    if is_nearly_full:  # the features have room, but the artifact would have none
        monkeypatch.setattr(feature_loader, "_LEFT_FREE", 1 << 60)
    else:
        monkeypatch.setattr("os.posix_fallocate", full)
    caplog.set_level(logging.INFO)
    job = Job({})
    job.run()
    assert job.computed == 0 and len(job.steps) == 28
    assert "no room to keep them" in caplog.text and "No space left" in caplog.text


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"feature_copies": "0"}, "in every epoch: feature_copies=0"),
        ({"mixup_alpha": "0.2"}, "in every epoch: mixup_alpha and cutmix_alpha mix images"),
        ({"train_only_top_layer": "0"}, ""),
        ({}, "training images once (feature_copies=3)"),
        (AUGMENTED, "training images in each of the first 3 epochs (feature_copies=3)"),
    ],
)
def test_one_log_line_says_how_often_features_are_computed(
    given: dict[str, str], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    Job({"epochs": "4"} | given).run()
    lines = [text for text in caplog.messages if text.startswith("Computing the features")]
    assert len(lines) == bool(reason)
    assert reason in "".join(lines)
