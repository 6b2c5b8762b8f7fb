"""The loop passes numbers to an engine and keeps the best weights."""

from __future__ import annotations

import errno
import io
import logging
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from image_classification.backends.base import WHOLE_UPDATE, Engine, State, Update, World
from image_classification.contract.interface import INTERFACES
from image_classification.contract.metrics import MXNetLines
from image_classification.images.encode import shrunk
from image_classification.labels.label_map import LabelMap
from image_classification.loading.bad_samples import BadSamples
from image_classification.loading.loader import Loader
from image_classification.loading.sources import Source
from image_classification.samples import Batch, FloatArray, Sample, UInt8Array
from image_classification.training.checkpoint import Checkpoints, History
from image_classification.training.journal import Journal
from image_classification.training.loaders import Loaders, loader_of
from image_classification.training.loop import Loop
from image_classification.training.results import augmented_images
from image_classification.training.settings import Settings, settings_of
from image_classification.training.step import StepInputs


class Colors(Source):
    """Ten 8×8 PNGs: even samples are dark (class 0), odd ones bright (class 1)."""

    name = "colors"

    def __init__(self) -> None:
        self.class_indices = np.arange(10) % 2
        self.damaged: set[int] = set()

    def __len__(self) -> int:
        return 10

    def key(self, index: int) -> str:
        return f"sample{index}"

    def read(self, index: int) -> Sample:
        body = io.BytesIO()
        level = 40 + 170 * (index % 2)
        Image.new("RGB", (8, 8), (level, level, level)).save(body, "PNG")
        content = b"no image" if index in self.damaged else body.getvalue()
        return Sample(self.key(index), int(self.class_indices[index]), content)


@dataclass
class Result:
    logits: FloatArray

    def fetch(self) -> tuple[float, FloatArray]:
        return 0.5, self.logits


@dataclass
class RecordingEngine:
    """Records its input; its accuracy in each epoch is decided in advance.

    Its one weight counts the epochs, so the state tells which epoch it came from.
    """

    right_share: list[float]
    epoch: int = -1
    steps: int = 0
    rates: list[float] = field(default_factory=list)
    targets: list[FloatArray] = field(default_factory=list)
    weights: list[FloatArray] = field(default_factory=list)
    images: list[UInt8Array] = field(default_factory=list)
    updates: list[Update] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    parameter_count: int = 1
    trainable_parameter_count: int = 1
    device: str = "cpu"

    def train_step(
        self, batch: Batch, learning_rate: float, update: Update = WHOLE_UPDATE
    ) -> Result:
        if self.steps % 3 == 0:
            self.epoch += 1
        self.steps += 1
        self.rates.append(learning_rate)
        self.targets.append(batch.targets.copy())
        self.weights.append(batch.weights.copy())
        self.images.append(batch.images.copy())
        self.updates.append(update)
        self.keys.extend(batch.keys)
        return Result(np.zeros((len(batch), 2), np.float32))

    def predict_step(self, images: UInt8Array) -> FloatArray:
        classes = (images.mean(axis=(1, 2, 3)) > 128).astype(int)
        logits = np.eye(2, dtype=np.float32)[classes]
        wrong = round(len(images) * (1 - self.right_share[self.epoch]))
        logits[:wrong] = 1 - logits[:wrong]
        return logits * 4

    def state(self) -> State:
        return {"weight/epoch": np.array(self.epoch), "optimizer/steps": np.array(self.steps)}

    def load_state(self, state: State) -> None:
        self.epoch = int(state["weight/epoch"])
        self.steps = int(state.get("optimizer/steps", self.steps))

    def export(self, path: Path, temperature: float = 1.0) -> None:
        raise AssertionError("not in the loop")

    def release(self) -> None:
        pass


def run_loop(right_share: list[float], **given: str) -> tuple[Loop, RecordingEngine]:
    loop, recorder = prepare_loop(right_share, **given)
    loop.run()
    return loop, recorder


def prepare_loop(right_share: list[float], **given: str) -> tuple[Loop, RecordingEngine]:
    job = {"epochs": str(len(right_share)), "mini_batch_size": "4", "image_shape": "3,8,8"}
    values = INTERFACES["mxnet"].parse({"num_layers": "20"} | job | given)
    settings: Settings = settings_of(values)
    settings = replace(settings, batch_size=4)
    recorder = RecordingEngine(right_share)
    engine: Engine = recorder
    source = Colors()
    training = Loader(source, settings.preprocessing, 4, shuffle=True, seed=settings.seed)
    validation = Loader(source, settings.preprocessing, 10)
    journal = Journal(MXNetLines(), settings.epochs, training.steps)
    loop = Loop(engine, settings, 2, training, validation, journal, Checkpoints(None, {}))
    return loop, recorder


def test_the_engine_ends_with_the_weights_of_the_best_epoch() -> None:
    loop, engine = run_loop([0.5, 0.9, 0.7])
    assert loop.history.accuracies == pytest.approx([0.5, 0.9, 0.7])
    assert loop.history.best_epoch == 1
    assert engine.epoch == 1


def test_every_sample_is_seen_once_an_epoch_and_each_epoch_in_another_order() -> None:
    _, engine = run_loop([0.5, 0.5])
    first, second = engine.keys[:10], engine.keys[10:]
    assert sorted(first) == sorted(second) == [f"sample{i}" for i in range(10)]
    assert first != second and first != sorted(first)


def test_the_schedule_reaches_the_engine_as_a_rate_for_each_step() -> None:
    _, engine = run_loop([0.5] * 3, learning_rate="0.1", lr_scheduler_step="1,2")
    assert engine.rates == pytest.approx([0.1] * 3 + [0.01] * 3 + [0.001] * 3)


def test_targets_are_soft_and_follow_the_samples_through_the_shuffle() -> None:
    _, engine = run_loop([0.5], label_smoothing="0.2")
    targets = np.concatenate(engine.targets)
    classes = [int(key.removeprefix("sample")) % 2 for key in engine.keys]
    expected = np.where(np.eye(2)[classes] > 0, 0.9, 0.1)
    np.testing.assert_allclose(targets, expected, atol=1e-6)


def test_a_stop_in_the_first_epoch_leaves_its_weights_and_a_checkpoint_of_its_step(
    tmp_path: Path,
) -> None:
    loop, engine = prepare_loop([0.8, 0.9])
    loop.checkpoints = Checkpoints(tmp_path, {})
    loop.should_stop = lambda: engine.steps >= 1
    loop.run()
    assert engine.steps == 1
    assert len(loop.history.epochs) == 1 and loop.best_weights
    found = loop.checkpoints.load_latest()
    assert found is not None and found.partial is not None
    assert found.partial.step == 1 and not found.history.epochs


def test_a_stop_in_a_later_epoch_keeps_the_best_whole_epoch() -> None:
    loop, engine = prepare_loop([0.8, 0.9])
    loop.should_stop = lambda: engine.steps >= 4
    loop.run()
    assert engine.steps == 4
    assert loop.history.accuracies == pytest.approx([0.8])
    assert engine.epoch == 0


def test_the_last_weights_after_a_stop_within_an_epoch_name_its_step() -> None:
    loop, engine = prepare_loop([0.8, 0.9], keep_last_weights="1")
    loop.should_stop = lambda: engine.steps >= 5
    loop.run()
    assert loop.last_weights is not None
    assert (loop.last_weights.epoch, loop.last_weights.cut_after) == (1, 2)
    assert loop.last_weights.weights["weight/epoch"] == 1 and engine.epoch == 0
    whole, _ = run_loop([0.8, 0.9], keep_last_weights="1")
    assert whole.last_weights is not None
    assert (whole.last_weights.epoch, whole.last_weights.cut_after) == (1, 0)


def test_an_update_with_an_unusable_last_batch_uses_its_other_batches() -> None:
    _, reference = run_loop([0.8], accumulate_batches="2")
    loop, engine = prepare_loop([0.8], accumulate_batches="2")
    source = loop.training.source
    assert isinstance(source, Colors)
    source.damaged = {int(key.removeprefix("sample")) for key in reference.keys[4:8]}
    loop.training.bad_samples = loop.validation.bad_samples = BadSamples(4)
    loop.run()
    assert engine.updates == reference.updates, "the second batch ends the first update"
    assert engine.updates[1].is_last and not engine.weights[1].any()
    assert [len(weights[weights > 0]) for weights in engine.weights] == [4, 0, 2]


def test_a_batch_of_bad_samples_alone_makes_no_step() -> None:
    loop, engine = prepare_loop([0.8])
    source = loop.training.source
    assert isinstance(source, Colors)
    source.damaged = {int(key.removeprefix("sample")) for key in run_loop([0.8])[1].keys[4:8]}
    loop.training.bad_samples = loop.validation.bad_samples = BadSamples(4)
    loop.run()
    assert [len(weights) for weights in engine.weights] == [4, 2]


def resume_at(steps: int, tmp_path: Path, **given: str) -> tuple[Loop, RecordingEngine]:
    """Stop a job after `steps` and resume it; return its second loop and the engines' input."""
    first, engine = prepare_loop([0.8, 0.9], **given)
    first.checkpoints = Checkpoints(tmp_path, {})
    first.should_stop = lambda: engine.steps >= steps
    first.run()
    assert engine.updates[-1].is_last, "gradients in the making are not in a checkpoint"
    second, rest = prepare_loop([0.8, 0.9], **given)
    second.checkpoints = Checkpoints(tmp_path, {})
    assert second.resume()
    second.run()
    for name in ("keys", "rates", "targets", "updates"):
        setattr(rest, name, getattr(engine, name) + getattr(rest, name))
    return second, rest


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 6])
def test_a_resumed_job_sees_the_samples_rates_and_metrics_of_an_uninterrupted_one(
    steps: int, tmp_path: Path
) -> None:
    given = {"learning_rate": "0.1", "lr_schedule": "cosine"}
    whole, reference = run_loop([0.8, 0.9], **given)
    loop, engine = resume_at(steps, tmp_path, **given)
    assert engine.keys == reference.keys
    assert engine.rates == reference.rates
    for record, expected in zip(loop.history.epochs, whole.history.epochs, strict=True):
        assert record.train == expected.train
        assert record.validation == expected.validation
        assert record.learning_rate == expected.learning_rate


def test_a_stop_during_validation_keeps_the_best_and_the_rest_is_validated_after_the_resume(
    tmp_path: Path,
) -> None:
    first, engine = prepare_loop([0.8, 0.9])
    first.checkpoints = Checkpoints(tmp_path, {})
    calls = iter([False] * 8 + [True] * 10)  # 4 in the first epoch, 3 steps, 1 validation batch
    asked = []
    first.should_stop = lambda: asked.append(engine.steps) or next(calls)  # type: ignore[func-returns-value]
    first.validation.batch_size = 5
    first.run()
    assert len(first.history.epochs) == 1 and engine.steps == 6
    found = first.checkpoints.load_latest()
    assert found is not None and found.partial is not None and found.partial.step == 3
    second, rest = prepare_loop([0.8, 0.9])
    second.checkpoints = Checkpoints(tmp_path, {})
    second.resume()
    second.run()
    assert not rest.rates and len(second.history.epochs) == 2


def test_a_needed_validation_ends_in_time_with_random_images_and_is_repeated_after_the_resume(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, engine = prepare_loop([0.8, 0.9])
    first.checkpoints = Checkpoints(tmp_path, {})
    first.validation.batch_size = 4
    calls = iter([False] * 4 + [True] * 10)  # 3 steps, the first batch of the validation
    first.should_stop = lambda: next(calls)
    first.is_out_of_time = lambda: True
    first.run()
    assert engine.steps == 3 and len(first.history.epochs) == 1
    keys = first.evaluate().keys
    assert len(keys) == 4 and set(keys) != {f"sample{number}" for number in range(4)}
    assert "validated on 4 of 10 images, chosen at random" in caplog.text
    second, rest = prepare_loop([0.8, 0.9])
    second.checkpoints = Checkpoints(tmp_path, {})
    second.resume()
    assert not second.history.epochs
    second.run()
    assert len(second.history.epochs) == 2 and len(rest.rates) == 3
    assert len(second.evaluate().keys) == 10


def test_a_resumed_job_that_is_stopped_validates_no_longer_than_there_is_time(
    tmp_path: Path,
) -> None:
    first, _ = prepare_loop([0.8])
    first.checkpoints = Checkpoints(tmp_path, {})
    first.run()
    second, _ = prepare_loop([0.8, 0.9])
    second.checkpoints = Checkpoints(tmp_path, {})
    second.validation.batch_size = 4
    second.should_stop = second.is_out_of_time = lambda: True
    second.resume()
    second.run()
    assert len(second.evaluate().keys) == 4


def test_a_disk_that_fills_up_during_training_leaves_the_older_checkpoint_and_the_best_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    loop, recorder = prepare_loop([0.2, 0.8, 0.6])
    loop.checkpoints = Checkpoints(tmp_path, {})
    write_bytes, seen = Path.write_bytes, []

    def write(path: Path, content: bytes) -> int:
        if loop.history.best_epoch > 0:  # from the second epoch on
            write_bytes(path, content[:10])
            raise OSError(errno.ENOSPC, "No space left on device")
        return write_bytes(path, content)

    def observe(history: History) -> None:
        seen.append(len(history.epochs))
        raise OSError(errno.EIO, "Input/output error", "history.json")

    monkeypatch.setattr(Path, "write_bytes", write)
    with caplog.at_level(logging.WARNING):
        loop.run([observe])
    assert loop.history.best_epoch == 1 and recorder.epoch == 1
    assert seen == [1, 2, 3]
    assert [path.name for path in sorted(tmp_path.iterdir())] == [
        "checkpoint-0000.json",
        "checkpoint-0000.safetensors",
    ]
    path = tmp_path / "checkpoint-0001.safetensors"
    assert f"no space left on device while writing {path}: use a larger volume; training" in (
        caplog.text
    )
    assert "'history.json'; training goes on without it" in caplog.text


def test_checkpoints_within_an_epoch_are_written_every_checkpoint_steps(tmp_path: Path) -> None:
    loop, _ = prepare_loop([0.8], checkpoint_steps="2")
    loop.checkpoints = Checkpoints(tmp_path, {})
    saved = []
    save = loop.checkpoints.save
    loop.checkpoints.save = lambda c: (saved.append(c.partial and c.partial.step), save(c))[1]  # type: ignore[method-assign]
    loop.run()
    assert saved == [2, None]


def test_checkpoints_within_an_epoch_are_written_every_checkpoint_minutes(tmp_path: Path) -> None:
    loop, _ = prepare_loop([0.8], checkpoint_minutes="0")
    loop.checkpoints = Checkpoints(tmp_path, {})
    loop.should_stop = lambda: (tmp_path / "checkpoint-0000-000002.json").exists()
    loop.run()
    assert (tmp_path / "checkpoint-0000-000003.json").exists()


def test_max_minutes_counts_the_time_before_an_interruption_and_stops_like_sigterm(
    tmp_path: Path,
) -> None:
    first, engine = prepare_loop([0.8, 0.9])
    checkpoints = first.checkpoints = Checkpoints(tmp_path, {})
    first.should_stop = lambda: engine.steps >= 4
    first.run()
    found = checkpoints.load_latest()
    assert found is not None and found.seconds < 60
    checkpoints.save(replace(found, seconds=61.0))
    loop, rest = prepare_loop([0.8, 0.9], max_minutes="1")
    loop.checkpoints = checkpoints
    loop.resume()
    loop.run()
    assert len(rest.rates) == 1 and len(loop.history.epochs) == 1
    assert rest.epoch == 0, "the weights of the best epoch"


def run_uneven(right_share: list[float], **given: str) -> RecordingEngine:
    """Train on eight samples of class 0 and two of class 1; return the engine."""
    loop, engine = prepare_loop(right_share, **given)
    loop.training.source.class_indices = np.repeat([0, 1], [8, 2])  # type: ignore[misc]
    loop.run()
    return engine


def test_class_weights_reach_the_engine_as_weights_of_the_samples() -> None:
    engine = run_uneven([0.5], class_weights="balanced")
    expected = [10 / 16 if int(key[6:]) < 8 else 10 / 4 for key in engine.keys]
    np.testing.assert_allclose(np.concatenate(engine.weights), expected, rtol=1e-6)


def test_mixed_targets_follow_the_mixed_images() -> None:
    _, engine = run_loop([0.5, 0.5], mixup_alpha="1")
    dark, bright = 40.0, 210.0
    shares = set()
    for images, targets in zip(engine.images, engine.targets, strict=True):
        expected = dark + (bright - dark) * targets[:, 1]
        np.testing.assert_allclose(images.mean(axis=(1, 2, 3)), expected, atol=1)
        np.testing.assert_allclose(targets.sum(axis=1), 1, atol=1e-6)
        shares |= set(targets[:, 1].tolist())
    assert len(shares) > 2


@pytest.mark.parametrize("given", [{}, {"mixup_alpha": "1"}, {"cutmix_alpha": "1"}])
def test_the_report_shows_the_images_of_the_first_step(given: dict[str, str]) -> None:
    loop, engine = run_loop([0.5], **given)
    loaders = Loaders(loop.training, loop.validation, None, BadSamples())
    shown = augmented_images(loop, loaders, LabelMap(("dark", "bright")))
    assert [image.picture for image in shown] == [shrunk(image) for image in engine.images[0]]
    classes = [("dark", "bright")[int(key.removeprefix("sample")) % 2] for key in engine.keys[:4]]
    for image, own, partner in zip(shown, classes, reversed(classes), strict=True):
        assert image.label == (f"{own} with {partner}" if given and own != partner else own)
    loop.should_stop = lambda: True
    assert augmented_images(loop, loaders, LabelMap(("dark", "bright"))) == []


def test_a_class_keeps_its_weight_within_a_mixture() -> None:
    plain = run_uneven([0.5], mixup_alpha="1")
    engine = run_uneven([0.5], mixup_alpha="1", class_weights="balanced")
    for targets, weights, parts in zip(engine.targets, engine.weights, plain.targets, strict=True):
        rows = parts * [10 / 16, 10 / 4]  # the share of each class, as often as it weighs
        np.testing.assert_allclose(weights, rows.sum(axis=1), rtol=1e-5)
        np.testing.assert_allclose(weights[:, None] * targets, rows, rtol=1e-5)


def test_batches_of_an_update_share_it_by_their_class_weights() -> None:
    engine = run_uneven([0.5, 0.5], class_weights="balanced", accumulate_batches="2")
    sums = np.array([weights.sum() for weights in engine.weights])
    shares = np.array([update.share for update in engine.updates])
    assert np.ptp(sums[:2]) > 1, "the batches of the first update weigh differently"
    for update in ([0, 1], [2], [3, 4], [5]):  # each epoch is two batches of four and one of two
        np.testing.assert_allclose(shares[update], sums[update] / sums[update].sum(), rtol=1e-6)


def test_all_ranks_divide_an_update_equally_by_the_class_weights_of_all() -> None:
    values = INTERFACES["mxnet"].parse(
        {"num_layers": "20", "image_shape": "3,8,8", "class_weights": "balanced"}
        | {"accumulate_batches": "4"}
    )
    settings, source = settings_of(values), Colors()
    source.class_indices = np.repeat([0, 1], [8, 2])
    sums, shares = [], []
    for rank in range(2):
        place = {"seed": 3, "rank": rank, "world_size": 2}
        with Loader(source, settings.preprocessing, 2, shuffle=True, **place) as loader:
            inputs = StepInputs(settings, 2, loader, World(rank, 2))
            steps = inputs.plan(1)
            shares.append([step.update.share for step in steps])
            batches = zip(steps, loader.epoch(1), strict=True)
            prepared = [inputs.prepared(step, batch, batch.targets) for step, batch in batches]
            sums.append([float(batch.weights.sum()) for batch in prepared])
    assert shares[0] == shares[1]
    expected = np.sum(sums, axis=0) / np.sum(sums)
    np.testing.assert_allclose(shares[0], expected, rtol=1e-6)


def test_balanced_sampling_is_for_training_alone() -> None:
    values = INTERFACES["mxnet"].parse({"num_layers": "20", "balanced_sampling": "1"})
    settings = settings_of(values)
    for split, is_training in (("train", True), ("validation", False)):
        with loader_of(split, Colors(), settings, BadSamples(), World(), on_cpu=True) as loader:
            assert loader.balanced is is_training


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5])
def test_a_stop_waits_for_the_end_of_an_update_of_several_batches(
    steps: int, tmp_path: Path
) -> None:
    given = {"accumulate_batches": "2", "mixup_alpha": "0.4", "ema_decay": "0.9"}
    _, reference = run_loop([0.8, 0.9], **given)
    _, engine = resume_at(steps, tmp_path, **given)
    assert engine.keys == reference.keys
    assert engine.updates == reference.updates
    for target, expected in zip(engine.targets, reference.targets, strict=True):
        np.testing.assert_array_equal(target, expected)
    assert [u.is_last for u in engine.updates] == [False, True, True] * 2


def test_the_best_weights_are_the_averaged_ones() -> None:
    loop, engine = prepare_loop([0.5])
    engine.state = lambda: {"weight/epoch": np.array(0), "average/epoch": np.array(7)}  # type: ignore[method-assign]
    loop.run()
    assert engine.epoch == 7


def test_only_the_training_images_are_shuffled_and_augmented() -> None:
    values = INTERFACES["mxnet"].parse({"num_layers": "20", "augmentation_type": "crop"})
    settings = settings_of(values)
    for split, is_training in (("train", True), ("validation", False), ("test", False)):
        with loader_of(split, Colors(), settings, BadSamples(), World(), on_cpu=True) as loader:
            assert loader.shuffle is is_training
            assert (loader.augmentation is not None) is is_training


def test_early_stopping_ends_the_job_and_keeps_the_best(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    options = {"early_stopping": "True", "early_stopping_patience": "2"}
    loop, engine = run_loop([0.9, 0.5, 0.5, 0.5, 0.5], early_stopping_min_epochs="1", **options)
    (line,) = [text for text in caplog.messages if "Early stopping" in text]
    assert "none of the 2 epochs since epoch 1, with validation accuracy 0.900000, was" in line
    assert "early_stopping_patience=2" in line
    assert len(loop.history.epochs) == 3
    assert engine.epoch == 0
