"""The interface of *Image Classification – TensorFlow*: its hyperparameters, channels, log lines.

Names, meanings, ranges and defaults are those of the public developer guide
(IC-TF-Hyperparameter.md) with all three spellings of `train_only_top_layer`.
"""

from __future__ import annotations

from image_classification.contract.channels import MODEL_CHANNEL, Channel
from image_classification.contract.hyperparameter import Hyperparameter
from image_classification.contract.shared import (
    BETA_1,
    BETA_2,
    LR_SCHEDULER_FACTOR,
    LR_SCHEDULER_STEP,
    SHARED,
)

CHANNELS = (
    Channel("training", True, (), "One folder of images per class."),
    Channel("validation", False, (), "The same classes; without it training is split."),
    Channel("test", False, (), "The same classes; the final model is measured on it."),
    Channel("code", False, (), "What SageMaker's script-mode plumbing delivers; not looked at."),
    MODEL_CHANNEL,
)

TUNING_RANGES = {
    "batch_size": (8, 512),
    "beta_1": (1e-6, 0.999),
    "beta_2": (1e-6, 0.999),
    "epsilon": (1e-8, 1.0),
    "learning_rate": (1e-6, 0.5),
    "momentum": (0.0, 0.999),
    "optimizer": None,
    "regularizers_l2": (0.0, 0.999),
    "train_only_top_layer": None,
}

HYPERPARAMETERS = (
    Hyperparameter("epochs", "integer", 3, "Passes over the training data.", 1, 1000),
    Hyperparameter("batch_size", "integer", 32, "Images per step.", 1, 1024),
    Hyperparameter(
        "optimizer",
        "categorical",
        "adam",
        "Optimizer.",
        choices=("adam", "sgd", "nesterov", "rmsprop", "adagrad", "adadelta"),
    ),
    Hyperparameter("learning_rate", "continuous", 0.001, "Initial learning rate.", 0, 1),
    BETA_1,
    BETA_2,
    Hyperparameter(
        "momentum",
        "continuous",
        0.9,
        "sgd, nesterov, rmsprop: momentum.",
        0,
        1,
        optimizers=("sgd", "nesterov", "rmsprop"),
    ),
    Hyperparameter(
        "epsilon",
        "continuous",
        1e-7,
        "adam, rmsprop, adadelta, adagrad: epsilon.",
        0,
        1,
        optimizers=("adam", "rmsprop", "adadelta", "adagrad"),
        aliases=("eps",),
    ),
    Hyperparameter(
        "rho",
        "continuous",
        0.95,
        "adadelta, rmsprop: decay of the squared gradient's average.",
        0,
        1,
        optimizers=("adadelta", "rmsprop"),
    ),
    Hyperparameter(
        "initial_accumulator_value",
        "continuous",
        0.0001,
        "adagrad: first accumulator.",
        0,
        1,
        optimizers=("adagrad",),
    ),
    Hyperparameter(
        "regularizers_l2", "continuous", 0.0001, "L2 factor of the head's weights.", 0, 1
    ),
    Hyperparameter(
        "label_smoothing", "continuous", 0.1, "Share of the target spread over all classes.", 0, 1
    ),
    Hyperparameter(
        "dropout_rate", "continuous", 0.2, "Dropout before the head.", minimum=0, below=1
    ),
    Hyperparameter(
        "train_only_top_layer",
        "boolean",
        False,
        "Train the head alone.",
        aliases=("train_only_on_top_layer", "train_only_on_top"),
    ),
    Hyperparameter(
        "reinitialize_top_layer",
        "categorical",
        "Auto",
        "Auto: a new head on a pretrained backbone, the head of a model of the same classes kept; "
        "True: always a new one; False: always kept, an error where its classes are others.",
        choices=("Auto", "True", "False"),
    ),
    Hyperparameter(
        "early_stopping", "boolean", False, "Stop when validation accuracy no longer improves."
    ),
    Hyperparameter("early_stopping_patience", "integer", 5, "Epochs without improvement.", 1, 1000),
    Hyperparameter(
        "early_stopping_min_delta",
        "continuous",
        0.0,
        "Absolute gain that counts as improvement.",
        0,
        1,
    ),
    Hyperparameter("augmentation", "boolean", False, "Switches the three below on."),
    Hyperparameter(
        "augmentation_random_flip",
        "categorical",
        "horizontal_and_vertical",
        "Random flips.",
        choices=("horizontal_and_vertical", "horizontal", "vertical", "None"),
    ),
    Hyperparameter(
        "augmentation_random_rotation",
        "continuous",
        0.2,
        "Largest rotation as a share of a turn.",
        -1,
        1,
    ),
    Hyperparameter(
        "augmentation_random_zoom",
        "continuous",
        0.1,
        "Largest zoom as a share of the height.",
        -1,
        1,
    ),
    Hyperparameter(
        "binary_mode",
        "boolean",
        False,
        "Two classes, the second by name being the positive one; answers hold both probabilities, "
        "of a softmax, where the built-in has one sigmoid.",
    ),
    Hyperparameter(
        "eval_metric",
        "categorical",
        "accuracy",
        "Metric of the best epoch; others than accuracy need binary_mode.",
        choices=("accuracy", "precision", "recall", "auc", "prc"),
    ),
    Hyperparameter(
        "image_resize_interpolation",
        "categorical",
        "bilinear",
        "How images are resized.",
        choices=(
            "bilinear",
            "nearest",
            "bicubic",
            "area",
            "lanczos3",
            "lanczos5",
            "gaussian",
            "mitchellcubic",
        ),
        only=("bilinear", "nearest", "bicubic", "area", "lanczos3"),
    ),
    Hyperparameter(
        "validation_split_ratio",
        "continuous",
        0.2,
        "Share held out without a validation channel.",
        0,
        1,
    ),
    Hyperparameter(
        "random_seed", "integer", 123, "Seed of split, weights, order and augmentation.", minimum=0
    ),
    Hyperparameter(
        "image_shape", "text", None, "Network input: channels,height,width; unset: the backbone's."
    ),
    Hyperparameter(
        "resize",
        "integer",
        None,
        "With resize_mode=crop: the shorter side before the crop.",
        minimum=1,
    ),
    Hyperparameter("use_pretrained_model", "boolean", True, "Start from pretrained weights."),
    Hyperparameter("weight_decay", "continuous", 0.0, "Weight decay of the optimizer.", 0, 1),
    LR_SCHEDULER_FACTOR,
    LR_SCHEDULER_STEP,
    Hyperparameter("top_k", "integer", 5, "k of the top-k accuracy that is reported.", minimum=2),
    Hyperparameter("checkpoint_frequency", "integer", 1, "Epochs between checkpoints.", minimum=1),
    *SHARED,
)
