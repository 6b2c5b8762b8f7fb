"""What a job does, in neutral terms: the two interfaces' hyperparameters become one value.

In: an interface's typed hyperparameters. Out: `Settings`, the same for both interfaces and every
backend. Where the built-ins differ in meaning (squash or crop, head or whole network), the
difference is a field here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from image_classification import backends
from image_classification.backends.base import Backbone, OptimizerSpec
from image_classification.contract.hyperparameters import Value
from image_classification.data.augment import Augmentation
from image_classification.data.preprocessing import Preprocessing
from image_classification.training.image_settings import augmentation_of, preprocessing_of
from image_classification.training.label_settings import (
    binary_metric_of,
    is_multi_label_job,
    labels_of,
)
from image_classification.training.optimization_settings import (
    checkpoint_frequency_of,
    early_stopping_of,
    optimizer_of,
    precision_of,
    schedule_of,
)
from image_classification.training.recipe import Recipe
from image_classification.training.schedules import Schedule
from image_classification.training.stopping import EarlyStopping

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
