"""Presets: named tables of hyperparameter values that a job's own values win over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from image_classification.contract.hyperparameter import Value


@dataclass(frozen=True)
class Preset:
    """A recipe by name.

    Attributes:
        meaning: one sentence for the reference.
        values: hyperparameter → value as text, by the names of both interfaces.
        mxnet, tensorflow: what is called otherwise there.
    """

    meaning: str
    values: Mapping[str, str]
    mxnet: Mapping[str, str]
    tensorflow: Mapping[str, str]

    def of(self, interface: str) -> dict[str, str]:
        """All its values, by the names of an interface."""
        return dict(self.values) | dict(self.mxnet if interface == "mxnet" else self.tensorflow)


_YIELDS_TO: Mapping[str, Mapping[str, tuple[Value, ...]]] = {
    "backbone": {"num_layers": ()},
    "lr_schedule": {"lr_scheduler_step": ()},
    "min_crop_area": {"augmentation_type": (), "augmentation": (False,)},
    "randaugment": {"augmentation_type": (), "augmentation": (False,)},
    "label_smoothing": {"multi_label": (True,)},
}
"""Value of a preset → what it would contradict if the job gives it, at these values or at any."""

PRESETS = {
    "transfer": Preset(
        "A new head on an ImageNet backbone that stays as it is: for tens to hundreds of images a "
        "class, and the fastest; strong weight decay keeps the head from learning them by heart.",
        {
            "backbone": "efficientnet_lite0",
            "use_pretrained_model": "1",
            "train_only_top_layer": "1",
            "momentum": "0.9",
            "learning_rate": "0.03",
            "lr_schedule": "cosine",
            "weight_decay": "0.04",
            "label_smoothing": "0.1",
            "epochs": "12",
        },
        {"optimizer": "sgd", "augmentation_type": "crop"},
        {"optimizer": "sgd", "resize_mode": "crop", "augmentation": "True",
         "augmentation_random_flip": "horizontal", "augmentation_random_rotation": "0",
         "augmentation_random_zoom": "0", "regularizers_l2": "0"},
    ),
    "fine-tune": Preset(
        "An ImageNet backbone, all of it trained at a low rate: for more images, or images unlike "
        "photographs.",
        {
            "backbone": "efficientnet_lite0",
            "use_pretrained_model": "1",
            "optimizer": "adam",
            "learning_rate": "0.0005",
            "lr_schedule": "cosine",
            "warmup_epochs": "0.5",
            "label_smoothing": "0.1",
            "epochs": "5",
        },
        {"augmentation_type": "crop"},
        {"resize_mode": "crop", "augmentation": "True", "augmentation_random_flip": "horizontal",
         "augmentation_random_rotation": "0", "augmentation_random_zoom": "0"},
    ),
    "scratch": Preset(
        "Random weights: for many images, or images unlike photographs; long and strongly varied.",
        {
            "use_pretrained_model": "0",
            "learning_rate": "0.1",
            "momentum": "0.9",
            "weight_decay": "0.0005",
            "lr_schedule": "cosine",
            "warmup_epochs": "5",
            "label_smoothing": "0.1",
            "min_crop_area": "0.35",
            "randaugment": "2",
            "ema_decay": "0.999",
            "epochs": "90",
        },
        {"optimizer": "nag", "augmentation_type": "crop"},
        {"optimizer": "nesterov", "augmentation": "True",
         "augmentation_random_flip": "horizontal", "augmentation_random_rotation": "0",
         "augmentation_random_zoom": "0"},
    ),
}  # fmt: skip


def added_by(preset: str, interface: str, own: Mapping[str, Value]) -> dict[str, str]:
    """Hyperparameter → value as text: what a preset adds to a job.

    Args:
        preset: a name of `PRESETS`.
        interface: mxnet or tensorflow.
        own: the job's hyperparameters, typed, which win.
    """
    return {
        name: value
        for name, value in PRESETS[preset].of(interface).items()
        if name not in own and not _contradicts(name, own)
    }


def depended_on(interface: str) -> frozenset[str]:
    """Every hyperparameter whose being given changes what some preset adds.

    Who fills in a default for one of them makes the preset yield to it.
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
