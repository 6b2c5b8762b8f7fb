"""The settings of a job: one value that both interfaces and every backend understand.

In: the typed hyperparameters of either interface. Out: `Settings`. Checkpoints store its fields,
so their names and values do not change.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from image_classification import backends
from image_classification.backends import backbones
from image_classification.backends.base import Backbone, OptimizerSpec, Update
from image_classification.contract.shared import SharedHyperparameters
from image_classification.errors import DataError, HyperparameterError
from image_classification.images.augment import Augmentation
from image_classification.images.preprocessing import Preprocessing
from image_classification.labels.label_map import LabelMap
from image_classification.samples import Float64Array
from image_classification.training.settings import images, optimization
from image_classification.training.stopping import EarlyStopping

_MOST_VALUES = 2**50  # in a batch


def labels_of(text: str | None) -> tuple[str, ...] | None:
    """Return the class names in index order that the job sets, or None."""
    if not text:
        return None
    try:
        return LabelMap.parse(text).names
    except DataError as error:
        raise HyperparameterError(f"labels: {error}") from error


def binary_metric_of(v: SharedHyperparameters) -> str | None:
    """Return the metric that replaces accuracy in `binary_mode`, or None."""
    if v.eval_metric == "accuracy":
        return None
    if not v.binary_mode:
        raise HyperparameterError(
            f"eval_metric={v.eval_metric} needs binary_mode=True and two classes: set binary_mode, "
            "or leave eval_metric at accuracy"
        )
    return v.eval_metric


def binary_answer_of(v: SharedHyperparameters) -> str:
    """Return the form of the answers in `binary_mode`."""
    if v.binary_answer != "softmax" and not v.binary_mode:
        raise HyperparameterError(
            f"binary_answer={v.binary_answer} needs binary_mode=True and two classes: set "
            "binary_mode, or leave binary_answer out"
        )
    return v.binary_answer


def fit_head_first_of(v: SharedHyperparameters) -> str:
    """Return whether the head is fitted before all layers train: off, on or compare."""
    if v.fit_head_first != "off" and v.train_only_top_layer:
        raise HyperparameterError(
            f"fit_head_first={v.fit_head_first} and train_only_top_layer=True: all layers train "
            "after the head; leave one of them out"
        )
    return v.fit_head_first


def check_multi_label(v: SharedHyperparameters) -> None:
    """Refuse hyperparameters that contradict multi_label with a HyperparameterError."""
    if not v.multi_label:
        if v.use_weighted_loss:
            raise HyperparameterError(
                "use_weighted_loss=1 works only with multi_label=1: set both, or neither"
            )
        return
    if v.label_smoothing:
        raise HyperparameterError(
            f"label_smoothing={v.label_smoothing} with multi_label=1: labels are not exclusive, "
            "so label smoothing does not apply; leave label_smoothing out"
        )
    if v.top_k:
        raise HyperparameterError(
            f"top_k={v.top_k} with multi_label=1: top-k accuracy needs exactly one label per "
            "image; leave top_k out"
        )
    given = [f"class_weights={v.class_weights}"] if v.class_weights else []
    given += [f"balanced_sampling={v.balanced_sampling}"] if v.balanced_sampling else []
    if given:
        raise HyperparameterError(
            f"{' and '.join(given)} with multi_label=1: an image with several classes cannot be "
            "weighted or drawn by one of them; use use_weighted_loss=1 instead"
        )


@dataclass(frozen=True)
class Recipe:
    """Training methods that neither built-in has; all are off by default.

    Attributes:
        mixup_alpha, cutmix_alpha: of the Beta distribution of shares; 0 is off.
        class_weights: None, "balanced" or "effective", see `step.class_weights`; "logit_adjust",
            see `step.logit_bias`.
        balanced_sampling: draw every class equally often.
        ema_decay: of the moving average of the weights; 0 is off.
        accumulate_batches: batches of one update.
        logit_tau: τ of `step.logit_bias`; 0 is off.
    """

    mixup_alpha: float = 0.0
    cutmix_alpha: float = 0.0
    class_weights: str | None = None
    balanced_sampling: bool = False
    ema_decay: float = 0.0
    accumulate_batches: int = 1
    logit_tau: float = 0.0

    @classmethod
    def of(cls, v: SharedHyperparameters) -> Recipe:
        """Return the recipe of a job; raise a HyperparameterError if its values contradict."""
        recipe = cls(
            mixup_alpha=v.mixup_alpha,
            cutmix_alpha=v.cutmix_alpha,
            class_weights=v.class_weights,
            balanced_sampling=v.balanced_sampling,
            ema_decay=v.ema_decay,
            accumulate_batches=v.accumulate_batches,
            logit_tau=v.logit_adjust_tau if v.class_weights == "logit_adjust" else 0.0,
        )
        if recipe.class_weights and recipe.balanced_sampling:
            raise HyperparameterError(
                f"class_weights={recipe.class_weights} and balanced_sampling=True both correct "
                "the same imbalance: keep one"
            )
        if recipe.mixes and v.batch_size < 2:
            raise HyperparameterError(
                "mixup_alpha and cutmix_alpha mix the images of a batch: a batch of 1 has no "
                f"partner; set {type(v).batch_size.name} to at least 2, or leave them out"
            )
        return recipe

    @property
    def mixes(self) -> bool:
        """Whether the images of a batch are mixed."""
        return bool(self.mixup_alpha or self.cutmix_alpha)

    def update(self, epoch: int, step: int, weights: Float64Array) -> Update:
        """Return how the batch of a step contributes to an update.

        An update of several batches equals that of one batch of all their samples. An engine
        weights the mean loss of each batch, so a batch has the share of its weight in the update
        (the planned weight; bad samples do not change it). The batches left at the end of an epoch
        make a smaller update.

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
    """Return the decay of the moving average after `updates` updates.

    It is lower at first, as in TensorFlow; otherwise the first weights would dominate the average.
    """
    return min(decay, (1.0 + updates) / (10.0 + updates))


_DEFAULT_BACKBONE = "efficientnet_lite0"
_HEADS: Mapping[str, Literal["auto", "new", "keep"]] = {
    "Auto": "auto",
    "True": "new",
    "False": "keep",
}


@dataclass(frozen=True)
class Settings:
    """The settings of a job.

    Attributes:
        backend: its name.
        backbone: the network without its head.
        stands_for: the backbone that the job asked for, if this one replaces it, or None.
        use_pretrained: start from the backbone's ImageNet weights, with a new head.
        train_only_head: freeze all other weights.
        classes: expected number of classes; None counts them in the data.
        labels: the class names that the job sets, or None.
        expected_samples: the number of training images that the job states, or None.
        preprocessing: evaluation preprocessing, in validation and in the server.
        served_resize: resize mode of the server if it differs from that of validation, or None.
        augmentation: random changes of training images; None is off.
        epochs, batch_size: passes over the data, and images per step.
        min_updates: more epochs than these, if they make fewer updates of the weights.
        fit_head_first: off, on or compare: see `stages`.
        optimizer, schedule: optimizer and learning rate.
        label_smoothing, dropout_rate: 0 to 1.
        early_stopping: None is off.
        top_k: k of the second accuracy, or None.
        multi_label: an image may have several classes.
        weighted_loss: rare classes of a multi-label job weigh more.
        pipe_shuffle_bytes: encoded images in memory for shuffling in Pipe mode.
        validation_split_ratio: share of training held out without a validation channel, or None.
        checkpoint_frequency: epochs between checkpoints.
        checkpoint_steps, checkpoint_minutes: between checkpoints within an epoch; None is off.
        max_minutes: training stops after this time; None is no limit.
        recipe: training methods that neither built-in has.
        precision: of training steps: auto, float32, bfloat16 or float16.
        compiles: compile training steps.
        max_bad_samples: a count or a share, as text; see bad_samples.parse_limit.
        seed: of weights, order and augmentation.
        calibrate: fit a temperature on validation.
        feature_index: write features of training images to the artifact.
        head: auto (new on ImageNet weights, kept from a model of the same classes), new or keep.
        keep_last_weights: write the weights of the last epoch in addition to the best ones.
        tensorboard: write event files.
        binary_mode: the job has two classes; the second is the positive one.
        binary_metric: a key of BINARY_METRICS that selects the best epoch, or None.
        binary_answer: with binary_mode, softmax or sigmoid: see `contract.tensorflow`.
        feature_copies: with train_only_head: augmented copies of each training image whose
            features are computed once; 0 computes features in every epoch.
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
    schedule: optimization.Schedule
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
    feature_index: bool = True
    head: Literal["auto", "new", "keep"] = "auto"
    keep_last_weights: bool = False
    tensorboard: bool = False
    binary_mode: bool = False
    binary_metric: str | None = None
    binary_answer: str = "softmax"
    stands_for: str | None = None
    min_updates: int = 0
    feature_copies: int = 0
    fit_head_first: str = "off"


def settings_of(v: SharedHyperparameters, given: Backbone | None = None) -> Settings:
    """Return the settings of a job.

    Args:
        v: its typed hyperparameters.
        given: the row of its backbone, if the channel `model` or its weights say more of the images
            than the catalog.

    Raises:
        HyperparameterError: values that are legal alone but not together.
        BackendError: an unknown backend or backbone.
    """
    backbone = given or backbone_of(v)
    check_multi_label(v)
    preprocessing = images.preprocessing_of(v, backbone)
    _check_batch(v, preprocessing)
    return Settings(
        backend=v.backend or "",
        backbone=backbone,
        use_pretrained=v.use_pretrained_model,
        train_only_head=v.train_only_top_layer,
        classes=v.num_classes,
        labels=labels_of(v.labels),
        expected_samples=v.num_training_samples,
        preprocessing=preprocessing,
        served_resize=v.inference_resize,
        augmentation=images.augmentation_of(v),
        epochs=v.epochs,
        batch_size=v.batch_size,
        optimizer=optimization.optimizer_of(v),
        schedule=optimization.schedule_of(v),
        label_smoothing=v.label_smoothing,
        dropout_rate=backbone.dropout_rate if v.dropout_rate is None else v.dropout_rate,
        early_stopping=optimization.early_stopping_of(v),
        top_k=None if v.binary_mode else v.top_k,
        multi_label=v.multi_label,
        weighted_loss=v.use_weighted_loss,
        pipe_shuffle_bytes=v.pipe_shuffle_mb << 20,
        validation_split_ratio=v.validation_split_ratio,
        checkpoint_frequency=optimization.checkpoint_frequency_of(v),
        checkpoint_steps=v.checkpoint_steps,
        checkpoint_minutes=v.checkpoint_minutes,
        max_minutes=v.max_minutes,
        recipe=Recipe.of(v),
        precision=optimization.precision_of(v),
        compiles=v.compile == "on",
        max_bad_samples=v.max_bad_samples,
        seed=v.random_seed,
        calibrate=v.calibrate_probabilities,
        feature_index=v.feature_index,
        head=_HEADS[v.reinitialize_top_layer],
        keep_last_weights=v.keep_last_weights,
        tensorboard=v.tensorboard,
        binary_mode=v.binary_mode,
        binary_metric=binary_metric_of(v),
        binary_answer=binary_answer_of(v),
        min_updates=v.min_updates,
        feature_copies=v.feature_copies,
        fit_head_first=fit_head_first_of(v),
    )


def _check_batch(v: SharedHyperparameters, p: Preprocessing) -> None:
    """Refuse a batch that no machine can hold: NumPy fails before it asks for the memory."""
    shape = (p.channels, p.height, p.width)
    if v.batch_size * math.prod(shape) > _MOST_VALUES:
        raise HyperparameterError(
            f"{type(v).batch_size.name}={v.batch_size} and image_shape={','.join(map(str, shape))}:"
            f" expected at most {_MOST_VALUES} values in a batch; lower one of them"
        )


def backbone_of(v: SharedHyperparameters) -> Backbone:
    """Return the catalog row of a job's backbone; BackendError for an unknown name."""
    catalog = backends.catalog(v.backend or "")
    if not v.backbone and v.num_layers:
        return catalog.find(backbones.resnet_name(int(v.num_layers)))
    return catalog.find(v.backbone or _DEFAULT_BACKBONE)
