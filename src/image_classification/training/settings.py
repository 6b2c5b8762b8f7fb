"""What a job does, in neutral terms: the two interfaces' hyperparameters become one value.

In: an interface's typed hyperparameters. Out: `Settings`, the same for both interfaces and every
backend. Where the built-ins differ in meaning (squash or crop, head or whole network), the
difference is a field here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from image_classification import backends
from image_classification.backends.base import Backbone, OptimizerSpec
from image_classification.contract.hyperparameters import Value
from image_classification.data.augment import Augmentation
from image_classification.data.labels import LabelMap
from image_classification.data.preprocessing import Preprocessing
from image_classification.errors import DataError, HyperparameterError
from image_classification.training.recipe import Recipe
from image_classification.training.schedules import Schedule, ScheduleKind
from image_classification.training.stopping import EarlyStopping

_INTERPOLATIONS = {"area": "box", "lanczos3": "lanczos"}
_DEFAULT_TENSORFLOW_BACKBONE = "efficientnet_lite0"
_HEADS: Mapping[str, Literal["auto", "new", "keep"]] = {
    "Auto": "auto",
    "True": "new",
    "False": "keep",
}
_DEFAULT_MXNET_SHAPE = "3,224,224"


@dataclass(frozen=True)
class Settings:
    """A job's settings.

    Attributes:
        backend, backbone: names.
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


def settings_of(interface: str, values: Mapping[str, Value]) -> Settings:
    """The settings of a job from the typed hyperparameters of its interface.

    Raises:
        HyperparameterError: values that are legal alone but not together.
        BackendError: an unknown backend or backbone.
    """
    v: Mapping[str, Any] = values
    backbone = _backbone(interface, v)
    is_mxnet = interface == "mxnet"
    return Settings(
        backend=v["backend"],
        backbone=backbone,
        use_pretrained=v["use_pretrained_model"],
        train_only_head=v["train_only_top_layer"],
        classes=v["num_classes"] if is_mxnet else None,
        labels=_labels(v["labels"]),
        expected_samples=v["num_training_samples"] if is_mxnet else None,
        preprocessing=_preprocessing(interface, v, backbone),
        served_resize=v["inference_resize"],
        augmentation=_augmentation(interface, v),
        epochs=v["epochs"],
        batch_size=v["mini_batch_size" if is_mxnet else "batch_size"],
        optimizer=_optimizer(interface, v),
        schedule=_schedule(interface, v),
        label_smoothing=v["label_smoothing"],
        dropout_rate=backbone.dropout_rate if v["dropout_rate"] is None else v["dropout_rate"],
        early_stopping=_early_stopping(interface, v),
        top_k=None if v.get("binary_mode") else v["top_k"],
        multi_label=_multi_label(v),
        weighted_loss=bool(v.get("use_weighted_loss")),
        pipe_shuffle_bytes=v["pipe_shuffle_mb"] << 20,
        validation_split_ratio=v["validation_split_ratio"],
        checkpoint_frequency=v["checkpoint_frequency"],
        checkpoint_steps=v["checkpoint_steps"],
        checkpoint_minutes=v["checkpoint_minutes"],
        max_minutes=v["max_minutes"],
        recipe=Recipe.of(v, v["mini_batch_size" if is_mxnet else "batch_size"]),
        precision=_precision(v),
        compiles=v["compile"] == "on",
        max_bad_samples=v["max_bad_samples"],
        seed=v["random_seed"],
        calibrate=v["calibrate_probabilities"],
        head=_HEADS[v.get("reinitialize_top_layer", "Auto")],
        keep_last_weights=v["keep_last_weights"],
        tensorboard=v["tensorboard"],
        binary_mode=bool(v.get("binary_mode")),
        binary_metric=_binary_metric(v),
    )


def _binary_metric(v: Mapping[str, Any]) -> str | None:
    metric = v.get("eval_metric", "accuracy")
    if metric == "accuracy":
        return None
    if not v["binary_mode"]:
        raise HyperparameterError(
            f"eval_metric={metric} needs binary_mode=True, which needs two classes: set it, or "
            "leave eval_metric at accuracy"
        )
    return str(metric)


def _labels(text: str | None) -> tuple[str, ...] | None:
    if not text:
        return None
    try:
        return LabelMap.parse(text).names
    except DataError as error:
        raise HyperparameterError(f"labels: {error}") from error


def _backbone(interface: str, v: Mapping[str, Any]) -> Backbone:
    name = v["backbone"]
    catalog = backends.catalog(v["backend"])
    if not name and interface == "mxnet":
        name = catalog.resnet_name(int(v["num_layers"]))
    return catalog.find(name or _DEFAULT_TENSORFLOW_BACKBONE)


def _preprocessing(interface: str, v: Mapping[str, Any], backbone: Backbone) -> Preprocessing:
    """MXNet crops (never squashes) as the built-in trains; TensorFlow squashes as its does."""
    is_mxnet = interface == "mxnet"
    shape = v["image_shape"]
    if is_mxnet and not shape and not v["backbone"]:
        shape = _DEFAULT_MXNET_SHAPE
    channels, height, width = _image_shape(shape, backbone)
    mode = v["resize_mode"] or ("crop" if is_mxnet else "squash")
    resize = v["resize"]
    if mode == "squash" and resize is not None:
        raise HyperparameterError(
            f"resize={resize} with resize_mode=squash: "
            "squash resizes to image_shape; leave resize out"
        )
    if mode == "crop" and resize is not None and resize < max(height, width):
        raise HyperparameterError(
            f"resize={resize}: the shorter side must not be below image_shape "
            f"{channels},{height},{width}"
        )
    if not is_mxnet:
        resize = resize or (backbone.resize if mode == "crop" else None)
    mean, std = backbone.normalisation(channels)
    interpolation = v.get("image_resize_interpolation") or backbone.interpolation
    return Preprocessing(
        channels=channels,
        height=height,
        width=width,
        resize=resize,
        mode=mode,
        interpolation=_INTERPOLATIONS.get(interpolation, interpolation),
        small_images=v["small_images"] or ("refuse" if is_mxnet else "enlarge"),
        mean=mean,
        std=std,
    )


def _image_shape(text: str | None, backbone: Backbone) -> tuple[int, int, int]:
    if not text:
        return 3, backbone.input_size, backbone.input_size
    parts = text.strip("()[] ").split(",")
    try:
        channels, height, width = (int(part) for part in parts)
    except ValueError:
        channels = height = width = 0
    if channels not in {1, 3} or height < 1 or width < 1:
        raise HyperparameterError(
            f"image_shape={text!r}: expected channels,height,width with 1 or 3 channels, "
            "as 3,224,224"
        )
    return channels, height, width


def _augmentation(interface: str, v: Mapping[str, Any]) -> Augmentation | None:
    own = _own_augmentation(interface, v)
    area, operations, erasing = v["min_crop_area"], v["randaugment"], v["random_erasing"]
    if operations and own is not None and own.hue:
        raise HyperparameterError(
            f"randaugment={operations} and augmentation_type={v['augmentation_type']} both change "
            "colours: set augmentation_type=crop, or leave randaugment out"
        )
    if area is None and not operations and not erasing:
        return own
    changed = replace(
        own or Augmentation(),
        operations=operations,
        magnitude=v["randaugment_magnitude"],
        erasing=erasing,
    )
    return changed if area is None else replace(changed, crop="random_resized", area=(area, 1.0))


def _precision(v: Mapping[str, Any]) -> str:
    """The MXNet built-in's precision_dtype and our precision, of which one may be set."""
    precision, dtype = v["precision"], v.get("precision_dtype")
    if precision and dtype and precision not in {"auto", dtype}:
        raise HyperparameterError(
            f"precision={precision} and precision_dtype={dtype} contradict: keep one"
        )
    return str(precision if precision and precision != "auto" else dtype or "auto")


def _own_augmentation(interface: str, v: Mapping[str, Any]) -> Augmentation | None:
    if interface == "mxnet":
        return Augmentation.mxnet(v["augmentation_type"]) if v["augmentation_type"] else None
    if not v["augmentation"]:
        return None
    return Augmentation.keras(
        flip=v["augmentation_random_flip"],
        rotation=v["augmentation_random_rotation"],
        zoom=v["augmentation_random_zoom"],
    )


def _optimizer(interface: str, v: Mapping[str, Any]) -> OptimizerSpec:
    """MXNet: weight_decay and momentum act for sgd and nag only, as the built-in documents."""
    if interface == "tensorflow":
        return OptimizerSpec(
            name="nag" if v["optimizer"] == "nesterov" else v["optimizer"],
            momentum=v["momentum"] if v["optimizer"] in {"sgd", "nesterov", "rmsprop"} else 0.0,
            weight_decay=v["weight_decay"],
            beta_1=v["beta_1"],
            beta_2=v["beta_2"],
            epsilon=v["epsilon"],
            decay=v["rho"],
            initial_accumulator=v["initial_accumulator_value"],
            head_l2=v["regularizers_l2"],
            clip_gradient_norm=v["clip_gradient_norm"],
        )
    has_momentum = v["optimizer"] in {"sgd", "nag"}
    return OptimizerSpec(
        name=v["optimizer"],
        momentum=v["momentum"] if has_momentum else 0.0,
        weight_decay=v["weight_decay"] if has_momentum else 0.0,
        beta_1=v["beta_1"],
        beta_2=v["beta_2"],
        epsilon=v["eps"],
        decay=v["gamma"],
        clip_gradient_norm=v["clip_gradient_norm"],
    )


def _schedule(interface: str, v: Mapping[str, Any]) -> Schedule:
    steps = _epoch_list(v.get("lr_scheduler_step"))
    kind: ScheduleKind = v["lr_schedule"] or ("step" if steps else "constant")
    if kind == "step" and not steps:
        raise HyperparameterError("lr_schedule=step needs lr_scheduler_step, as 10,20")
    if kind != "step" and steps:
        raise HyperparameterError(
            f"lr_schedule={kind} and lr_scheduler_step={v['lr_scheduler_step']!r} contradict: "
            "keep one"
        )
    return Schedule(
        kind=kind,
        learning_rate=v["learning_rate"],
        epochs=v["epochs"],
        warmup_epochs=v["warmup_epochs"],
        step_epochs=steps,
        factor=v["lr_scheduler_factor"] if interface == "mxnet" else 1.0,
    )


def _epoch_list(text: str | None) -> tuple[int, ...]:
    if not text:
        return ()
    try:
        epochs = tuple(int(part) for part in text.strip("()[] ").split(","))
    except ValueError:
        epochs = (0,)
    if any(epoch < 1 for epoch in epochs) or list(epochs) != sorted(set(epochs)):
        raise HyperparameterError(
            f"lr_scheduler_step={text!r}: expected rising epochs separated by commas, as 10,20"
        )
    return epochs


def _multi_label(v: Mapping[str, Any]) -> bool:
    """The TensorFlow built-in has single labels only."""
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


def _early_stopping(interface: str, v: Mapping[str, Any]) -> EarlyStopping | None:
    if not v["early_stopping"]:
        return None
    if interface == "mxnet":
        return EarlyStopping(
            patience=v["early_stopping_patience"],
            min_epochs=v["early_stopping_min_epochs"],
            relative_tolerance=v["early_stopping_tolerance"],
        )
    return EarlyStopping(
        patience=v["early_stopping_patience"], absolute_tolerance=v["early_stopping_min_delta"]
    )
