"""Hyperparameters that neither built-in has and both interfaces accept."""

from __future__ import annotations

from image_classification.contract.hyperparameters import Hyperparameter

INTERFACE = Hyperparameter(
    "interface",
    "categorical",
    None,
    "Which built-in the job is written for; recognised from the channels when unset.",
    choices=("mxnet", "tensorflow"),
)

SHARED = (
    INTERFACE,
    Hyperparameter("backend", "text", "torch", "What computes: the name of a backend."),
    Hyperparameter(
        "backbone",
        "text",
        None,
        "The network: resnet18 … 200, resnet20 … 110, efficientnet_lite0 … 2, timm/<name>.",
    ),
    Hyperparameter(
        "labels",
        "text",
        None,
        "Class names in the order of their numbers, as a,b,c or a JSON list; unset: a labels.json "
        "in any channel, the folders in a .lst, the class folders, else the numbers.",
    ),
    Hyperparameter(
        "resize_mode",
        "categorical",
        None,
        "crop: resize the shorter side, then crop; squash: resize both sides to image_shape.",
        choices=("crop", "squash"),
    ),
    Hyperparameter(
        "inference_resize",
        "categorical",
        None,
        "Served preprocessing; unset serves exactly what was validated, squash is what the MXNet "
        "built-in serves.",
        choices=("crop", "squash"),
    ),
    Hyperparameter(
        "small_images",
        "categorical",
        None,
        "Images smaller than image_shape: refuse or enlarge.",
        choices=("refuse", "enlarge"),
    ),
    Hyperparameter(
        "warmup_epochs",
        "continuous",
        0.0,
        "The learning rate rises linearly from 0 over this many epochs.",
        minimum=0,
    ),
    Hyperparameter(
        "lr_schedule",
        "categorical",
        None,
        "Learning rate after the warm-up; unset: step if lr_scheduler_step is set, else constant.",
        choices=("constant", "step", "cosine"),
    ),
    Hyperparameter(
        "max_bad_samples",
        "text",
        "0",
        "Unreadable images that are skipped before the job fails: a count, or a share as 1%.",
    ),
    Hyperparameter(
        "clip_gradient_norm",
        "continuous",
        0.0,
        "Largest norm of the gradient; 0 is off.",
        minimum=0,
    ),
    Hyperparameter(
        "calibrate_probabilities",
        "boolean",
        True,
        "Fit one temperature on validation, and serve probabilities that are as often right as "
        "they say; kept only where it helps.",
    ),
    Hyperparameter(
        "keep_last_weights",
        "boolean",
        False,
        "Write weights-last.safetensors, the last epoch's, beside weights.safetensors, the best's.",
    ),
    Hyperparameter(
        "tensorboard",
        "boolean",
        False,
        "Write TensorBoard event files into output/tensorboard.",
    ),
)
