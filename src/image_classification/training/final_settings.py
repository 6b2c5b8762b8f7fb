"""The settings once the data is known: complete, vary and log them, and identify a job by them."""

import json
import logging
import math
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from image_classification import events
from image_classification.backends import networks
from image_classification.backends.base import Backbone
from image_classification.contract import environment, process
from image_classification.errors import ChannelError, DataError, HyperparameterError, counted
from image_classification.images.header import read_header
from image_classification.images.preprocessing import Preprocessing
from image_classification.loading.sources import Source
from image_classification.samples import IntArray
from image_classification.training.inputs import Inputs
from image_classification.training.request import JobRequest
from image_classification.training.settings import Settings

_SAMPLED_HEADERS = 1000  # spread evenly over the records
_UNIFORM_SHARE = (
    0.99  # of these headers with the same shorter side: a few small originals are usual
)

_logger = logging.getLogger(__name__)


def resize_of(inputs: Inputs, preprocessing: Preprocessing, backbone: Backbone) -> int | None:
    """Return the shorter side in pixels before the crop; None leaves every image as it is.

    Raises:
        ChannelError: some splits are image files, others are records of different sizes.
    """
    files = [name for name in inputs.splits if name not in inputs.packed]
    if not inputs.packed:
        side = max(preprocessing.height, preprocessing.width)
        resize = round(side * backbone.resize / backbone.input_size)
        _logger.info("resize is not set and the data are image files: using %d", resize)
        return resize
    sides = _packed_sides(inputs)
    values, counts = np.unique(sides, return_counts=True)
    if len(sides) and counts.max() >= _UNIFORM_SHARE * len(sides):
        resize = int(values[counts.argmax()])
        _logger.info(
            "resize is not set and the images in the records have a shorter side of %d pixels: "
            "using %d, so that the server resizes photos to the same size",
            *(resize, resize),
        )
        return resize
    found = (
        f"their shorter sides are {values[0]} to {values[-1]} pixels"
        if len(sides)
        else "the sizes of images in a pipe are unknown before training"
    )
    if files:
        raise ChannelError(
            f"resize is not set, {', '.join(files)} holds image files, "
            f"{', '.join(sorted(inputs.packed))} holds records, and {found}: set resize to the "
            "shorter side of all images before the crop, or give all channels in one form"
        )
    _logger.warning(
        "resize is not set and the data are records; %s. Training and serving crop the center of "
        "each image without resizing it: send photos of the same size as the records, or set "
        "resize",
        found,
    )
    return None


def _packed_sides(inputs: Inputs) -> IntArray:
    """Return the shorter sides of images in the first split of records that is not a pipe."""
    for name, source in inputs.splits.items():
        if name in inputs.packed and source.is_countable:
            return shorter_sides(source)
    return np.empty(0, np.int64)


def shorter_sides(source: Source) -> IntArray:
    """Return int64 (N,), the shorter sides in pixels of up to 1,000 images spread over a source.

    It reads only headers, and skips unreadable images: the loader reports them.
    """
    indices = np.unique(
        np.linspace(0, len(source) - 1, min(len(source), _SAMPLED_HEADERS), dtype=int)
    )
    sides = []
    for index in indices.tolist():
        try:
            sides.append(min(read_header(source.read(index).data).upright_size))
        except DataError:
            continue
    return np.array(sides, np.int64)


_MAY_CHANGE = (
    *("epochs", "max_minutes", "expected_samples", "max_bad_samples"),
    *("checkpoint_frequency", "checkpoint_steps", "checkpoint_minutes"),
    *("calibrate", "head", "keep_last_weights", "tensorboard", "binary_answer", "min_updates"),
    *("feature_copies", "feature_index"),
    "fit_head_first",  # `stages` decides about it
)
"""Settings that a job may change when it resumes."""

_SHOWN_LABELS = 20


def final_settings(settings: Settings, inputs: Inputs, shards: int = 1, hosts: int = 1) -> Settings:
    """Return the settings completed from the data: the `resize` before the crop, and the epochs.

    Args:
        settings, inputs: of the job; the inputs are one of so many `shards` of equal size.
        hosts: number of hosts, each of which takes a batch for an update.

    Raises:
        HyperparameterError: the data lacks the classes that the settings need.
        ChannelError: image files and records without a common size.
    """
    if settings.binary_mode and len(inputs.labels) != 2:
        raise HyperparameterError(
            f"binary_mode=True needs two classes, the data has {len(inputs.labels)}: "
            f"{', '.join(inputs.labels.names[:_SHOWN_LABELS])}; leave binary_mode out"
        )
    max_pixels = environment.max_pixels()
    preprocessing = replace(settings.preprocessing, max_pixels=max_pixels)
    if preprocessing.mode == "crop" and preprocessing.resize is None:
        resize = resize_of(inputs, preprocessing, settings.backbone)
        preprocessing = replace(preprocessing, resize=resize)
    settings = replace(settings, preprocessing=preprocessing)
    return with_min_updates(settings, shards * inputs.training_samples, hosts)


def with_min_updates(settings: Settings, samples: int, hosts: int = 1) -> Settings:
    """Return the settings with as many epochs as `min_updates` needs, and log a higher number.

    Args:
        settings: of the job.
        samples: number of training samples, ≥ 1.
        hosts: number of hosts, each of which takes a batch for an update.
    """
    updates = -(-samples // (settings.batch_size * settings.recipe.accumulate_batches * hosts))
    epochs = epochs_of(settings, samples, hosts)
    if epochs <= settings.epochs:
        return settings
    _logger.info(
        "min_updates=%d: training %d epochs instead of epochs=%d, because %d images make only %d "
        "update%s of the weights per epoch; to decide yourself, set epochs without min_updates",
        *(settings.min_updates, epochs, settings.epochs, samples, updates),
        "" if updates == 1 else "s",
    )
    return replace(settings, epochs=epochs, schedule=replace(settings.schedule, epochs=epochs))


def epochs_of(settings: Settings, samples: int, hosts: int = 1) -> int:
    """Return the number of epochs of `with_min_updates`."""
    updates = -(-samples // (settings.batch_size * settings.recipe.accumulate_batches * hosts))
    return max(settings.epochs, -(-settings.min_updates // updates))


_RATES = (1.0, 3.0, 1 / 3)  # times the learning rate of a recipe
_DECAYS = (1.0, 1 / 4, 4.0)  # times its weight decay
_MOST = 1.0  # of both, as hyperparameters


def variations(settings: Settings, kept: Container[str]) -> list[tuple[dict[str, str], Settings]]:
    """Return settings to try, with the hyperparameters that give a job these.

    The first are the settings themselves, then those that change the least.

    Args:
        settings: of a job.
        kept: of the hyperparameters `learning_rate` and `weight_decay` those that do not vary.
    """
    rate, decay = settings.schedule.learning_rate, settings.optimizer.weight_decay
    rates = _around(rate, () if "learning_rate" in kept else _RATES)
    decays = _around(decay, () if "weight_decay" in kept else _DECAYS)
    pairs = [(i, j) for i in range(len(rates)) for j in range(len(decays))]
    found = []
    for i, j in sorted(pairs, key=lambda pair: ((pair[0] > 0) + (pair[1] > 0), pair)):
        schedule = replace(settings.schedule, learning_rate=rates[i])
        optimizer = replace(settings.optimizer, weight_decay=decays[j])
        values = {} if "learning_rate" in kept else {"learning_rate": f"{rates[i]:g}"}
        if decay and "weight_decay" not in kept:
            values["weight_decay"] = f"{decays[j]:g}"
        found.append((values, replace(settings, schedule=schedule, optimizer=optimizer)))
    return found


def _around(usual: float, factors: Sequence[float]) -> list[float]:
    values = (min(_MOST, float(f"{usual * factor:.3g}")) for factor in factors)
    return list(dict.fromkeys(values)) or [usual]


def log_settings(request: JobRequest, inputs: Inputs) -> None:
    """Log the final configuration, one line per hyperparameter, as the MXNet built-in does.

    Then the values that the data determines: the classes, and the resize if the job does not set
    it.
    """
    interface = request.interface.name
    _logger.info("Final configuration: %s", json.dumps(request.values.by_name, ensure_ascii=False))
    _logger.info("---- Parameters ----")
    for name, value, origin in request.origins():
        is_given = origin != "default" and not origin.startswith("preset ")
        remark = ("given" if origin == name else f"given as {origin}") if is_given else origin
        _logger.info("%s: %s (%s)", name, value, remark)
    settings = request.settings
    network = settings.backbone.name
    _logger.info("network: %s by %s, interface %s", network, settings.backend, interface)
    _logger.info("preprocessing: %s", json.dumps(request.settings.preprocessing.to_json()))
    shown = ", ".join(inputs.labels.names[:_SHOWN_LABELS])
    more = f" and {len(inputs.labels) - _SHOWN_LABELS} more"
    is_long = len(inputs.labels) > _SHOWN_LABELS
    more = more if is_long else ""
    event = _configured(request, inputs)
    _logger.info("classes: %d: %s%s", len(inputs.labels), shown, more, extra=event.extra)


_LENGTH = ("epochs", "min_updates")


def _configured(request: JobRequest, inputs: Inputs) -> events.Configured:
    defaults = {entry.name: entry.default for entry in request.interface.hyperparameters}
    given, by_preset = dict[str, str](), dict[str, str]()
    for name, value, origin in request.origins():
        is_same = request.values.by_name[name] == defaults[name]
        if is_same or origin == "default" or name == "preset":
            continue
        is_preset = origin.startswith("preset ")
        (by_preset if is_preset else given)[name] = value
    # First, as a terminal shows only some: the two together tell the number of epochs.
    by_preset = dict(sorted(by_preset.items(), key=lambda item: item[0] not in _LENGTH))
    return events.Configured(
        interface=request.interface.name,
        backend=request.settings.backend,
        backbone=request.settings.backbone.name,
        preset=str(request.values.preset or ""),
        given=given,
        by_preset=by_preset,
        classes=inputs.labels.names[:_SHOWN_LABELS],
        class_count=len(inputs.labels),
        training_images=inputs.training_samples,
        validation_images=len(inputs.validation),
    )


_FEW_IMAGES = 1_000  # of a class, from which random weights learn as much as pretrained ones
_FEW_UPDATES, _FEW_HEAD_UPDATES = 100, 20  # of random weights; of pretrained ones
_FEW_VALIDATION_IMAGES = 20
_LEAST_SHARE_OF_VALUES = 0.7  # of the bytes of all layers' values, which a training step takes
_USUAL_RATES = {  # optimizer → lowest and highest rate that can work, and a usual one
    "sgd": (1e-4, 5.0, "0.1"),
    "nag": (1e-4, 5.0, "0.1"),
    "adam": (1e-6, 0.05, "0.001"),
    "rmsprop": (1e-6, 0.05, "0.001"),
    "adagrad": (1e-4, 1.0, "0.01"),
    "adadelta": (1e-2, 1.0, "1.0"),
}


def log_advice(request: JobRequest, inputs: Inputs, on_cpu: bool = True) -> None:
    """Log one line for each thing that makes the job legal but hopeless.

    Args:
        request, inputs: of the job.
        on_cpu: whether the memory of a step is the machine's.
    """
    lines = [*_advice_about_data(request, inputs), *_advice_about_rates(request)]
    if on_cpu and not request.settings.train_only_head:
        name, samples = type(request.values).batch_size.name, inputs.training_samples
        lines += _advice_about_memory(request.settings, name, samples)
    for line in lines:
        _logger.warning("%s", line)


def _advice_about_memory(settings: Settings, batch_name: str, samples: int) -> Iterator[str]:
    """Compare the values that a step keeps for its gradients with the machine's memory.

    A step that trains the whole network on a CPU took 0.75 to 1.8 times their bytes
    (docs/training-results.md), so the least is what it certainly needs.
    """
    name, images = settings.backbone.name, settings.preprocessing
    if not networks.is_shared(name) or settings.precision not in ("auto", "float32"):
        return
    shape = (images.channels, images.height, images.width)
    values = networks.network(name, shape).count_values(shape)
    batch = min(settings.batch_size, samples)  # a larger one is not filled
    needed = _LEAST_SHARE_OF_VALUES * 4 * values * batch / 2**30
    there = process.memory_limit() / 2**30
    if needed > there:
        size = ",".join(map(str, shape))
        yield (
            f"A step of {name} with {batch_name}={settings.batch_size} and image_shape={size} "
            f"takes at least {needed:.0f} GiB of memory, but this machine has {there:.0f} GiB: set "
            f"{batch_name}={_fitting(batch, needed / there)} (with "
            "accumulate_batches, an update still sees as many images), train only the head "
            "(train_only_top_layer), or use an instance with more memory"
        )


def _fitting(batch: int, times: float) -> int:
    """Return a usual batch size of half the memory or less."""
    return 1 << math.floor(math.log2(max(1.0, batch / times / 2)))


def _advice_about_data(request: JobRequest, inputs: Inputs) -> Iterator[str]:
    settings, batch_name = request.settings, type(request.values).batch_size.name
    samples, batch = inputs.training_samples, settings.batch_size
    if request.is_sharded:
        samples *= len(request.cluster.hosts)
    is_random = not settings.use_pretrained and "model" not in request.channels
    per_class = samples / len(inputs.labels)
    if is_random and per_class < _FEW_IMAGES:
        yield (
            f"Training starts from random weights with {per_class:.0f} images per class: below "
            f"{_FEW_IMAGES:,}, photographs are classified better from ImageNet weights, with "
            "preset=transfer"
        )
    if batch > samples:
        yield (
            f"{batch_name}={batch} is larger than the {samples} training images: an epoch makes "
            f"only one step; lower it, for example to {max(1, min(32, samples // 4))}"
        )
    each = batch * settings.recipe.accumulate_batches * max(1, len(request.cluster.hosts))
    updates = settings.epochs * -(-samples // each)
    if updates < (_FEW_UPDATES if is_random else _FEW_HEAD_UPDATES):
        yield (
            f"The job updates the weights only {updates} times ({samples} images in each of "
            f"epochs={settings.epochs}, {each} images per update), which is too few to learn from: "
            f"set more epochs, or a smaller {batch_name}"
        )
    validated = len(inputs.validation)
    if validated < _FEW_VALIDATION_IMAGES:
        yield (
            f"Only {counted(validated, 'validation images')}: each changes the accuracy by "
            f"{100 / max(1, validated):.0f}%, so the choice of the best epoch is chance; hold out "
            "more images"
        )


def _advice_about_rates(request: JobRequest) -> Iterator[str]:
    optimizer, schedule = request.settings.optimizer, request.settings.schedule
    name = type(request.values).learning_rate.name
    given = f"{name}={schedule.learning_rate:g} with optimizer={optimizer.name}"
    lowest, highest, usual = _USUAL_RATES.get(optimizer.name, (0.0, math.inf, ""))
    rate = schedule.learning_rate
    if optimizer.name in ("sgd", "nag"):  # momentum adds up this many times the rate
        rate /= max(1 - optimizer.momentum, 1e-9)
        given += f" and momentum={optimizer.momentum:g}"
    if rate > highest:
        yield f"{given} is so high that training is likely to diverge: {usual} is usual"
    if rate < lowest:
        yield f"{given} is so low that the weights hardly change: {usual} is usual"
    if schedule.warmup_epochs >= schedule.epochs:
        yield (
            f"warmup_epochs={schedule.warmup_epochs:g} with epochs={schedule.epochs}: the job ends "
            "before the learning rate has risen; lower warmup_epochs, or set more epochs"
        )


def identity_of(interface: str, settings: Settings, inputs: Inputs) -> dict[str, Any]:
    """Return the values that a checkpoint must share to continue this job.

    The number of hosts may change.
    """
    values = plain(replace(settings, schedule=replace(settings.schedule, epochs=0)))
    for name in _MAY_CHANGE:
        del values[name]
    if not settings.recipe.logit_tau:  # checkpoints of 0.1 are without it
        del values["recipe"]["logit_tau"]
    return values | {
        "interface": interface,
        "labels": list(inputs.labels.names),
        "training_samples": inputs.training_samples,
        "validation_samples": len(inputs.validation),
    }


def plain(settings: Settings) -> dict[str, Any]:
    """Return the settings as JSON values."""
    values: Mapping[str, Any] = asdict(settings) | {"backbone": settings.backbone.name}
    return dict(json.loads(json.dumps(values, default=str)))
