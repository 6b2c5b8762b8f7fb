"""The interface of *Image Classification – MXNet*: its hyperparameters, channels and log lines.

Names, meanings, ranges and defaults are those of the public developer guide
(IC-Hyperparameter.md); lines and file conventions those seen in published notebooks.
"""

from __future__ import annotations

from image_classification.contract.channels import ALL_MODES, MODEL_CHANNEL, Channel
from image_classification.contract.hyperparameter import Hyperparameter
from image_classification.contract.shared import (
    BETA_1,
    BETA_2,
    LR_SCHEDULER_FACTOR,
    LR_SCHEDULER_STEP,
    SHARED,
)

NUM_LAYERS = ("18", "34", "50", "101", "152", "200", "20", "32", "44", "56", "110")

_IMAGES = ("application/x-image", "image/jpeg", "image/png")
_RECORDS_OR_IMAGES = ("application/x-recordio", *_IMAGES)

CHANNELS = (
    Channel(
        "train",
        True,
        _RECORDS_OR_IMAGES,
        "Training images: record files, images with a list or a manifest, or class folders.",
        input_modes=ALL_MODES,
    ),
    Channel(
        "validation",
        False,
        _RECORDS_OR_IMAGES,
        "Validation images, as in train; may be left out with validation_split_ratio.",
        input_modes=ALL_MODES,
    ),
    Channel("train_lst", False, _IMAGES, "One .lst file that names the images of train."),
    Channel("validation_lst", False, _IMAGES, "One .lst file that names those of validation."),
    MODEL_CHANNEL,
)

TUNING_RANGES = {
    "beta_1": (1e-6, 0.999),
    "beta_2": (1e-6, 0.999),
    "eps": (1e-8, 1.0),
    "gamma": (1e-8, 0.999),
    "learning_rate": (1e-6, 0.5),
    "mini_batch_size": (8, 512),
    "momentum": (0.0, 0.999),
    "optimizer": None,
    "weight_decay": (0.0, 0.999),
}

HYPERPARAMETERS = (
    Hyperparameter(
        "num_classes",
        "integer",
        None,
        "Number of classes; taken from the data when unset.",
        minimum=1,
    ),
    Hyperparameter(
        "num_training_samples",
        "integer",
        None,
        "Number of training images: an epoch of a pipe; else only compared with what is counted.",
        minimum=1,
    ),
    Hyperparameter(
        "augmentation_type",
        "categorical",
        None,
        "Unset: center crop; crop: random crop and mirror; the others add color, affine.",
        choices=("crop", "crop_color", "crop_color_transform"),
    ),
    BETA_1,
    BETA_2,
    Hyperparameter(
        "checkpoint_frequency",
        "integer",
        1,
        "Epochs between checkpoints; the artifact always holds the best epoch.",
        minimum=1,
    ),
    Hyperparameter(
        "early_stopping", "boolean", False, "Stop when validation accuracy no longer improves."
    ),
    Hyperparameter(
        "early_stopping_min_epochs",
        "integer",
        10,
        "Epochs before early stopping may act.",
        minimum=1,
    ),
    Hyperparameter(
        "early_stopping_patience",
        "integer",
        5,
        "Epochs without improvement that are tolerated.",
        minimum=1,
    ),
    Hyperparameter(
        "early_stopping_tolerance",
        "continuous",
        0.0,
        "Relative gain that counts as improvement.",
        0,
        1,
    ),
    Hyperparameter("epochs", "integer", 30, "Passes over the training data.", minimum=1),
    Hyperparameter(
        "eps",
        "continuous",
        1e-8,
        "adam and rmsprop: epsilon.",
        0,
        1,
        optimizers=("adam", "rmsprop"),
    ),
    Hyperparameter(
        "gamma",
        "continuous",
        0.9,
        "rmsprop: decay of the squared gradient's average.",
        0,
        1,
        optimizers=("rmsprop",),
    ),
    Hyperparameter(
        "image_shape",
        "text",
        None,
        "Network input as channels,height,width; unset: 3,224,224 or the backbone's own.",
    ),
    Hyperparameter(
        "kv_store",
        "categorical",
        None,
        "No effect on one host; several hosts train synchronously with either.",
        choices=("dist_sync", "dist_async"),
    ),
    Hyperparameter("learning_rate", "continuous", 0.1, "Initial learning rate.", 0, 1),
    LR_SCHEDULER_FACTOR,
    LR_SCHEDULER_STEP,
    Hyperparameter("mini_batch_size", "integer", 32, "Images per step on one host.", minimum=1),
    Hyperparameter(
        "momentum",
        "continuous",
        0.9,
        "sgd and nag: momentum; without effect with other optimizers, as in the built-in.",
        0,
        1,
        optimizers=("sgd", "nag"),
    ),
    Hyperparameter(
        "multi_label",
        "boolean",
        False,
        "An image may have several classes, each a sigmoid.",
    ),
    Hyperparameter("num_layers", "categorical", "152", "ResNet depth.", choices=NUM_LAYERS),
    Hyperparameter(
        "optimizer", "categorical", "sgd", "Optimizer.", choices=("sgd", "adam", "rmsprop", "nag")
    ),
    Hyperparameter(
        "precision_dtype",
        "categorical",
        None,
        "Precision of training steps; unset: see precision. On a CPU float16 is float32.",
        choices=("float32", "float16"),
    ),
    Hyperparameter(
        "resize", "integer", None, "Shorter side is resized to this before the crop.", minimum=1
    ),
    Hyperparameter("top_k", "integer", None, "Report top-k accuracy too.", minimum=2),
    Hyperparameter(
        "use_pretrained_model",
        "boolean",
        False,
        "Start from ImageNet weights with a new head; the whole network is trained. Where those of "
        "the ResNet of num_layers are missing, efficientnet_lite0 stands in for it with a warning; "
        "a backbone that is named is never replaced.",
    ),
    Hyperparameter(
        "use_weighted_loss",
        "boolean",
        False,
        "With multi_label: a class weighs images without it per image with it.",
    ),
    Hyperparameter(
        "weight_decay",
        "continuous",
        0.0001,
        "sgd and nag: weight decay; without effect with other optimizers, as in the built-in.",
        0,
        1,
        optimizers=("sgd", "nag"),
    ),
    Hyperparameter(
        "model_prefix", "text", None, "Accepted and without effect, as in the built-in."
    ),
    Hyperparameter(
        "use_lr_scheduler",
        "boolean",
        None,
        "Accepted and without effect: lr_scheduler_step alone decides, as in the built-in.",
    ),
    Hyperparameter(
        "label_smoothing", "continuous", 0.0, "Share of the target spread over all classes.", 0, 1
    ),
    Hyperparameter("train_only_top_layer", "boolean", False, "Train the head alone."),
    Hyperparameter(
        "dropout_rate",
        "continuous",
        None,
        "Dropout before the head; unset: the backbone's own.",
        minimum=0,
        below=1,
    ),
    Hyperparameter(
        "random_seed", "integer", 0, "Seed of weights, order and augmentation.", minimum=0
    ),
    Hyperparameter(
        "validation_split_ratio",
        "continuous",
        None,
        "Share of train that is held out when there is no validation channel.",
        0,
        1,
    ),
    *SHARED,
)
