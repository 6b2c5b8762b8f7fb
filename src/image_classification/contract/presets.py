"""Presets: named tables of hyperparameter values. The values that a job sets itself win."""

from collections.abc import Mapping
from dataclasses import dataclass

from image_classification.contract.hyperparameter import Value


@dataclass(frozen=True)
class Preset:
    """A recipe by name; hyperparameters and their values are text.

    Attributes:
        meaning: one sentence for the reference.
        values: those of both interfaces.
        own: interface → its further values.
    """

    meaning: str
    values: Mapping[str, str]
    own: Mapping[str, Mapping[str, str]]

    def of(self, interface: str) -> dict[str, str]:
        """Return all its values, by the names of an interface."""
        return {**self.values, **self.own[interface]}


_YIELDS_TO: Mapping[str, Mapping[str, tuple[Value, ...]]] = {
    "backbone": {"num_layers": ()},
    "lr_schedule": {"lr_scheduler_step": ()},
    "min_crop_area": {"augmentation_type": (), "augmentation": (False,)},
    "randaugment": {"augmentation_type": (), "augmentation": (False,)},
    "label_smoothing": {"multi_label": (True,)},
    "min_updates": {"epochs": ()},
    "fit_head_first": {"train_only_top_layer": (True,), "use_pretrained_model": (False,)},
}
"""Value of a preset → the job's own values that it contradicts; () stands for any value."""

# fmt: off
_FLIPS = {
    "augmentation": "True", "augmentation_random_flip": "horizontal",
    "augmentation_random_rotation": "0", "augmentation_random_zoom": "0",
}
_FINE_TUNE = {
    "backbone": "efficientnet_lite0", "use_pretrained_model": "1", "optimizer": "adam",
    "learning_rate": "0.0005", "lr_schedule": "cosine", "warmup_epochs": "0.5",
    "label_smoothing": "0.1", "epochs": "5",
}

PRESETS = {
    "transfer": Preset(
        "A new head on a frozen ImageNet backbone: the fastest, for tens to hundreds of images per "
        "class; strong weight decay keeps the head from overfitting, and the job trains more "
        "epochs if there are few images.",
        {"backbone": "efficientnet_lite0", "use_pretrained_model": "1", "train_only_top_layer": "1",
         "momentum": "0.9", "learning_rate": "0.03", "lr_schedule": "cosine",
         "weight_decay": "0.04", "label_smoothing": "0.1", "epochs": "12", "min_updates": "400",
         "optimizer": "sgd"},
        {"mxnet": {"augmentation_type": "crop"},
         "tensorflow": {"resize_mode": "crop", **_FLIPS, "regularizers_l2": "0"}},
    ),
    "fine-tune": Preset(
        "Train all layers of an ImageNet backbone at a low learning rate, from a head that is "
        "fitted first: for more images, or for images unlike photographs.",
        {**_FINE_TUNE, "fit_head_first": "on"},
        {"mxnet": {"augmentation_type": "crop"}, "tensorflow": {"resize_mode": "crop", **_FLIPS}},
    ),
    "best": Preset(
        "First transfer, then fine-tune from its head; exports the one that validates better: if "
        "you do not know which of the two to choose.",
        {**_FINE_TUNE, "fit_head_first": "compare"},
        {"mxnet": {"augmentation_type": "crop"}, "tensorflow": {"resize_mode": "crop", **_FLIPS}},
    ),
    "scratch": Preset(
        "Start from random weights, with many epochs and strong augmentation: for many images, or "
        "for images unlike photographs.",
        {"use_pretrained_model": "0", "learning_rate": "0.1", "momentum": "0.9",
         "weight_decay": "0.0005", "lr_schedule": "cosine", "warmup_epochs": "5",
         "label_smoothing": "0.1", "min_crop_area": "0.35", "randaugment": "2",
         "ema_decay": "0.999", "epochs": "90"},
        {"mxnet": {"optimizer": "nag", "augmentation_type": "crop"},
         "tensorflow": {"optimizer": "nesterov", **_FLIPS}},
    ),
}
# fmt: on


def added_by(preset: str, interface: str, own: Mapping[str, Value]) -> dict[str, str]:
    """Return the values that a preset adds to a job: hyperparameter → value as text.

    Args:
        preset: a name of `PRESETS`.
        interface: the name of the job's interface.
        own: the typed values that the job sets itself; they win.
    """
    return {
        name: value
        for name, value in PRESETS[preset].of(interface).items()
        if name not in own and not _contradicts(name, own)
    }


def depended_on(interface: str) -> frozenset[str]:
    """Return the hyperparameters that change what some preset adds, if a job sets them.

    SageMaker must not fill in a default for them, because the preset would yield to it.
    """
    names: set[str] = set()
    for preset in PRESETS.values():
        for name in preset.of(interface):
            names |= {name, *(other for other, at in _YIELDS_TO.get(name, {}).items() if not at)}
    return frozenset(names)


def _contradicts(name: str, own: Mapping[str, Value]) -> bool:
    return any(
        other in own and (not values or own[other] in values)
        for other, values in _YIELDS_TO.get(name, {}).items()
    )
