"""What a job does, in neutral terms: the two interfaces' hyperparameters become one value.

In: an interface's typed hyperparameters. Out: `Settings`, the same for both interfaces and every
backend. Where the built-ins differ in meaning (squash or crop, head or whole network), the
difference is a field here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from image_classification import backends
from image_classification.backends.base import Backbone, OptimizerSpec, Update
from image_classification.contract.hyperparameter import Value
from image_classification.errors import DataError, HyperparameterError
from image_classification.images.augment import Augmentation
from image_classification.images.preprocessing import Preprocessing
from image_classification.labels.label_map import LabelMap
from image_classification.training.settings.images import augmentation_of, preprocessing_of
from image_classification.training.settings.optimization import (
    Schedule,
    checkpoint_frequency_of,
    early_stopping_of,
    optimizer_of,
    precision_of,
    schedule_of,
)
from image_classification.training.stopping import EarlyStopping


def labels_of(text: str | None) -> tuple[str, ...] | None:
    """The class names in index order that the user gives, or None."""
    if not text:
        return None
    try:
        return LabelMap.parse(text).names
    except DataError as error:
        raise HyperparameterError(f"labels: {error}") from error


def binary_metric_of(v: Mapping[str, Any]) -> str | None:
    """The metric that stands for accuracy in `binary_mode`, or None."""
    metric = v.get("eval_metric", "accuracy")
    if metric == "accuracy":
        return None
    if not v["binary_mode"]:
        raise HyperparameterError(
            f"eval_metric={metric} needs binary_mode=True, which needs two classes: set it, or "
            "leave eval_metric at accuracy"
        )
    return str(metric)


def is_multi_label_job(v: Mapping[str, Any]) -> bool:
    """Whether an image may have several classes; the TensorFlow built-in has single labels only.

    Raises:
        HyperparameterError: with what has no meaning then.
    """
    is_multi_label = bool(v.get("multi_label"))
    if v.get("use_weighted_loss") and not is_multi_label:
        raise HyperparameterError("use_weighted_loss=1 acts with multi_label=1 only: set both")
    if is_multi_label and v["label_smoothing"]:
        raise HyperparameterError(
            f"label_smoothing={v['label_smoothing']} with multi_label=1: labels are not "
            "exclusive, so nothing is shared out among them; leave label_smoothing out"
        )
    if is_multi_label and v["top_k"]:
        raise HyperparameterError(
            f"top_k={v['top_k']} with multi_label=1: several labels have no rank among k; "
            "leave top_k out"
        )
    recipe = {name: v[name] for name in ("class_weights", "balanced_sampling") if v[name]}
    if is_multi_label and recipe:
        given = " and ".join(f"{name}={value}" for name, value in recipe.items())
        raise HyperparameterError(
            f"{given} with multi_label=1: an image of several classes has no one class to weigh or "
            "to be drawn by; use use_weighted_loss=1 instead"
        )
    return is_multi_label


@dataclass(frozen=True)
class Recipe:
    """Switches of training that neither built-in has; all are off by default.

    Attributes:
        mixup_alpha, cutmix_alpha: of the Beta distribution of shares; 0 is off.
        class_weights: None, "balanced" or "effective", see `targets.class_weights`.
        balanced_sampling: whether every class is drawn equally often.
        ema_decay: of the moving average of the weights; 0 is off.
        accumulate_batches: batches of one update.
    """

    mixup_alpha: float = 0.0
    cutmix_alpha: float = 0.0
    class_weights: str | None = None
    balanced_sampling: bool = False
    ema_decay: float = 0.0
    accumulate_batches: int = 1

    @classmethod
    def of(cls, values: Mapping[str, Any], batch_size: int) -> Recipe:
        """The recipe of a job's typed hyperparameters.

        Raises:
            HyperparameterError: values that are legal alone but not together.
        """
        recipe = cls(
            mixup_alpha=values["mixup_alpha"],
            cutmix_alpha=values["cutmix_alpha"],
            class_weights=values["class_weights"],
            balanced_sampling=values["balanced_sampling"],
            ema_decay=values["ema_decay"],
            accumulate_batches=values["accumulate_batches"],
        )
        if recipe.class_weights and recipe.balanced_sampling:
            raise HyperparameterError(
                f"class_weights={recipe.class_weights} and balanced_sampling=True would both make "
                "up for the same imbalance: keep one"
            )
        if recipe.mixes and batch_size < 2:
            raise HyperparameterError(
                "mixup_alpha and cutmix_alpha mix the images of a batch: a batch of 1 has no "
                "partner; set at least 2, or leave them out"
            )
        return recipe

    @property
    def mixes(self) -> bool:
        """Whether images are mixed."""
        return bool(self.mixup_alpha or self.cutmix_alpha)

    def update(self, epoch: int, step: int, weights: npt.NDArray[np.float64]) -> Update:
        """How the batch of a step takes part in an update.

        An update of several batches is the update of one batch of all their samples: an engine
        takes the mean loss of each batch by its weight, so the batches share the update by theirs
        (the planned one; bad samples do not change it). Those left at the end of an epoch make a
        smaller update.

        Args:
            epoch, step: from 0.
            weights: float64 (steps,), the weight of the samples of each step of the epoch, summed
                over the ranks.
        """
        first = step - step % self.accumulate_batches
        end = min(first + self.accumulate_batches, len(weights))
        share = float(weights[step] / weights[first:end].sum())
        updates = epoch * -(-len(weights) // self.accumulate_batches)
        updates += first // self.accumulate_batches
        return Update(share, step + 1 == end, average_decay(self.ema_decay, updates))


def average_decay(decay: float, updates: int) -> float:
    """The decay of the moving average after so many updates: lower at first, as in TensorFlow.

    The average would otherwise long remember the weights that training began with.
    """
    return min(decay, (1.0 + updates) / (10.0 + updates))


_DEFAULT_TENSORFLOW_BACKBONE = "efficientnet_lite0"
_HEADS: Mapping[str, Literal["auto", "new", "keep"]] = {
    "Auto": "auto",
    "True": "new",
    "False": "keep",
}


@dataclass(frozen=True)
class Settings:
    """A job's settings.

    Attributes:
        backend, backbone: names.
        stands_for: the backbone that was asked for and that this one stands in for, or None.
        use_pretrained: start from the backbone's ImageNet weights, with a new head.
        train_only_head: freeze all else.
        classes: expected number of classes; None takes it from the data.
        labels: the class names that the user gives, or None.
        expected_samples: what the user said the training channel holds, or None.
        preprocessing: evaluation preprocessing, in validation and in the server.
        served_resize: resize mode of the server where it shall differ from validation's, or None.
        augmentation: random changes of training images; None is none.
        epochs, batch_size: passes, and images per step.
        optimizer, schedule: how weights move.
        label_smoothing: 0–1.
        dropout_rate: 0–1.
        early_stopping: None is off.
        top_k: k of the second accuracy, or None.
        multi_label: whether an image may have several classes.
        weighted_loss: whether rare classes of a multi-label job weigh more.
        pipe_shuffle_bytes: encoded images that are held to be shuffled in Pipe mode.
        validation_split_ratio: share of training held out without a validation channel, or None.
        checkpoint_frequency: epochs between checkpoints.
        checkpoint_steps, checkpoint_minutes: between checkpoints within an epoch; None is none.
        max_minutes: after which training stops, or None.
        recipe: mixing, class weights, averaging.
        precision: of training steps: auto, float32, bfloat16 or float16.
        compiles: whether training steps are compiled.
        max_bad_samples: a count or a share, as text; see BadSamples.allowing.
        seed: of weights, order and augmentation.
        calibrate: fit a temperature on validation.
        head: auto (new on ImageNet weights, kept from a model of the same classes), new or keep.
        keep_last_weights: write those of the last epoch beside those of the best.
        tensorboard: write event files.
        binary_mode: there must be two classes; the second is the positive one.
        binary_metric: a key of BINARY_METRICS that decides which epoch is the best, or None.
    """

    backend: str
    backbone: Backbone
    use_pretrained: bool
    train_only_head: bool
    classes: int | None
    labels: tuple[str, ...] | None
    expected_samples: int | None
    preprocessing: Preprocessing
    served_resize: str | None
    augmentation: Augmentation | None
    epochs: int
    batch_size: int
    optimizer: OptimizerSpec
    schedule: Schedule
    label_smoothing: float
    dropout_rate: float
    early_stopping: EarlyStopping | None
    top_k: int | None
    multi_label: bool
    weighted_loss: bool
    pipe_shuffle_bytes: int
    validation_split_ratio: float | None
    checkpoint_frequency: int
    checkpoint_steps: int | None
    checkpoint_minutes: float | None
    max_minutes: float | None
    recipe: Recipe
    precision: str
    compiles: bool
    max_bad_samples: str
    seed: int
    calibrate: bool = True
    head: Literal["auto", "new", "keep"] = "auto"
    keep_last_weights: bool = False
    tensorboard: bool = False
    binary_mode: bool = False
    binary_metric: str | None = None
    stands_for: str | None = None


def settings_of(interface: str, values: Mapping[str, Value]) -> Settings:
    """The settings of a job from the typed hyperparameters of its interface.

    Raises:
        HyperparameterError: values that are legal alone but not together.
        BackendError: an unknown backend or backbone.
    """
    v: Mapping[str, Any] = values
    backbone = _backbone(interface, v)
    is_mxnet = interface == "mxnet"
    batch_size = v["mini_batch_size" if is_mxnet else "batch_size"]
    return Settings(
        backend=v["backend"],
        backbone=backbone,
        use_pretrained=v["use_pretrained_model"],
        train_only_head=v["train_only_top_layer"],
        classes=v["num_classes"] if is_mxnet else None,
        labels=labels_of(v["labels"]),
        expected_samples=v["num_training_samples"] if is_mxnet else None,
        preprocessing=preprocessing_of(interface, v, backbone),
        served_resize=v["inference_resize"],
        augmentation=augmentation_of(interface, v),
        epochs=v["epochs"],
        batch_size=batch_size,
        optimizer=optimizer_of(interface, v),
        schedule=schedule_of(v),
        label_smoothing=v["label_smoothing"],
        dropout_rate=backbone.dropout_rate if v["dropout_rate"] is None else v["dropout_rate"],
        early_stopping=early_stopping_of(interface, v),
        top_k=None if v.get("binary_mode") else v["top_k"],
        multi_label=is_multi_label_job(v),
        weighted_loss=bool(v.get("use_weighted_loss")),
        pipe_shuffle_bytes=v["pipe_shuffle_mb"] << 20,
        validation_split_ratio=v["validation_split_ratio"],
        checkpoint_frequency=checkpoint_frequency_of(v),
        checkpoint_steps=v["checkpoint_steps"],
        checkpoint_minutes=v["checkpoint_minutes"],
        max_minutes=v["max_minutes"],
        recipe=Recipe.of(v, batch_size),
        precision=precision_of(v),
        compiles=v["compile"] == "on",
        max_bad_samples=v["max_bad_samples"],
        seed=v["random_seed"],
        calibrate=v["calibrate_probabilities"],
        head=_HEADS[v.get("reinitialize_top_layer", "Auto")],
        keep_last_weights=v["keep_last_weights"],
        tensorboard=v["tensorboard"],
        binary_mode=bool(v.get("binary_mode")),
        binary_metric=binary_metric_of(v),
    )


def _backbone(interface: str, v: Mapping[str, Any]) -> Backbone:
    name = v["backbone"]
    catalog = backends.catalog(v["backend"])
    if not name and interface == "mxnet":
        name = catalog.resnet_name(int(v["num_layers"]))
    return catalog.find(name or _DEFAULT_TENSORFLOW_BACKBONE)
