"""Presets: named tables of hyperparameter values that a job's own values win over."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass


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


_YIELDS_TO = {
    "backbone": ("num_layers",),
    "lr_schedule": ("lr_scheduler_step",),
    "min_crop_area": ("augmentation_type", "augmentation"),
    "randaugment": ("augmentation_type",),
}
"""Values of a preset that would contradict others, which the user has given."""

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


def added_by(
    preset: str | None, interface: str, given: Mapping[str, object], aliases: Mapping[str, str]
) -> dict[str, str]:
    """Hyperparameter → value as text: what a preset adds to a job.

    Args:
        preset: a name of `PRESETS`, or None for nothing.
        interface: mxnet or tensorflow.
        given: hyperparameters of the job, which win.
        aliases: other spelling → name, of the interface's hyperparameters.
    """
    if preset is None:
        return {}
    own = {aliases.get(name, name) for name in given}
    return {
        name: value
        for name, value in PRESETS[preset].of(interface).items()
        if name not in own and not _contradicts(name, own)
    }


def _contradicts(name: str, own: Collection[str]) -> bool:
    return any(other in own for other in _YIELDS_TO.get(name, ()))
