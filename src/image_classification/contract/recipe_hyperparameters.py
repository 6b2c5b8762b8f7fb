"""Hyperparameters of both interfaces that neither built-in has: recipes beyond plain training.

All are off by default.
"""

from __future__ import annotations

from image_classification.contract.hyperparameters import Hyperparameter

RECIPE = (
    Hyperparameter(
        "mixup_alpha",
        "continuous",
        0.0,
        "Mix each image with another of its batch, by a share from Beta(alpha, alpha); 0 is off.",
        minimum=0,
        maximum=100,
    ),
    Hyperparameter(
        "cutmix_alpha",
        "continuous",
        0.0,
        "Swap a rectangle with another image of the batch, its area from Beta(alpha, alpha); 0 is "
        "off. With mixup_alpha too each step takes one of the two.",
        minimum=0,
        maximum=100,
    ),
    Hyperparameter(
        "class_weights",
        "categorical",
        None,
        "Weights of samples by class: balanced (1 / samples of the class) or effective (by the "
        "effective number of samples, beta 0.999).",
        choices=("balanced", "effective"),
    ),
    Hyperparameter(
        "balanced_sampling",
        "boolean",
        False,
        "Draw every class equally often; an epoch keeps its number of images.",
    ),
    Hyperparameter(
        "ema_decay",
        "continuous",
        0.0,
        "Decay of a moving average of the weights, which is then validated and served; 0 is off.",
        minimum=0,
        maximum=0.99999,
    ),
    Hyperparameter(
        "accumulate_batches",
        "integer",
        1,
        "Batches whose gradients make one update, as one batch of all their images would "
        "(BatchNorm still sees each batch alone).",
        minimum=1,
    ),
    Hyperparameter(
        "min_crop_area",
        "continuous",
        None,
        "Train on parts of random area, from this share of the image to all of it, and of random "
        "aspect ratio, 3/4 to 4/3, resized to image_shape.",
        minimum=0.01,
        maximum=1,
    ),
    Hyperparameter(
        "randaugment",
        "integer",
        0,
        "Operations of a RandAugment policy on each training image; 0 is off.",
        minimum=0,
        maximum=4,
    ),
    Hyperparameter(
        "randaugment_magnitude",
        "continuous",
        9.0,
        "Strength of these operations.",
        minimum=0,
        maximum=30,
    ),
    Hyperparameter(
        "random_erasing",
        "continuous",
        0.0,
        "Probability that a rectangle of a training image becomes the mean colour.",
        minimum=0,
        maximum=1,
    ),
)
